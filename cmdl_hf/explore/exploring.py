"""Explore what a model's class distributions have learned: numbers, examples and maps, on one page and in one file."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data import check_classes, load_split, read_row, spread_indices
from ..files import check_can_write, write_text
from ..inference import MODEL_ERRORS, choose_device, class_map, explain_failure, load_segmenter, outlier_map
from ..progress import progress_bar
from ..visualization import colorize, default_palette, paint_distributions, paint_values
from .findings import collect_findings
from .layout import check_scikit_learn, lay_out
from .pictures import cut_patch, draw_strip, shrink, to_data_uri
from .report import MapPanels, Pictures, render_report
from .roles import ROLE_FIGURES, LabelledImage, labels_on, measure_roles
from .statistics import Cell, DistributionStatistics

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
FIGURES_FILE = "distributions.json"

_NUM_MAPS = 6  # images drawn with their maps
_NUM_OUTLIER_MAPS = 3  # images drawn because they have the highest outlier scores
_NUM_PATCHES = 4000  # of all distributions together, with 3 to 6 of each
_NUM_POINTS = 2500  # of the t-SNE, with 12 to 200 pixels of each class
_NUM_COMPARED = 60  # images compared with their mirrored copies
_UNUSUAL = 0.95  # an image is ranked by this quantile of its outlier scores


def explore(
    model: str | Path,
    benchmark: str,
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    *,
    split: str = "train",
    max_images: int | None = None,
    id2label: str | Path | None = None,
    merge_classes: str | Path | None = None,
) -> dict[str, Any]:
    """Explore a model: find the pixels of a data set that each class distribution represents.

    One pass over the images, in constant memory, gives `report.html` and, with all numbers, `distributions.json`.

    Args:
        model (`str` or `Path`): Folder or Hub name of a CMDL model with distributions.
        benchmark (`str`): One of `BENCHMARKS`, `"synthetic"` or `"own"`, with the classes the model was trained on.
        output_dir (`str` or `Path`): Folder to write to. Existing files of these two names are replaced.
        data_dir (`str` or `Path`, *optional*): Folder of the data set. Generated scenes have none.
        split (`str`): A split with labels.
        max_images (`int`, *optional*): Largest number of images to read. They are spread evenly over the split.
        id2label (`str` or `Path`, *optional*): File with the class names of own data.
        merge_classes (`str` or `Path`, *optional*): File that merges classes; see `merge_classes`.

    Returns:
        `dict`: content of `distributions.json`, see [`collect_findings`].

    Raises:
        FileNotFoundError: if the model or data do not exist.
        ImportError: if scikit-learn is not installed.
        PermissionError: if `output_dir` cannot be written.
        ValueError: if model and data do not fit, the split has no labels, or embeddings are not finite.
    """
    check_scikit_learn()
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images must be at least 1, found {max_images}; leave it out to read all")
    output_dir = Path(output_dir)
    check_can_write(output_dir, is_folder=True)
    segmenter, processor = load_segmenter(model)
    _check_model(segmenter, processor, model)
    dataset = load_split(benchmark, split, segmenter.config.num_labels, data_dir, id2label, merge_classes, model)
    check_classes(segmenter.config, dataset, benchmark, model)
    images = _Images(dataset[split], spread_indices(len(dataset[split]), max_images))
    network = _Network(segmenter.to(choose_device()), processor)

    statistics, unusual = _gather(network, images, f"Exploring {split}")
    if not statistics.num_pixels.any():
        raise ValueError(
            f"none of the {len(images)} images of {benchmark}'s {split} split has a labelled pixel; choose another "
            "split or more images"
        )
    names = {int(id_): name for id_, name in segmenter.config.id2label.items()}
    facts = _describe(model, benchmark, split, images)
    roles = _measure_roles(network, images)
    findings = collect_findings(facts, names, segmenter.memory_bank, statistics, images.names, roles)
    pictures = _draw(network, images, statistics, unusual)
    write_text(output_dir / FIGURES_FILE, json.dumps(findings, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(output_dir / REPORT_FILE, render_report(findings, pictures))
    return findings


@dataclass
class _Network:
    """A model and its image processor."""

    model: nn.Module
    processor: Any

    @torch.no_grad()
    def __call__(self, image: Image.Image, name: str) -> Any:
        """Return the output of the model for one image, with its distributions; `name` is for messages."""
        try:
            pixel_values = self.processor(image, return_tensors="pt")["pixel_values"]
            device = next(self.model.parameters()).device
            return self.model(pixel_values=pixel_values.to(device), output_distributions=True)
        except MODEL_ERRORS as error:
            text = f"image {name} of {image.height} × {image.width} pixels"
            raise explain_failure(error, text, "explore") from error


def _check_model(segmenter: nn.Module, processor: Any, model: str | Path) -> None:
    """Refuse models without distributions, and image processors that pad."""
    _check_distributions(segmenter, model)
    if getattr(processor, "do_pad", False):
        raise ValueError(
            f"the image processor of {model} pads images, and the padding would be explored with them; set do_pad to "
            "false in preprocessor_config.json"
        )


class _Images:
    """The images of a split to explore, read on demand."""

    def __init__(self, dataset: datasets.Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Image.Image, np.ndarray]:
        sample = read_row(self.dataset, self.indices[place])
        if sample["label"] is None:
            raise ValueError(
                f"an exploration needs labels, and {sample['id']} has none; choose a split with public labels"
            )
        return sample["image"].convert("RGB"), np.array(sample["label"])

    @property
    def names(self) -> list[str]:
        """Ids of the images. If an id is an absolute path, only its last part."""
        ids = self.dataset.select_columns("id")[self.indices]["id"]
        return [Path(name).name if Path(name).is_absolute() else name for name in ids]


def _gather(network: _Network, images: _Images, description: str) -> tuple[DistributionStatistics, list[int]]:
    """Process all images; return the statistics, and the images ranked by outlier score, the highest first."""
    config = cast(Any, network.model.config)
    K, M = config.num_labels, config.num_distributions
    statistics = DistributionStatistics(
        K,
        M,
        num_examples=min(max(_NUM_PATCHES // (K * M), 3), 6),
        num_sampled=min(max(_NUM_POINTS // K, 12), 200),
        device=next(network.model.parameters()).device,
    )
    scores, names = [], images.names
    for place in progress_bar(range(len(images)), desc=description, unit="image"):
        image, label = images[place]
        output = network(image, names[place])
        grid = tuple(output.distribution_ids.shape[1:])
        outliers = statistics.update(
            output.pixel_embeddings, output.similarity, labels_on(label, grid, output.logits.device), grid, place
        )
        scores.append(torch.quantile(outliers[:1_000_000], _UNUSUAL))
    order = torch.stack(scores).argsort(descending=True, stable=True)
    return statistics, order.tolist()


def _measure_roles(network: _Network, images: _Images) -> dict[str, float | None]:
    """Compare some images with mirrored copies; the figures are None for a single distribution of each class."""
    config = cast(Any, network.model.config)
    if config.num_distributions == 1:
        return dict.fromkeys(ROLE_FIGURES)
    compared = _LabelledImages(images, spread_indices(len(images), _NUM_COMPARED))
    return measure_roles(network, network.model, compared, config.num_labels)


class _LabelledImages(Sequence[LabelledImage]):
    """Some of the images, read on demand, with functions that bring their labels to a grid."""

    def __init__(self, images: _Images, places: Sequence[int]) -> None:
        self.images, self.places, self.names = images, places, images.names

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        image, label = self.images[self.places[index]]
        return self.names[self.places[index]], image, partial(labels_on, label)


def _draw(
    network: _Network,
    images: _Images,
    statistics: DistributionStatistics,
    unusual: Sequence[int],
) -> Pictures:
    """Read the shown images again, and draw the pictures."""
    config = cast(Any, network.model.config)
    palette = getattr(config, "palette", None) or default_palette(config.num_labels)
    patches: dict[tuple[int, int, int], Image.Image] = {}
    wanted: dict[int, list[tuple[tuple[int, int, int], Cell]]] = {}
    bank = cast(Any, network.model.memory_bank)
    examples = _without_duplicates(statistics.examples, bank.find_duplicates())
    for key, cell in _enumerate_cells(examples):
        wanted.setdefault(cell.image, []).append((key, cell))
    for place in progress_bar(sorted(wanted), desc="Cutting patches", unit="image", leave=False):
        image, _ = images[place]
        patches |= {key: cut_patch(image, cell) for key, cell in wanted[place]}
    strips = {
        (class_id, m): to_data_uri(draw_strip([patches[class_id, m, rank] for rank in range(len(cells))]), quality=70)
        for class_id, of_class in enumerate(examples)
        for m, cells in enumerate(of_class)
        if cells
    }
    low, high = statistics.outlier_quantile(0.01), statistics.outlier_quantile(0.999)
    usual = spread_indices(len(images), _NUM_MAPS)
    shown = [*usual, *[place for place in unusual if place not in usual][:_NUM_OUTLIER_MAPS]]
    maps = [
        _draw_maps(network, *images[place], images.names[place], palette, (low, high), place not in usual)
        for place in progress_bar(shown, desc="Drawing maps", unit="image", leave=False)
    ]
    sample = statistics.sample
    logger.info("laying out %d pixels and the distributions (t-SNE)", len(sample.pixel_embeddings))
    points, stars = lay_out(sample.pixel_embeddings, bank.prototypes)
    return Pictures(palette, strips, maps, points, sample.labels.cpu().numpy(), stars, (low, high))


def _without_duplicates(examples: Sequence[Sequence[list[Cell]]], is_duplicate: Tensor) -> list[list[list[Cell]]]:
    """Leave the examples of duplicates out: they look like those of the distribution that they repeat."""
    return [
        [[] if of_class[m] else cells for m, cells in enumerate(rows)]
        for rows, of_class in zip(examples, is_duplicate.tolist(), strict=True)
    ]


def _enumerate_cells(examples: Sequence[Sequence[Sequence[Cell]]]) -> Iterator[tuple[tuple[int, int, int], Cell]]:
    for class_id, of_class in enumerate(examples):
        for m, cells in enumerate(of_class):
            for rank, cell in enumerate(cells):
                yield (class_id, m, rank), cell


def _draw_maps(
    network: _Network,
    image: Image.Image,
    label: np.ndarray,
    name: str,
    palette: Sequence[Sequence[int]],
    outlier_range: tuple[float, float],
    is_unusual: bool,
) -> MapPanels:
    """Draw an image, its labels, prediction, distributions and outlier map at the size of a panel."""
    output = network(image, name)
    photo = shrink(image)
    size = photo.height, photo.width
    prediction = class_map(output.logits, size)[0]
    truth = np.where(label < len(palette), label, 255).astype(np.uint8)
    M = cast(Any, network.model.config).num_distributions
    outliers = outlier_map(output.similarity, output.distribution_ids.shape[1:], size)[0]
    painted = paint_distributions(prediction, output.distribution_ids[0], palette, M)
    return MapPanels(
        name,
        sorted(set(np.unique(truth[truth < 255]).tolist()) | set(prediction.unique().tolist())),
        {
            "Image": to_data_uri(photo),
            "Truth": to_data_uri(colorize(shrink(Image.fromarray(truth), is_photo=False), palette), is_photo=False),
            "Prediction": to_data_uri(colorize(prediction, palette), is_photo=False),
            "Distributions": to_data_uri(painted, is_photo=False),
            "Outlier map": to_data_uri(paint_values(outliers, *outlier_range), quality=80),
        },
        float(outliers.max()),
        is_unusual,
    )


def _describe(model: str | Path, benchmark: str, split: str, images: _Images) -> dict[str, Any]:
    """Record the explored model and the images."""
    return {
        "model": _name_of(model),
        "benchmark": benchmark,
        "split": split,
        "num_images": len(images),
        "num_images_of_split": len(images.dataset),
    }


def _name_of(model: str | Path) -> str:
    """Return the name of the model without paths of this machine."""
    if not Path(model).is_dir():
        return str(model)
    folder = Path(model).resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name in ("model", "last") else folder.name


def _check_distributions(segmenter: nn.Module, model: str | Path) -> None:
    config = cast(Any, segmenter.config)
    if getattr(config, "use_distributions", False) and hasattr(segmenter, "memory_bank"):
        return
    kind = "was trained without them" if hasattr(config, "use_distributions") else f"is a {config.model_type} model"
    raise ValueError(
        f"only models with class distributions can be explored, and {model} {kind}; name a CMDL model, whose config "
        "has use_distributions=True"
    )
