"""Pictures and HTML tables of a segmented image."""

import colorsys
import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from segmenter import Result, class_probabilities, classes_present, distribution_similarity

COLOR_SCALE = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#fcffa4"]
"""Inferno of matplotlib, from low to high."""

CSS = """
.picture img {max-height: 75vh; cursor: crosshair}
.picture :fullscreen img {max-height: 95vh}
#toggles .wrap label span::before {content: ""; display: inline-block; width: 0.9em; height: 0.9em;
    border-radius: 0.2em; margin-right: 0.4em; vertical-align: -0.1em}
.table {width: 100%; border: 0 !important; border-collapse: collapse; margin: 0 0 1em;
    font-variant-numeric: tabular-nums}
.table tr, .table td, .table th {border: 0 !important; background: none}
.table td, .table th {padding: 0.15em 0 0.15em 0.7em; text-align: right; white-space: nowrap; font-weight: normal}
.table td:first-child, .table th:first-child {padding-left: 0; text-align: left; max-width: 12em; overflow: hidden;
    text-overflow: ellipsis}
.table th:first-child {font-weight: bold}
.table .wide {width: 100%}
.swatch {display: inline-block; width: 1em; height: 1em; border-radius: 0.2em; vertical-align: -0.12em;
    margin-right: 0.4em}
.shares {display: flex; height: 1em; border-radius: 0.2em; overflow: hidden}
.bar {height: 0.8em; border-radius: 0.2em; min-width: 1px}
.scale {height: 0.9em; border-radius: 0.2em}
.ends {display: flex; justify-content: space-between}
.muted {opacity: 0.7}
"""


def draw(result: Result, pixel: tuple[int, int] | None, shown: Iterable[int], opacity: float) -> list[Any]:
    """Draw classes, distributions and outliers, enlarged, with a ring at the selected pixel."""
    maps = [finish(picture, pixel) for picture in (draw_distributions(result), draw_outliers(result))]
    return [draw_overlay(result, pixel, shown, opacity), *maps]


def draw_overlay(result: Result, pixel: tuple[int, int] | None, shown: Iterable[int], opacity: float) -> Image.Image:
    """Draw the class overlay, enlarged, with a ring at the selected pixel."""
    return finish(draw_classes(result, shown, opacity), pixel, Image.Resampling.BICUBIC)


def draw_classes(result: Result, shown: Iterable[int], opacity: float) -> Image.Image:
    """Blend the colours of the shown classes with the image."""
    weights = np.where(np.isin(result.segmentation, list(shown)), round(255 * opacity), 0).astype(np.uint8)
    colors = Image.fromarray(result.palette[result.segmentation])
    return Image.composite(colors, result.image, Image.fromarray(weights))


def draw_distributions(result: Result) -> Image.Image | None:
    """Paint every pixel in the shade of its distribution."""
    if result.similarity is None:
        return None
    table = np.stack([shades(color, result.similarity.shape[-1]) for color in result.palette])  # (K, M, 3)
    return Image.fromarray(table[result.segmentation, result.distribution_ids])


