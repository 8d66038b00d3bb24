"""The builder of own data. It has its own file, because `datasets` replaces `Path` and `open` in builders' modules."""

from .base import SegmentationBuilder


class OwnFiles(SegmentationBuilder):
    """Builder of own images and masks.

    Attributes:
        shape (`str`): How the files lie, and the number of pairs of each split.
    """

    shape: str = ""
    MISSING_CURE = "Add the missing files, or correct the names"
