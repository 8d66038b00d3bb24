"""Run a model on batches that become smaller when memory is short, and find the images that it does not take."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from .failures import MODEL_ERRORS, is_out_of_memory

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Runs a function on consecutive items.

    Args:
        run (`Callable`): Makes the results of some items.
        batch_size (`int`): Largest number of items at once. It is halved if they do not fit into memory.
        noun (`str`): What the items are, in the plural, for the log.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]], batch_size: int, noun: str) -> None:
        self.run = run
        self.batch_size = batch_size
        self.noun = noun

    def __call__(self, items: Sequence[Item]) -> Iterator[Result | Exception]:
        """Yield the result of each item, or one of `MODEL_ERRORS` if it has none, even alone."""
        done = 0
        while done < len(items):
            batch = items[done : done + self.batch_size]
            results, error = self._try(batch)
            if error is None:
                yield from results
            elif len(batch) == 1:
                yield error
            elif is_out_of_memory(error):
                self.batch_size = len(batch) // 2
                logger.warning(
                    "%d %s do not fit into memory at once; continuing with %d", len(batch), self.noun, self.batch_size
                )
                continue
            else:  # some of them are of a kind that the model does not take, for example too small
                for item in batch:
                    yield from self([item])
            done += len(batch)

    def _try(self, batch: Sequence[Item]) -> tuple[Sequence[Result], Exception | None]:
        try:
            return self.run(batch), None
        except MODEL_ERRORS as error:
            failure = error.with_traceback(None)  # which would keep the memory in use
        if is_out_of_memory(failure) and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return (), failure
