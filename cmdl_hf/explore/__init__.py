"""Looking inside a trained model: what each class distribution has learned, as one page and one file."""

from .exploring import explore

__all__ = ["explore"]
