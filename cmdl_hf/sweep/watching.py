"""A run of a sweep does not outlive the sweep, even if that is killed without a chance to say so."""

import os
import signal
import threading


def stop_with_sweep(descriptor: int = 0) -> None:
    """Send this process SIGTERM when the other end of a pipe is closed, as it is when the sweep ends.

    The run then saves a checkpoint and ends. Otherwise it would train on, and a repeated sweep could not continue it.

    Args:
        descriptor (`int`): The pipe from the sweep. By default, the standard input.
    """

    def wait() -> None:
        while os.read(descriptor, 1):  # not sys.stdin, whose lock Python needs at its end
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
