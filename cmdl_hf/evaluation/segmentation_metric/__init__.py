"""The segmentation scores as an `evaluate.Metric`. The import takes seconds, because it imports `evaluate`."""

from .segmentation_metric import SegmentationMetric as SegmentationMetric
