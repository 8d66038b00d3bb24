"""Explore a trained model: show what each class distribution has learned, on one page and in one file."""

from .exploring import explore
from .roles import labels_on, measure_agreement

__all__ = ["explore", "labels_on", "measure_agreement"]
