"""Lazy registration with transformers' Auto classes.

After `import cmdl_hf`, `AutoModelForSemanticSegmentation.from_pretrained(folder)` must know CMDL, but the import
itself must not load torch. Therefore the models are imported only after transformers has loaded its Auto classes. They
then register themselves.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODELS = "cmdl_hf.models"
_AUTO_CLASSES = "transformers.models.auto.configuration_auto"


class _AutoClassWatcher(MetaPathFinder):
    """Import finder that imports the models after an import of transformers has loaded the Auto classes.

    It waits until this import has ended, because transformers' modules import each other in circles, and the models
    cannot use partly loaded modules.
    """

    def __init__(self) -> None:
        self.is_searching = False
        self.num_executing = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find transformers' modules with the other finders. All other modules are left to those finders."""
        if self.is_searching or fullname.partition(".")[0] != "transformers":
            return None
        self.is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.is_searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                self.num_executing += 1
                try:
                    execute(module)
                finally:
                    self.num_executing -= 1
                if not self.num_executing and _AUTO_CLASSES in sys.modules and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    importlib.import_module(_MODELS)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_with_auto_classes() -> None:
    """Register the models now, or later if the Auto classes are not loaded yet."""
    if _AUTO_CLASSES in sys.modules:
        importlib.import_module(_MODELS)
    else:
        sys.meta_path.insert(0, _AutoClassWatcher())
