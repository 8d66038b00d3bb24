"""The application: it collects the commands and prints user errors in one line."""

import sys
from collections.abc import Sequence

from cyclopts import App, Parameter
from huggingface_hub.errors import StrictDataclassError

from .. import __version__
from ..escaping import lines
from .compare import compare
from .data import check_data, prepare
from .evaluate import evaluate
from .look import explore, predict
from .share import convert, export, push
from .sweep import sweep
from .train import demo, read_recipe, train

app = App(
    name="cmdl",
    version=__version__,
    help="Class-wise Multiple Distributions Learning for semantic segmentation.",
    default_parameter=Parameter(negative_iterable=()),
    config=(read_recipe,),
)
for command in (demo, check_data, prepare, train, sweep, compare, evaluate, predict, explore, push, export, convert):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user error prints its message and exits with status 1."""
    try:
        app(arguments, result_action="return_value")
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError, StrictDataclassError) as error:
        sys.exit(lines(f"cmdl: {error}"))
