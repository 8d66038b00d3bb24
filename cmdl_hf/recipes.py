"""From a recipe to its data set and its network."""

from pathlib import Path

from accelerate.utils import set_seed

from .data import SegmentationDataset, load_benchmark, load_folder, load_pairs, load_synthetic
from .models import CMDLConfig, CMDLForSemanticSegmentation
from .training_args import CONTEXT_MODULES, CMDLTrainingArguments


def load_data(
    args: CMDLTrainingArguments, data_dir: str | Path | None = None, id2label: str | Path | None = None
) -> SegmentationDataset:
    """Load the data set that a recipe names.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        data_dir (`str` or `Path`, *optional*): Its folder; for own data the folder of `images/` and `masks/`, or a
            .csv or .jsonl list of pairs. Generated scenes have none.
        id2label (`str` or `Path`, *optional*): File with the classes of own data.

    Raises:
        ValueError: if what the data set needs was not given.
    """
    if args.benchmark == "synthetic":
        return load_synthetic()
    if data_dir is None:
        raise ValueError(f"benchmark {args.benchmark} needs its folder: give --data-dir")
    if args.benchmark != "own":
        return load_benchmark(args.benchmark, data_dir)
    if id2label is None:
        raise ValueError("own data need a file with the names of the classes: give --id2label classes.txt")
    return (load_folder if Path(data_dir).is_dir() else load_pairs)(data_dir, id2label)


def make_model(
    args: CMDLTrainingArguments, dataset: SegmentationDataset, weights: str | Path | None = None
) -> CMDLForSemanticSegmentation:
    """Build the network that a recipe states, for the classes of a data set.

    Args:
        args (`CMDLTrainingArguments`): The recipe; its seed decides the weights.
        dataset (`SegmentationDataset`): Names and colours the classes.
        weights (`str` or `Path`, *optional*): safetensors file with timm's weights of the backbone, or `"timm"` to
            download those that timm has; omitted, the backbone starts from scratch.
    """
    set_seed(args.seed)
    backbone_config = {
        "backbone": args.backbone,
        "out_indices": [1, 2, 3, 4],
        "output_stride": args.output_stride,
    }
    config = CMDLConfig(
        id2label=dataset.id2label,
        palette=dataset.palette,
        backbone_config=backbone_config,
        backbone_kwargs=args.backbone_kwargs,
        context_module=CONTEXT_MODULES[args.framework],
        use_distributions=args.use_distributions,
        hidden_size=args.hidden_size,
        attention_size=args.attention_size,
    )
    try:
        model = CMDLForSemanticSegmentation(config)
    except (RuntimeError, TypeError, AssertionError, IndexError) as error:  # what timm says no with
        raise ValueError(
            f"timm cannot build backbone={args.backbone!r} with output_stride={args.output_stride}, "
            f"backbone_kwargs={args.backbone_kwargs} and four stages: {error or type(error).__name__}"
        ) from error
    if weights is not None:
        model.load_backbone_weights(None if str(weights) == "timm" else weights)
    return model
