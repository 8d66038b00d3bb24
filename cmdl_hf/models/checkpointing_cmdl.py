"""Activation checkpointing: less memory for more time, with the same gradients and running statistics.

Reference: Chen et al., Training deep nets with sublinear memory cost (arXiv 1604.06174).
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle


class StatisticsOnce:
    """Keeps batch normalisations from moving their running statistics when a forward pass is computed again.

    Checkpointed layers run a second time in the backward pass. A layer that runs while its network is not called is
    one of these.

    Args:
        network (`nn.Module`): The network whose layers are checkpointed.
    """

    def __init__(self, network: nn.Module) -> None:
        self._is_called = False
        self._kept: dict[nn.Module, tuple[float | None, Tensor | None]] = {}
        self._handles: list[RemovableHandle] = [
            network.register_forward_pre_hook(self._on_call),
            network.register_forward_hook(self._on_return, always_call=True),
        ]
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                self._handles.append(module.register_forward_pre_hook(self._keep))
                # Also after an exception, by which torch ends a second pass as soon as it has what it needs.
                self._handles.append(module.register_forward_hook(self._restore, always_call=True))

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _on_call(self, *_: Any) -> None:
        self._is_called = True

    def _on_return(self, *_: Any) -> None:
        self._is_called = False

    def _keep(self, module: nn.Module, *_: Any) -> None:
        norm = cast(_BatchNorm, module)
        if not self._is_called and norm.training:
            count = norm.num_batches_tracked
            self._kept[norm] = norm.momentum, None if count is None else count.clone()
            norm.momentum = 0.0

    def _restore(self, module: nn.Module, *_: Any) -> None:
        norm = cast(_BatchNorm, module)
        if norm in self._kept:
            norm.momentum, count = self._kept.pop(norm)
            if count is not None:
                assert norm.num_batches_tracked is not None
                norm.num_batches_tracked.copy_(count)


class CheckpointingMixin:
    """`gradient_checkpointing_enable` of a model, for the layers of its backbone."""

    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    backbone: Any
    _statistics: StatisticsOnce | None = None

    def get_input_embeddings(self) -> nn.Module | None:
        """Return the layer of the backbone that embeds patches. `None` if it has none, such as a convolutional one.

        With activation checkpointing, peft makes the output of this layer require a gradient.
        """
        try:
            return self.backbone.get_input_embeddings()
        except NotImplementedError:
            return None

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the layer of the backbone that embeds patches.

        Raises:
            NotImplementedError: if the backbone has none.
        """
        self.backbone.set_input_embeddings(value)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **kwargs: Any
    ) -> None:
        """Turn checkpointing on or off, as transformers does. It is never reentrant.

        Raises:
            ValueError: if the backbone has no checkpointing, or timm's gets an option that it does not have.
        """
        network = getattr(self.backbone, "_backbone", None)
        if network is not None and not hasattr(network, "set_grad_checkpointing"):
            network = getattr(network, "model", network)  # vision transformers lie one level deeper
        name = type(self.backbone).__name__ if network is None else self.backbone.config.backbone
        try:
            if network is None:
                function = _never_reentrant(gradient_checkpointing_func)
                self.backbone._set_gradient_checkpointing(enable, function, **kwargs)
            else:
                network.set_grad_checkpointing(enable)
        except (ValueError, AssertionError, AttributeError) as error:
            raise ValueError(
                f"{name} has no activation checkpointing; take a backbone that has, such as timm's networks, or a "
                "smaller batch per device with more accumulation"
            ) from error
        if network is not None and enable and kwargs.get("every_n_layers", 1) != 1:
            network.set_grad_checkpointing(False)
            raise ValueError("every_n_layers must be 1 for a timm backbone, which checkpoints all of its stages")
        if self._statistics is not None:
            self._statistics.remove()
        self._statistics = StatisticsOnce(self.backbone) if enable else None
        self.gradient_checkpointing = enable


def _never_reentrant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return transformers' checkpoint function without reentrance, in which frozen first layers get no gradient."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **(kwargs | {"use_reentrant": False}))

    return run
