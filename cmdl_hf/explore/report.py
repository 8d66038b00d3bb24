"""The page that shows an exploration: one HTML file with everything in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..escaping import MAX_NAME, isolate, one_line
from ..visualization import Palette, distribution_shades, paint_values, value_colors
from .pictures import PATCH_SIZE, to_data_uri, to_hex

_PLANE = 1000  # width of the t-SNE, in units of its drawing
_MOST_LARGE_STARS = 400
_MOST_NAMED = 24  # classes whose names stand in the t-SNE from the start
_MOST_WRITTEN = 20  # classes whose similarities are written as numbers
_CELL = {True: 40, False: 12}  # edge of a cell of the class similarity, written or only painted
_NAME_WIDTH = 130  # room for the names beside it


@dataclass
class MapPanels:
    """Pictures of one image.

    Args:
        name (`str`): Of the image.
        class_ids (`list[int]`): Classes in its truth or its prediction.
        panels (`dict`): Data URIs by title.
        highest_outlier (`float`): Largest value of its outlier map.
        is_unusual (`bool`): Whether it is shown because it is the least familiar.
    """

    name: str
    class_ids: list[int]
    panels: dict[str, str]
    highest_outlier: float
    is_unusual: bool


@dataclass
class Pictures:
    """What the report shows beside its figures.

    Args:
        palette (`Sequence` of K rows): Colours of the classes.
        strips (`dict`): Contact sheets as data URIs, by class and distribution.
        maps (`list[MapPanels]`): Images with their maps.
        points (`np.ndarray` of shape (N, 2)): Places of pixels in the t-SNE.
        point_classes (`np.ndarray` of shape (N,)): Their true classes.
        stars (`np.ndarray` of shape (K, M, 2)): Places of the prototypes.
        outlier_range (`tuple[float, float]`): What the outlier maps' colours begin and end with.
    """

    palette: Palette
    strips: dict[tuple[int, int], str]
    maps: list[MapPanels]
    points: np.ndarray
    point_classes: np.ndarray
    stars: np.ndarray
    outlier_range: tuple[float, float]


def render_report(findings: Mapping[str, Any], pictures: Pictures) -> str:
    """Write the page.

    Args:
        findings (`Mapping`): What `collect_findings` returned.
        pictures (`Pictures`): What it shows.

    Returns:
        HTML that refers to nothing outside itself.
    """
    environment = Environment(
        loader=FunctionLoader(lambda name: (resources.files(__package__) / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_finalize,
    )
    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "short": _short,
        "points": _points,
        "isolate": isolate,
    }
    M = findings["num_distributions"]
    classes = [row | {"name": one_line(row["name"], MAX_NAME)} for row in findings["classes"]]
    findings = {**findings, "classes": classes}
    return environment.get_template("report.html").render(
        findings=findings,
        pictures=pictures,
        version=__version__,
        patch_size=PATCH_SIZE,
        opened=_most_distinct(classes),
        colors=[to_hex(color) for color in pictures.palette],
        shades=[[to_hex(shade) for shade in distribution_shades(color, M)] for color in pictures.palette],
        groups=_group_points(findings, pictures),
        plane=[_PLANE, round(_PLANE * _aspect(pictures)) + 30],
        star_size=1.0 if pictures.stars[..., 0].size <= _MOST_LARGE_STARS else 0.6,
        is_named=findings["num_labels"] <= _MOST_NAMED,
        matrix=_draw_matrix(findings),
        bar_colors=[to_hex(color) for color in value_colors(9)],
    )


def _finalize(value: Any) -> Any:
    """Bring every string that the page shows into one line; autoescape, which comes next, escapes it."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return one_line(value) if is_text and not value.isprintable() else value


def _aspect(pictures: Pictures) -> float:
    """Height of what is laid out in a plane of width 1."""
    return float(max(pictures.points[:, 1].max(), pictures.stars[..., 1].max()))


def _group_points(findings: Mapping[str, Any], pictures: Pictures) -> list[dict[str, Any]]:
    """The dots, stars and place of the name of every class, in units of the drawing."""
    scale, edge = _PLANE - 30, 15
    groups = []
    for row in findings["classes"]:
        points = pictures.points[pictures.point_classes == row["id"]] * scale + edge
        stars = pictures.stars[row["id"]] * scale + edge
        anchors = points if len(points) else stars
        middle = np.median(anchors, axis=0)
        anchor = anchors[np.linalg.norm(anchors - middle, axis=1).argmin()]
        groups.append(
            {
                "id": row["id"],
                "name": row["name"],
                "dots": "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points),
                "stars": [[round(float(x), 1), round(float(y), 1)] for x, y in stars],
                "anchor": anchor.round(1).tolist(),
            }
        )
    return groups


def _draw_matrix(findings: Mapping[str, Any]) -> dict[str, Any]:
    """The class similarity as a picture of one pixel a cell, with the numbers beside it, in its order."""
    order = findings["class_similarity"]["order"]
    K = len(order)
    cosines = np.array(findings["class_similarity"]["cosines"], dtype=float)[np.ix_(order, order)]
    others = cosines[~np.eye(K, dtype=bool)]
    low, high = (float(others.min()), float(others.max())) if K > 1 else (0.0, 1.0)
    is_written = K <= _MOST_WRITTEN
    return {
        "uri": to_data_uri(paint_values(cosines, low, high), is_photo=False),
        "low": low,
        "high": high,
        "names": [findings["classes"][id_]["name"] for id_ in order],
        "ids": order,
        "percent": np.round(100 * cosines).astype(int).tolist(),
        "is_light": (cosines > low + 0.62 * (high - low)).tolist(),
        "is_written": is_written,
        "cell": _CELL[is_written],
        "margin": _NAME_WIDTH,
    }


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _most_distinct(classes: Sequence[Mapping[str, Any]]) -> int:
    """The class with the most distinct distributions."""
    return max(classes, key=lambda row: row["num_distinct"] or 0)["id"]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _short(name: str, length: int = 26) -> str:
    """Cut a long name of a class, after the first of its synonyms where it lists some."""
    if len(name) > length:
        name = name.split(",")[0]
    return one_line(name, length)
