"""What a model raises on an image that it does not take, in words."""

import torch

MODEL_ERRORS = (RuntimeError, ValueError, AssertionError, MemoryError)
"""What networks of timm and transformers raise on images of a wrong size, and when memory runs out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on an accelerator or on the CPU (torch has no separate error for the CPU)."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, or its kind if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def explain_failure(error: BaseException, image: str, verb: str, memory_cure: str = "make it smaller") -> Exception:
    """Make an error that names the image on which a model fails, and the cure.

    Args:
        error (`BaseException`): One of `MODEL_ERRORS`.
        image (`str`): The image, for the message.
        verb (`str`): What the model was to do with it.
        memory_cure (`str`): What to do if it does not fit into memory.
    """
    if is_out_of_memory(error):
        return MemoryError(f"{image} does not fit into memory; {memory_cure}")
    return ValueError(f"the model cannot {verb} {image}: {reason_of(error)}; resize images to another size")
