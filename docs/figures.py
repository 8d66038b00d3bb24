"""Draws the figures of the method's page from a trained model and one generated street scene.

    python docs/figures.py outputs/demo/model

The model must know the classes of the generated scenes. The figures go to `docs/figures/`.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor
from torch.nn.functional import normalize

from cmdl_hf import CMDLForSemanticSegmentation, CMDLMemoryBank, make_image_processor
from cmdl_hf.data import load_synthetic
from cmdl_hf.visualization import colorize, paint_distributions

FOLDER = Path(__file__).parent / "figures"
SCENE = 5  # of the generated test scenes
DOTS = 110  # per inch
PNG = {"facecolor": "white", "pil_kwargs": {"optimize": True}}


def main() -> None:
    """Draw every figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a CMDL model that was trained on generated scenes")
    args = parser.parse_args()
    matplotlib.rcParams.update({"font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left"})
    model = CMDLForSemanticSegmentation.from_pretrained(args.model).eval()
    scene = load_synthetic(0, 0, SCENE + 1)["test"][SCENE]
    seen = look_at(model, scene["image"])
    FOLDER.mkdir(exist_ok=True)
    for name, figure in {
        "network": draw_network(),
        "assignment": draw_assignment(),
        "votes": draw_votes(model, scene, seen),
        "distributions": draw_distributions(model, scene, seen),
        "aggregation": draw_aggregation(model, scene, seen),
    }.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=DOTS, bbox_inches="tight", pad_inches=0.05, **PNG)
        print(FOLDER / f"{name}.png")


