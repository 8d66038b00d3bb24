"""Write the tables and plots of the study, from its rows (`*.jsonl`) and `test_counts/`.

    python examples/camvid_study/report.py

`TABLES.md` is written from `tables_template.md`. In `README.md`, only the part on distinct distributions is written,
once their runs have rows. The model card of the best CMDL model is written to `model_cards/`.
"""

import argparse
import json
import re
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from differences import Difference, find_differences, find_interval, format_interval, pair_arms, read_counts
from plots import draw_arms, draw_classes, draw_differences
from study import BASE, RUNS, make_recipe

from cmdl_hf.comparison import describe_spread, mean_ious, order_classes, tabulate_classes
from cmdl_hf.data import BENCHMARKS
from cmdl_hf.hub import write_card
from cmdl_hf.training import make_config

FOLDER = Path(__file__).parent
MODEL_CARDS = FOLDER.parents[1] / "model_cards"
CLASSES = list(BENCHMARKS["camvid"].id2label.values())
RARE = ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist")  # under 2 % of the training pixels each
DRIVES = {"0001TP": (0, 62), "Seq05VD": (62, 233)}  # positions in the list of test images
ORDER = ("plain", "unscaled", "control", "cmdl", "m1", "assigned", "assigned-votes")
EARLIER_PAIRS = (
    ("pspnet-direct-control", "pspnet-plain"),
    ("pspnet-direct-cmdl", "pspnet-plain"),
    ("pspnet-direct-cmdl", "pspnet-direct-control"),
    ("pspnet-indirect-cmdl", "pspnet-plain"),
)

Rows = list[dict[str, Any]]


def read_rows(name: str) -> Rows:
    """Read a file of one JSON object per line; no rows if it is not there."""
    file = FOLDER / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def group_arms(rows: Rows) -> dict[str, Rows]:
    """Group the final runs by network and arm: `fcn-plain` and so on, each with its seeds.

    The part of a name before the first hyphen is the network, the rest is the arm.
    """
    arms: dict[str, Rows] = {}
    for row in rows:
        if row.get("is_final"):
            arms.setdefault(row["name"].rpartition("-seed")[0], []).append(row)

    def place(name: str) -> tuple[str, int]:
        framework, _, arm = name.partition("-")
        return framework, ORDER.index(arm) if arm in ORDER else len(ORDER)

    return {name: arms[name] for name in sorted(arms, key=place)}


def tabulate_arms(arms: dict[str, Rows]) -> str:
    """Make the table of the arms' scores."""
    lines = ["| arm | seeds | training loss | validation mIoU | test mIoU |", "|---|---|---|---|---|"]
    for name, rows in arms.items():
        validation, test = ([row["scores"][split]["mean_iou"] for row in rows] for split in ("validation", "test"))
        loss = statistics.mean(row["training_loss"] for row in rows)
        lines.append(
            f"| {name} | {len(rows)} | {loss:.3f} | {describe_spread(validation)} | {describe_spread(test)} |"
        )
    others = [row["name"] for rows in arms.values() for row in rows if "mixed_precision" in row]
    return "\n".join([*lines, *(["", f"Trained in float32: {', '.join(others)}."] if others else [])])


def tabulate_differences(differences: Iterable[Difference]) -> str:
    """Make the table of the differences between arms on the test split."""
    lines = ["| on test | difference of mIoU | over images | resamples above 0 | over seeds |", "|---|" + "---|" * 4]
    for each in differences:
        images = each.over_images
        lines.append(
            f"| {each.name} | {100 * images.difference:+.1f} | {format_interval(images)} "
            f"| {100 * images.share_above:.0f} % | {format_interval(each.over_seeds)} |"
        )
    return "\n".join(lines)


