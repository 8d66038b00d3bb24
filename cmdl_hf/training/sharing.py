"""How the images of a step are shared by processes and passes, and what to do if a pass does not fit into memory."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .arguments import CMDLTrainingArguments


def share_batch(args: "CMDLTrainingArguments", num_processes: int) -> tuple[int, int]:
    """Divide the batch of a recipe among the processes.

    Returns:
        Number of passes of each process in one optimiser step, and number of images in one pass.

    Raises:
        ValueError: if the batch cannot be divided equally.
    """
    share, rest = divmod(args.total_batch_size, num_processes)
    if rest:
        raise ValueError(
            f"total_batch_size={args.total_batch_size} cannot be shared equally by {num_processes} processes; "
            f"choose a multiple of {num_processes}, or change the number of processes"
        )
    limit = args.per_device_batch_size or share
    num_passes = next(passes for passes in range(1, share + 1) if share % passes == 0 and share // passes <= limit)
    return num_passes, share // num_passes


def needs_two_images(args: "CMDLTrainingArguments", model: nn.Module, is_synchronised: bool) -> bool:
    """Whether a batch norm would see a single value per channel in a pass of one image."""
    pools = any(getattr(module, "pools_globally", False) for module in model.modules())
    return pools and not is_synchronised and args.freeze_batch_norm != "all"


def explain_out_of_memory(step: int, images_per_pass: int, share: int, least: int) -> MemoryError:
    """Make the error for a pass that does not fit into memory; its cure is a smaller pass, if there is one.

    Args:
        step (`int`): The step that failed.
        images_per_pass (`int`): Images in a pass.
        share (`int`): Images of a process in a step.
        least (`int`): The least number of images that a pass may have.
    """
    smaller = [size for size in range(least, images_per_pass) if share % size == 0]
    fitting = [size for size in smaller if size <= images_per_pass // 2] or smaller
    images = f"{images_per_pass} image{'s' * (images_per_pass > 1)}"
    cure = (
        f"repeat the command with --per-device-batch-size {fitting[-1]}: the run goes on with the same images in each "
        "step"
        if fitting
        else "begin a new run with a smaller crop_size or backbone, or with mixed_precision bf16"
    )
    return MemoryError(f"step {step}: a pass of {images} does not fit into memory; {cure}")


def explain_single_value(error: Exception) -> ValueError:
    """Make the error for a batch norm that sees one value per channel, such as one image on a grid of one pixel."""
    return ValueError(
        f"a batch norm needs more than one value per channel ({error}); raise crop_size, per_device_batch_size or "
        "total_batch_size, or freeze the batch norms (freeze_batch_norm all)"
    )
