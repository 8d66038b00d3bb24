"""Streamed confusion matrix against the histograms of `evaluate`'s mean_iou on whole Cityscapes-sized images.

    python benchmarks/metrics.py [--rounds 15] [--num-labels 19 150 171] [--device cuda]

An image is 2048×1024 int64 predictions as argmax leaves them and int64 labels with 10 % void. Both run in turn in one
process and are checked to count the same; the table shows medians and quartiles of the rounds. Histograms run on
the CPU, so on a GPU their time includes the copy there. Last, how far memory grows over 50 images.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
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


def measure(num_labels: int, device: str, num_rounds: int) -> tuple[list[float], list[float]]:
    """Time one image with histograms and with the matrix, in milliseconds of every round."""
    predictions, labels = make_image(num_labels, device)
    metrics = SegmentationMetrics(num_labels)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(num_rounds + 1):
        start = time.perf_counter()
        intersection, union = histograms(predictions, labels, num_labels)
        times[0].append((time.perf_counter() - start) * 1e3)
        metrics.reset()
        start = time.perf_counter()
        metrics.update(predictions, labels)
        matrix = metrics.confusion_matrix.cpu()  # waits for the device
        times[1].append((time.perf_counter() - start) * 1e3)
        assert matrix.diagonal().tolist() == intersection.tolist()
        assert (matrix.sum(0) + matrix.sum(1) - matrix.diagonal()).tolist() == union.tolist()
    return times[0][1:], times[1][1:]


def memory_growth(num_labels: int, device: str) -> float:
    """Growth of the peak memory over 50 images, in MiB."""
    predictions, labels = make_image(num_labels, device)
    metrics = SegmentationMetrics(num_labels)
    metrics.update(predictions, labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(50):
        metrics.update(predictions, labels)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024


def summarize(values: list[float]) -> str:
    """Word the median and the quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.3g} ({low:.3g}-{high:.3g})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--num-labels", type=int, nargs="+", default=[19, 150, 171])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"{'K':6}{'histograms, ms':>24}{'matrix, ms':>24}{'ratio':>24}")
    for num_labels in arguments.num_labels:
        slow, fast = measure(num_labels, arguments.device, arguments.rounds)
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        print(f"{num_labels:<6}{summarize(slow):>24}{summarize(fast):>24}{summarize(ratios):>24}")
    growth = memory_growth(arguments.num_labels[0], arguments.device)
    print(f"peak memory of the host over 50 more images: +{growth:.1f} MiB")


if __name__ == "__main__":
    main()
