"""The builder of own data, alone: in the modules of builders `datasets` replaces `Path`, `open` and more."""

from .base import SegmentationBuilder


class OwnFiles(SegmentationBuilder):
    """Builder of own images and masks."""

    MISSING_CURE = "Add what is missing, or correct the names"
