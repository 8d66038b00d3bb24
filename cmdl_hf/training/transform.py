"""From a recipe to the transform of its training images."""

from collections.abc import Mapping

from ..data import HasClasses, TrainTransform
from .arguments import CMDLTrainingArguments


def make_transform(args: CMDLTrainingArguments, dataset: HasClasses) -> TrainTransform:
    """Make the training transform of a recipe, for the classes of a data set.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        dataset (`SegmentationDataset` or `Benchmark`): Names the classes.

    Raises:
        ValueError: if the transform is unknown, an option is out of range, or `swapped_classes` names a class that the
            data set does not have.
    """
    return TrainTransform(
        args.crop_size,
        args.scale_range,
        args.resize,
        name=args.transform,
        use_flip=args.use_flip,
        use_vertical_flip=args.use_vertical_flip,
        rotation=args.rotation,
        color_strength=args.color_strength,
        swapped_classes=[
            (_find_class(first, dataset.id2label), _find_class(second, dataset.id2label))
            for first, second in args.swapped_classes
        ],
    )


def _find_class(given: str, id2label: Mapping[int, str]) -> int:
    """Find a class by name, or else by id."""
    found = [id_ for id_, name in id2label.items() if name == given]
    found += [id_ for id_ in id2label if str(id_) == str(given)]
    if not found:
        raise ValueError(
            f"swapped_classes: there is no class {given!r}; the classes are "
            f"{', '.join(f'{id_} {name}' for id_, name in id2label.items())}"
        )
    return found[0]
