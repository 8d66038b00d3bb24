"""Streamed confusion matrix against the histograms of `evaluate`'s mean_iou on whole Cityscapes-sized images.

    python benchmarks/metrics.py [--repetitions 15] [--num-labels 19 150 171] [--device cuda]

An image is 2048×1024 int64 predictions as argmax leaves them and int64 labels with 10 % void. Both run in turn in one
process and are checked to count the same. Histograms run on the CPU, so on a GPU their time includes the copy there.
Last, how far memory grows over 50 images.
"""

import argparse
import resource

import numpy as np
import torch
import torch.nn.functional as F
from measuring import ratios, summarize, time_in_turn
from torch import Tensor

from cmdl_hf.metrics import SegmentationMetrics

SIZE = (1024, 2048)


def make_image(num_labels: int, device: str) -> tuple[Tensor, Tensor]:
    """Draw patches of classes, labels with void pixels and predictions that are right on 80 % of the patches."""
    generator = torch.Generator().manual_seed(0)
    truth, guess = torch.randint(num_labels, (2, 1, 1, 64, 128), generator=generator)
    patches = torch.where(torch.rand(truth.shape, generator=generator) < 0.8, truth, guess)
    predictions, labels = (F.interpolate(ids.double(), SIZE).long()[0, 0] for ids in (patches, truth))
    labels[: SIZE[0] // 10] = 255
    return predictions.to(device), labels.to(device)


def histograms(predictions: Tensor, labels: Tensor, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return intersections and unions the way `evaluate`'s mean_iou counts them, for the pixels that are not void."""
    predicted, true = predictions.cpu().numpy(), labels.cpu().numpy()
    is_valid = true != 255
    predicted, true = predicted[is_valid], true[is_valid]
    bins = {"bins": num_labels, "range": (0, num_labels - 1)}
    intersection = np.histogram(predicted[predicted == true], **bins)[0]
    return intersection, np.histogram(predicted, **bins)[0] + np.histogram(true, **bins)[0] - intersection


def measure(num_labels: int, device: str, repetitions: int) -> dict[str, list[float]]:
    """Time one image with histograms and with the matrix, in milliseconds of every turn."""
    predictions, labels = make_image(num_labels, device)
    metrics = SegmentationMetrics(num_labels)

    def matrix() -> Tensor:
        metrics.reset()
        metrics.update(predictions, labels)
        return metrics.confusion_matrix.cpu()  # waits for the device, so that a clock will do

    counts, (intersection, union) = matrix(), histograms(predictions, labels, num_labels)
    assert counts.diagonal().tolist() == intersection.tolist()
    assert (counts.sum(0) + counts.sum(1) - counts.diagonal()).tolist() == union.tolist()
    steps = {"histograms": lambda: histograms(predictions, labels, num_labels), "matrix": matrix}
    return time_in_turn(steps, repetitions, "cpu")


def memory_growth(num_labels: int, device: str) -> float:
    """Growth of the peak memory over 50 images, in MiB."""
    predictions, labels = make_image(num_labels, device)
    metrics = SegmentationMetrics(num_labels)
    metrics.update(predictions, labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(50):
        metrics.update(predictions, labels)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--num-labels", type=int, nargs="+", default=[19, 150, 171])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print("| K | histograms ms | matrix ms | ratio |\n|---|---|---|---|")
    for num_labels in args.num_labels:
        times = measure(num_labels, args.device, args.repetitions)
        cells = [*times.values(), ratios(times, "histograms", "matrix")]
        print(f"| {num_labels} | {' | '.join(map(summarize, cells))} |", flush=True)
    growth = memory_growth(args.num_labels[0], args.device)
    print(f"\npeak memory of the host over 50 more images: +{growth:.1f} MiB")


if __name__ == "__main__":
    main()
