"""Compare segmenters of other libraries without CMDL, with CMDL, and with a control, on generated scenes.

    python examples/adapter_comparison.py --output outputs/adapter_comparison.jsonl

Each arm has the same steps, images and learning rate, and three seeds. The control has CMDL's layers, but its memory
bank stays at its random start and no loss uses it. It shows how much the added layers alone change. A run that is in
the output file is not repeated. The table at the end contains all runs of the file.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation import fcn_resnet50
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.utils import ModelOutput

from cmdl_hf import CMDLAdapter
from cmdl_hf.data import EvalTransform, TrainTransform, load_synthetic
from cmdl_hf.evaluation import evaluate
from cmdl_hf.training import CMDLTrainingArguments, train

NUM_LABELS = 8
SEGMENTERS: dict[str, Callable[[], nn.Module]] = {
    "smp FPN, resnet18": lambda: smp.FPN("resnet18", encoder_weights=None, classes=NUM_LABELS),
    "transformers SegFormer, MiT-b0": lambda: SegformerForSemanticSegmentation(SegformerConfig(num_labels=NUM_LABELS)),
    "torchvision fcn_resnet50": lambda: fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=NUM_LABELS, aux_loss=True
    ),
}
CONTROL = {
    "is_memory_frozen": True,
    "prototype_loss_weight": 0.0,
    "contrastive_loss_weight": 0.0,
    "class_margin_loss_weight": 0.0,
}
ARMS = ("alone", "control", "CMDL")


class Alone(nn.Module):
    """A segmenter without CMDL, trained with cross-entropies at image size."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> object:
        """Return the segmenter's output or, with labels, the losses."""
        output = self.segmenter(pixel_values)
        if labels is None:
            return output
        heads = {"segmentation": output} if isinstance(output, Tensor) else output
        weights = {"segmentation": 1.0, "logits": 1.0, "out": 1.0, "aux": 0.4}
        losses = {
            f"{name}_loss": weights[name]
            * F.cross_entropy(F.interpolate(logits, labels.shape[-2:], mode="bilinear"), labels, ignore_index=255)
            for name, logits in heads.items()
        }
        return ModelOutput(loss=torch.stack(list(losses.values())).sum(), loss_dict=losses)


def run_arm(segmenter: str, arm: str, seed: int, max_steps: int) -> dict[str, object]:
    """Train one arm and score it on the test split."""
    scenes = load_synthetic(num_labels=NUM_LABELS)
    torch.manual_seed(seed)
    inner = SEGMENTERS[segmenter]()
    options = CONTROL if arm == "control" else {}
    model = Alone(inner) if arm == "alone" else CMDLAdapter(inner, num_labels=NUM_LABELS, **options)
    recipe = CMDLTrainingArguments(
        max_steps=max_steps,
        total_batch_size=8,
        optimizer="adamw",
        learning_rate=1e-3,
        min_learning_rate=1e-6,
        weight_decay=0.01,
        warmup_steps=max_steps // 20,
        mixed_precision="bf16",
        use_channels_last=True,
        num_workers=1,
        seed=seed,
    )
    train(model, scenes["train"], TrainTransform((96, 128), (0.75, 1.5)), recipe, f"{segmenter}, {arm}, seed {seed}")
    scores = evaluate(model, scenes["test"], EvalTransform(), NUM_LABELS)
    return {"segmenter": segmenter, "arm": arm, "seed": seed, "max_steps": max_steps, "mean_iou": scores["mean_iou"]}


def format_table(rows: list[dict]) -> str:
    """Format the scores as a table: mean and range over the seeds, in %."""
    lines = [f"| segmenter | {' | '.join(ARMS)} |", "|---|" + "---|" * len(ARMS)]
    for segmenter in {row["segmenter"]: None for row in rows}:
        cells = []
        for arm in ARMS:
            found = [100 * row["mean_iou"] for row in rows if (row["segmenter"], row["arm"]) == (segmenter, arm)]
            cells.append(f"{statistics.mean(found):.1f} ({min(found):.1f}..{max(found):.1f})" if found else "")
        lines.append(f"| {segmenter} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the missing runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/adapter_comparison.jsonl"))
    parser.add_argument("--segmenters", nargs="+", choices=list(SEGMENTERS), default=list(SEGMENTERS))
    parser.add_argument("--max-steps", type=int, default=400)
    parser.add_argument("--num-seeds", type=int, default=3)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.output.read_text().splitlines()] if args.output.is_file() else []
    done = {(row["segmenter"], row["arm"], row["seed"]) for row in rows}
    for segmenter in args.segmenters:
        for seed in range(args.num_seeds):
            for arm in ARMS:
                if (segmenter, arm, seed) in done:
                    continue
                rows.append(run_arm(segmenter, arm, seed, args.max_steps))
                with args.output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(format_table(rows))


if __name__ == "__main__":
    main()
