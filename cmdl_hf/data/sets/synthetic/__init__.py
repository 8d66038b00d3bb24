"""Generated street scenes: a data set without files, in which every class has several appearances."""

from .scenes import load_synthetic

__all__ = ["load_synthetic"]
