"""Write the tables and plots of the study, from `results.jsonl` and `test_counts/`, to `README.md` and its folder.

    python examples/camvid_study/report.py

This also writes the model card of the best CMDL model to `model_cards/`.
"""

import argparse
import json
import re
import shutil
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import yaml
from matplotlib.figure import Figure
from study import GROUPS, make_recipe

from cmdl_hf.comparison import (
    describe_spread,
    draw_spreads,
    image_interval,
    mean_ious,
    order_classes,
    tabulate_classes,
)
from cmdl_hf.data import BENCHMARKS
from cmdl_hf.hub import write_card
from cmdl_hf.training import make_config

FOLDER = Path(__file__).parent
MODEL_CARDS = FOLDER.parents[1] / "model_cards"
CLASSES = list(BENCHMARKS["camvid"].id2label.values())
RARE = ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist")  # under 2 % of the training pixels each
COLOURS = {"plain": "#5b6770", "unscaled": "#a23e48", "control": "#c9a227", "cmdl": "#1f6f8b"}
DRIVES = {"0001TP": slice(62), "Seq05VD": slice(62, None)}  # positions in the list of test images


def read_rows(name: str) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line."""
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def group_arms(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group the final runs by network and arm: `fcn-plain` and so on, each with its seeds."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("is_final"):
            arms.setdefault(row["name"].rsplit("-seed", 1)[0], []).append(row)
    order = ("plain", "unscaled", "control", "cmdl")
    return dict(
        sorted(arms.items(), key=lambda item: (item[0].rpartition("-")[0], order.index(item[0].rpartition("-")[2])))
    )


def tabulate_arms(arms: dict[str, list[dict[str, Any]]]) -> str:
    """Make the tables of the arms' scores and of their differences."""
    lines = ["| arm | seeds | training loss | validation mIoU | test mIoU |", "|---|---|---|---|---|"]
    for name, rows in arms.items():
        validation, test = ([row["scores"][split]["mean_iou"] for row in rows] for split in ("validation", "test"))
        loss = statistics.mean(row["training_loss"] for row in rows)
        lines.append(
            f"| {name} | {len(rows)} | {loss:.3f} | {describe_spread(validation)} | {describe_spread(test)} |"
        )
    lines += ["", "| on test | difference of mIoU | 95 % interval | resamples above 0 |", "|---|---|---|---|"]
    for first, second in pair_arms(arms):
        difference, low, high, share = image_interval(read_counts(arms[first]), read_counts(arms[second]))
        lines.append(
            f"| {first} − {second} | {100 * difference:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} "
            f"| {100 * share:.0f} % |"
        )
    return "\n".join(lines)


def pair_arms(arms: Iterable[str]) -> list[tuple[str, str]]:
    """Pair every arm with the plain network of its framework and with its own control."""
    pairs = (
        (name, f"{kind}-{other}")
        for name in arms
        for kind, other in ((name.split("-")[0], "plain"), (name.rpartition("-")[0], "control"))
    )
    return [(name, other) for name, other in pairs if other in arms and name != other and not name.endswith("plain")]


def read_counts(rows: list[dict[str, Any]]) -> list[np.ndarray]:
    """Read the counts (images, 2, K) of each run of an arm on the test images."""
    return [np.load(FOLDER / "test_counts" / f"{row['name']}.npz")["counts"] for row in rows]


