"""The demonstration: train a network with and without CMDL, score both, and draw the learned distributions."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
from transformers.utils import logging

from .data import EvalTransform, load_data
from .escaping import MAX_NAME, one_line
from .evaluation import evaluate
from .files import write_text
from .training import CMDLTrainingArguments, make_model, make_transform, save, train
from .visualization import draw_prediction

SYNTHETIC = CMDLTrainingArguments(
    benchmark="synthetic",
    crop_size=(96, 128),
    scale_range=(0.75, 1.5),
    backbone="resnet18",
    hidden_size=256,
    attention_size=128,
    max_steps=100,
    total_batch_size=4,
    optimizer="adamw",  # better than SGD in so few steps
    learning_rate=0.001,
    weight_decay=0.01,
    use_channels_last=True,
    num_workers=1,
)
CAMVID = CMDLTrainingArguments(
    benchmark="camvid",
    crop_size=(180, 240),
    resize=(180, 240),
    backbone="mobilenetv2_100",
    backbone_kwargs={"pad_type": "same"},
    hidden_size=256,
    attention_size=128,
    max_steps=120,
    total_batch_size=8,
    learning_rate=0.02,
    use_channels_last=True,
)


def run_demo(
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Train a plain FCN and CMDL-FCN, score both on the test split, save and re-load CMDL-FCN, and draw a prediction.

    Args:
        output_dir: Folder for `model/`, `prediction.png` and `scores.json`. Existing ones are replaced.
        data_dir: Folder of CamVid. Without it, street scenes are generated.
        weights: safetensors file with timm's ImageNet weights of the backbone. Without it, the backbone starts from
            scratch.
        max_steps: Optimiser steps of each training. Default: the demonstration's own number.

    Returns:
        Scores of both networks by name, as `evaluate` returns them, and the `seconds` of training.
    """
    args = SYNTHETIC if data_dir is None else CAMVID
    args = replace(args, max_steps=args.max_steps if max_steps is None else max_steps)
    print(_announce(args, data_dir), flush=True)
    dataset = load_data(args.benchmark, data_dir)
    scores: dict[str, Any] = {}
    for name, use_distributions in (("plain FCN", False), ("CMDL-FCN", True)):
        # Both networks start from the same seed and see the same images in the same order.
        model = make_model(replace(args, use_distributions=use_distributions), dataset, weights)
        start = time.perf_counter()
        transform = make_transform(args, dataset)
        train(model, dataset["train"], transform, args, description=f"{name}: training")
        seconds = time.perf_counter() - start
        metrics = evaluate(
            model, dataset["test"], EvalTransform(args.resize), dataset.num_labels, description=f"{name}: scoring"
        )
        scores[name] = metrics | {"seconds": seconds}
    print(_format_scores(scores, dataset.id2label))

    output_dir = Path(output_dir)
    save(model, output_dir / "model", args)
    write_text(output_dir / "scores.json", json.dumps(scores, indent=2))
    _use_saved_model(output_dir, dataset["test"][0])
    return scores


def _announce(args: CMDLTrainingArguments, data_dir: str | Path | None) -> str:
    """Say what is trained, and how long that takes."""
    scenes = "generated street scenes" if data_dir is None else f"the images of {data_dir}"
    length = " That takes one to three minutes on two CPU cores." if args == SYNTHETIC else ""
    return f"Training a plain FCN and CMDL-FCN on {scenes}, {args.max_steps} steps each.{length}"


def _use_saved_model(output_dir: Path, sample: Mapping[str, Any]) -> None:
    """Use the folder as a user does: load the model by name, segment an image, draw the distributions."""
    folder, image = output_dir / "model", sample["image"]
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # the pipeline calls every class outside transformers unsupported
    try:
        segment = pipeline("image-segmentation", model=model, image_processor=processor, trust_remote_code=False)
        segments = segment(image)
    finally:
        logging.set_verbosity(verbosity)
    found = ", ".join(one_line(segment["label"], MAX_NAME) for segment in segments)
    print(f"re-loaded: in {one_line(sample['id'])} the pipeline finds {found}")

    with torch.no_grad():
        output = model(**processor(image, return_tensors="pt"), output_distributions=True)
    (prediction,) = processor.post_process_semantic_segmentation(output, target_sizes=[(image.height, image.width)])
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
    print(f"model:     {folder}\npicture:   {output_dir / 'prediction.png'}")


def _format_scores(scores: Mapping[str, Mapping[str, Any]], id2label: Mapping[int, str]) -> str:
    """Format the scores of the networks as a table with one column per network."""
    rows = {label: [100 * score[key] for score in scores.values()] for label, key in _SCORES.items()}
    rows |= {
        f"  {one_line(name, MAX_NAME)}": [100 * score["per_class_iou"][i] for score in scores.values()]
        for i, name in id2label.items()
    }
    lines = [f"{'test split, %':<24}" + "".join(f"{name:>12}" for name in scores)]
    lines += [f"{label:<24}" + "".join(f"{value:12.1f}" for value in values) for label, values in rows.items()]
    lines.append(f"{'training, seconds':<24}" + "".join(f"{score['seconds']:12.0f}" for score in scores.values()))
    return "\n".join(lines)


_SCORES = {"mean IoU": "mean_iou", "pixel accuracy": "overall_accuracy"}
