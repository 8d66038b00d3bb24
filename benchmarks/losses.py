"""Image-size cross-entropy: bands, large pieces and kernels against `F.interpolate` and `F.cross_entropy`.

    python benchmarks/losses.py [--device cuda] [--batch-size 8] [--size 512] [--num-labels 150] [--tune]

A loss is forward and gradient, from logits at an eighth of the image's size. The errors are those of the mean loss and
of its gradient from float64, relative to the largest value. `--tune` tries other sizes of the kernels' programs.
"""

import argparse
import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
import torch.nn.functional as F
from measuring import DTYPES, is_cuda, peak_memory, summarize, time_in_turn
from torch import Tensor

from cmdl_hf.models import cross_entropy_cmdl
from cmdl_hf.models.cross_entropy_cmdl import weighted_cross_entropy_sums

IGNORE_INDEX = 255
FORWARD = [(rows, *shape) for rows in (2, 4, 8) for shape in ((32, 1), (64, 2), (128, 4))]
BACKWARD = [(columns, *shape) for columns in (4, 8, 16) for shape in ((32, 1), (64, 1), (64, 2), (128, 4))]


@contextlib.contextmanager
def plan(name: str) -> Iterator[None]:
    """Compute losses in bands, in large pieces or by kernels."""
    functions = {
        "takes_kernels": lambda *_: name == "kernels",
        "takes_large_pieces": lambda *_: name == "large pieces",
    }
    with patch.multiple(cross_entropy_cmdl, **functions):
        yield


def interpolated(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """The loss as it is usually written."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    enlarged = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(enlarged, labels, ignore_index=IGNORE_INDEX)


def ours(name: str, ohem: bool) -> Callable[[Tensor, Tensor, bool], Tensor]:
    """Our loss by one of the plans."""

    def loss(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
        with plan(name):
            settings = {"ohem_threshold": 0.7} if ohem else {}
            total, weight = weighted_cross_entropy_sums(logits, labels, IGNORE_INDEX, align_corners, **settings)
        return total / weight.clamp_min(1)

    return loss


def make_batch(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Random logits, and labels in patches with a void border."""
    torch.manual_seed(0)
    grid = args.size // 8
    logits = 3 * torch.randn(args.batch_size, args.num_labels, grid, grid, device=args.device)
    labels = torch.randint(0, args.num_labels, (args.batch_size, grid, grid), device=args.device)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[:, :8] = IGNORE_INDEX
    return logits, labels


def errors(loss: Callable, logits: Tensor, labels: Tensor, align_corners: bool) -> tuple[float, float]:
    """Largest errors of loss and gradient of one image, from float64 on the same device."""
    logits, labels = logits[:1], labels[:1]
    found, expected = (tensor.detach().clone().requires_grad_() for tensor in (logits, logits.double()))
    values = loss(found, labels, align_corners), interpolated(expected, labels, align_corners)
    for value in values:
        value.backward()
    gradient = expected.grad
    return (
        abs(values[0].item() / values[1].item() - 1),
        ((found.grad.double() - gradient).abs().amax() / gradient.abs().amax()).item(),
    )


def compare(args: argparse.Namespace, dtype: str, align_corners: bool) -> None:
    """Print the table of all variants."""
    logits, labels = make_batch(args)
    logits = logits.to(DTYPES[dtype]).requires_grad_()
    names = ["bands", "large pieces"] + (["kernels"] if args.kernels else [])
    losses: dict[str, Callable] = {name: ours(name, False) for name in names}
    losses["interpolate"] = interpolated
    losses |= {f"{name}, OHEM": ours(name, True) for name in names}
    steps = {
        name: lambda loss=loss: torch.autograd.grad(loss(logits, labels, align_corners), logits)
        for name, loss in losses.items()
    }
    times = time_in_turn(steps, args.repetitions, args.device, warmups=3)
    print(f"\n{tuple(logits.shape)} to {args.size}², {dtype}, align_corners={align_corners}\n")
    print("| loss | ms | over interpolate | peak MiB | error | error of gradient |\n|---|---|---|---|---|---|")
    for name, step in steps.items():
        ratio = statistics.median(times[name]) / statistics.median(times["interpolate"])
        error = ("", "")
        if "OHEM" not in name:
            error = tuple(f"{value:.1e}" for value in errors(losses[name], logits, labels, align_corners))
        print(
            f"| {name} | {summarize(times[name])} | {ratio:.2f} | {peak_memory(step, args.device):.0f} | "
            f"{error[0]} | {error[1]} |",
            flush=True,
        )


def tune(args: argparse.Namespace) -> None:
    """Print the time of each kernel by the size of its programs."""
    from cmdl_hf.models import triton_cross_entropy_cmdl as kernels

    logits, labels = make_batch(args)
    logits, labels = logits.requires_grad_(), labels.where(labels != IGNORE_INDEX, 0)
    print("\n| kernel | rows or columns, columns or classes, warps | ms |\n|---|---|---|")
    for shape in FORWARD:
        blocks = dict(zip(("num_rows", "num_columns", "num_warps"), shape, strict=True))
        with patch.object(kernels, "FORWARD_BLOCKS", blocks), torch.no_grad():
            step = {"step": lambda: kernels.enlarged_cross_entropy(logits, labels, False)}
            print(f"| forward | {shape} | {summarize(time_in_turn(step, 10, args.device)['step'])} |", flush=True)
    losses = kernels.enlarged_cross_entropy(logits, labels, False)
    slopes = torch.ones_like(losses)
    for shape in BACKWARD:
        blocks = dict(zip(("num_columns", "num_classes", "num_warps"), shape, strict=True))
        with patch.object(kernels, "BACKWARD_BLOCKS", blocks):
            step = {"step": lambda: torch.autograd.grad(losses, logits, slopes, retain_graph=True)}
            print(f"| gradient | {shape} | {summarize(time_in_turn(step, 10, args.device)['step'])} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="of the logits")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--num-labels", type=int, default=150)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--tune", action="store_true", help="time the kernels in other sizes of programs, too")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    args.kernels = is_cuda(args.device) and cross_entropy_cmdl.has_triton()
    name = torch.cuda.get_device_name() if is_cuda(args.device) else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {name}, medians of {args.repetitions}", flush=True)
    for dtype, align_corners in itertools.product(args.dtypes, (False, True)):
        compare(args, dtype, align_corners)
    if args.tune and args.kernels:
        tune(args)


if __name__ == "__main__":
    main()
