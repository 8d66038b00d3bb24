"""Write the tables of README.md from `results.jsonl` and `counts/`.

python examples/distributions_study/report.py
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from cmdl_hf.comparison import describe_spread, image_interval, mean_ious, seed_interval

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
PAIRS = (("all", "plain"), ("assigned", "plain"), ("assigned", "all"), ("assigned-votes", "assigned"))
DIAGNOSTICS = {
    "cosine": "cosine within a class",
    "effective_number": "effective number",
    "entropy": "entropy of the posterior",
    "agreement": "agreement with the copy",
    "chance_agreement": "the same by chance",
    "probe_gain": "gain of the probe",
    "permuted": "mean IoU with m permuted",
    "uniform": "with 1/M for the posterior",
}


def read_rows(data: str) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of a data set by arm, with the counts (images, 2, K) of validation and test together."""
    arms = defaultdict(list)
    for line in (HERE / "results.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["data"] == data:
            with np.load(HERE / "counts" / f"{data}-{row['arm']}-{row['seed']}.npz") as counts:
                row["counts"] = np.concatenate([counts["val"], counts["test"]])
            row["both"] = float(mean_ious(row["counts"], np.ones((1, len(row["counts"])), dtype=int))[0])
            arms[row["arm"]].append(row)
    return dict(arms)


def tabulate(data: str) -> str:
    """Write the tables of a data set: scores, differences, diagnostics."""
    arms = read_rows(data)
    lines = ["| arm | seeds | training loss | validation | test | both |", "|---|---|---|---|---|---|"]
    for arm, rows in arms.items():
        loss = describe_spread([row["loss"] for row in rows], 1, 3)
        scores = [describe_spread([row[split] for row in rows]) for split in ("val", "test", "both")]
        lines.append(f"| {arm} | {len(rows)} | {loss} | {' | '.join(scores)} |")
    lines += ["", "| difference, both splits | points | over images | over seeds |", "|---|---|---|---|"]
    for first, second in PAIRS:
        images = image_interval(*([row["counts"] for row in arms[arm]] for arm in (first, second)), block_size=1)
        seeds = seed_interval(*([row["both"] for row in arms[arm]] for arm in (first, second)))
        cells = [f"{100 * found.low:+.1f} to {100 * found.high:+.1f}" for found in (images, seeds) if found]
        lines.append(f"| {first} − {second} | {100 * images.difference:+.1f} | {' | '.join(cells)} |")
    shown = [arm for arm, rows in arms.items() if "cosine" in rows[0]]
    lines += ["", f"| mean over seeds | {' | '.join(shown)} |", "|---|" + "---|" * len(shown)]
    for name, title in DIAGNOSTICS.items():
        values = [[row[name] for row in arms[arm] if name in row] for arm in shown]
        lines.append(f"| {title} | {' | '.join(f'{np.mean(v):.3f}' if v else '' for v in values)} |")
    return "\n".join(lines)


def fill(page: str) -> str:
    """Replace what stands between the marks of each data set."""
    return re.sub(
        r"(<!-- tables (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{tabulate(found[2])}\n\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
