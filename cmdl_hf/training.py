"""The training loop, on accelerate."""

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed, tqdm
from torch import nn, optim
from torch.utils.data import DataLoader
from transformers import get_polynomial_decay_schedule_with_warmup

from .data.transforms import TrainTransform
from .models import CMDLForSemanticSegmentation
from .training_args import CMDLTrainingArguments


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
