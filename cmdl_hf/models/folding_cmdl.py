"""Batch norms as part of the convolutions before them, for inference."""

import logging
from collections import Counter
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .modeling_cmdl import CMDLForSemanticSegmentation

logger = logging.getLogger(__name__)

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
_DTYPES = (torch.float32, torch.bfloat16)  # float16 has too small a range for weights times the scale of a norm
_IMAGE_SIZE = (64, 64)


class _Pair(NamedTuple):
    convolution: nn.Conv2d
    norm: nn.BatchNorm2d


def fold_batch_norms(model: nn.Module) -> int:
    """Fold batch norms, in place, into the convolutions whose output they alone take.

    In eval mode, a batch norm multiplies each channel by a constant and adds another. Both can be part of the
    convolution before it. The network then computes the same but for rounding, with fewer operators: on a GPU, where a
    single image does not fill the device, every operator counts, and on a CPU the maps are read and written less
    often. `segment` and `cmdl predict` do it to the models that they load. `evaluate` scores models as they are.

    Which norm follows which convolution is seen in one pass of an image of 64×64 pixels.

    Args:
        model (`CMDLForSemanticSegmentation`): Model in eval mode. It can no longer be trained or saved. Models of
            other architectures are left as they are.

    Returns:
        `int`: number of folded batch norms. It is 0 in float16, and if the model takes no image of this size.

    Raises:
        ValueError: if the model is in training mode.
    """
    if not isinstance(model, CMDLForSemanticSegmentation) or model.dtype not in _DTYPES:
        return 0
    if model.training:
        raise ValueError("batch norms can be folded for inference only; call model.eval() first")
    pairs = _find_pairs(model)
    for convolution, norm in pairs:
        _fold(convolution, norm)
    replaced = {norm: _after(norm) for _, norm in pairs}
    for module in model.modules():
        for name, child in module.named_children():
            if child in replaced:
                setattr(module, name, replaced[child])
    if pairs:
        model.requires_grad_(False)
        model.save_pretrained = _refuse_saving  # type: ignore[method-assign]
    return len(pairs)


def _refuse_saving(*_args: Any, **_kwargs: Any) -> None:
    raise ValueError("batch norms are folded into the weights of this model; load it again, and save that one")


def _after(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what a folded norm leaves to do: timm's norms include the activation."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    dtype, is_last = convolution.weight.dtype, convolution.weight.is_contiguous(memory_format=torch.channels_last)
    tensors = (convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    weight, bias, mean, variance, scale, shift = (None if t is None else t.detach().float() for t in tensors)
    assert weight is not None
    assert mean is not None
    assert variance is not None
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    memory_format = torch.channels_last if is_last else torch.contiguous_format
    convolution.weight = nn.Parameter(weight.to(dtype).contiguous(memory_format=memory_format))
    convolution.bias = nn.Parameter(bias.to(dtype))


class _Uses(TorchDispatchMode):
    """Counts how many operators take each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _find_pairs(model: CMDLForSemanticSegmentation) -> list[_Pair]:
    """Find the convolutions whose output is used by one batch norm and nothing else."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by id; the tensor is kept, so that no other gets this id
    found: list[tuple[_Pair, int]] = []
    uses = _Uses()

    def after_convolution(module: Any, _inputs: Any, output: Tensor) -> None:
        outputs[id(output)] = module, output
        uses.counts[id(output)] = 0  # a tensor of before may have had this id

    def before_norm(module: Any, inputs: tuple[Tensor, ...]) -> None:
        if (source := id(inputs[0])) in outputs:
            found.append((_Pair(outputs[source][0], module), source))

    hooks = [m.register_forward_hook(after_convolution) for m in model.modules() if _is_plain(m, _CONVOLUTIONS)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in model.modules() if _is_plain(m, _NORMS)]
    config: Any = model.config
    image = next(model.parameters()).new_zeros(1, config.backbone_config.num_channels, *_IMAGE_SIZE)
    try:
        with uses:
            model(pixel_values=image, output_distributions=config.use_distributions)
    except (RuntimeError, ValueError, AssertionError) as error:
        logger.debug("batch norms are not folded, because the model takes no image of 64×64: %s", error)
        return []
    finally:
        for hook in hooks:
            hook.remove()
    counts = uses.counts
    return [
        pair
        for pair, source in found
        if counts[source] == counts[id(pair.convolution.weight)] == counts[id(pair.norm.running_mean)] == 1
    ]


def _is_plain(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is of one of these classes, and computes what its class does."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)
    return type(module) in classes and not has_hooks and getattr(module, "track_running_stats", True)