def look_at(model: CMDLForSemanticSegmentation, image: object) -> dict[str, Tensor]:
    """Segment an image and keep what the parts of the network compute, each for one image."""
    kept: dict[str, Tensor] = {}

    def keep_attention(module: torch.nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        query, key = (flat(layer(each)) for layer, each in zip((module.query, module.key), inputs, strict=True))
        kept["attention"] = (query @ key.T * query.shape[1] ** -0.5).softmax(dim=1)

    def keep_features(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept["aggregated_features"], kept["pixel_features"] = output[0], inputs[0][0]

    aggregation = model.semantic_aggregation
    hooks = [aggregation.attention.register_forward_hook(keep_attention)]
    hooks.append(aggregation.register_forward_hook(keep_features))
    with torch.no_grad():
        pixel_values = make_image_processor()(image, return_tensors="pt")["pixel_values"]
        outputs = model(pixel_values, output_distributions=True)
    for hook in hooks:
        hook.remove()
    names = ("logits", "coarse_logits", "distribution_ids")
    return kept | {name: outputs[name][0] for name in names}


def flat(feature_map: Tensor) -> Tensor:
    """Give a map (1, C, h, w) as pixels (h·w, C)."""
    return feature_map[0].flatten(1).T


def panels(count: int, width: float = 8.6, ratio: float = 0.8) -> tuple[Figure, list]:
    """Make a figure with panels side by side, without axes."""
    figure = Figure(figsize=(width, width / count * ratio + 0.35), layout="constrained")
    axes = list(np.ravel(figure.subplots(1, count)))
    for each in axes:
        each.axis("off")
    return figure, axes


def draw_votes(model: CMDLForSemanticSegmentation, scene: dict, seen: dict[str, Tensor]) -> Figure:
    """Draw the class probabilities of the coarse logits, which are the weights of the votes."""
    probabilities = seen["coarse_logits"].softmax(dim=0)
    classes = probabilities.mean(dim=(1, 2)).argsort(descending=True)[:4].tolist()
    figure, axes = panels(5)
    axes[0].imshow(scene["image"])
    axes[0].set_title("image")
    for each, class_id in zip(axes[1:], classes, strict=True):
        drawn = each.imshow(probabilities[class_id], vmin=0, vmax=1, cmap="viridis")
        each.set_title(f"votes for {model.config.id2label[class_id]}")
    figure.colorbar(drawn, ax=axes, shrink=0.7, pad=0.01)
    return figure


def draw_distributions(model: CMDLForSemanticSegmentation, scene: dict, seen: dict[str, Tensor]) -> Figure:
    """Draw the prediction, the distribution of each pixel, and the cosines between all prototypes."""
    config, image = model.config, scene["image"]
    prediction = classes_at(seen["logits"], image)
    figure, axes = panels(3, ratio=1.0)
    axes[0].imshow(colorize(prediction, config.palette))
    axes[0].set_title("predicted classes")
    axes[1].imshow(paint_distributions(prediction, seen["distribution_ids"], config.palette, config.num_distributions))
    axes[1].set_title("distribution of each pixel")
    prototypes = normalize(model.memory_bank.read(), dim=-1).flatten(0, 1)
    drawn = axes[2].imshow(prototypes @ prototypes.T, vmin=-1, vmax=1, cmap="RdBu_r")
    axes[2].axis("on")
    middles = (np.arange(config.num_labels) + 0.5) * config.num_distributions - 0.5
    axes[2].set_yticks(middles, [config.id2label[index] for index in range(config.num_labels)])
    axes[2].set_xticks([])
    for border in (np.arange(1, config.num_labels) * config.num_distributions) - 0.5:
        axes[2].axhline(border, color="black", linewidth=0.5)
        axes[2].axvline(border, color="black", linewidth=0.5)
    axes[2].set_title("cosines between all prototypes")
    figure.colorbar(drawn, ax=axes[2], shrink=0.7)
    return figure


def draw_aggregation(model: CMDLForSemanticSegmentation, scene: dict, seen: dict[str, Tensor]) -> Figure:
    """Draw what one pixel reads in the aggregation, how much it adds, and the classes before and after."""
    image, palette = scene["image"], model.config.palette
    height, width = seen["logits"].shape[-2:]
    row, column = height * 3 // 4, width // 2
    share = seen["aggregated_features"].norm(dim=0) / seen["pixel_features"].norm(dim=0)
    figure, axes = panels(4)
    axes[0].imshow(colorize(classes_at(seen["coarse_logits"], image), palette))
    axes[0].set_title("first classifier")
    axes[1].imshow(seen["attention"][row * width + column].view(height, width), cmap="magma")
    axes[1].plot(column, row, "o", color="white", markeredgecolor="black")
    axes[1].set_title("where the dot reads votes")
    drawn = axes[2].imshow(share, cmap="magma", vmin=0)
    axes[2].set_title("length of what is added")
    figure.colorbar(drawn, ax=axes[2], shrink=0.7)
    axes[3].imshow(colorize(classes_at(seen["logits"], image), palette))
    axes[3].set_title("second classifier")
    return figure


def classes_at(logits: Tensor, image: object) -> Tensor:
    """Give the classes (H, W) of logits (K, h, w) at the size of an image."""
    size = (image.height, image.width)
    return torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear")[0].argmax(dim=0)


def draw_assignment() -> Figure:
    """Draw one class of three modes on a circle, and the prototypes that two rules of assignment find."""
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    titles = {"argmax": "the plan is followed", "reference": "nearly uniform draw"}
    colors = np.array(["#0072b2", "#d55e00", "#009e73"])
    for axes, (assignment, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        torch.manual_seed(0)
        bank = CMDLMemoryBank(1, num_distributions=3, hidden_size=2, assignment=assignment, momentum=0.95)
        for _ in range(300):
            points = sample_modes(120)
            similarity = bank.similarity(points)
            everyone = torch.ones(len(points), dtype=torch.bool)
            bank.update(points, similarity, torch.zeros(len(points), dtype=torch.int64), everyone)
        nearest = bank.similarity(points)[:, 0].argmax(dim=1)
        prototypes = bank.read()[0]
        radius = 1 + 0.12 * torch.rand(len(points), 1)
        axes.scatter(*(points * radius).T, s=12, c=colors[nearest], alpha=0.5, linewidths=0)
        for prototype, color in zip(prototypes, colors, strict=True):
            axes.annotate("", prototype, (0, 0), arrowprops={"color": color, "width": 2, "headwidth": 9})
        axes.set(title=title, aspect="equal", xlim=(-1.25, 1.25), ylim=(-0.05, 1.2))
        axes.axis("off")
    return figure


def sample_modes(count: int) -> Tensor:
    """Draw pixels of one class with three modes: unit vectors (count, 2) around three directions."""
    middles = torch.tensor([0.25, 0.5, 0.75]) * torch.pi
    angles = middles.repeat(count // 3) + 0.1 * torch.randn(count // 3 * 3)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def draw_network() -> Figure:
    """Draw the parts of the network and what goes from one to the other."""
    figure = Figure(figsize=(8.6, 3.0))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 86), ylim=(0, 30))
    axes.axis("off")
    boxes = {
        "image": (1, 12, 8, 5, "#eeeeee"),
        "backbone": (13, 12, 10, 5, "#cfe3f5"),
        "pixel\nfeatures": (27, 12, 9, 5, "#ffffff"),
        "first\nclassifier": (27, 22, 9, 5, "#cfe3f5"),
        "voting and\naggregation": (44, 17, 12, 6, "#ffe2b8"),
        "memory bank:\nK · M prototypes": (43, 3, 14, 6, "#ffe2b8"),
        "fusion": (61, 12, 8, 5, "#cfe3f5"),
        "second\nclassifier": (73, 12, 9, 5, "#cfe3f5"),
    }
    for text, (left, bottom, width, height, color) in boxes.items():
        axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.4", fc=color, ec="#444444"))
        axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center")
    axes.text(50.8, 10.6, "prototypes", color="#444444")
    arrows = [
        ((9.5, 14.5), (12.5, 14.5), "", "-"),
        ((23.5, 14.5), (26.5, 14.5), "", "-"),
        ((31.5, 17.5), (31.5, 21.5), "", "-"),
        ((36.5, 24.5), (43.5, 21.5), "votes", "-"),
        ((36.5, 15.5), (43.5, 18.5), "", "-"),
        ((50, 9.5), (50, 16.5), "", "-"),
        ((36.5, 13.5), (60.5, 13.5), "", "-"),
        ((56.5, 19), (61.5, 17.5), "", "-"),
        ((69.5, 14.5), (72.5, 14.5), "", "-"),
        ((31.5, 11.5), (42.5, 5.5), "in training: assigned pixels\nmove the prototypes", "--"),
    ]
    for start, end, text, style in arrows:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, ls=style, color="#444444"))
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        if style == "--":
            axes.text(x - 1.5, y - 1.5, text, ha="right", va="top", color="#444444")
        elif text:
            axes.text(x + 0.8, y + 0.8, text, ha="left", va="bottom", color="#444444")
    return figure


if __name__ == "__main__":
    main()
