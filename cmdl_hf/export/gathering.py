"""Copies a model to the CPU as a whole, also one whose weights accelerate keeps elsewhere."""

import copy

from accelerate.hooks import AlignDevicesHook, remove_hook_from_submodules
from accelerate.utils import set_module_tensor_to_device
from torch import nn


def copy_to_cpu(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU, with its weights in memory and without the hooks that fetch them for each pass.

    Args:
        model (`nn.Module`): A model. accelerate may have offloaded it (`device_map`, `cpu_offload`, `disk_offload`).

    Raises:
        ValueError: if weights or buffers are nowhere.
    """
    whole = copy.deepcopy(model)
    for module in whole.modules():
        _fetch(module)
    remove_hook_from_submodules(whole)
    tensors = [*whole.named_parameters(), *whole.named_buffers()]
    if absent := [name for name, tensor in tensors if tensor.is_meta]:
        raise ValueError(
            f"{len(absent)} of {len(tensors)} tensors of the model have no values ({', '.join(absent[:3])}): it is "
            "offloaded in a way that is not known here; load it without device_map, or give its folder"
        )
    return whole.cpu()


def _fetch(module: nn.Module) -> None:
    """Put what is offloaded of a module itself into it."""
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        if not isinstance(each, AlignDevicesHook) or each.weights_map is None:
            continue
        is_deep = each.place_submodules
        tensors = [*module.named_parameters(recurse=is_deep), *module.named_buffers(recurse=is_deep)]
        for name in [name for name, tensor in tensors if tensor.is_meta]:
            set_module_tensor_to_device(module, name, "cpu", value=each.weights_map[name])
