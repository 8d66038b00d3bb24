"""Values that are constant while a network is in use, computed once instead of for every image."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Constant:
    """A tensor computed from others, kept for as long as these do not change.

    It is kept only without gradient, and neither while a graph is compiled nor with subclasses of `Tensor` nor for
    tensors on the meta device, where offloaded ones lie between two forward passes. A source must be the same object:
    another tensor may later lie at the same address. Changes in place are seen by the version of a tensor.
    `param.data.copy_(...)` hides a change from it, so that `clear` must follow; the modules that have a constant clear
    it in `train` and `eval`. Copies and pickles start without a value.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._sources: tuple[weakref.ref[Tensor], ...] = ()
        self._value: Tensor | None = None

    def __reduce__(self) -> tuple[type["Constant"], tuple[()]]:
        return type(self), ()

    def get(self, compute: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """Return what `compute` returns for the present values of its `sources`."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not all(map(_is_plain, sources)):
            return compute()
        device = sources[0].device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (autocast, *((s.data_ptr(), s._version, s.dtype, s.device, s.shape) for s in sources))
        is_same = key == self._key and all(ref() is s for ref, s in zip(self._sources, sources, strict=True))
        if self._value is None or not is_same:
            self._key, self._sources, self._value = key, tuple(map(weakref.ref, sources)), compute()
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self._key = self._value = None
        self._sources = ()


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_inference() and tensor.device.type != "meta"
