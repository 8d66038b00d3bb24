"""The segmentation scores as an `evaluate.Metric`; importing this imports `evaluate`, which takes seconds."""

from .segmentation_metric import SegmentationMetric as SegmentationMetric
