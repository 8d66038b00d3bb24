"""Data sets with the columns image, label and id: public benchmarks, own files, the Hub's data sets, synthetic scenes.

Labels hold train ids: the classes are 0..K-1, and 255 marks void pixels, which are ignored.
"""

from .augmentation import Augmentation, check_transform, register_transform
from .check_report import format_report
from .checking import check_data
from .label_table import HasClasses, Label, LabelTable
from .listing import Layout, SplitFiles, index_by_id, list_files, pair_files, read_stems, unlabelled
from .loading import check_classes, ids_digest, load_benchmark, load_data, load_split, make_builder
from .preparing import prepare
from .reading import IMAGE_SUFFIXES, BadDataError, BadFileError
from .scale_crop import check_resize
from .sets.base import SegmentationDataset
from .sets.benchmark import BENCHMARKS, Benchmark, BenchmarkBuilder, check_benchmark, register_benchmark
from .sets.hub import load_hub
from .sets.own import load_folder, load_pairs
from .sets.synthetic import load_synthetic
from .statistics import class_pixel_counts, class_weights
from .stream import StreamSampler, TrainingStream
from .transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform

__all__ = [
    "BENCHMARKS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "Augmentation",
    "BadDataError",
    "BadFileError",
    "Benchmark",
    "BenchmarkBuilder",
    "EvalTransform",
    "HasClasses",
    "Label",
    "LabelTable",
    "Layout",
    "SegmentationDataset",
    "SplitFiles",
    "StreamSampler",
    "TrainTransform",
    "TrainingStream",
    "check_benchmark",
    "check_classes",
    "check_data",
    "check_resize",
    "check_transform",
    "class_pixel_counts",
    "class_weights",
    "format_report",
    "ids_digest",
    "index_by_id",
    "list_files",
    "load_benchmark",
    "load_data",
    "load_folder",
    "load_hub",
    "load_pairs",
    "load_split",
    "load_synthetic",
    "make_builder",
    "pair_files",
    "prepare",
    "read_stems",
    "register_benchmark",
    "register_transform",
    "unlabelled",
]
