"""Data sets with the columns image, label and id: public benchmarks, own files, the Hub's data sets, synthetic scenes.

Labels hold train ids: the classes are 0..K-1, and 255 marks void pixels, which are ignored.

Names are imported when they are first used, so that a training on tensors of your own needs no `datasets`.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .augmentation import Augmentation as Augmentation
    from .augmentation import check_transform as check_transform
    from .augmentation import register_transform as register_transform
    from .check_report import format_report as format_report
    from .checking import check_data as check_data
    from .contact_sheet import draw_contact_sheet as draw_contact_sheet
    from .digests import content_digest as content_digest
    from .digests import ids_digest as ids_digest
    from .label_table import HasClasses as HasClasses
    from .label_table import Label as Label
    from .label_table import LabelTable as LabelTable
    from .listing import Layout as Layout
    from .listing import SplitFiles as SplitFiles
    from .listing import index_by_id as index_by_id
    from .listing import list_files as list_files
    from .listing import pair_files as pair_files
    from .listing import read_stems as read_stems
    from .listing import unlabelled as unlabelled
    from .loading import check_classes as check_classes
    from .loading import load_benchmark as load_benchmark
    from .loading import load_data as load_data
    from .loading import load_split as load_split
    from .loading import make_builder as make_builder
    from .merging import MERGE_FILE as MERGE_FILE
    from .merging import format_merge as format_merge
    from .merging import merge_classes as merge_classes
    from .own_preparing import prepare_from_coco as prepare_from_coco
    from .own_preparing import prepare_from_colours as prepare_from_colours
    from .preparing import prepare as prepare
    from .reading import IMAGE_SUFFIXES as IMAGE_SUFFIXES
    from .reading import BadDataError as BadDataError
    from .reading import BadFileError as BadFileError
    from .rows import read_row as read_row
    from .rows import spread_indices as spread_indices
    from .scale_crop import check_resize as check_resize
    from .sets.base import SegmentationDataset as SegmentationDataset
    from .sets.benchmark import BENCHMARKS as BENCHMARKS
    from .sets.benchmark import Benchmark as Benchmark
    from .sets.benchmark import BenchmarkBuilder as BenchmarkBuilder
    from .sets.benchmark import check_benchmark as check_benchmark
    from .sets.benchmark import register_benchmark as register_benchmark
    from .sets.hub import load_hub as load_hub
    from .sets.own import load_folder as load_folder
    from .sets.own import load_pairs as load_pairs
    from .sets.synthetic import load_synthetic as load_synthetic
    from .statistics import class_pixel_counts as class_pixel_counts
    from .statistics import class_weights as class_weights
    from .stream import StreamSampler as StreamSampler
    from .stream import TrainingStream as TrainingStream
    from .trainable import check_trainable as check_trainable
    from .transforms import IMAGENET_MEAN as IMAGENET_MEAN
    from .transforms import IMAGENET_STD as IMAGENET_STD
    from .transforms import EvalTransform as EvalTransform
    from .transforms import TrainTransform as TrainTransform
    from .validation_fraction import VALIDATION_FILE as VALIDATION_FILE
    from .validation_fraction import VALIDATION_FRACTION as VALIDATION_FRACTION
    from .validation_fraction import check_fraction as check_fraction
    from .validation_split import set_apart_validation as set_apart_validation

_MODULE_OF = {
    "Augmentation": "augmentation",
    "BENCHMARKS": "sets.benchmark",
    "BadDataError": "reading",
    "BadFileError": "reading",
    "Benchmark": "sets.benchmark",
    "BenchmarkBuilder": "sets.benchmark",
    "EvalTransform": "transforms",
    "HasClasses": "label_table",
    "IMAGENET_MEAN": "transforms",
    "IMAGENET_STD": "transforms",
    "IMAGE_SUFFIXES": "reading",
    "Label": "label_table",
    "LabelTable": "label_table",
    "Layout": "listing",
    "MERGE_FILE": "merging",
    "SegmentationDataset": "sets.base",
    "SplitFiles": "listing",
    "StreamSampler": "stream",
    "TrainTransform": "transforms",
    "TrainingStream": "stream",
    "VALIDATION_FILE": "validation_fraction",
    "VALIDATION_FRACTION": "validation_fraction",
    "check_benchmark": "sets.benchmark",
    "check_classes": "loading",
    "check_data": "checking",
    "check_fraction": "validation_fraction",
    "check_resize": "scale_crop",
    "check_trainable": "trainable",
    "check_transform": "augmentation",
    "class_pixel_counts": "statistics",
    "class_weights": "statistics",
    "content_digest": "digests",
    "draw_contact_sheet": "contact_sheet",
    "format_merge": "merging",
    "format_report": "check_report",
    "ids_digest": "digests",
    "index_by_id": "listing",
    "list_files": "listing",
    "load_benchmark": "loading",
    "load_data": "loading",
    "load_folder": "sets.own",
    "load_hub": "sets.hub",
    "load_pairs": "sets.own",
    "load_split": "loading",
    "load_synthetic": "sets.synthetic",
    "make_builder": "loading",
    "merge_classes": "merging",
    "pair_files": "listing",
    "prepare": "preparing",
    "prepare_from_coco": "own_preparing",
    "prepare_from_colours": "own_preparing",
    "read_row": "rows",
    "spread_indices": "rows",
    "read_stems": "listing",
    "register_benchmark": "sets.benchmark",
    "register_transform": "augmentation",
    "set_apart_validation": "validation_split",
    "unlabelled": "listing",
}

__all__ = list(_MODULE_OF)

__getattr__ = lazy_names(__name__, _MODULE_OF)
