"""The demonstration: train a network with and without CMDL, score both, and look at what was learned."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from .data import SegmentationDataset, load_benchmark
from .data.synthetic import load_synthetic
from .data.transforms import EvalTransform, TrainTransform
from .evaluation import evaluate
from .models import CMDLConfig, CMDLForSemanticSegmentation, make_image_processor
from .training import train
from .training_args import CMDLTrainingArguments
from .visualization import draw_prediction


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of a demonstration, small enough for minutes on a CPU.

    Args:
        backbone_config (`dict`): The backbone.
        backbone_kwargs (`dict`, *optional*): timm's own options of it.
        crop_size (`tuple[int, int]`): Height and width of the training crops, in pixels.
        resize (`tuple[int, int]`, *optional*): Shorter and longer edge to bring images to first.
        args (`CMDLTrainingArguments`): The recipe.
    """

    backbone_config: dict[str, Any]
    backbone_kwargs: dict[str, Any] | None
    crop_size: tuple[int, int]
    resize: tuple[int, int] | None
    args: CMDLTrainingArguments


SYNTHETIC = DemoSettings(
    backbone_config={"backbone": "resnet18", "out_indices": [1, 2, 3, 4], "output_stride": 8},
    backbone_kwargs=None,
    crop_size=(96, 128),
    resize=None,
    args=CMDLTrainingArguments(max_steps=120, total_batch_size=8, learning_rate=0.02, use_channels_last=True),
)
CAMVID = DemoSettings(
    backbone_config={"backbone": "mobilenetv2_100", "out_indices": [1, 2, 3, 4], "output_stride": 8},
    backbone_kwargs={"pad_type": "same"},
    crop_size=(180, 240),
    resize=(180, 240),
    args=CMDLTrainingArguments(max_steps=120, total_batch_size=8, learning_rate=0.01, use_channels_last=True),
)


def run_demo(
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Train CMDL-FCN and the plain FCN, score both on the test split, save, re-load and draw.

    Args:
        output_dir: Folder that gets `model/`, `prediction.png` and `scores.json`; what it holds of those is replaced.
        data_dir: CamVid's folder; omitted, street scenes are generated.
        weights: safetensors file with timm's ImageNet weights of the backbone; omitted, it starts from scratch.
        max_steps: Optimiser steps of each training, other than the demonstration's own.

    Returns:
        Scores of both networks by name, as `evaluate` returns them, and `seconds` of training.
    """
    output_dir = Path(output_dir)
    settings = SYNTHETIC if data_dir is None else CAMVID
    dataset = load_synthetic(size=(128, 160)) if data_dir is None else load_benchmark("camvid", data_dir)
    if max_steps is not None:
        settings.args.max_steps = max_steps

    scores: dict[str, Any] = {}
    for name, use_distributions in (("plain FCN", False), ("CMDL-FCN", True)):
        start = time.perf_counter()
        model = _train(dataset, settings, weights, use_distributions, name)
        seconds = time.perf_counter() - start
        metrics = evaluate(
            model,
            dataset["test"],
            EvalTransform(settings.resize),
            dataset.num_labels,
            description=f"{name}: test split",
        )
        scores[name] = metrics | {"seconds": seconds}
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "scores.json").write_text(json.dumps(scores, indent=2))
    print(_format_scores(scores, dataset.id2label))

    model.save_pretrained(output_dir / "model")
    size = None if settings.resize is None else dict(zip(("height", "width"), settings.crop_size, strict=True))
    make_image_processor(size).save_pretrained(output_dir / "model")
    _use_saved_model(output_dir, dataset["test"][0])
    return scores


def _train(
    dataset: SegmentationDataset,
    settings: DemoSettings,
    weights: str | Path | None,
    use_distributions: bool,
    name: str,
) -> CMDLForSemanticSegmentation:
    """Train one of the two networks; both start from the same seed and see the same crops."""
    set_seed(settings.args.seed)
    config = CMDLConfig(
        id2label=dataset.id2label,
        palette=dataset.palette,
        backbone_config=settings.backbone_config,
        backbone_kwargs=settings.backbone_kwargs,
        hidden_size=256,
        attention_size=128,
        use_distributions=use_distributions,
    )
    model = CMDLForSemanticSegmentation(config)
    if weights is not None:
        model.load_backbone_weights(weights)
    transform = TrainTransform(settings.crop_size, resize=settings.resize)
    train(model, dataset["train"], transform, settings.args, description=f"{name}: training")
    return model


def _use_saved_model(output_dir: Path, sample: Mapping[str, Any]) -> None:
    """Do what a user does with the folder: load it by name, segment an image, look at the distributions."""
    folder, image = output_dir / "model", sample["image"]
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    segments = pipeline("image-segmentation", model=model, image_processor=processor, trust_remote_code=False)(image)
    print(f"pipeline found {', '.join(segment['label'] for segment in segments)}")

    with torch.no_grad():
        output = model(**processor(image, return_tensors="pt"), output_distributions=True)
    target_size = (image.height, image.width)
    (prediction,) = processor.post_process_semantic_segmentation(output, target_sizes=[target_size])
    draw_prediction(
        image,
        sample["label"],
        prediction,
        output.distribution_ids[0],
        model.config.id2label,
        model.config.palette,
        output_dir / "prediction.png",
        num_distributions=model.config.num_distributions,
    )
    print(f"model: {folder}\npicture: {output_dir / 'prediction.png'}")


def _format_scores(scores: Mapping[str, Mapping[str, Any]], id2label: Mapping[int, str]) -> str:
    """Lay the scores of the networks out side by side."""
    columns = "".join(f"{name:>12}" for name in scores)
    lines = [f"{'':<24}{columns}"]
    for key, label in (("mean_iou", "mean IoU %"), ("overall_accuracy", "pixel accuracy %")):
        lines.append(f"{label:<24}" + "".join(f"{100 * row[key]:12.1f}" for row in scores.values()))
    lines.append(f"{'training seconds':<24}" + "".join(f"{row['seconds']:12.0f}" for row in scores.values()))
    for index, name in id2label.items():
        lines.append(
            f"  {name:<22}" + "".join(f"{100 * row['per_class_iou'][index]:12.1f}" for row in scores.values())
        )
    return "\n".join(lines)
