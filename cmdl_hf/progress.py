"""Progress bars: only on the main process, and with few lines in log files."""

import sys
from typing import Any

from accelerate.utils import tqdm


def progress_bar(*args: Any, **kwargs: Any) -> tqdm:
    """Make a tqdm progress bar. The arguments are those of tqdm.

    In a log file, every update is a separate line, so there is one update every 30 seconds.
    """
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(*args, **({"mininterval": interval, "maxinterval": 2 * interval, "dynamic_ncols": True} | kwargs))
