"""Score models on data sets, as papers do."""

from .counts import COUNTS_FILE, ImageCounter, ImageCounts, describe_protocol, read_counts, write_counts
from .details import details_folder
from .evaluating import run_evaluation
from .protocols import Protocol, make_protocol
from .results import Evaluation
from .scoring import Prediction, evaluate, predict
from .summary import describe_confused, describe_worst, find_confused, format_classes

__all__ = [
    "COUNTS_FILE",
    "Evaluation",
    "ImageCounter",
    "ImageCounts",
    "Prediction",
    "Protocol",
    "describe_confused",
    "describe_protocol",
    "describe_worst",
    "details_folder",
    "evaluate",
    "find_confused",
    "format_classes",
    "make_protocol",
    "predict",
    "read_counts",
    "run_evaluation",
    "write_counts",
]
