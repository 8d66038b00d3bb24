"""Score models on data sets, as papers do."""

from .evaluating import run_evaluation
from .protocols import Protocol, make_protocol
from .results import Evaluation
from .scoring import Prediction, evaluate, predict

__all__ = ["Evaluation", "Prediction", "Protocol", "evaluate", "make_protocol", "predict", "run_evaluation"]
