"""Progress bars: on the main process, and with few lines where nobody watches a terminal."""

import sys
from typing import Any

from accelerate.utils import tqdm


def progress_bar(*args: Any, **kwargs: Any) -> tqdm:
    """Make a tqdm bar; the arguments are tqdm's.

    In a log file, where every update is a line of its own, one comes every 30 seconds.
    """
    interval = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(*args, **({"mininterval": interval, "maxinterval": 2 * interval, "dynamic_ncols": True} | kwargs))
