"""Convert checkpoints of the public reference implementation (PyTorch files) to folders of this package."""

import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..escaping import one_line
from ..files import write_files
from ..image_processing import make_image_processor
from ..models import CMDLConfig, CMDLForSemanticSegmentation

logger = logging.getLogger(__name__)

BACKBONES = ("resnet50", "resnet50c", "resnet101", "resnet101c", "resnet152", "resnet152c")
CONTEXT_MODULES = ("none", "ppm", "aspp")

_REFUSED = {
    "resnet18": "the reference never dilates the second convolution of a basic block, timm does",
    "resnet34": "the reference never dilates the second convolution of a basic block, timm does",
    "criss_cross": "there are no reference figures to check the conversion against",
    "upernet": "the reference gives its UPerNet one feature map, but UPerNet needs four, so no checkpoint can exist",
}

# Start of a reference key, and its replacement; the first match is used.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"backbone_net\.stem\.7\.", "backbone._backbone.bn1."),
    (r"backbone_net\.stem\.([01346])\.", r"backbone._backbone.conv1.\1."),
    (r"backbone_net\.", "backbone._backbone."),
    (r"bottleneck\.", "bottleneck."),
    (r"decoder_stage1\.([01])\.", r"coarse_head.0.\1."),
    (r"decoder_stage1\.4\.", "coarse_head.2."),
    (r"decoder_stage2\.([01])\.", r"decode_head.0.\1."),
    (r"decoder_stage2\.4\.", "decode_head.2."),
    (r"auxiliary_decoder\.([01])\.", r"auxiliary_head.0.\1."),
    (r"auxiliary_decoder\.4\.", "auxiliary_head.2."),
    (r"memory_module\.memory$", "memory_bank.prototypes"),
    (r"memory_module\.fuse_memory_conv\.", "semantic_aggregation.vote_fusion."),
    (r"memory_module\.attention\.(query|key|value)_project\.", r"semantic_aggregation.attention.\1."),
    (r"memory_module\.attention\.out_project\.", "semantic_aggregation.attention.output."),
    (r"memory_module\.bottleneck\.", "fusion."),
    (r"memory_module\.self_attention_ms\.(query|key|value)_project\.", r"context_attention.\1."),
    (r"memory_module\.self_attention_ms\.out_project\.", "context_attention.output."),
    (r"memory_module\.bottleneck_ms\.", "context_fusion."),
    (r"context_within_image_module\.branches\.(\d)\.1\.", r"context_module.branches.\1.0."),
    (r"context_within_image_module\.branches\.(\d)\.2\.", r"context_module.branches.\1.1."),
    (r"context_within_image_module\.parallel_branches\.", "context_module.branches."),
    (r"context_within_image_module\.global_branch\.1\.", "context_module.global_branch.0."),
    (r"context_within_image_module\.global_branch\.2\.", "context_module.global_branch.1."),
    (r"context_within_image_module\.bottleneck\.", "context_module.bottleneck."),
    (r"proj_head\.proj\.([01])\.", r"distribution_learning.projection_head.projection.0.\1."),
    (r"proj_head\.proj\.3\.", "distribution_learning.projection_head.projection.1."),
    (r"feat_norm\.", "distribution_learning.projection_head.embedding_norm."),
    (r"mask_norm\.", "distribution_learning.prototype_norm."),
)


def rename_reference_key(key: str) -> str | None:
    """Translate a key of a reference state dict, or return `None` if the key is unknown."""
    for pattern, replacement in _RENAMES:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return None


def load_reference_checkpoint(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a reference checkpoint without running code in it.

    Args:
        path: A PyTorch file with the state dict, or with a dict that has the state dict under `model`.

    Returns:
        The state dict, with the key names of the reference.

    Raises:
        ValueError: if the file is not such a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, IndexError) as error:
        raise ValueError(
            f"{path} is not a PyTorch checkpoint that can be read without running code: {error}"
        ) from error
    state_dict = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else None
    if not state_dict or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise ValueError(f"{path} contains no state dict, neither at its top level nor under 'model'")
    for name, tensor in state_dict.items():
        _check_storage(path, name, tensor)
    return state_dict


