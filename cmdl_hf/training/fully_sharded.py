"""Training whose weights, gradients and optimiser states are divided among the processes (FSDP2 of torch).

accelerate reads the settings of `accelerate launch --config_file examples/configs/accelerate/fsdp.yaml`, and divides
the model. Buffers, and so the memory bank and the statistics of the batch norms, are whole in every process.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn

if TYPE_CHECKING:
    from .arguments import CMDLTrainingArguments

_OTHER_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed, whose engine makes its own steps, precision and checkpoints",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM, which trains language models only",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration, which divides transformer layers",
}
_CURE = (
    "start it with data parallel processes (accelerate launch --multi_gpu), or with FSDP2 (accelerate launch "
    "--config_file examples/configs/accelerate/fsdp.yaml)"
)


def check_launcher() -> None:
    """Refuse ways of training that the launcher set and this package does not have, before any process is joined.

    Raises:
        ValueError: for DeepSpeed, Megatron-LM and a parallelism configuration of accelerate.
    """
    for variable, description in _OTHER_WAYS.items():
        if parse_flag_from_env(variable):
            raise ValueError(f"the launcher set {variable}: this package does not train with {description}; {_CURE}")


def prepare_sharding(accelerator: Accelerator, args: "CMDLTrainingArguments", model: nn.Module) -> bool:
    """Return whether the launcher asks for FSDP, after checks, and set what does not depend on its configuration.

    Computation has the precision of data parallel training: weights in float32, and autocast. Checkpoints hold whole
    tensors, which any number of processes can load, and which are read without unpickling.

    Args:
        accelerator (`Accelerator`): The accelerator of the run.
        args (`CMDLTrainingArguments`): The recipe.
        model (`nn.Module`): The model to train.

    Raises:
        ValueError: if accelerate would not shard, or a setting cannot be used with FSDP. The message names the cure.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    if accelerator.distributed_type != DistributedType.FSDP:
        number = accelerator.num_processes
        raise ValueError(
            f"the launcher set FSDP, but accelerate shards only over processes with an accelerator each: it would "
            f"train whole copies of the model, in {number} process{'es' * (number > 1)} on {accelerator.device.type}; "
            "start it without FSDP, or on GPUs with accelerate launch"
        )
    plugin = accelerator.state.fsdp_plugin
    for problem in _find_problems(plugin, accelerator.mixed_precision, args, model):
        raise ValueError(f"FSDP: {problem}")
    plugin.mixed_precision_policy = None
    plugin.state_dict_config = plugin.optim_state_dict_config = None  # otherwise those of shards would stay
    plugin.set_state_dict_type("FULL_STATE_DICT")
    return True


def _find_problems(plugin: Any, mixed_precision: str, args: "CMDLTrainingArguments", model: nn.Module) -> list[str]:
    """Name every setting that cannot be used with FSDP, with the cure."""
    layers = [module for module in model.modules() if not isinstance(module, nn.ModuleList | nn.ModuleDict)]
    counts = Counter(type(layer).__name__ for layer in layers if next(layer.children(), None) is not None)
    unknown = [name for name in plugin.transformer_cls_names_to_wrap or () if name not in counts]
    repeated = ", ".join(sorted(name for name, count in counts.items() if count > 1))
    no_dimension = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    problems = {
        f"fsdp_version is {plugin.fsdp_version}, and only version 2 is supported; set fsdp_version: 2": (
            plugin.fsdp_version != 2
        ),
        "fsdp_auto_wrap_policy SIZE_BASED_WRAP would divide lists of modules, which FSDP2 cannot; set it to "
        "TRANSFORMER_BASED_WRAP with fsdp_transformer_layer_cls_to_wrap, or to NO_WRAP": _wraps_by_size(plugin),
        f"fsdp_transformer_layer_cls_to_wrap names {', '.join(unknown)}, which the model does not have; name classes "
        f"of its layers, such as {repeated}": bool(unknown),
        "fsdp_cpu_ram_efficient_loading leaves other processes without the buffers; set it to false": bool(
            plugin.cpu_ram_efficient_loading
        ),
        "fsdp_activation_checkpointing runs layers twice, which would move batch norms and memory bank twice; set it "
        "to false": bool(plugin.activation_checkpointing),
        "fsdp_offload_params is not supported, because buffers stay on the GPU; set it to false": _offloads(plugin),
        "mixed_precision=fp16 is not supported; choose bf16 or no": mixed_precision == "fp16",
        f"ema_decay={args.ema_decay} is not supported, because the average would be a second whole model; leave "
        "ema_decay out, or start without FSDP": bool(args.ema_decay),
        "compile is not supported; leave it out, or start without FSDP": args.use_compile,
        "use_channels_last is not supported; leave it out, or start without FSDP": bool(args.use_channels_last),
        f"{', '.join(no_dimension)} has no dimension to divide, such as the gamma of criss_cross; choose another "
        "framework, or start without FSDP": bool(no_dimension),
    }
    return [problem for problem, is_there in problems.items() if is_there]


def _wraps_by_size(plugin: Any) -> bool:
    from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

    return plugin.auto_wrap_policy is size_based_auto_wrap_policy


def _offloads(plugin: Any) -> bool:
    from torch.distributed.fsdp import CPUOffloadPolicy

    return isinstance(plugin.cpu_offload, CPUOffloadPolicy)


@torch.no_grad()
def gather_weights(sharded: nn.Module, whole: nn.Module) -> None:
    """Copy all weights and buffers of a sharded model into a whole one, one by one. Every process must call this."""
    targets = whole.state_dict()
    for name, tensor in sharded.state_dict().items():
        targets[name].copy_(tensor.full_tensor() if is_sharded(tensor) else tensor)


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is divided among the processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, which may be empty; the tensor itself if it is whole."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
