"""Assignment: which rule finds the modes of a class.

    python benchmarks/assignment.py

Prints how near the prototypes of one simulated class come to its three modes. What each rule is worth in a training,
`examples/camvid_study` tells.
"""

import argparse

import torch
import torch.nn.functional as F

from cmdl_hf import CMDLMemoryBank


def simulate(assignment: str, momentum_warmup: int, num_updates: int) -> tuple[float, float]:
    """Train nine prototypes on a class with three modes.

    Returns the cosine of the worst-found mode to its nearest prototype, and the lowest cosine of two prototypes.
    """
    torch.manual_seed(0)
    modes = F.normalize(torch.randn(3, 32), dim=-1)
    bank = CMDLMemoryBank(2, 9, 32, assignment, momentum=0.999, momentum_warmup=momentum_warmup)
    labels, is_correct = torch.zeros(90, dtype=torch.int64), torch.ones(90, dtype=torch.bool)
    for _ in range(num_updates):
        embeddings = F.normalize(modes.repeat(30, 1) + torch.randn(90, 32) * 0.05, dim=-1)
        bank.update(embeddings, bank.similarity(embeddings), labels, is_correct)
    prototypes = bank.prototypes[0]
    return (modes @ prototypes.t()).amax(dim=1).min().item(), (prototypes @ prototypes.t()).min().item()


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| assignment | momentum | updates | worst mode | lowest cosine of two prototypes |")
    print("|---|---|---|---|---|")
    for assignment in ("argmax", "sample", "reference"):
        for warmup in (0, 10):
            for num_updates in (100, 3000):
                worst, lowest = simulate(assignment, warmup, num_updates)
                momentum = f"warm-up {warmup}" if warmup else "constant"
                print(f"| {assignment} | {momentum} | {num_updates} | {worst:.3f} | {lowest:.2f} |")


if __name__ == "__main__":
    main()
