"""Measure what each part of a trained model of the study does, on the validation split.

    python examples/camvid_study/diagnose.py fcn-cmdl-seed0 --data-dir CamVid

Each run gives one row of `diagnostics.jsonl`. If the run is there already, its row is replaced.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from study import BASE, RUNS
from torch import Tensor

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.data import EvalTransform, load_benchmark
from cmdl_hf.metrics import SegmentationMetrics

DIAGNOSTICS = Path(__file__).with_name("diagnostics.jsonl")


class Watch:
    """Hooks that store the outputs of CMDL's layers during a forward pass."""

    is_voting = True

    def __init__(self, model: CMDLForSemanticSegmentation) -> None:
        model.bottleneck.register_forward_hook(self._on_bottleneck)
        model.semantic_aggregation.register_forward_hook(self._on_aggregation)
        model.semantic_aggregation.attention.register_forward_hook(self._on_attention)

    def _on_bottleneck(self, _module: Any, _inputs: Any, output: Tensor) -> Tensor:
        self.pixel_features = output.detach().requires_grad_()
        return self.pixel_features

    def _on_aggregation(self, _module: Any, _inputs: Any, output: Tensor) -> Tensor:
        self.aggregated_features = output.detach()
        return output if self.is_voting else torch.zeros_like(output)

    def _on_attention(self, attention: Any, inputs: tuple[Tensor, Tensor], _output: Tensor) -> None:
        query, key = (layer(x).flatten(2) for layer, x in zip((attention.query, attention.key), inputs, strict=True))
        weights = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=-1)
        entropy = torch.special.entr(weights).sum(dim=-1) / math.log(weights.shape[-1])
        self.attention_entropy = float(entropy.detach().mean())


def look_inside(model: CMDLForSemanticSegmentation, samples: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Measure what each part of CMDL does on labelled images.

    Returns:
        A `dict` of:
            - `mean_iou`: of the coarse head, of the network, and of the network with zero aggregated features;
            - `attention_entropy`: divided by the entropy of a uniform attention;
            - `within_images`: share of the aggregated features' variance that is within images;
            - `cosine_within_class`: mean cosine between the distributions of a class;
            - `dead`, `duplicates`: numbers of such distributions;
            - `losses`: value of each loss;
            - `gradients`: norm of each loss's gradient with respect to the pixel features, as a multiple of that of
              the segmentation loss.
    """
    model.eval()
    watch = Watch(model)
    heads = {name: SegmentationMetrics(model.config.num_labels) for name in ("coarse", "final", "without_votes")}
    entropies, means, variances = [], [], []
    losses: dict[str, list[float]] = {}
    gradients: dict[str, list[float]] = {}
    for sample in samples:
        pixel_values, labels = sample["pixel_values"][None], sample["labels"][None]
        output = model(pixel_values, F.interpolate(labels[None].float(), pixel_values.shape[-2:])[0].long())
        for name, loss in output.loss_dict.items():
            losses.setdefault(name, []).append(float(loss.detach()))
            (slope,) = torch.autograd.grad(loss, watch.pixel_features, retain_graph=True, allow_unused=True)
            if slope is not None:
                gradients.setdefault(name, []).append(float(slope.norm()))
        watch.is_voting = False
        with torch.no_grad():
            without_votes = model(pixel_values).logits
        watch.is_voting = True
        for name, logits in (
            ("coarse", output.coarse_logits),
            ("final", output.logits),
            ("without_votes", without_votes),
        ):
            logits = F.interpolate(logits.detach(), labels.shape[-2:], mode="bilinear", align_corners=False)
            heads[name].update(logits.argmax(dim=1), labels)
        entropies.append(watch.attention_entropy)
        means.append(watch.aggregated_features.mean(dim=(0, 2, 3)))
        variances.append(watch.aggregated_features.var(dim=(0, 2, 3)))
    within, between = torch.stack(variances).mean(dim=0).sum(), torch.stack(means).var(dim=0).sum()
    directions = model.memory_bank.directions().transpose(0, 1)  # (K, M, C)
    num_distributions = directions.shape[1]
    cosines = (directions @ directions.transpose(1, 2)).sum(dim=(1, 2)) - num_distributions
    norm = sum(gradients["segmentation_loss"])
    return {
        "mean_iou": {name: metrics.compute()["mean_iou"] for name, metrics in heads.items()},
        "attention_entropy": sum(entropies) / len(entropies),
        "within_images": float(within / (within + between)),
        "cosine_within_class": float(cosines.mean()) / max(num_distributions * (num_distributions - 1), 1),
        "dead": int(model.memory_bank.find_dead().sum()),
        "duplicates": int(model.memory_bank.find_duplicates().sum()),
        "losses": {name: sum(values) / len(values) for name, values in losses.items()},
        "gradients": {name: sum(values) / norm for name, values in gradients.items()},
    }


def main() -> None:
    """Measure the models of the named runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", choices=RUNS, metavar="RUN", help="names of finished runs with CMDL")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/camvid_study"), help="folder of the runs")
    options = parser.parse_args()
    validation = load_benchmark("camvid", options.data_dir)["validation"].with_transform(EvalTransform(BASE["resize"]))
    samples = [validation[index] for index in range(0, len(validation), 2)]
    rows = {}
    if DIAGNOSTICS.is_file():
        rows = {row["name"]: row for row in map(json.loads, DIAGNOSTICS.read_text().splitlines())}
    for name in options.runs:
        model = CMDLForSemanticSegmentation.from_pretrained(options.output_dir / name)
        rows[name] = {"name": name, **look_inside(model, samples)}
        print(json.dumps(rows[name], indent=2), flush=True)
        DIAGNOSTICS.write_text("".join(f"{json.dumps(row)}\n" for row in rows.values()))


if __name__ == "__main__":
    main()
