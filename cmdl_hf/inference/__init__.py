"""Segment images with any semantic segmenter: functions on pixel values, and on image files with a saved model."""

from .calling import segment
from .class_maps import class_map, class_map_with_confidence
from .failures import MODEL_ERRORS, explain_failure, is_out_of_memory
from .files import predict_files
from .images import is_input
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
from .placing import find_device, match_precision
from .segmentation import Segmentation
from .segmenting import SegmentImages, segment_in_windows, segment_whole_images

__all__ = [
    "MODEL_ERRORS",
    "SCALES",
    "ScoreImages",
    "SegmentImages",
    "Segmentation",
    "choose_device",
    "class_map",
    "class_map_with_confidence",
    "default_stride",
    "explain_failure",
    "find_device",
    "is_input",
    "is_out_of_memory",
    "load_segmenter",
    "match_precision",
    "multi_scale_probabilities",
    "outlier_map",
    "predict_files",
    "segment",
    "segment_in_windows",
    "segment_whole_images",
    "sliding_window_logits",
    "whole_image_logits",
]
