"""Compare runs: mean and spread over seeds, and differences with an interval over images and one over seeds."""

from .classes import RARE_SHARE, find_rare, order_classes, tabulate_classes
from .comparing import Comparison, compare
from .figure import draw_spreads
from .intervals import Interval, image_interval, mean_ious, resample, seed_interval, subtract
from .runs import Group, ScoredRun, average_training_loss, group_runs, read_run
from .tables import Table, describe_spread

__all__ = [
    "RARE_SHARE",
    "Comparison",
    "Group",
    "Interval",
    "ScoredRun",
    "Table",
    "average_training_loss",
    "compare",
    "describe_spread",
    "draw_spreads",
    "find_rare",
    "group_runs",
    "image_interval",
    "mean_ious",
    "order_classes",
    "read_run",
    "resample",
    "seed_interval",
    "subtract",
    "tabulate_classes",
]
