"""What is installed and works here, and whether a model loads: text to read, and to paste into an issue.

Names are imported when they are first used, so that nothing waits for transformers that no model needs.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .findings import Finding as Finding
    from .findings import format_findings as format_findings
    from .machine import examine_machine as examine_machine
    from .model import examine_model as examine_model

_MODULE_OF = {
    "Finding": "findings",
    "examine_machine": "machine",
    "examine_model": "model",
    "format_findings": "findings",
}

__all__ = list(_MODULE_OF)

__getattr__ = lazy_names(__name__, _MODULE_OF)