def tabulate_drives(arms: dict[str, Rows], pairs: Sequence[tuple[str, str]]) -> str:
    """Make the table of scores on each drive of the validation and test images."""
    lines = [f"| | 0016E5, validation | {', test | '.join(DRIVES)}, test |", "|---|---|" + "---|" * len(DRIVES)]
    validation = {name: [row["scores"]["validation"]["mean_iou"] for row in rows] for name, rows in arms.items()}
    for name, rows in arms.items():
        on_drives = [
            [mean_ious(run[start:stop], np.ones((1, stop - start), dtype=int))[0] for run in read_counts(rows)]
            for start, stop in DRIVES.values()
        ]
        lines.append(f"| {name} | {' | '.join(map(describe_spread, (validation[name], *on_drives)))} |")
    for first, second in pairs:
        cells = [f"{100 * (statistics.mean(validation[first]) - statistics.mean(validation[second])):+.1f}"]
        for drive in DRIVES.values():
            found = find_interval(arms, (first, second), *drive)
            cells.append(f"{100 * found.difference:+.1f} ({format_interval(found)})")
        lines.append(f"| {first} − {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_classes(arms: dict[str, Rows]) -> str:
    """Make the table of IoU by class on the test split: rare classes first, the rarest at the top."""
    ious = {name: [row["scores"]["test"]["per_class_iou"] for row in rows] for name, rows in arms.items()}
    return tabulate_classes(ious, CLASSES, find_order(arms), find_rare()).format_rows()


def find_order(arms: dict[str, Rows]) -> list[int]:
    """Order the classes by their pixels in the test images, the rarest first."""
    return order_classes(read_counts(next(iter(arms.values())))[0][:, 1])


def find_rare() -> list[int]:
    """Give the indices of the rare classes."""
    return [CLASSES.index(name) for name in RARE]


def tabulate_validation(rows: Rows, prefix: str) -> str:
    """Make the table of one-seed runs by score on the validation split, the best first."""
    found = [row for row in rows if row["name"].startswith(prefix)]
    found.sort(key=lambda row: -row["scores"]["validation"]["mean_iou"])
    lines = ["| run | mean IoU | of rare classes | weighted by frequency | training loss |", "|---|---|---|---|---|"]
    for row in found:
        scores = row["scores"]["validation"]
        rare = statistics.mean(scores["per_class_iou"][index] for index in find_rare())
        values = [scores["mean_iou"], rare, scores["frequency_weighted_iou"]]
        lines.append(
            f"| {row['name'].removeprefix(prefix)} | {' | '.join(f'{100 * value:.1f}' for value in values)} "
            f"| {row['training_loss']:.3f} |"
        )
    return "\n".join(lines)


def tabulate_diagnostics(rows: Rows) -> str:
    """Make the table of the results of `diagnose.py`."""
    names = ("prototype_loss", "contrastive_loss", "class_margin_loss")
    lines = [
        "| run | coarse head | without votes | network | attention entropy | cosine within class | dead | "
        "gradient of prototype loss | of contrast | of class margin |",
        "|---|" + "---|" * 9,
    ]
    for row in rows:
        scores = [f"{100 * row['mean_iou'][head]:.1f}" for head in ("coarse", "without_votes", "final")]
        shares = [f"{row[name]:.2f}" for name in ("attention_entropy", "cosine_within_class")]
        slopes = [f"{row['gradients'][name]:.2f}" if name in row["gradients"] else "–" for name in names]
        lines.append(f"| {row['name']} | {' | '.join([*scores, *shares, str(row['dead']), *slopes])} |")
    return "\n".join(lines)


def make_tables(rows: Rows, differences: Sequence[Difference]) -> dict[str, str]:
    """Make all tables, by their names in `tables_template.md`."""
    arms, earlier = group_arms(rows), read_rows("earlier_results.jsonl")
    tables = {
        "ablation": tabulate_validation(rows, "ablation-"),
        "diagnostics": tabulate_diagnostics(read_rows("diagnostics.jsonl")),
        "earlier-diagnostics": tabulate_diagnostics(read_rows("earlier_diagnostics.jsonl")),
    }
    for prefix in ("long", "context", "search", "sgd", "pilot"):
        tables[prefix] = tabulate_validation(earlier, f"{prefix}-")
    cmdl = [(each.first, each.second) for each in differences if each.first.endswith("-cmdl")]
    older = group_arms([row for row in rows if row["name"].startswith("pspnet-plain-")] + earlier)
    pairs = [pair for pair in EARLIER_PAIRS if set(pair) <= older.keys()]
    for name, group, own, drives in (
        ("", arms, differences, cmdl),
        ("earlier-", older, find_differences(older, pairs), pairs),
    ):
        tables[f"{name}arms"] = tabulate_arms(group)
        tables[f"{name}differences"] = tabulate_differences(own)
        tables[f"{name}drives"] = tabulate_drives(group, drives)
        tables[f"{name}classes"] = format_classes(group) if group else "No run yet."
    return tables


def fill_template(tables: dict[str, str]) -> str:
    """Write the page of tables."""
    template = (FOLDER / "tables_template.md").read_text()
    return re.sub(r"<!-- table (\S+) -->", lambda match: tables[match[1]], template)


def describe_distinct(arms: dict[str, Rows], differences: Sequence[Difference], diagnostics: Rows) -> str:
    """Describe the arms of distinct distributions in a sentence and a table; nothing before they have rows."""
    found = [each for each in differences if each.second == "fcn-cmdl"]
    if not found:
        return ""
    cosines = {row["name"].rpartition("-seed")[0]: row["cosine_within_class"] for row in diagnostics}
    lines = ["| | seeds | validation | test | cosine within a class |", "|---|---|---|---|---|"]
    for name in ("fcn-cmdl", *(each.first for each in found)):
        scores = [
            describe_spread([row["scores"][split]["mean_iou"] for row in arms[name]])
            for split in ("validation", "test")
        ]
        cosine = f"{cosines[name]:.2f}" if name in cosines else "–"
        lines.append(f"| `{name}` | {len(arms[name])} | {' | '.join(scores)} | {cosine} |")
    parts = [
        f"`{each.first}` differs by {100 * each.over_images.difference:+.1f} points (95 % interval over images "
        f"{format_interval(each.over_images)}, over seeds {format_interval(each.over_seeds)})"
        for each in found
    ]
    return "\n".join([f"From `fcn-cmdl`, on the test split, {'; '.join(parts)}.", "", *lines])


def fill_page(page: str, distinct: str) -> str:
    """Write the part on distinct distributions into the study's page."""
    inner = f"\n{distinct}\n\n" if distinct else ""
    return re.sub(
        r"(<!-- distinct -->\n).*?(<!-- end -->)", lambda match: f"{match[1]}{inner}{match[2]}", page, flags=re.DOTALL
    )


def choose_model(arms: dict[str, Rows]) -> dict[str, Any]:
    """Choose the run with CMDL's defaults, at the size of the study, that is best on the validation split."""
    runs = [row for name in ("fcn-cmdl", "pspnet-cmdl") for row in arms.get(name, [])]
    if not runs:
        raise ValueError("results.jsonl has no row of fcn-cmdl or pspnet-cmdl; run study.py fcn pspnet first")
    return max(runs, key=lambda row: row["scores"]["validation"]["mean_iou"])


def publish_card(row: dict[str, Any], cards: Path = MODEL_CARDS) -> Path:
    """Write the model card of a run from its row and its recipe, without pictures, as those show the data set."""
    precision = row.get("mixed_precision", BASE["mixed_precision"])
    args = make_recipe(RUNS[row["name"]] | {"mixed_precision": precision})
    facts = {
        "best_metric": args.best_metric,
        "best_step": row["best_step"],
        "max_steps": args.max_steps,
        "num_images": {"train": 367, "validation": 101, "test": 233},
        "weights": "ImageNet weights",
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        make_config(args, BENCHMARKS["camvid"]).save_pretrained(folder)
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump(args.to_recipe()))
        for name, content in (("run.json", facts), ("scores.json", row["scores"])):
            (Path(folder) / name).write_text(json.dumps(content))
        return shutil.copy(write_card(folder), cards / f"camvid-{row['name']}.md")


def main() -> None:
    """Write tables, plots and model card."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = read_rows("results.jsonl")
    arms = group_arms(rows)
    best = choose_model(arms)
    differences = find_differences(arms, pair_arms(arms))
    (FOLDER / "TABLES.md").write_text(fill_template(make_tables(rows, differences)))
    page = FOLDER / "README.md"
    page.write_text(fill_page(page.read_text(), describe_distinct(arms, differences, read_rows("diagnostics.jsonl"))))
    draw_arms(arms).savefig(FOLDER / "arms.png", dpi=120)
    draw_differences(arms, differences).savefig(FOLDER / "differences.png", dpi=120)
    draw_classes(arms, CLASSES, find_order(arms), find_rare()).savefig(FOLDER / "classes.png", dpi=120)
    for card in MODEL_CARDS.glob("camvid-*.md"):
        card.unlink()
    publish_card(best)


if __name__ == "__main__":
    main()
