"""Models and data sets on the Hub: model cards, and pushing at once or during a training."""

from .cards import write_card
from .datasets import check_can_push_dataset, push_dataset
from .pushing import HubPusher, check_can_push, preview_push, push
from .sending import list_files

__all__ = [
    "HubPusher",
    "check_can_push",
    "check_can_push_dataset",
    "list_files",
    "preview_push",
    "push",
    "push_dataset",
    "write_card",
]
