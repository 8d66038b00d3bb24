"""Builds the network of a recipe."""

import copy
import difflib
import inspect
import json
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module

from ..data import (
    HasClasses,
    SegmentationDataset,
    class_pixel_counts,
    class_weights,
)
from ..models import CMDLConfig, CMDLForSemanticSegmentation, check_timm_name, check_timm_options, find_context_module
from .arguments import CMDLTrainingArguments
from .options import check_options, parse_options

logger = logging.getLogger(__name__)

_NUM_STAGES = 4


def check_weights(weights: str | Path | None) -> None:
    """Refuse backbone weights that cannot be read, before anything is loaded.

    Args:
        weights (`str` or `Path`, *optional*): See `make_model`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the path is a folder.
    """
    if weights is None or str(weights) == "timm":
        return
    if Path(weights).is_dir():
        raise ValueError(
            f"weights must be a safetensors file or the word timm, found the folder {weights}: name the file in it"
        )
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"weights must be a safetensors file or the word timm, and there is no file {weights}: correct the path, "
            "or download timm's weights of the backbone with --weights timm"
        )


def make_model(
    args: CMDLTrainingArguments, dataset: SegmentationDataset, weights: str | Path | None = None
) -> CMDLForSemanticSegmentation:
    """Build the network of a recipe, for the classes of a data set.

    Args:
        args (`CMDLTrainingArguments`): The recipe. Its seed determines the initial weights.
        dataset (`SegmentationDataset`): Gives names and colours of the classes. With `class_weights="auto"`, its
            training split also gives the class weights.
        weights (`str` or `Path`, *optional*): A safetensors file with timm's weights of the backbone, or `"timm"` to
            download them. By default the backbone starts from random weights.

    Raises:
        FileNotFoundError: if the file of weights or of class weights does not exist.
        ValueError: if the network cannot be built, or the weights do not fit it.
    """
    check_weights(weights)
    config = make_config(args, dataset)
    set_seed(args.seed)
    model = CMDLForSemanticSegmentation(config)
    if weights is None:
        logger.info(f"the backbone {args.backbone} starts from random weights; --weights timm starts it from ImageNet")
    else:
        model.load_backbone_weights(None if str(weights) == "timm" else weights)
    if config.context_module_plugin is not None:
        check_remote_code(model)
    return model


