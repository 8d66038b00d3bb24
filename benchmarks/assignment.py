"""Assignment and memory start: which default finds the modes of a class, and which segments better.

    python benchmarks/assignment.py
    python benchmarks/assignment.py --data-dir CamVid --weights mobilenetv2.safetensors --steps 300 --seeds 0 1

The first prints how near the prototypes of one simulated class come to its three modes. The second trains CMDL-FCN
on CamVid at 160×120 with each rule and scores the validation split; one JSON row a run goes to standard output.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, CMDLMemoryBank
from cmdl_hf.data import SegmentationDataset, load_benchmark
from cmdl_hf.data.transforms import EvalTransform, TrainTransform
from cmdl_hf.evaluation import evaluate
from cmdl_hf.training import train
from cmdl_hf.training_args import CMDLTrainingArguments

SIZE = (120, 160)
ARMS = {
    "plain": {"use_distributions": False},
    "argmax": {"assignment": "argmax"},
    "sample": {"assignment": "sample"},
    "reference draw": {"assignment": "reference"},
    "argmax, constant momentum": {"assignment": "argmax", "memory_momentum_warmup": 0},
    "argmax, start from data": {"assignment": "argmax"},
    "sample, start from data": {"assignment": "sample"},
}


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


def print_simulation() -> None:
    """Print the table of the simulated class."""
    print("| assignment | momentum | updates | worst mode | lowest cosine of two prototypes |")
    print("|---|---|---|---|---|")
    for assignment in ("argmax", "sample", "reference"):
        for warmup in (0, 10):
            for num_updates in (100, 3000):
                worst, lowest = simulate(assignment, warmup, num_updates)
                momentum = f"warm-up {warmup}" if warmup else "constant"
                print(f"| {assignment} | {momentum} | {num_updates} | {worst:.3f} | {lowest:.2f} |")


@torch.no_grad()
def start_from_data(
    model: CMDLForSemanticSegmentation, dataset: SegmentationDataset, transform: TrainTransform
) -> None:
    """Let the bank see the data before the network learns: online clustering of every class's embeddings."""
    loader = DataLoader(dataset["train"].with_transform(transform), batch_size=8, shuffle=True)
    model.eval()
    learning = model.distribution_learning
    for batch in loader:
        features = model.bottleneck(model.backbone(batch["pixel_values"]).feature_maps[-1])
        embeddings = learning.projection_head(features)
        labels = F.interpolate(batch["labels"][:, None].float(), features.shape[-2:], mode="nearest").long().flatten()
        is_correct = torch.ones_like(labels, dtype=torch.bool)
        model.memory_bank.update(embeddings, model.memory_bank.similarity(embeddings), labels, is_correct)
    model.train()


def run(arm: str, seed: int, args: argparse.Namespace) -> None:
    """Train one arm and print its row."""
    dataset = load_benchmark("camvid", args.data_dir)
    set_seed(seed)
    config = CMDLConfig(
        id2label=dataset.id2label,
        hidden_size=256,
        attention_size=128,
        backbone_config={"backbone": "mobilenetv2_100", "out_indices": [1, 2, 3, 4], "output_stride": 8},
        backbone_kwargs={"pad_type": "same"},
        **ARMS[arm],
    )
    model = CMDLForSemanticSegmentation(config)
    model.load_backbone_weights(args.weights)
    transform = TrainTransform(SIZE, resize=SIZE)
    if "from data" in arm:
        start_from_data(model, dataset, transform)
    recipe = CMDLTrainingArguments(
        max_steps=args.steps,
        total_batch_size=8,
        learning_rate=args.learning_rate,
        use_channels_last=True,
        num_workers=0,
        seed=seed,
    )
    start = time.perf_counter()
    train(model, dataset["train"], transform, recipe)
    seconds = time.perf_counter() - start
    scores = evaluate(model, dataset["validation"], EvalTransform(SIZE), dataset.num_labels)
    row = {"arm": arm, "seed": seed, "steps": args.steps, "val_mean_iou": round(100 * scores["mean_iou"], 2)}
    print(json.dumps(row | {"seconds": round(seconds)}), flush=True)


def main() -> None:
    """Run the simulation, or the trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="CamVid's folder")
    parser.add_argument("--weights", type=Path, help="timm's ImageNet weights of mobilenetv2_100, safetensors")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--learning-rate", type=float, default=0.02)
    args = parser.parse_args()
    if args.data_dir is None:
        print_simulation()
        return
    for seed in args.seeds:
        for arm in args.arms:
            run(arm, seed, args)


if __name__ == "__main__":
    main()