def tabulate_drives(arms: dict[str, list[dict[str, Any]]]) -> str:
    """Make the table of scores on each drive of the validation and test images."""
    lines = [f"| | 0016E5, validation | {', test | '.join(DRIVES)}, test |", "|---|---|" + "---|" * len(DRIVES)]
    validation = {name: [row["scores"]["validation"]["mean_iou"] for row in rows] for name, rows in arms.items()}
    counts = {name: read_counts(rows) for name, rows in arms.items()}
    for name in arms:
        on_drives = [
            [mean_ious(run[drive], np.ones((1, len(run[drive])), dtype=int))[0] for run in counts[name]]
            for drive in DRIVES.values()
        ]
        lines.append(f"| {name} | {' | '.join(map(describe_spread, (validation[name], *on_drives)))} |")
    for first, second in pair_arms(arms):
        if first.endswith("-cmdl"):
            cells = [f"{100 * (statistics.mean(validation[first]) - statistics.mean(validation[second])):+.1f}"]
            for drive in DRIVES.values():
                difference, low, high, _ = image_interval(
                    *([run[drive] for run in counts[name]] for name in (first, second))
                )
                cells.append(f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
            lines.append(f"| {first} − {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_classes(arms: dict[str, list[dict[str, Any]]]) -> str:
    """Make the table of IoU by class on the test split: rare classes first, the rarest at the top."""
    unions = read_counts(next(iter(arms.values())))[0][:, 1]
    ious = {name: [row["scores"]["test"]["per_class_iou"] for row in rows] for name, rows in arms.items()}
    rare = [CLASSES.index(name) for name in RARE]
    return tabulate_classes(ious, CLASSES, order_classes(unions), rare).format_rows()


def tabulate_validation(rows: list[dict[str, Any]], prefix: str) -> str:
    """Make the table of one-seed runs by score on the validation split, the best first."""
    found = [row for row in rows if row["name"].startswith(prefix)]
    found.sort(key=lambda row: -row["scores"]["validation"]["mean_iou"])
    lines = ["| run | mean IoU | of rare classes | weighted by frequency | training loss |", "|---|---|---|---|---|"]
    for row in found:
        scores = row["scores"]["validation"]
        values = [scores["mean_iou"], mean_iou_of(scores["per_class_iou"], RARE), scores["frequency_weighted_iou"]]
        lines.append(
            f"| {row['name'].removeprefix(prefix)} | {' | '.join(f'{100 * value:.1f}' for value in values)} "
            f"| {row['training_loss']:.3f} |"
        )
    return "\n".join(lines)


def mean_iou_of(per_class_iou: list[float], names: Iterable[str]) -> float:
    """Average the IoUs of the named classes."""
    return statistics.mean(per_class_iou[CLASSES.index(name)] for name in names)


def tabulate_diagnostics(rows: list[dict[str, Any]]) -> str:
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


def draw_arms(arms: dict[str, list[dict[str, Any]]]) -> Figure:
    """Plot a dot for each seed of each arm, on both splits."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.7 + 0.45 * len(arms)), sharey=True, layout="constrained")
    colours = {name: COLOURS.get(name.rpartition("-")[2], "#1f6f8b") for name in arms}
    for axis, split in zip(axes, ("validation", "test"), strict=True):
        values = {name: [row["scores"][split]["mean_iou"] for row in rows] for name, rows in arms.items()}
        draw_spreads(axis, values, colours, f"{split} split")
    return figure


def draw_validation(rows: list[dict[str, Any]], prefix: str) -> Figure:
    """Plot a dot for each one-seed run."""
    found = sorted(
        (row["scores"]["validation"]["mean_iou"], row["name"].removeprefix(prefix))
        for row in rows
        if row["name"].startswith(prefix)
    )
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.28 * len(found)), layout="constrained")
    values, names = [100 * value for value, _ in found], [name for _, name in found]
    for height, (value, name) in enumerate(zip(values, names, strict=True)):
        axis.plot(value, height, "o", color=COLOURS.get(name, "#4b8fa6"))
        axis.annotate(f"{value:.1f}", (value, height), xytext=(8, -3), textcoords="offset points", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.grid(alpha=0.3)
    axis.margins(x=0.12)
    axis.set_xlabel("mean IoU on validation, %")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def choose_model(arms: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Choose the run with CMDL's defaults that is best on the validation split."""
    runs = [row for name, rows in arms.items() for row in rows if name.split("-")[1] == "cmdl"]
    return max(runs, key=lambda row: row["scores"]["validation"]["mean_iou"])


def publish_card(row: dict[str, Any], cards: Path = MODEL_CARDS) -> Path:
    """Write the model card of a run from its row and its recipe, without pictures, as those show the data set."""
    args = make_recipe(GROUPS[row["name"].split("-")[0]][row["name"]])
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
    blocks = {"pilot": tabulate_validation(rows, "pilot-")}
    if arms:
        blocks |= {"arms": tabulate_arms(arms), "drives": tabulate_drives(arms), "classes": format_classes(arms)}
        draw_arms(arms).savefig(FOLDER / "arms.png", dpi=120)
    for prefix in ("ablation", "context", "long", "search", "sgd"):
        blocks[prefix] = tabulate_validation(rows, f"{prefix}-")
    draw_validation(rows, "ablation-").savefig(FOLDER / "ablations.png", dpi=120)
    blocks["diagnostics"] = tabulate_diagnostics(read_rows("diagnostics.jsonl"))
    page = FOLDER / "README.md"
    text = page.read_text()
    for name, block in blocks.items():
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{block}\n\g<2>", text, flags=re.DOTALL)
    page.write_text(text)
    for card in MODEL_CARDS.glob("camvid-*.md"):
        card.unlink()
    publish_card(choose_model(arms))


if __name__ == "__main__":
    main()
