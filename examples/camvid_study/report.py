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

from cmdl_hf.data import BENCHMARKS
from cmdl_hf.hub import write_card
from cmdl_hf.training import make_config

FOLDER = Path(__file__).parent
MODEL_CARDS = FOLDER.parents[1] / "model_cards"
CLASSES = list(BENCHMARKS["camvid"].id2label.values())
RARE = ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist")  # under 2 % of the training pixels each
COLOURS = {"plain": "#5b6770", "unscaled": "#a23e48", "control": "#c9a227", "cmdl": "#1f6f8b"}
NUM_RESAMPLES = 10_000
BLOCK_SIZE = 10  # neighbouring test images that are drawn together
DRIVES = {"0001TP": slice(62), "Seq05VD": slice(62, None)}  # positions in the list of test images


def read_rows(name: str) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line."""
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def mean_ious(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the mean IoU of one run for each resampling.

    Args:
        counts: (images, 2, K), intersection and union of each class.
        weights: (resamples, images), how often each image was drawn.

    Returns:
        (resamples,), over the classes that occur.
    """
    sums = np.tensordot(weights, counts.astype(float), axes=1)  # (resamples, 2, K)
    with np.errstate(invalid="ignore"):
        return np.nanmean(sums[:, 0] / sums[:, 1], axis=1)


def bootstrap(first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float, float, float]:
    """Resample the test images, with the same draws for both arms, and compare the arms' means over their seeds.

    Neighbouring images are one second apart and resemble each other. They are therefore drawn in blocks.

    Returns:
        The difference of the mean IoUs on the test images themselves, the ends of the interval that holds 95 % of the
        resampled differences, and the share of them above 0.
    """
    num_images = len(first[0])
    num_blocks = max(round(num_images / BLOCK_SIZE), 1)
    starts = np.random.default_rng(0).multinomial(num_blocks, np.full(num_images, 1 / num_images), NUM_RESAMPLES)
    draws = sum(np.roll(starts, shift, axis=1) for shift in range(BLOCK_SIZE))
    weights = np.concatenate([np.ones((1, num_images), dtype=int), draws])
    arms = [np.mean([mean_ious(counts, weights) for counts in arm], axis=0) for arm in (first, second)]
    difference = arms[0] - arms[1]
    low, high = np.quantile(difference[1:], [0.025, 0.975])
    return float(difference[0]), float(low), float(high), float((difference[1:] > 0).mean())


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


def describe_spread(values: list[float]) -> str:
    """Format mean and standard deviation in percent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


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
        difference, low, high, share = bootstrap(read_counts(arms[first]), read_counts(arms[second]))
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
                difference, low, high, _ = bootstrap(
                    *([run[drive] for run in counts[name]] for name in (first, second))
                )
                cells.append(f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
            lines.append(f"| {first} − {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tabulate_classes(arms: dict[str, list[dict[str, Any]]]) -> str:
    """Make the table of IoU by class on the test split: rare classes first, the rarest at the top."""
    shares = read_counts(next(iter(arms.values())))[0][:, 1].sum(axis=0)
    order = sorted(CLASSES, key=lambda name: shares[CLASSES.index(name)])
    rare, others = ([name for name in order if (name in RARE) == is_rare] for is_rare in (True, False))
    rows = [(name, [name]) for name in rare] + [("**the rare, mean**", rare)]
    rows += [(name, [name]) for name in others] + [("**the others, mean**", others)]
    lines = [f"| class | {' | '.join(arms)} |", "|---|" + "---|" * len(arms)]
    for title, names in rows:
        cells = [
            describe_spread([mean_iou_of(row["scores"]["test"]["per_class_iou"], names) for row in runs])
            for runs in arms.values()
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    for axis, split in zip(axes, ("validation", "test"), strict=True):
        for height, (name, rows) in enumerate(arms.items()):
            values = [100 * row["scores"][split]["mean_iou"] for row in rows]
            colour = COLOURS.get(name.rpartition("-")[2], "#1f6f8b")
            axis.plot(values, [height] * len(values), "o", color=colour, alpha=0.6)
            axis.plot(statistics.mean(values), height, "|", color=colour, markersize=18, markeredgewidth=2)
        axis.set_title(f"{split} split")
        axis.set_xlabel("mean IoU, %")
        axis.set_yticks(range(len(arms)), list(arms))
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
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
        blocks |= {"arms": tabulate_arms(arms), "drives": tabulate_drives(arms), "classes": tabulate_classes(arms)}
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
