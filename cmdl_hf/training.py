"""The training loop, on accelerate, and the run around it: data, model, scores, a folder that loads by name."""

import json
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed, tqdm
from torch import nn, optim
from torch.utils.data import DataLoader
from transformers import get_polynomial_decay_schedule_with_warmup

from .data.transforms import EvalTransform, TrainTransform
from .evaluation import evaluate
from .models import CMDLForSemanticSegmentation, make_image_processor
from .recipes import load_data, make_model
from .training_args import CMDLTrainingArguments


def run(
    args: CMDLTrainingArguments,
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    id2label: str | Path | None = None,
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Train, score on the validation and test splits there are, and save model, processor and scores.

    Args:
        args (`CMDLTrainingArguments`): The recipe.
        output_dir (`str` or `Path`): Folder for the model, which `from_pretrained` loads; new or empty.
        data_dir (`str` or `Path`, *optional*): See `load_data`.
        id2label (`str` or `Path`, *optional*): See `load_data`.
        weights (`str` or `Path`, *optional*): See `make_model`.

    Returns:
        Scores by split, as `evaluate` returns them.

    Raises:
        FileExistsError: if `output_dir` holds files.
        NotADirectoryError: if `output_dir` is a file.
        ValueError: if timm cannot build the backbone, there is nothing to train on, or there are several processes.
    """
    if PartialState().num_processes > 1:
        raise ValueError("scoring and saving work in one process only so far; start it without a launcher")
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise NotADirectoryError(f"{output_dir} is a file; name a new folder with --output-dir")
    if output_dir.is_dir() and any(output_dir.iterdir()):
        raise FileExistsError(f"{output_dir} is not empty; name a new folder with --output-dir")
    dataset = load_data(args, data_dir, id2label)
    if "train" not in dataset:
        raise ValueError(f"{data_dir} has no train split, only {', '.join(dataset)}")
    model = make_model(args, dataset, weights)
    transform = TrainTransform(args.crop_size, args.scale_range, args.resize)
    output_dir.mkdir(parents=True, exist_ok=True)  # before hours of training, not after
    train(model, dataset["train"], transform, args)
    save(model, output_dir, args)
    scores = {
        split: evaluate(
            model, dataset[split], EvalTransform(args.resize), dataset.num_labels, description=f"Scoring {split}"
        )
        for split in ("validation", "test")
        if split in dataset and dataset[split][0]["label"] is not None
    }
    (output_dir / "scores.json").write_text(json.dumps(scores, indent=2))
    return scores


def save(model: CMDLForSemanticSegmentation, output_dir: str | Path, args: CMDLTrainingArguments) -> None:
    """Save a model with the image processor that fits its recipe."""
    size = args.resize and {"shortest_edge": args.resize[0], "longest_edge": args.resize[1]}
    model.save_pretrained(output_dir)
    make_image_processor(size).save_pretrained(output_dir)


def train(
    model: CMDLForSemanticSegmentation,
    dataset: datasets.Dataset,
    transform: TrainTransform,
    args: CMDLTrainingArguments,
    description: str = "Training",
) -> list[dict[str, float]]:
    """Train a model in place.

    Args:
        model (`CMDLForSemanticSegmentation`): The model, moved to the device that accelerate chooses.
        dataset (`datasets.Dataset`): With the columns `image` and `label`.
        transform (`TrainTransform`): How samples become crops.
        args (`CMDLTrainingArguments`): The recipe.
        description (`str`): Text before the progress bar.

    Returns:
        `list[dict]`: a row for every step: `step`, `learning_rate`, `loss` and the losses by name.

    Raises:
        ValueError: if the data set has fewer images than a batch, or the processes cannot share a batch equally.
    """
    accelerator = Accelerator()
    if args.total_batch_size % accelerator.num_processes:
        raise ValueError(
            f"total_batch_size={args.total_batch_size} cannot be shared equally by {accelerator.num_processes} "
            "processes; choose a multiple"
        )
    if len(dataset) < args.total_batch_size:
        raise ValueError(
            f"the data set has {len(dataset)} images, fewer than total_batch_size={args.total_batch_size}; lower it"
        )
    set_seed(args.seed)
    loader = DataLoader(
        dataset.with_transform(transform),
        batch_size=args.total_batch_size // accelerator.num_processes,
        shuffle=True,
        drop_last=True,
        num_workers=args.num_workers,
        persistent_workers=args.num_workers > 0,
    )
    optimizer = make_optimizer(model, args)
    schedule = get_polynomial_decay_schedule_with_warmup(
        optimizer, 0, args.max_steps, lr_end=args.min_learning_rate, power=args.power
    )
    memory_format = torch.channels_last if args.use_channels_last else torch.contiguous_format
    model.train().to(memory_format=memory_format)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    rows: list[dict[str, float]] = []
    with tqdm(total=args.max_steps, desc=description, unit="step") as progress:
        while len(rows) < args.max_steps:
            for batch in loader:
                pixel_values = batch["pixel_values"].contiguous(memory_format=memory_format)
                output = prepared(pixel_values=pixel_values, labels=batch["labels"])
                accelerator.backward(output.loss)
                optimizer.step()
                optimizer.zero_grad()
                losses = {"loss": output.loss} | output.loss_dict
                rows.append({"step": len(rows) + 1, "learning_rate": schedule.get_last_lr()[0]})
                rows[-1] |= {name: loss.detach() for name, loss in losses.items()}
                schedule.step()
                progress.update()
                if len(rows) % 10 == 0:  # reading a loss waits for the device
                    progress.set_postfix(loss=f"{float(rows[-1]['loss']):.3f}")
                if len(rows) == args.max_steps:
                    break
    return [{name: float(value) for name, value in row.items()} for row in rows]


def make_optimizer(model: nn.Module, args: CMDLTrainingArguments) -> optim.Optimizer:
    """SGD in which the heads learn faster than the backbone, and norms and biases do not decay.

    Args:
        model (`nn.Module`): With a `backbone`.
        args (`CMDLTrainingArguments`): The recipe.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone."), parameter.dim() > 1), []).append(parameter)
    return optim.SGD(
        [
            {
                "params": parameters,
                "lr": args.learning_rate * (1 if is_backbone else args.head_learning_rate_factor),
                "weight_decay": args.weight_decay * decays,
            }
            for (is_backbone, decays), parameters in groups.items()
        ],
        lr=args.learning_rate,
        momentum=args.momentum,
    )
