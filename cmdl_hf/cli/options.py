"""Options and logging that several commands share."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from ..default_model import find_default_model
from ..escaping import lines

INTERRUPTED = 130  # exit status of shells after Ctrl-C

Plugins: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        name="--plugin",
        negative_iterable=(),
        show_default=False,
        help="Your own Python file or module that registers benchmarks, context modules or transforms. It is imported "
        "first. Repeat the option for several.",
    ),
]


@dataclass(kw_only=True)
class DataOptions:
    """The data set that a command reads.

    Args:
        benchmark: The data set: cityscapes, ade20k, coco_stuff, camvid, synthetic, own (your own images and masks), or
            the name of a benchmark that a plug-in registers.
        data_dir: Folder of the data set. For own data, a folder of images and masks in a usual shape, or a file that
            lists image and mask pairs.
        split: The split to read. Default: validation; for explore, train.
        id2label: File with the class names of your own data: .txt, .json or .csv.
        merge_classes: CSV file with the columns from and to that merges or drops classes, as in the training. The
            folder of a run has it as merged_classes.csv.
    """

    benchmark: str
    data_dir: Path | None = None
    split: Literal["train", "validation", "test"] | None = None
    id2label: Path | None = None
    merge_classes: Path | None = None


Data: TypeAlias = Annotated[DataOptions, Parameter(name="*")]


class TerminalFormatter(logging.Formatter):
    """Format log messages so that names in them cannot control the terminal or forge messages."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; all lines but the first are indented."""
        return lines(super().format(record))


@contextmanager
def logging_to_terminal() -> Iterator[None]:
    """Print the log messages of cmdl_hf and others, each once; of several processes, only the first prints them."""
    from tqdm.contrib.logging import logging_redirect_tqdm
    from transformers.utils import logging as transformers_logging

    handler = logging.StreamHandler()
    handler.setFormatter(TerminalFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("cmdl_hf").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    for library in ("huggingface_hub", "datasets"):  # whose own handlers would print each message a second time
        logging.getLogger(library).handlers.clear()
    transformers_logging.disable_progress_bar()
    with logging_redirect_tqdm():
        yield


def choose_model(model: str | None) -> str:
    """Return the model that a command takes: the named one, or else the small model of street scenes, which is said.

    Raises:
        FileNotFoundError: if no model is named, and this package was not installed from a clone.
    """
    if model is not None:
        return model
    folder = str(find_default_model())
    print(f"model: street scenes of CamVid, {folder}; name another one as the first argument", file=sys.stderr)
    return folder


def name_of_model(model: str) -> str:
    """Name a model after its folder or its repository on the Hub, for use in file names.

    A folder `model` or `last` has the name of the folder that it lies in before its own.
    """
    if not Path(model).is_dir():
        return model.replace("/", "-")
    folder = Path(model).resolve()
    return f"{folder.parent.name}-{folder.name}" if folder.name in ("model", "last") else folder.name


def name_of_data(data: DataOptions, split: str) -> str:
    """Name a split after the data set, for own data with the folder or the list, for use in file names."""
    place = [] if data.benchmark != "own" or data.data_dir is None else [data.data_dir.resolve()]
    names = [path.name if path.is_dir() else path.stem for path in place]
    return "-".join([data.benchmark, *names, split])
