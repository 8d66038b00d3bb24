"""The segmentation of one image: what every pixel is, and pictures of it."""

import difflib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..escaping import MAX_NAME, one_line
from ..files import write_image
from ..visualization import LegendEntry, Palette, add_legend, default_palette, overlay

_MAX_PALETTE = 256  # colours of an 8-bit palette
_MAX_SHOWN = 1400  # pixels of the longer edge in a notebook


@dataclass(frozen=True)
class Classes:
    """The classes of a model, with their names and colours.

    Args:
        names (`Mapping[int, str]`): Name of each of the K classes.
        palette (`Sequence` of K rows): Red, green, blue in 0..255 of each.
    """

    names: Mapping[int, str]
    palette: Palette

    @classmethod
    def of(cls, config: Any) -> "Classes":
        """Take the classes of a configuration; one without a colour for each class gets `default_palette`."""
        names = {int(id_): str(name) for id_, name in config.id2label.items()}
        palette = getattr(config, "palette", None) or []
        return cls(names, palette if len(palette) == len(names) else default_palette(len(names)))

    def find(self, wanted: str | int | Collection[str | int]) -> set[int]:
        """Find classes by their names or ids.

        Raises:
            ValueError: if there is no such class.
        """
        found: set[int] = set()
        for item in [wanted] if isinstance(wanted, str | int) else wanted:
            ids = {id_ for id_, name in self.names.items() if item in (id_, name)}
            if not ids:
                near = difflib.get_close_matches(str(item), self.names.values(), 3, 0.4) or list(self.names.values())
                there = ", ".join(one_line(name, MAX_NAME) for name in near[:8])
                raise ValueError(f"the model has no class {one_line(item, MAX_NAME)}; name one such as {there}")
            found |= ids
        return found

    @property
    def background(self) -> set[int]:
        """Class 0, if it is called background: overlays leave it clear."""
        return {0} if self.names.get(0, "").strip().casefold() == "background" else set()


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segmentation of one image; H and W are its height and width, upright. In a notebook it shows itself.

    Args:
        image (PIL image): The image, RGB.
        ids (`np.ndarray` of shape (H, W)): Class ids in 0..K-1; uint8, or uint16 for more than 256 classes.
        classes (`Classes`): Names and colours of the K classes.
        confidence (`np.ndarray` of shape (H, W), *optional*): Probability of each pixel's class: the softmax of its
            scores, float32, in (0, 1].
        distribution_ids (`np.ndarray` of shape (H, W), *optional*): Distribution in 0..M-1 of each pixel within its
            class, uint8 or larger. CMDL models with distributions only.
        outliers (`np.ndarray` of shape (H, W), *optional*): One minus the best cosine to any distribution, float32, in
            [0, 2]; see [`inference.outlier_map`]. CMDL models with distributions only.
    """

    image: Image.Image
    ids: np.ndarray = field(repr=False)
    classes: Classes = field(repr=False)
    confidence: np.ndarray | None = field(default=None, repr=False)
    distribution_ids: np.ndarray | None = field(default=None, repr=False)
    outliers: np.ndarray | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        shares = ", ".join(f"{one_line(name, 30)} {share:.1%}" for name, share in list(self.shares.items())[:5])
        height, width = self.ids.shape
        return f"Segmentation({width} × {height} pixels: {shares}{', …' if len(self.shares) > 5 else ''})"

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class in the pixels, by name, the largest first; classes without a pixel are left out.

        The shares sum to 1. Classes of one name are one entry.
        """
        shares: dict[str, float] = {}
        for id_, share in self.shares_by_id.items():
            name = self.classes.names[id_]
            shares[name] = shares.get(name, 0.0) + share
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def shares_by_id(self) -> dict[int, float]:
        """The share of each class that has pixels, by id, the largest first."""
        counts = _count(self.ids, len(self.classes.names))
        order = np.argsort(-counts, kind="stable")
        return {int(id_): float(counts[id_] / self.ids.size) for id_ in order if counts[id_]}

    def overlay(
        self, alpha: float = 0.5, hide: str | int | Collection[str | int] = (), legend: bool = True
    ) -> Image.Image:
        """Blend the colours of the classes with the image.

        Args:
            alpha (`float`): Share of the colours in [0, 1]; 0 shows only the image.
            hide (`str`, `int` or a collection of them): Classes, by name or id, that are left clear. A class 0 called
                background always is.
            legend (`bool`): Whether to put a legend with the classes and their shares at the right. A low picture
                becomes higher for it.

        Returns:
            PIL image, RGB.

        Raises:
            ValueError: if `alpha` is out of range, or a hidden class does not exist.
        """
        clear = self.classes.find(hide) | self.classes.background
        picture = overlay(self.image, self.ids, self.classes.palette, alpha, ignore_index=-1, clear=clear)
        return add_legend(picture, self._legend(clear)) if legend else picture

    def save(self, path: str | Path) -> None:
        """Write the class ids as a PNG: its palette is the classes' colours, or it has 16 bits for over 256 classes.

        Args:
            path (`str` or `Path`): Ends in .png. The overlay is a PIL image: `segmentation.overlay().save(...)`.

        Raises:
            ValueError: if the name ends differently.
            OSError: if it cannot be written.
        """
        write_image(_check_png(Path(path)), self.to_image())

    def to_image(self) -> Image.Image:
        """Return the class ids as an image: with the classes' colours as palette, or of 16 bits."""
        image = Image.fromarray(self.ids)
        if len(self.classes.names) > _MAX_PALETTE:
            return image
        image = image.convert("P")
        image.putpalette([channel for color in self.classes.palette for channel in color])
        return image

    def _legend(self, clear: Collection[int]) -> list[LegendEntry]:
        return [
            LegendEntry(self.classes.names[id_], None if id_ in clear else self.classes.palette[id_], share)
            for id_, share in self.shares_by_id.items()
        ]

    def _repr_png_(self) -> bytes:
        """Draw the overlay for a notebook, at most 1400 pixels wide and high without its legend."""
        factor = min(1.0, _MAX_SHOWN / max(self.image.size))
        size = (max(1, round(self.image.width * factor)), max(1, round(self.image.height * factor)))
        image = self.image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        ids = np.asarray(Image.fromarray(self.ids).resize(size, Image.Resampling.NEAREST))
        clear = self.classes.background
        picture = overlay(image, ids, self.classes.palette, ignore_index=-1, clear=clear)
        file = io.BytesIO()
        add_legend(picture, self._legend(clear)).save(file, "PNG")
        return file.getvalue()


def _count(ids: np.ndarray, num_labels: int) -> np.ndarray:
    """Count the pixels of each class, a few rows at a time: `bincount` converts to int64."""
    rows_at_once = max(1, 2**22 // ids.shape[1])
    pieces = (ids[top : top + rows_at_once] for top in range(0, ids.shape[0], rows_at_once))
    return np.sum([np.bincount(piece.ravel(), minlength=num_labels) for piece in pieces], axis=0)


def _check_png(path: Path) -> Path:
    if path.suffix.lower() != ".png":
        raise ValueError(f"class ids are written as PNG, which changes none; found {one_line(path)}, name it .png")
    return path.with_suffix(".png")
