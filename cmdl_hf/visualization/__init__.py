"""Pictures of segmentations: class colours, overlays, and one figure of a prediction with its class distributions."""

from .colors import VOID_COLOR, Palette, default_palette, distribution_shades, value_colors
from .figure import draw_prediction
from .ids import ClassIds
from .legend import LegendEntry, add_legend, choose_legend, format_share
from .painting import colorize, overlay, paint_distributions, paint_values

__all__ = [
    "VOID_COLOR",
    "ClassIds",
    "LegendEntry",
    "Palette",
    "add_legend",
    "choose_legend",
    "colorize",
    "default_palette",
    "distribution_shades",
    "draw_prediction",
    "format_share",
    "overlay",
    "paint_distributions",
    "paint_values",
    "value_colors",
]
