"""Learning step of CMDL against the literal loop over classes and distributions.

    python benchmarks/learning_step.py --pixels 8192 --num-distributions 9 --num-labels 19 150 171

One step is similarity, contrast, Sinkhorn and update, forward and backward. The literal loop makes one
cross-entropy for every class and distribution, and one Sinkhorn and M means for every class. Both compute the same
(checked), run in turn in one process; medians of the repetitions. On a GPU where there is one.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cmdl_hf import CMDLMemoryBank
from cmdl_hf.models.losses_cmdl import compare_with_distributions, mean_over_classes

HIDDEN_SIZE = 512


def literal_step(embeddings: Tensor, labels: Tensor, bank: CMDLMemoryBank) -> Tensor:
    """Contrast, Sinkhorn and update the way the paper's text reads."""
    prototypes = bank.read()
    similarity = torch.einsum("nc,kmc->nkm", embeddings, prototypes)
    num_distributions = prototypes.shape[1]
    class_losses = []
    for label in labels.unique().tolist():
        mine = similarity[labels == label]
        losses = []
        for m in range(num_distributions):
            others = torch.cat([mine[:, :label], mine[:, label + 1 :]], dim=1).flatten(1)
            logits = torch.cat([mine[:, label, m, None], others], dim=1)
            losses.append(F.cross_entropy(logits, torch.zeros(len(mine), dtype=torch.int64, device=mine.device)))
        class_losses.append(torch.stack(losses).mean())
    with torch.no_grad():
        scores = similarity.amax(dim=2).argmax(dim=1)
        for label in labels.unique().tolist():
            is_mine = labels == label
            ids = literal_sinkhorn(similarity[is_mine, label]).argmax(dim=1)
            is_correct = scores[is_mine] == label
            for m in range(num_distributions):
                chosen = embeddings[is_mine][(ids == m) & is_correct]
                if len(chosen):
                    mean = F.normalize(chosen.sum(dim=0), dim=0)
                    moved = bank.momentum * bank.prototypes[label, m] + (1 - bank.momentum) * mean
                    bank.prototypes[label, m] = F.normalize(moved, dim=0)
    return torch.stack(class_losses).mean()


def literal_sinkhorn(similarity: Tensor) -> Tensor:
    """Sinkhorn plan of one class."""
    plan = (similarity / 0.05).exp()
    plan = plan / plan.sum()
    num_pixels, num_distributions = plan.shape
    for _ in range(3):
        plan = plan / plan.sum(dim=0, keepdim=True) / num_distributions
        plan = plan / plan.sum(dim=1, keepdim=True) / num_pixels
    return plan * num_pixels


def our_step(embeddings: Tensor, labels: Tensor, bank: CMDLMemoryBank) -> Tensor:
    """The same with this package."""
    similarity, nearest, contrasts = compare_with_distributions(embeddings, bank.directions(), labels)
    bank.update(embeddings.detach(), similarity.detach(), labels, nearest.detach().argmax(dim=1) == labels)
    return mean_over_classes(contrasts, labels, bank.num_labels)


STEPS: dict[str, Callable[[Tensor, Tensor, CMDLMemoryBank], Tensor]] = {"literal": literal_step, "ours": our_step}


def make_inputs(num_labels: int, pixels: int, num_distributions: int, device: str) -> tuple[Tensor, Tensor]:
    """Random embeddings and labels of all classes."""
    torch.manual_seed(0)
    embeddings = F.normalize(torch.randn(pixels, HIDDEN_SIZE, device=device), dim=1).requires_grad_()
    return embeddings, torch.randint(0, num_labels, (pixels,), device=device)


def run_once(
    name: str, embeddings: Tensor, labels: Tensor, num_labels: int, num_distributions: int
) -> tuple[float, ...]:
    """One step forward and backward from a fresh bank; returns seconds, loss and the gradient's norm."""
    torch.manual_seed(1)
    bank = CMDLMemoryBank(num_labels, num_distributions, HIDDEN_SIZE, momentum_warmup=0).to(embeddings.device)
    embeddings.grad = None
    synchronize(embeddings.device)
    start = time.perf_counter()
    loss = STEPS[name](embeddings, labels, bank)
    loss.backward()
    synchronize(embeddings.device)
    seconds = time.perf_counter() - start
    return seconds, loss.item(), embeddings.grad.norm().item(), bank.prototypes.sum().item()


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(name: str, embeddings: Tensor, labels: Tensor, num_labels: int, num_distributions: int) -> float:
    """MiB that a step holds at its peak on top of its inputs."""
    embeddings.grad = None
    if embeddings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_once(name, embeddings, labels, num_labels, num_distributions)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_once(name, embeddings, labels, num_labels, num_distributions)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes)) / 2**20


def compare(num_labels: int, args: argparse.Namespace) -> None:
    """Print one row: both steps in turn, medians, after checking that they compute the same."""
    embeddings, labels = make_inputs(num_labels, args.pixels, args.num_distributions, args.device)
    times: dict[str, list[float]] = {name: [] for name in STEPS}
    for repetition in range(args.repetitions + 1):
        results = {name: run_once(name, embeddings, labels, num_labels, args.num_distributions) for name in STEPS}
        for name, (seconds, *_) in results.items():
            if repetition:  # the first one warms up
                times[name].append(seconds)
    for literal, ours in zip(results["literal"][1:], results["ours"][1:], strict=True):
        assert abs(literal - ours) <= 1e-3 * max(1, abs(literal)), (literal, ours)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["literal"], times["ours"], strict=True)]
    memory = {name: peak_memory(name, embeddings, labels, num_labels, args.num_distributions) for name in STEPS}
    print(
        f"| {num_labels} | {medians['literal'] * 1e3:.0f} | {medians['ours'] * 1e3:.0f} | "
        f"{statistics.median(ratios):.1f} ({min(ratios):.1f}..{max(ratios):.1f}) | "
        f"{memory['literal']:.0f} | {memory['ours']:.0f} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-labels", type=int, nargs="+", default=[19, 150, 171])
    parser.add_argument("--pixels", type=int, default=8192)
    parser.add_argument("--num-distributions", type=int, default=9)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {args.pixels} pixels,")
    print(f"M = {args.num_distributions}, C = {HIDDEN_SIZE}, medians of {args.repetitions}\n")
    print("| K | literal ms | ours ms | ratio (min..max) | literal MiB | ours MiB |")
    print("|---|---|---|---|---|---|")
    for num_labels in args.num_labels:
        compare(num_labels, args)


if __name__ == "__main__":
    main()
