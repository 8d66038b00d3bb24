"""Assignment: do the distributions of a class find its modes in a network that learns?

    python benchmarks/assignment.py
    python benchmarks/assignment.py --num-distributions 3 9 --steps 700 --seeds 0 1 2

Every class of the simulation has three modes: three kinds of pixels that share nothing but their class. The network, a
1×1 convolution with `CMDLAdapter`, knows the classes only. Printed for each rule, as means over the classes and seeds:
how much a pixel's nearest distribution says about its mode (0 nothing, 1 all: mutual information over the entropy of
the modes), and the mean cosine between the distributions of a class (1 = all equal).

Fixed embeddings would not show the fault that this measures: there, a contrast cannot make the modes equal.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmdl_hf import CMDLAdapter, CMDLMemoryBank
from cmdl_hf.models.configuration_cmdl import PRESETS

K, INPUTS, CHANNELS, CELL = 8, 32, 32, 8
NUM_MODES = 3
SHARES = {"equal modes": (1 / 3, 1 / 3, 1 / 3), "unequal modes": (0.7, 0.2, 0.1), "one mode": (1.0, 0.0, 0.0)}
RULES: dict[str, dict[str, Any]] = {
    "no contrast": {"contrastive_loss_weight": 0.0},
    "reference": dict(PRESETS["reference"]),
    "all": {"contrast_target": "all"},
    "assigned, β 0": {"contrast_target": "assigned", "intra_class_negative_weight": 0.0},
    "assigned, β 0.2": {"contrast_target": "assigned", "intra_class_negative_weight": 0.2},
    "assigned, β 1": {"contrast_target": "assigned", "intra_class_negative_weight": 1.0},
}


class PixelNetwork(nn.Module):
    """Segmenter that sees one cell at a time: the mean of a cell, a 1×1 convolution, and the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(CELL), nn.Conv2d(INPUTS, CHANNELS, 1), nn.ReLU())
        self.classifier = nn.Conv2d(CHANNELS, K, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits (B, K, h, w)."""
        return self.classifier(self.features(pixel_values))


def draw_batch(modes: Tensor, shares: Sequence[float], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw four images of 16×16 cells, their labels, and the mode of every cell.

    Args:
        modes (`Tensor` of shape (K, modes, INPUTS)): Mean input of each mode.
        shares (`Sequence[float]`): Share of each mode among the cells of its class.
        generator (`torch.Generator`): Random generator.
    """
    labels = torch.randint(0, K, (4, 16, 16), generator=generator)
    ids = torch.multinomial(torch.tensor(shares), labels.numel(), replacement=True, generator=generator)
    ids = ids.view_as(labels)
    inputs = modes[labels, ids]
    inputs = inputs + 0.3 / INPUTS**0.5 * torch.randn(inputs.shape, generator=generator)
    return enlarge(inputs.permute(0, 3, 1, 2)), enlarge(labels), ids


def enlarge(grid: Tensor) -> Tensor:
    """Repeat every cell, so that the adapter's grid is the grid of cells."""
    return grid.repeat_interleave(CELL, -2).repeat_interleave(CELL, -1)


def train(
    options: dict[str, Any], num_distributions: int, shares: Sequence[float], steps: int, seed: int
) -> tuple[float, float]:
    """Train a network; returns the information of the nearest distribution on the mode, and the mean cosine."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    modes = F.normalize(torch.randn(K, NUM_MODES, INPUTS, generator=generator), dim=-1)
    model = CMDLAdapter(
        PixelNetwork(), "classifier", num_distributions=num_distributions, attention_size=16, dropout=0.0, **options
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(steps):
        pixel_values, labels, _ = draw_batch(modes, shares, generator)
        model.train()(pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return find_information(model.eval(), modes, shares, generator), mean_cosine(model.memory_bank)


@torch.no_grad()
def find_information(model: CMDLAdapter, modes: Tensor, shares: Sequence[float], generator: torch.Generator) -> float:
    """Compute the mutual information of nearest distribution and mode over the entropy of the modes."""
    counts = torch.zeros(K, model.memory_bank.num_distributions, len(shares))
    for _ in range(20):
        pixel_values, labels, ids = draw_batch(modes, shares, generator)
        features = model.input_projection(model.segmenter.features(pixel_values))
        similarity = model.distribution_learning.compare(features, model.memory_bank).similarity  # (N, K, M)
        classes = labels[:, ::CELL, ::CELL].flatten()
        own = similarity[torch.arange(len(classes)), classes]
        counts.index_put_((classes, own.argmax(dim=1), ids.flatten()), torch.tensor(1.0), accumulate=True)
    joint = counts / counts.sum(dim=(1, 2), keepdim=True)
    of_ids, of_modes = joint.sum(dim=2, keepdim=True), joint.sum(dim=1, keepdim=True)
    information = (joint * (joint / (of_ids * of_modes)).log()).nansum(dim=(1, 2))
    entropy = -(of_modes * of_modes.log()).nansum(dim=(1, 2))
    return (information / entropy).mean().item()  # of a class with one mode: 0 / 0


def mean_cosine(bank: CMDLMemoryBank) -> float:
    """Compute the mean cosine between different distributions of a class."""
    directions = F.normalize(bank.prototypes, dim=-1)
    cosines = directions @ directions.transpose(1, 2)  # (K, M, M)
    is_pair = ~torch.eye(cosines.shape[1], dtype=torch.bool)
    return cosines[:, is_pair].mean().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-distributions", type=int, nargs="+", default=[1, 3, 9])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--votings", nargs="+", choices=["class", "posterior"], default=["class", "posterior"])
    parser.add_argument("--shares", nargs="+", choices=list(SHARES), default=list(SHARES))
    args = parser.parse_args()
    print("| modes | M | contrast | voting | information | cosine |\n|---|---|---|---|---|---|")
    for shares in args.shares:
        for num_distributions in args.num_distributions:
            for rule in args.rules:
                for voting in args.votings:
                    if voting == "posterior" and RULES[rule].get("voting") == "class":
                        continue
                    options = RULES[rule] | {"voting": voting}
                    results = [train(options, num_distributions, SHARES[shares], args.steps, s) for s in args.seeds]
                    # A class of one mode has no information, and one distribution no cosine.
                    means = ["" if mean.isnan() else f"{mean:.2f}" for mean in torch.tensor(results).mean(dim=0)]
                    row = [shares, str(num_distributions), rule, voting, *means]
                    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
