"""Voting and semantic aggregation against the literal formulation, forward and backward, on grids of several sizes.

    python benchmarks/aggregation.py [--device cuda] [--dtype bf16] [--grids 64x64 128x256] [--num-labels 19 150]

The literal formulation makes the M voted maps of C channels, fuses them by a 1×1 convolution and attends with the
whole (h·w)² matrix. Both have the same weights and are checked to agree; they run in turn in one process. Where its
matrices (two, in training four) do not fit into the free memory, the literal side is left out, and said so.
"""

import argparse
import math
import statistics
from collections.abc import Callable

import psutil
import torch
import torch.nn.functional as F
from measuring import (
    add_device_arguments,
    growth,
    is_cuda,
    peak_memory,
    precision,
    ratios,
    set_up,
    summarize,
    time_in_turn,
)
from torch import Tensor

from cmdl_hf import CMDLSemanticAggregation

HIDDEN_SIZE, ATTENTION_SIZE = 512, 256


def literal_aggregation(module: CMDLSemanticAggregation, features: Tensor, votes: Tensor, bank: Tensor) -> Tensor:
    """Voted maps, fusion convolution, full attention matrix."""
    voted = [torch.einsum("bkhw,kc->bchw", votes, bank[:, m].to(votes.dtype)) for m in range(bank.shape[1])]
    fused = module.vote_fusion(torch.cat(voted, dim=1))
    attention = module.attention
    query = attention.query(features).flatten(2).transpose(1, 2)
    key, value = attention.key(fused).flatten(2), attention.value(fused).flatten(2).transpose(1, 2)
    weights = (query * ATTENTION_SIZE**-0.5 @ key).softmax(dim=-1)
    return attention.output((weights @ value).transpose(1, 2).unflatten(2, features.shape[-2:]))


def make_step(forward: Callable, inputs: tuple[Tensor, ...], is_training: bool, args: argparse.Namespace) -> Callable:
    """Forward in eval mode, or forward and backward in training mode."""
    module, features, votes, bank = inputs
    call = torch.compile(forward) if args.compile else forward

    def train() -> Tensor:
        module.train()
        module.zero_grad(set_to_none=True)
        features.grad = votes.grad = None
        with precision(args):
            aggregated = call(module, features, votes, bank)
        aggregated.sum().backward()
        return aggregated

    def infer() -> Tensor:
        module.eval()
        with torch.inference_mode(), precision(args):
            return call(module, features, votes, bank)

    return train if is_training else infer


def is_affordable(grid: tuple[int, int], is_training: bool, args: argparse.Namespace) -> bool:
    """Whether the literal formulation fits in: scores and weights, in training their gradients too."""
    free = torch.cuda.mem_get_info()[0] if is_cuda(args.device) else psutil.virtual_memory().available
    return (4 if is_training else 2) * 4 * math.prod(grid) ** 2 < 0.7 * free


def measure(grid: tuple[int, int], num_labels: int, is_training: bool, args: argparse.Namespace) -> float:
    """Print one row; returns our peak in MiB."""
    torch.manual_seed(0)
    module = CMDLSemanticAggregation(HIDDEN_SIZE, ATTENTION_SIZE, args.num_distributions).to(args.device)
    features = torch.randn(1, HIDDEN_SIZE, *grid, device=args.device, requires_grad=True)
    votes = torch.randn(1, num_labels, *grid, device=args.device).softmax(dim=1).requires_grad_()
    bank = F.normalize(torch.randn(num_labels, args.num_distributions, HIDDEN_SIZE, device=args.device), dim=-1)
    forwards = {"ours": lambda module, *inputs: module(*inputs)}
    if is_affordable(grid, is_training, args):
        forwards["literal"] = literal_aggregation
    inputs = module, features, votes, bank
    steps = {name: make_step(forward, inputs, is_training, args) for name, forward in forwards.items()}
    if "literal" in steps and args.dtype == "float32":
        torch.testing.assert_close(steps["ours"](), steps["literal"](), atol=1e-3, rtol=1e-3)
    times = time_in_turn(steps, args.repetitions, args.device)
    peaks = {name: peak_memory(step, args.device) for name, step in steps.items()}
    others = ["not run: memory", "", ""]
    if "literal" in steps:
        ratio = summarize(ratios(times, "literal", "ours"))
        others = [f"{statistics.median(times['literal']):.0f}", ratio, f"{peaks['literal']:.0f}"]
    print(
        f"| {grid[0]}×{grid[1]} | {num_labels} | {'training' if is_training else 'eval'} | {others[0]} | "
        f"{statistics.median(times['ours']):.0f} | {others[1]} | {others[2]} | {peaks['ours']:.0f} |",
        flush=True,
    )
    return peaks["ours"]


def main() -> None:
    """Print the table and the growth of our memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_arguments(parser, repetitions=5)
    parser.add_argument("--grids", nargs="+", default=["64x64", "96x128", "128x256"], metavar="HEIGHTxWIDTH")
    parser.add_argument("--num-labels", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--num-distributions", type=int, default=9)
    args = parser.parse_args()
    set_up(args)
    grids = [tuple(map(int, grid.split("x"))) for grid in args.grids]
    print("\n| grid | K | | literal ms | ours ms | ratio | literal MiB | ours MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for is_training in (False, True):
        factors, peaks = [], []
        for num_labels in args.num_labels:
            for grid in grids:
                peaks.append(measure(grid, num_labels, is_training, args))
                factors.append((math.prod(grid), num_labels))
        if len(grids) > 1:
            exponent = growth(factors, peaks)[0]
            print(f"| | | {'training' if is_training else 'eval'} | | | | | grows with pixels to the {exponent:.2f} |")


if __name__ == "__main__":
    main()
