"""Runs on tensors without values: what they dispatch and hold on an accelerator can be counted on any machine."""

import collections
import contextlib
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmdl_hf.models import checks_cmdl, cross_entropy_cmdl, losses_cmdl


class Counter(TorchDispatchMode):
    """Counts operators, views left out, and the bytes of the tensors that they make.

    Args:
        tensors: What is there before, and not counted.
    """

    def __init__(self, *tensors):
        super().__init__()
        self.operators = collections.Counter()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in tensors}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        output = operator(*args, **(kwargs or {}))
        if not operator.is_view and operator.namespace != "prim":
            self.operators[operator.overloadpacket.__name__] += 1
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return output

    def _hold(self, storage):
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key, num_bytes):
        self._known.discard(key)
        self.live -= num_bytes


@contextlib.contextmanager
def plan(name):
    """Compute as on a CPU, on an accelerator without Triton ("large pieces"), or on CUDA ("kernels")."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy_cmdl, "takes_kernels", lambda *_: name == "kernels")
        for module in (cross_entropy_cmdl, losses_cmdl):
            patch.setattr(module, "takes_large_pieces", lambda _: name != "cpu")
        if name != "cpu":  # values are read, to be checked, on a CPU only
            patch.setattr(checks_cmdl, "_may_read_values", lambda _: False)
        yield