def draw_outliers(result: Result) -> Image.Image | None:
    """Paint the outlier map from its lowest to its highest value in this image."""
    if result.outliers is None:
        return None
    low, high = float(result.outliers.min()), float(result.outliers.max())
    anchors = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLOR_SCALE])
    place = (result.outliers - low) / max(high - low, 1e-6) * (len(anchors) - 1)
    channels = [np.interp(place, range(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def zoom(size: tuple[int, int]) -> int:
    """Return the factor by which a picture (width, height) is enlarged, because Gradio only shrinks pictures."""
    return max(1, 1024 // max(size))


def finish(
    picture: Image.Image | None, pixel: tuple[int, int] | None, resample: int = Image.Resampling.NEAREST
) -> Image.Image | None:
    """Enlarge a small picture, and draw a ring around the selected pixel."""
    if picture is None:
        return None
    factor = zoom(picture.size)
    picture = picture.resize((picture.width * factor, picture.height * factor), resample)
    if pixel is not None:
        radius = max(6, max(picture.size) // 80)
        x, y = (factor * place + factor // 2 for place in pixel)
        for extra, color in ((2, "black"), (0, "white")):
            box = [x - radius - extra, y - radius - extra, x + radius + extra, y + radius + extra]
            ImageDraw.Draw(picture).ellipse(box, outline=color, width=max(2, radius // 4))
    return picture


def shades(color: Sequence[int], num_distributions: int) -> np.ndarray:
    """Shade a class's colour from dark to light, one shade for each of its M distributions: (M, 3), uint8."""
    hue, _, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in map(int, color)))
    lightnesses = np.linspace(0.18, 0.88, num_distributions) if num_distributions > 1 else [0.5]
    rows = [colorsys.hls_to_rgb(hue, float(lightness), min(saturation, 0.65)) for lightness in lightnesses]
    return np.round(255 * np.array(rows)).astype(np.uint8)


def describe_pixel(result: Result, x: int, y: int) -> str:
    """Make the tables of a pixel: its five most probable classes, and its distributions if there are any."""
    class_id = int(result.segmentation[y, x])
    name = result.names[class_id]
    probabilities = class_probabilities(result, x, y)
    rows = [
        _bar_row(result.palette[i], result.names[i], float(probabilities[i]))
        for i in probabilities.topk(min(5, len(probabilities))).indices.tolist()
    ]
    text = f"<h3>{_bdi(name)} <span class='muted'>at x {x}, y {y}</span></h3>"
    text += _table("pixel-classes", ["Class", "", "probability"], rows)
    similarity = distribution_similarity(result, x, y)
    if similarity is None:
        return text
    own = similarity[class_id]
    shares = (own / result.epsilon).softmax(dim=0)
    rows = [
        _bar_row(color, name, float(shares[m]), f"{own[m]:.3f}", number=str(m + 1))
        for m, color in enumerate(shades(result.palette[class_id], len(own)))
    ]
    best_class, m = divmod(int(similarity.argmax()), len(own))
    return (
        text
        + _table("pixel-distributions", ["Distribution", "", "probability", "cosine"], rows)
        + f"<p class='muted'>The probabilities of the distributions are the softmax of their cosine similarities, "
        f"divided by the model's sinkhorn_epsilon, {result.epsilon:g}. This is the assignment before Sinkhorn "
        f"balances it. The most similar distribution is {_bdi(result.names[best_class])} {m + 1}: cosine "
        f"{similarity.max():.3f}, outlier value {1 - similarity.max():.3f}.</p>"
    )


def describe_distributions(result: Result) -> str:
    """Make the legend of the distribution map, or say why there is no map."""
    if result.similarity is None:
        return "<p>This model has no class distributions. It is no CMDL model, or one without distributions.</p>"
    M = result.similarity.shape[-1]
    rows = []
    for class_id, _ in classes_present(result):
        counts = np.bincount(result.distribution_ids[result.segmentation == class_id], minlength=M)
        bars = "".join(
            f"<span title='{m + 1}: {counts[m] / counts.sum():.1%}' "
            f"style='flex: {counts[m]}; background: {_css(shade)}'></span>"
            for m, shade in enumerate(shades(result.palette[class_id], M))
            if counts[m]
        )
        name = _bdi(result.names[class_id])
        rows.append([name, f"<div class='shares'>{bars}</div>", f"{np.count_nonzero(counts)} of {M}"])
    return (
        f"<p>{M} distributions describe each class. Their shades go from dark (1) to light ({M}). A pixel has the "
        "shade of the nearest distribution of its class.</p>"
        + _table("distributions-present", ["Class", "share of each distribution", "present"], rows)
    )


def describe_outliers(result: Result) -> str:
    """Make the colour scale of the outlier map, or give the reason why there is no map."""
    if result.outliers is None:
        return describe_distributions(result)
    return (
        f"<div class='scale' style='background: linear-gradient(to right, {', '.join(COLOR_SCALE)})'></div>"
        f"<div class='ends'><span>{result.outliers.min():.3f}</span><span>{result.outliers.max():.3f}</span></div>"
        "<p>The outlier value of a pixel is one minus its best cosine similarity to any distribution of any class. "
        "The colours span the values of this image. The value is not a probability. It ranks the pixels of one model "
        "by how little they resemble the training data. Unknown objects raise it, and so does unusual light.</p>"
    )


def toggle_colors(result: Result) -> str:
    """Make the CSS that shows the class colour beside each toggle."""
    rules = "".join(
        f"#toggles .wrap label:nth-of-type({place}) span::before {{background: {_css(result.palette[class_id])}}}"
        for place, (class_id, _) in enumerate(classes_present(result), start=1)
    )
    return f"<style>{rules}</style>"


def _bar_row(color: Sequence[int], name: str, share: float, *more: str, number: str = "") -> list[str]:
    """Make the cells of a table row: colour, name and number, a bar for the share, the share, and more numbers."""
    swatch = f"<span class='swatch' style='background: {_css(color)}'></span>"
    bar = f"<div class='bar' style='background: {_css(color)}; width: {share:.1%}'></div>"
    return [f"{swatch}{_bdi(name)} {number}".rstrip(), bar, f"{share:.1%}", *more]


def _table(element: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make an HTML table; its second column takes the remaining width."""
    lines = ["".join(f"<th{' class=wide' * (i == 1)}>{header}</th>" for i, header in enumerate(headers))]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return f"<table class='table' id='{element}'>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _bdi(name: str) -> str:
    """Escape a name, and isolate it: if it runs from right to left, what stands beside it keeps its place."""
    return f"<bdi>{html.escape(name)}</bdi>"


def _css(color: Sequence[int]) -> str:
    return "rgb({}, {}, {})".format(*map(int, color))
