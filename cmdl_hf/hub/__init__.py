"""Models and data sets on the Hub: their cards, what of a folder goes there, pushing at once or as a run goes on."""

from .cards import write_card
from .datasets import check_can_push_dataset, push_dataset
from .pushing import HubPusher, check_can_push, list_files, push

__all__ = [
    "HubPusher",
    "check_can_push",
    "check_can_push_dataset",
    "list_files",
    "push",
    "push_dataset",
    "write_card",
]