def _check_storage(path: Any, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that claims more numbers than the file holds for it: a view of few, or one without any."""
    is_dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not is_dense or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(
            f"{path}: {name} of shape {tuple(tensor.shape)} is no plain tensor with all its numbers in the file; save "
            "the checkpoint again with contiguous tensors on the CPU"
        )


def convert_reference_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    backbone: str,
    num_labels: int,
    context_module: str = "none",
) -> CMDLForSemanticSegmentation:
    """Convert a reference checkpoint to a folder that `from_pretrained` loads, with the preset `reference`.

    Args:
        checkpoint: The reference's file; see `load_reference_checkpoint`.
        output_dir: Folder to write to. It must be new or empty.
        backbone: timm's name of the ResNet, one of `BACKBONES`. Names that end in c have the deep stem.
        num_labels: Number of classes of the checkpoint.
        context_module: One of `CONTEXT_MODULES`.

    Returns:
        The converted model, in eval mode.

    Raises:
        ValueError: if the model cannot be converted, or keys are left over or missing.
        FileExistsError: if `output_dir` contains files.
    """
    for name, known in ((backbone, BACKBONES), (context_module, CONTEXT_MODULES)):
        if name not in known:
            reason = _REFUSED.get(name, "unknown")
            raise ValueError(f"{name} cannot be converted ({reason}); choose one of {', '.join(known)}")
    output_dir = Path(output_dir)
    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise FileExistsError(f"{output_dir} is not empty; name a new folder")

    logger.info("reading %s", one_line(checkpoint))
    reference = load_reference_checkpoint(checkpoint)
    logger.info("building the model with %s, and saving it", backbone)
    config = _config_of(reference, checkpoint, backbone, num_labels, context_module)
    model = CMDLForSemanticSegmentation(config).eval()
    model.load_state_dict(_rename_all(reference, model.state_dict(), checkpoint))
    write_files(output_dir, lambda folder: _save(model, folder))
    return model


def _save(model: CMDLForSemanticSegmentation, folder: Path) -> None:
    model.save_pretrained(folder)
    make_image_processor().save_pretrained(folder)


def _config_of(
    reference: dict[str, Tensor], source: Any, backbone: str, num_labels: int, context_module: str
) -> CMDLConfig:
    """Read the sizes from the tensors, and check the arguments against them."""
    sizes = {}
    for key in ("memory_module.memory", "memory_module.attention.value_project.0.weight"):
        if key not in reference:
            raise ValueError(f"{source} has no {key}: it is not a CMDL checkpoint of the reference")
        sizes[key] = reference[key].shape
    found, num_distributions, hidden_size = sizes["memory_module.memory"]
    if found != num_labels:
        raise ValueError(f"{source} has {found} classes, but num_labels is {num_labels}")
    return CMDLConfig.from_preset(
        "reference",
        num_labels=num_labels,
        num_distributions=num_distributions,
        hidden_size=hidden_size,
        attention_size=sizes["memory_module.attention.value_project.0.weight"][0],
        context_module=context_module,
        backbone_config={
            "model_type": "timm_backbone",
            "backbone": backbone,
            "out_indices": [1, 2, 3, 4],
            "output_stride": 8,
        },
    )


def _rename_all(reference: dict[str, Tensor], ours: dict[str, Tensor], source: Any) -> dict[str, Tensor]:
    """Rename every tensor, and check that no key is left over or missing."""
    renamed = {rename_reference_key(key) or key: tensor for key, tensor in reference.items()}
    leftover = sorted(key for key in reference if (rename_reference_key(key) or key) not in ours)
    missing = sorted(key for key in ours if key not in renamed and key != "memory_bank.num_updates")
    shapes = [key for key in renamed.keys() & ours.keys() if renamed[key].shape != ours[key].shape]
    problems = [("left over", leftover), ("missing", missing), ("of another shape", sorted(shapes))]
    if any(keys for _, keys in problems):
        listing = "; ".join(f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in problems if keys)
        raise ValueError(f"{source} does not fit the given backbone and context module: {listing}")
    # The reference does not count updates, because its constant momentum needs no count.
    return renamed | {"memory_bank.num_updates": ours["memory_bank.num_updates"]}
