"""Class-wise Multiple Distributions Learning (CMDL) for semantic segmentation, built on Hugging Face classes.

Names are imported on first use. `import cmdl_hf` alone loads neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from ._auto import register_with_auto_classes
from ._lazy import lazy_names

if TYPE_CHECKING:
    from .inference import Segmentation, segment  # noqa: F401
    from .models import *  # noqa: F403

__version__ = "0.2.0"

_MODULE_OF = {
    "CMDLAdapter": "models",
    "CMDLAttention": "models",
    "CMDLConfig": "models",
    "CMDLDistributionLearning": "models",
    "CMDLForSemanticSegmentation": "models",
    "CMDLMemoryBank": "models",
    "CMDLPreTrainedModel": "models",
    "CMDLProjectionHead": "models",
    "CMDLSemanticAggregation": "models",
    "CMDLSemanticSegmenterOutput": "models",
    "Segmentation": "inference",
    "make_image_processor": "image_processing",
    "register_benchmark": "data",
    "register_context_module": "models",
    "register_transform": "data",
    "segment": "inference",
    "sinkhorn": "models",
}

__all__ = ["__version__", *_MODULE_OF]


__getattr__ = lazy_names(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


register_with_auto_classes()
