"""Segment images with any semantic segmenter: functions on pixel values, and on image files with a saved model."""

from .files import predict_files
from .loading import choose_device, load_segmenter
from .logits import (
    SCALES,
    ScoreImages,
    default_stride,
    multi_scale_probabilities,
    outlier_map,
    sliding_window_logits,
    whole_image_logits,
)

__all__ = [
    "SCALES",
    "ScoreImages",
    "choose_device",
    "default_stride",
    "load_segmenter",
    "multi_scale_probabilities",
    "outlier_map",
    "predict_files",
    "sliding_window_logits",
    "whole_image_logits",
]
