"""The training loop on a device: images a second, and the share of the time that it waits for data.

    python benchmarks/gpu_loop.py [--device cuda] [--batch-size 8] [--workers 4 12]

A ResNet-50 at output stride 8 with CMDL, 150 classes, crops of 512×512, bf16. First the samples are ready tensors,
which gives the loop's own rate; then JPEG images of 683×512 that are decoded and augmented by the transform of the
papers. The share is one minus the second rate over the first. Needs accelerate and psutil, but neither datasets nor
cyclopts.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from measuring import is_cuda
from PIL import Image
from torch import Tensor

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation


def make_arguments(**settings: Any) -> Any:
    """Make a recipe, also where cyclopts is not installed: it only names the flags of the command line."""
    try:
        import cyclopts  # noqa: F401
    except ImportError:
        stand_in = ModuleType("cyclopts")
        stand_in.Parameter = lambda **_: None  # type: ignore[attr-defined]
        sys.modules["cyclopts"] = stand_in
    from cmdl_hf.training import CMDLTrainingArguments

    return CMDLTrainingArguments(**settings)


class ReadyTensors:
    """Samples of random images with labels in patches; what a training loop needs of a `datasets.Dataset`.

    Args:
        size (`int`): Height and width.
        num_labels (`int`): Number of classes.
        length (`int`): Number of samples.
    """

    column_names = ("pixel_values", "labels")

    def __init__(self, size: int, num_labels: int, length: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, num_labels, (length, size // 16, size // 16), generator=generator)
        self.labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
        self.labels[:, :8] = 255
        self.images = torch.randn(length, 3, size, size, generator=generator)

    def with_transform(self, transform: Callable[..., Any] | None) -> "ReadyTensors":
        """Leave the samples as they are."""
        return self

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class EncodedImages:
    """JPEG images and PNG masks in memory, decoded and transformed when they are read.

    Args:
        size (`tuple[int, int]`): Width and height.
        num_labels (`int`): Number of classes.
        length (`int`): Number of samples.
    """

    column_names = ("image", "label")

    def __init__(self, size: tuple[int, int], num_labels: int, length: int = 16) -> None:
        self.transform: Callable[..., Any] | None = None
        numbers = np.random.default_rng(0)
        self.files = []
        for _ in range(length):
            coarse = Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            mask = Image.fromarray(numbers.integers(0, num_labels, (16, 16), dtype=np.uint8))
            texture = numbers.integers(-20, 20, (size[1], size[0], 3))  # photographs have details, which take time
            pixels = np.clip(np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) + texture, 0, 255)
            pair = Image.fromarray(pixels.astype(np.uint8)), mask.resize(size, Image.Resampling.NEAREST)
            self.files.append([_encode(image, kind) for image, kind in zip(pair, ("JPEG", "PNG"), strict=True)])

    def with_transform(self, transform: Callable[..., Any]) -> "EncodedImages":
        """Set the transform."""
        self.transform = transform
        return self

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, label = (Image.open(io.BytesIO(content)) for content in self.files[index])
        batch = self.transform({"image": [image], "label": [label]})  # type: ignore[misc]
        return {name: column[0] for name, column in batch.items()}


def _encode(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def make_model(args: argparse.Namespace) -> CMDLForSemanticSegmentation:
    """CMDL-FCN with random weights."""
    backbone = {"model_type": "timm_backbone", "backbone": args.backbone, "out_indices": [3, 4], "output_stride": 8}
    return CMDLForSemanticSegmentation(CMDLConfig(num_labels=args.num_labels, backbone_config=backbone))


def measure(data: Any, workers: int, args: argparse.Namespace, **settings: Any) -> tuple[float, dict[str, float]]:
    """Train some steps; returns the rate after the first ones, and the loop's own row."""
    from cmdl_hf.data import TrainTransform
    from cmdl_hf.training import TrainingLoop

    recipe = make_arguments(
        max_steps=args.steps + args.warmups,
        total_batch_size=args.batch_size,
        num_workers=workers,
        mixed_precision="bf16" if is_cuda(args.device) else "no",
        **settings,
    )
    loop = TrainingLoop(make_model(args), data, TrainTransform((args.size, args.size)), recipe)
    loop.advance(args.warmups)
    row = loop.advance(recipe.max_steps)
    loop.close()
    return row["images_per_second"], row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--num-labels", type=int, default=150)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 12])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--warmups", type=int, default=4)
    args = parser.parse_args()
    if is_cuda(args.device):
        print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores", flush=True)
    else:  # small, and accelerate must not choose another device
        os.environ["ACCELERATE_USE_CPU"] = "true"
        args.size, args.num_labels, args.backbone, args.batch_size = 64, 5, "resnet18", 2
        args.steps, args.warmups, args.workers = 2, 1, [1]
    tensors = ReadyTensors(args.size, args.num_labels)
    images = EncodedImages((4 * args.size // 3, args.size), args.num_labels)
    print("\n| samples | workers | images/s | waiting for data | GiB |\n|---|---|---|---|---|", flush=True)
    own_rate, row = measure(tensors, max(args.workers), args)
    print(f"| ready tensors | {max(args.workers)} | {own_rate:.1f} |  | {row['memory_gib']:.2f} |", flush=True)
    for workers in args.workers:
        rate, row = measure(images, workers, args)
        waiting = f"{max(0.0, 100 * (1 - rate / own_rate)):.0f} %"
        print(f"| JPEG images | {workers} | {rate:.1f} | {waiting} | {row['memory_gib']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
