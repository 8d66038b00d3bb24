"""Learning step of CMDL against the literal loop over classes and distributions.

    python benchmarks/learning_step.py [--device cuda] [--compile] [--grid]

One step is similarity, contrast, Sinkhorn and update, forward and backward; float32 always. The literal loop makes one
cross-entropy for every class and distribution, and one Sinkhorn and M means for every class. Both compute the same
(checked), run in turn in one process; medians of the repetitions.

`--grid` runs K = 19, 150, 171, M = 1..16 and 2k to 64k pixels, ours everywhere and the literal loop on the lines
through K = 171, M = 9 and 8,192 pixels, up to 32,768 of them, and prints with what powers of the three time and memory
grow.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measuring import add_device_arguments, growth, peak_memory, ratios, set_up, summarize, time_in_turn
from torch import Tensor

from cmdl_hf import CMDLMemoryBank
from cmdl_hf.models.losses_cmdl import compare_with_distributions, mean_over_classes

HIDDEN_SIZE = 512
CENTRE = (171, 9, 8192)  # K, M, pixels
GRID = ((19, 150, 171), (1, 4, 9, 16), (2048, 8192, 32768, 65536))


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
    similarity, nearest, contrasts, _ = compare_with_distributions(embeddings, bank.directions(), labels)
    bank.update(embeddings.detach(), similarity.detach(), labels, nearest.detach().argmax(dim=1) == labels)
    return mean_over_classes(contrasts, labels, bank.num_labels)


STEPS: dict[str, Callable[[Tensor, Tensor, CMDLMemoryBank], Tensor]] = {"literal": literal_step, "ours": our_step}


def make_inputs(num_labels: int, pixels: int, device: str) -> tuple[Tensor, Tensor]:
    """Random embeddings and labels of all classes."""
    torch.manual_seed(0)
    embeddings = F.normalize(torch.randn(pixels, HIDDEN_SIZE, device=device), dim=1).requires_grad_()
    return embeddings, torch.randint(0, num_labels, (pixels,), device=device)


def make_step(name: str, sizes: tuple[int, int, int], args: argparse.Namespace) -> Callable[[], tuple[Tensor, ...]]:
    """One step forward and backward, every time from the same bank; returns loss, gradient and updated prototypes."""
    num_labels, num_distributions, pixels = sizes
    embeddings, labels = make_inputs(num_labels, pixels, args.device)
    torch.manual_seed(1)
    bank = CMDLMemoryBank(  # with the reference's rules of movement; ours take the same operations
        num_labels, num_distributions, HIDDEN_SIZE, momentum_warmup=0, use_fallback=False
    ).to(args.device)
    start = bank.prototypes.clone()
    forward = torch.compile(STEPS[name]) if args.compile and name == "ours" else STEPS[name]

    def step() -> tuple[Tensor, ...]:
        bank.prototypes.copy_(start)
        embeddings.grad = None
        loss = forward(embeddings, labels, bank)
        loss.backward()
        return loss.detach(), embeddings.grad, bank.prototypes

    return step


def compare(sizes: tuple[int, int, int], is_with_literal: bool, args: argparse.Namespace) -> dict[str, tuple]:
    """Print one row: steps in turn, after checking that they compute the same; returns ms and MiB by name."""
    steps = {name: make_step(name, sizes, args) for name in (STEPS if is_with_literal else ["ours"])}
    if is_with_literal:
        torch.testing.assert_close(steps["ours"](), steps["literal"](), atol=1e-4, rtol=1e-3)
    times = time_in_turn(steps, args.repetitions, args.device)
    found = {name: (statistics.median(times[name]), peak_memory(step, args.device)) for name, step in steps.items()}
    ratio = summarize(ratios(times, "literal", "ours")) if is_with_literal else ""
    literal = [f"{value:.0f}" for value in found.get("literal", ())] or ["", ""]
    print(
        f"| {sizes[0]} | {sizes[1]} | {sizes[2]} | {literal[0]} | {found['ours'][0]:.3g} | {ratio} | "
        f"{literal[1]} | {found['ours'][1]:.0f} |",
        flush=True,
    )
    return found


def print_growth(found: dict[tuple[int, int, int], dict[str, tuple]]) -> None:
    """Print the exponents of K, M and pixels in time and memory, where there are enough sizes."""
    if len(found) < 4:
        return
    print("\n| growth with | K | M | pixels |\n|---|---|---|---|")
    for name in STEPS:
        for index, what in enumerate(("time", "memory")):
            values = {sizes: rows[name][index] for sizes, rows in found.items() if name in rows}
            if len(values) > 3:
                exponents = growth(list(values), list(values.values()))
                print(f"| {name}, {what} | " + " | ".join(f"{exponent:.2f}" for exponent in exponents) + " |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_arguments(parser, repetitions=5)
    parser.add_argument("--num-labels", type=int, nargs="+", default=list(GRID[0]))
    parser.add_argument("--num-distributions", type=int, nargs="+", default=[CENTRE[1]])
    parser.add_argument("--pixels", type=int, nargs="+", default=[CENTRE[2]])
    parser.add_argument("--grid", action="store_true", help="instead of the three sizes above")
    args = parser.parse_args()
    args.dtype = "float32"
    set_up(args)
    print("\n| K | M | pixels | literal ms | ours ms | ratio | literal MiB | ours MiB |")
    print("|---|---|---|---|---|---|---|---|")
    cells = itertools.product(*(GRID if args.grid else (args.num_labels, args.num_distributions, args.pixels)))
    found = {}
    for sizes in cells:
        is_on_line = sum(size == middle for size, middle in zip(sizes, CENTRE, strict=True)) >= 2 and sizes[2] <= 32768
        found[sizes] = compare(sizes, is_on_line or not args.grid, args)
    print_growth(found)


if __name__ == "__main__":
    main()
