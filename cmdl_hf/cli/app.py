"""The application: it collects the commands and prints user errors in one line."""

import os
import sys
from collections.abc import Sequence
from types import ModuleType

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError
from huggingface_hub.errors import HTTPError, StrictDataclassError

from .. import __version__
from ..escaping import lines
from .compare import compare
from .data import check_data, prepare
from .doctor import doctor
from .evaluate import evaluate
from .look import explore, predict
from .recipe_errors import name_recipe
from .share import convert, export, push
from .sweep import sweep
from .train import demo, read_recipe, train
from .usage import explain_usage, is_about_file, refuse_fractions

app = App(
    name="cmdl",
    version=__version__,
    help="Class-wise Multiple Distributions Learning for semantic segmentation.",
    default_parameter=Parameter(negative_iterable=()),
    config=(read_recipe, refuse_fractions),
)
for command in (
    demo,
    check_data,
    prepare,
    train,
    sweep,
    compare,
    evaluate,
    predict,
    explore,
    push,
    export,
    convert,
    doctor,
):
    app.command(command)


_USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError, HTTPError, StrictDataclassError)


def _say(error: Exception) -> str:
    """Return the message of an error; for one of a strict configuration, what its rule says."""
    return str(error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error)


class _Announcement:
    """Says that PyTorch is being imported, which takes seconds, when it is. A finder of modules that finds none."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name == "torch" and self in sys.meta_path:
            sys.meta_path.remove(self)
            print("cmdl: loading PyTorch", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user error prints its message and exits with status 1."""
    words = sys.argv[1:] if arguments is None else arguments
    announcement = _Announcement()
    if os.environ.get("RANK", "0") == "0":
        sys.meta_path.insert(0, announcement)
    try:
        app(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"cmdl: {name_recipe(explain_usage(error), words)}", file=sys.stderr)
        sys.exit(1 if is_about_file(error) else 2)
    except _USER_ERRORS as error:
        sys.exit(lines(f"cmdl: {name_recipe(_say(error), words)}"))
    finally:
        if announcement in sys.meta_path:
            sys.meta_path.remove(announcement)
