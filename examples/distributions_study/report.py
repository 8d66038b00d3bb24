"""Write TABLES.md and the plot of the study from `results.jsonl` and `counts/`.

python examples/distributions_study/report.py
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmdl_hf.comparison import describe_spread, draw_spreads, image_interval, mean_ious, seed_interval

HERE = Path(__file__).parent
NAMES = {"msrc": "MSRC-21", "camvid": "CamVid"}
PAIRS = (
    ("all", "plain"),
    ("all", "control"),
    ("control", "plain"),
    ("all", "all-m1"),
    ("assigned", "plain"),
    ("assigned", "all"),
    ("assigned-b1", "assigned"),
    ("assigned-votes", "assigned"),
)
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
HEAD = """# Tables of the study of distributions

`report.py` writes this page from `results.jsonl` and `counts/`. [The study](README.md) gives the question, the setting
and the answer. Scores are mean IoU in %, as mean ± standard deviation over the seeds; *both* are validation and test
together. Differences have their 95 % interval over images (with these networks) and over seeds (on these images).

The diagnostics are of validation and test pixels. The effective number of distributions of a class is M if all are
orthogonal and used alike, and 1 if they are equal. The copy of an image is mirrored and recoloured: agreement is the
share of pixels that are nearest to the same distribution there. The probe is a linear classifier on the class
probabilities, and on these divided among the distributions; its gain is the difference of their mean IoU. The last two
rows are changes of the mean IoU of networks that vote by the posterior. Here 0.01 is one point.
"""
Arms = dict[str, list[dict[str, Any]]]


def read_rows() -> dict[str, Arms]:
    """Read the rows by data set and arm, with the counts (images, 2, K) of validation and test together."""
    arms: dict[str, Arms] = defaultdict(lambda: defaultdict(list))
    for line in (HERE / "results.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        with np.load(HERE / "counts" / f"{row['data']}-{row['arm']}-{row['seed']}.npz") as counts:
            row["counts"] = np.concatenate([counts["val"], counts["test"]])
        row["both"] = float(mean_ious(row["counts"], np.ones((1, len(row["counts"])), dtype=int))[0])
        arms[row["data"]][row["arm"]].append(row)
    return arms


def tabulate(arms: Arms) -> str:
    """Write the tables of a data set: scores, differences, diagnostics."""
    lines = ["| arm | seeds | training loss | validation | test | both |", "|---|---|---|---|---|---|"]
    for arm, rows in arms.items():
        loss = describe_spread([row["loss"] for row in rows], 1, 3)
        scores = [describe_spread([row[split] for row in rows]) for split in ("val", "test", "both")]
        lines.append(f"| {arm} | {len(rows)} | {loss} | {' | '.join(scores)} |")
    lines += ["", "| difference, both splits | points | over images | over seeds |", "|---|---|---|---|"]
    for first, second in PAIRS:
        if first not in arms or second not in arms:
            continue
        images = image_interval(*([row["counts"] for row in arms[arm]] for arm in (first, second)), block_size=1)
        seeds = seed_interval(*([row["both"] for row in arms[arm]] for arm in (first, second)))
        cells = [f"{100 * found.low:+.1f} to {100 * found.high:+.1f}" if found else "–" for found in (images, seeds)]
        lines.append(f"| {first} − {second} | {100 * images.difference:+.1f} | {' | '.join(cells)} |")
    shown = [arm for arm, rows in arms.items() if "cosine" in rows[0]]
    lines += ["", f"| mean over seeds | {' | '.join(shown)} |", "|---|" + "---|" * len(shown)]
    for name, title in DIAGNOSTICS.items():
        values = [[row[name] for row in arms[arm] if name in row] for arm in shown]
        lines.append(f"| {title} | {' | '.join(f'{np.mean(v):.3f}' if v else '' for v in values)} |")
    return "\n".join(lines)


def write_page(sets: dict[str, Arms]) -> str:
    """Write the page of tables."""
    return "\n".join([HEAD, *(f"## {NAMES[data]}\n\n{tabulate(arms)}\n" for data, arms in sets.items())])


def draw(arms: Arms) -> Figure:
    """Plot the scores of every run, and how distinct the distributions of a class are."""
    figure = Figure(figsize=(9, 1 + 0.5 * len(arms)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    draw_spreads(axes[0], {arm: [row["both"] for row in rows] for arm, rows in arms.items()}, title="score")
    for axis, name, title in ((axes[1], "cosine", "cosine"), (axes[2], "effective_number", "effective number")):
        for height, rows in enumerate(arms.values()):
            values = [row[name] for row in rows if name in row]
            axis.plot(values, [height] * len(values), "o", color="#444444", alpha=0.6)
        axis.set_title(title, fontsize=11, loc="left")
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_xlabel("between the distributions\nof a class")
    axes[2].set_xlabel("of distinct distributions\nin a class, of 9")
    return figure


if __name__ == "__main__":
    found = read_rows()
    (HERE / "TABLES.md").write_text(write_page(found), encoding="utf-8")
    draw(found["msrc"]).savefig(HERE / "scores.png", dpi=120)
