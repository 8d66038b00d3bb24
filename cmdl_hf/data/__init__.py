"""Data sets as `datasets.DatasetDict`s of image, label and id: public benchmarks, own files, generated scenes."""

from .check_report import format_report
from .checking import check_data
from .label_table import HasClasses, Label, LabelTable
from .loading import BENCHMARKS, check_classes, ids_digest, load_benchmark, load_data, load_split, make_builder
from .preparing import prepare
from .reading import BadDataError, BadFileError
from .sets.base import SegmentationDataset
from .sets.benchmark import Benchmark, BenchmarkBuilder
from .sets.hub import load_hub
from .sets.own import load_folder, load_pairs
from .sets.synthetic import load_synthetic
from .statistics import class_pixel_counts, class_weights
from .stream import StreamSampler, TrainingStream
from .transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform, check_resize

__all__ = [
    "BENCHMARKS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "BadDataError",
    "BadFileError",
    "Benchmark",
    "BenchmarkBuilder",
    "EvalTransform",
    "HasClasses",
    "Label",
    "LabelTable",
    "SegmentationDataset",
    "StreamSampler",
    "TrainTransform",
    "TrainingStream",
    "check_classes",
    "check_data",
    "check_resize",
    "class_pixel_counts",
    "class_weights",
    "format_report",
    "ids_digest",
    "load_benchmark",
    "load_data",
    "load_folder",
    "load_hub",
    "load_pairs",
    "load_split",
    "load_synthetic",
    "make_builder",
    "prepare",
]
