"""State that training moves without a gradient, which an adapter of peft leaves out unless it is told.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import logging
from typing import Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .memory_cmdl import CMDLMemoryBank

logger = logging.getLogger(__name__)


class PeftMixin:
    """What a model has to know of peft, which may wrap its modules."""

    _has_checked_peft = False

    def list_modules_to_save(self) -> list[str]:
        """List the modules whose buffers move in training, for `modules_to_save` of peft's configurations.

        These are the memory bank and the batch normalisations. An adapter without them is saved without their state,
        and after loading it computes something else.

        Example:
            ```python
            LoraConfig(target_modules=["vote_fusion.0"], modules_to_save=model.list_modules_to_save())
            ```
        """
        modules = dict(cast(nn.Module, self).named_modules())
        names = [name for name, module in modules.items() if _moves(module)]
        return sorted(names, key=lambda name: not isinstance(modules[name], CMDLMemoryBank))  # the bank first

    def _check_peft(self) -> None:
        """Warn once if an adapter of peft will be saved without state that this training moves.

        Raises:
            ValueError: if `modules_to_save` names modules that it cannot mean.
        """
        if self._has_checked_peft or "peft_config" not in self.__dict__:
            return
        self._has_checked_peft = True
        modules = dict(cast(nn.Module, self).named_modules())
        lost = [name for name in self.list_modules_to_save() if modules[name].training and _is_lost(name)]
        if lost:
            logger.warning(
                f"peft will save its adapter without {_count(lost)}: training moves their buffers without a gradient. "
                "After loading, the model will compute something else. Pass modules_to_save=model.list_modules_to_save"
                "() to peft's configuration, or save the whole model after merge_and_unload()"
            )
        asked = {
            pattern
            for config in self.__dict__["peft_config"].values()
            for pattern in getattr(config, "modules_to_save", None) or ()
        }
        wrapped = [name for name, module in modules.items() if hasattr(module, "original_module")]
        for pattern in sorted(asked):
            by_accident = [name for name in wrapped if name.endswith(pattern) and not _is_named(name, asked)]
            if by_accident:
                raise ValueError(
                    f"modules_to_save: peft compares the ends of names, so {pattern!r} is also {_count(by_accident)}; "
                    f"write 'model.{pattern}', which is the {pattern!r} of the model alone"
                )


def _moves(module: nn.Module) -> bool:
    """Tell whether training moves buffers of a module itself."""
    if isinstance(module, CMDLMemoryBank):
        return not module.is_frozen
    return isinstance(module, _BatchNorm) and module.track_running_stats


def _is_lost(name: str) -> bool:
    """Tell whether an adapter leaves out a module, by its place in a wrapper of peft or outside of one."""
    parts: list[Any] = name.split(".")
    return "modules_to_save" not in parts and "original_module" not in parts


def _is_named(name: str, patterns: set[str]) -> bool:
    return any(f".base_model.model.{name}".endswith(f".{pattern}") for pattern in patterns)


def _count(names: list[str]) -> str:
    listed = ", ".join(names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} other modules"
