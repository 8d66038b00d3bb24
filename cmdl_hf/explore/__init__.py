"""Explore a trained model: show what each class distribution has learned, on one page and in one file."""

from .exploring import explore

__all__ = ["explore"]
