"""Score models on data sets, as papers do."""

from .counts import COUNTS_FILE, ImageCounter, ImageCounts, describe_protocol, read_counts, write_counts
from .evaluating import run_evaluation
from .protocols import Protocol, make_protocol
from .results import Evaluation
from .scoring import Prediction, evaluate, predict

__all__ = [
    "COUNTS_FILE",
    "Evaluation",
    "ImageCounter",
    "ImageCounts",
    "Prediction",
    "Protocol",
    "describe_protocol",
    "evaluate",
    "make_protocol",
    "predict",
    "read_counts",
    "run_evaluation",
    "write_counts",
]
