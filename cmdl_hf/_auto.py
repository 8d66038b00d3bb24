"""Registration with transformers' Auto classes that costs nothing until they are used.

After `import cmdl_hf`, `AutoModelForSemanticSegmentation.from_pretrained(folder)` must know CMDL, yet the import
itself must not load torch. So the models are imported (and register themselves) when transformers loads its
Auto classes.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODELS = "cmdl_hf.models"
_AUTO_CONFIG = "transformers.models.auto.configuration_auto"
_AUTO_MODEL = "transformers.models.auto.modeling_auto"


class _AutoClassWatcher(MetaPathFinder):
    """Finder that has the models imported right after one of transformers' Auto modules was executed."""

    is_searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the Auto modules through the other finders; leave every other module to them."""
        if self.is_searching or fullname not in (_AUTO_CONFIG, _AUTO_MODEL):
            return None
        self.is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.is_searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                # The Auto models import the Auto configurations, and must be complete before ours can use them.
                if fullname == _AUTO_MODEL or _AUTO_MODEL not in sys.modules:
                    importlib.import_module(_MODELS)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_with_auto_classes() -> None:
    """Register the models now if the Auto classes are loaded, otherwise when they are."""
    if _AUTO_CONFIG in sys.modules:
        importlib.import_module(_MODELS)
    else:
        sys.meta_path.insert(0, _AutoClassWatcher())