def check_remote_code(model: CMDLForSemanticSegmentation) -> None:
    """Check before training that a saved folder loads without cmdl_hf and without the plug-in.

    The check saves the model's source files (its remote code) to a temporary folder, loads them from there, and builds
    the network on the meta device.

    Args:
        model (`CMDLForSemanticSegmentation`): A model with a plug-in's context module.

    Raises:
        ValueError: if the saved sources cannot build the network.
    """
    config = copy.deepcopy(model.config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        with tempfile.TemporaryDirectory() as folder:
            custom_object_save(model, folder, config=config)
            config.save_pretrained(folder)
            network = get_class_from_dynamic_module("modeling_cmdl.CMDLForSemanticSegmentation", folder)
            with torch.device("meta"):
                found = network(network.config_class.from_pretrained(folder)).state_dict()
    except Exception as error:  # the plug-in's own code may raise any type
        raise ValueError(
            f"context module {config.context_module!r} of {config.context_module_plugin}: a saved model would not "
            f"load without the plug-in ({type(error).__name__}: {error}); its file must work by itself"
        ) from error
    assert {name: tensor.shape for name, tensor in found.items()} == expected


def make_config(args: CMDLTrainingArguments, dataset: HasClasses) -> CMDLConfig:
    """Make the configuration of the network of a recipe.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        dataset (`SegmentationDataset` or `Benchmark`): Gives names and colours of the classes.

    Raises:
        FileNotFoundError: if the file of class weights does not exist.
        ValueError: if timm cannot build the backbone with the recipe's options, the class weights do not fit, or
            `model_options` has a key that is no field of `CMDLConfig`, or that another key of the recipe sets.

    Note:
        `output_stride` applies to backbones that can be dilated: ResNets, MobileNets, EfficientNets and ConvNeXts.
        Others, such as Swin, HRNet and ViT, keep their own stride, and the log says so.
    """
    fields: dict[str, Any] = {
        **_derive_backbone(args),
        "id2label": dataset.id2label,
        "palette": dataset.palette,
        "context_module": find_context_module(args.framework).name,
        "use_distributions": args.use_distributions,
        "hidden_size": args.hidden_size,
        "attention_size": args.attention_size,
        "class_weights": find_class_weights(args.class_weights, dataset),
        "ohem_threshold": args.ohem_threshold,
        "ohem_min_kept": args.ohem_min_kept,
    }
    options = parse_options(args.model_options)
    check_options(options, fields)
    return CMDLConfig(**fields, **options)


def find_class_weights(source: str | None, dataset: HasClasses) -> list[float] | None:
    """Compute class weights from the pixels of the training split (`"auto"`), or read them from a JSON file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it does not hold one number for each class.
    """
    if source is None:
        return None
    if source == "auto":
        if not isinstance(dataset, SegmentationDataset) or "train" not in dataset:
            raise ValueError(
                "class_weights=auto counts pixels of a train split, but the data set has none: name a JSON file"
            )
        with PartialState().local_main_process_first():  # the others read the counts from the cache
            return class_weights(class_pixel_counts(dataset["train"], dataset.num_labels))
    if not Path(source).is_file():
        raise FileNotFoundError(
            f"class_weights must be auto or a JSON file with {dataset.num_labels} numbers, and there is no file "
            f"{source}: correct the path"
        )
    try:
        weights = json.loads(Path(source).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"class_weights: {source} is not a JSON file ({error}); write a list such as [1.0, 2.5, ...] into it"
        ) from error
    if not isinstance(weights, list) or not all(_is_weight(weight) for weight in weights) or not any(weights):
        raise ValueError(
            f"class_weights: {source} must hold a list of numbers that are at least 0 and not all 0, in the order of "
            f"the classes, found {str(weights)[:80]}"
        )
    if len(weights) != dataset.num_labels:
        raise ValueError(
            f"class_weights: {source} holds {len(weights)} numbers for {dataset.num_labels} classes; write one number "
            "for each class"
        )
    return [float(weight) for weight in weights]


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _derive_backbone(args: CMDLTrainingArguments) -> dict[str, Any]:
    """Derive the backbone fields of the configuration from the recipe and from timm's description of the backbone."""
    check_timm_name(args.backbone)
    given = parse_options(args.backbone_kwargs)
    check_timm_options(given)
    options = _size_options(args.backbone) | given
    output_stride, backbone = _find_output_stride(args, options)
    info = backbone.feature_info.info
    if len(info) < _NUM_STAGES:
        raise ValueError(f"backbone={args.backbone!r} has {len(info)} stages, but four are needed; choose another")
    if len({stage["reduction"] for stage in info}) == 1 < len(info):  # a plain transformer: all stages have one grid
        out_indices = [len(info) * quarter // _NUM_STAGES - 1 for quarter in range(1, _NUM_STAGES + 1)]
    else:
        out_indices = list(range(len(info)))[-_NUM_STAGES:]
    return {
        "backbone_config": {"backbone": args.backbone, "out_indices": out_indices, "output_stride": output_stride},
        "backbone_kwargs": options or None,
        "size_divisor": _find_size_divisor(args, backbone),
    }


def _size_options(name: str) -> dict[str, Any]:
    """Collect timm options with which a backbone accepts images of any size and returns maps (B, C, h, w)."""
    with torch.device("meta"):
        try:
            classifier = timm.create_model(name)
        except Exception as error:  # timm raises errors of many types
            base = name.split(".")[0]
            nearest = difflib.get_close_matches(base, timm.list_models(), n=3)
            cure = f"did you mean {', '.join(nearest)}?" if nearest and base not in nearest else ""
            raise ValueError(f"timm cannot build backbone={name!r}: {_text(error)}. {cure}".rstrip()) from error
    parameters = inspect.signature(type(classifier).__init__).parameters
    options: dict[str, Any] = {}
    if "strict_img_size" in parameters:
        options["strict_img_size"] = False
    elif "dynamic_img_size" in parameters:
        options["dynamic_img_size"] = True
    if "dynamic_img_pad" in parameters:
        options["dynamic_img_pad"] = True
    if getattr(classifier, "output_fmt", "NCHW") == "NHWC":
        options["feature_cls"] = "getter"
    return options


def _find_output_stride(args: CMDLTrainingArguments, options: dict[str, Any]) -> tuple[int | None, Any]:
    """Find the `output_stride` to request from timm; returns it with the backbone on the meta device."""
    try:
        backbone = _build(args.backbone, options)
    except Exception as error:
        raise ValueError(
            f"timm cannot build backbone={args.backbone!r} with backbone_kwargs={options}: {_text(error)}"
        ) from error
    own_stride = backbone.feature_info.reduction()[-1]
    if args.output_stride in (None, own_stride):
        return None, backbone
    if dilated := _dilate(args.backbone, options, args.output_stride):
        return args.output_stride, dilated
    if strides := [stride for stride in (8, 16) if stride < own_stride and _dilate(args.backbone, options, stride)]:
        raise ValueError(
            f"backbone={args.backbone!r} cannot have output_stride={args.output_stride}; choose "
            f"{', '.join(map(str, strides))} or none (its own stride {own_stride})"
        )
    logger.warning(
        "%s cannot be dilated: output_stride=%d does not apply to it, the last feature map has stride %d",
        args.backbone,
        args.output_stride,
        own_stride,
    )
    return None, backbone


def _build(name: str, options: dict[str, Any], output_stride: int | None = None) -> Any:
    """Build timm's feature extractor on the meta device, where tensors have shapes but no values."""
    with torch.device("meta"):
        return timm.create_model(name, features_only=True, output_stride=output_stride, **options)


def _dilate(name: str, options: dict[str, Any], output_stride: int) -> Any:
    """Build a backbone with an output stride. Returns None if the backbone refuses or ignores that stride."""
    try:
        backbone = _build(name, options, output_stride)
    except Exception:
        return None
    return backbone if backbone.feature_info.reduction()[-1] == output_stride else None


def _find_size_divisor(args: CMDLTrainingArguments, backbone: Any) -> int:
    """Find the number of which image height and width must be multiples, by trials on the meta device."""
    error: Exception = ValueError()
    for divisor in (1, 2, 4, 8, 16, 32, 64):
        odd_multiples = [(length // (2 * divisor) * 2 + 1) * divisor for length in args.crop_size]
        try:
            with torch.no_grad():
                feature_maps = backbone.eval()(torch.empty(1, 3, *odd_multiples, device="meta"))
        except NotImplementedError:  # it reads values, and meta tensors have none
            return 1
        except Exception as found:
            error = found
        else:
            _refuse_other_layouts(args.backbone, backbone, feature_maps[-1])
            return divisor
    raise ValueError(
        f"backbone={args.backbone!r} takes images of certain sizes only, and crop_size={tuple(args.crop_size)} is not "
        f"one of them: {_text(error)}. Choose another backbone"
    )


def _refuse_other_layouts(name: str, backbone: Any, feature_map: torch.Tensor) -> None:
    channels = backbone.feature_info.channels()[-1]
    if feature_map.shape[1] != channels:
        raise ValueError(
            f"backbone={name!r} gives feature maps of shape {tuple(feature_map.shape)} where (B, {channels}, h, w) is "
            "needed: set feature_cls: getter in backbone_kwargs, or choose another backbone"
        )


def _text(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
