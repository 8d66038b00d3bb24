"""Checks of the inputs of a model, and of the files with its weights."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

_FREE = 2**26  # parameters that a file may lack, such as those of new classifiers
_LARGEST_HEADER = 100 * 2**20  # bytes, the limit of safetensors


def _may_read_values(tensor: Tensor) -> bool:
    """Return whether values can be read without delay: only on the CPU, and not while tracing."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_pixel_values(pixel_values: Tensor, num_channels: int) -> None:
    """Refuse anything but a batch of normalised images.

    Args:
        pixel_values (`Tensor` of shape (B, num_channels, H, W)): Floating point; must be finite (checked on the CPU).
        num_channels (`int`): Number of input channels of the backbone.

    Raises:
        ValueError: if a rule is broken. The message names the rule, the value found and the cure.
    """
    if pixel_values.dim() != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"pixel_values must have shape (batch, {num_channels}, height, width), got {tuple(pixel_values.shape)}; "
            "pass images through the image processor"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values must be floating point, got {pixel_values.dtype}; normalise the images first")
    if _may_read_values(pixel_values) and not (is_finite := pixel_values.isfinite()).all():
        images = (~is_finite).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(
            f"pixel_values must be finite, but {(~is_finite).sum().item()} of {pixel_values.numel()} values are not, "
            f"in image(s) {images} of the batch; check those files and the normalisation"
        )


def check_labels(labels: Tensor, pixel_values: Tensor, num_labels: int, ignore_index: int) -> None:
    """Refuse labels that do not fit the images, or that are not classes.

    Args:
        labels (`Tensor` of shape (B, H, W)): Integers in 0..num_labels-1 or ignore_index.
        pixel_values (`Tensor` of shape (B, channels, H, W)): The images.
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of void pixels.

    Raises:
        ValueError: if a rule is broken. The message names the rule, the values found and the cure.
    """
    expected = (pixel_values.shape[0], *pixel_values.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"labels must have shape (batch, height, width) = {expected} like pixel_values, got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}; convert them with labels.long()")
    if not _may_read_values(labels):
        return
    labels = labels.long()  # an ignore_index below 0 or above 255 does not fit every type
    is_wrong = ((labels < 0) | (labels >= num_labels)) & (labels != ignore_index)
    if is_wrong.any():
        ids, counts = labels[is_wrong].unique(return_counts=True)
        found = ", ".join(f"{i} ({n} pixels)" for i, n in zip(ids[:8].tolist(), counts[:8].tolist(), strict=True))
        raise ValueError(
            f"labels must lie in 0..{num_labels - 1} or be {ignore_index} (ignored), found {found}; map them before "
            "training, or set num_labels or semantic_loss_ignore_index"
        )


def check_weight_files(model: nn.Module, files: Sequence[str] | None, source: str = "") -> None:
    """Refuse a network that is far larger than its weights, before memory is asked for.

    A `config.json` of a few bytes can describe a network of many GB. Tensors that the files lack are made anew, which
    is right for new classifiers and wrong for most of a network.

    Args:
        model (`nn.Module`): The network, on the meta device.
        files (`Sequence[str]`, *optional*): Its safetensors files; others are not looked at.
        source (`str`): Folder or Hub name that the model is loaded from.

    Raises:
        ValueError: if the network has more than twice the numbers of its files, and 64 million more, or a file lies
            outside the folder, where an index may lead.
    """
    if os.path.isdir(source):
        for file in files or ():
            if Path(os.path.normpath(source)) not in Path(os.path.normpath(file)).parents:
                raise ValueError(f"{source} names weights outside its folder, {file}; take a folder that holds them")
    if not files or not all(str(file).endswith(".safetensors") for file in files):
        return
    stored = sum(_count_numbers(Path(file)) for file in files)
    described = sum(tensor.numel() for tensor in model.state_dict().values())
    if described > 2 * stored + _FREE:
        raise ValueError(
            f"the configuration describes a network of {described:,} numbers, but {Path(files[0]).name} holds only "
            f"{stored:,}: they do not belong together. Take the config.json that the weights were saved with"
        )


def _count_numbers(file: Path) -> int:
    """Count the numbers of a safetensors file by its header, which must agree with the size of the file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LARGEST_HEADER:
            raise ValueError(f"{file} is no safetensors file: its header would have {length:,} bytes")
        try:
            header = json.loads(stream.read(length))
            tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
            numbers = [_product(tensor["shape"]) for tensor in tensors]
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no safetensors file: its header cannot be read ({error})") from error
    most = file.stat().st_size * 2  # of the smallest type, half a byte
    if sum(numbers) > most:
        raise ValueError(f"{file} is damaged: its header lists {sum(numbers):,} numbers, too many for its size")
    return sum(numbers)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= int(length)
    return product
