"""What several commands have in common: options, and how they talk."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

INTERRUPTED = 130  # the exit status that shells know of Ctrl-C

Plugins: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        name="--plugin",
        negative_iterable=(),
        show_default=False,
        help="Python file or module of your own, imported first, that registers benchmarks, context modules or "
        "transforms; may be repeated.",
    ),
]


@dataclass(kw_only=True)
class DataOptions:
    """The data set that a command looks at.

    Args:
        benchmark: The data set: cityscapes, ade20k, coco_stuff, camvid, synthetic, own (your own images and masks), or
            what a plug-in registers.
        data_dir: Folder of the data set; for own data a folder of images/ and masks/, or a list of pairs.
        split: The images to look at; by default validation, for explore train.
        id2label: File with the names of the classes of own data: .txt, .json or .csv.
    """

    benchmark: str
    data_dir: Path | None = None
    split: Literal["train", "validation", "test"] | None = None
    id2label: Path | None = None


Data: TypeAlias = Annotated[DataOptions, Parameter(name="*")]


@contextmanager
def logging_to_terminal() -> Iterator[None]:
    """Show what cmdl_hf has to say while it works, once where there are several processes."""
    from tqdm.contrib.logging import logging_redirect_tqdm
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("cmdl_hf").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    transformers_logging.disable_progress_bar()
    with logging_redirect_tqdm():
        yield


def name_of_model(model: str) -> str:
    """Name a model after its folder, or its repository on the Hub, for files about it."""
    return Path(model).resolve().name if Path(model).is_dir() else model.replace("/", "-")
