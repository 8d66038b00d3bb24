"""Segmentation scores of a whole data set, computed from one confusion matrix.

Reference: "The Cityscapes Dataset for Semantic Urban Scene Understanding" (arXiv 1604.01685). As in its evaluation,
void pixels are not counted, whatever the prediction.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor


class SegmentationMetrics:
    """Intersection over union, accuracy and Dice of a whole data set, from one K×K confusion matrix.

    Pixels are counted batch by batch on the device of the predictions. Predictions are never stored or gathered. A
    class that is neither in the labels nor in the predictions scores nan and is left out of the means.

    Args:
        num_labels (`int`): Number of classes K.
        ignore_index (`int`): Label of void pixels, which are not counted.
        device (`torch.device` or `str`, *optional*): Device of the counts. By default, that of the predictions.

    Shape:
        - `confusion_matrix`: (K, K), int64, pixels of this process by label (row) and prediction (column).

    Note:
        In a process group, `compute` sums over the processes, so every process must call it. Every sample must be
        counted by exactly one process: the loader must not drop or repeat samples (accelerate: `even_batches=False`).

    Example:
        ```python
        metrics = SegmentationMetrics(num_labels=19)
        for batch in loader:
            metrics.update(predict(batch["pixel_values"]), batch["labels"])
        print(metrics.compute()["mean_iou"])
        ```
    """

    def __init__(self, num_labels: int, ignore_index: int = 255, device: torch.device | str | None = None) -> None:
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, found {num_labels}; pass the model's config.num_labels")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Delete all counts."""
        self.confusion_matrix = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64, device=self.device)

    @torch.no_grad()
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count one batch, or one image.

        Args:
            predictions (`Tensor` of any shape, integer): Predicted classes in 0..K-1. Void pixels may have any value.
            labels (`Tensor` of the same shape, integer): True classes in 0..K-1, or `ignore_index`.

        Raises:
            TypeError: If one of them is not of an integer type.
            ValueError: If the shapes differ or an id lies outside its range.
        """
        _check_pair(predictions, labels)
        K = self.num_labels
        predictions = predictions.flatten().long()
        labels = labels.flatten().to(predictions.device).long()
        is_void = labels == self.ignore_index
        is_unknown = (predictions < 0) | (predictions >= K) | (labels < 0) | (labels >= K)
        if (is_unknown & ~is_void).any():
            raise ValueError(self._describe_unknown_ids(predictions[~is_void], labels[~is_void]))

        # Void pixels are counted in an extra bin. This takes a third of the time of selecting the other pixels.
        cells = torch.where(is_void, K * K, torch.add(predictions, labels, alpha=K))
        counts = torch.bincount(cells, minlength=K * K + 1)[:-1].view(K, K)
        target = counts.device if self.device is None else self.device
        self.confusion_matrix = self.confusion_matrix.to(target) + counts.to(target)

    def compute(self) -> dict[str, float | list[float]]:
        """Score all pixels that all processes have counted since the last `reset`. Counting can continue afterwards.

        Returns:
            `dict` of Python floats in [0, 1], or nan if there are no pixels to count:
                - `mean_iou`, `per_class_iou` (K values): tp / (tp + fp + fn);
                - `mean_accuracy`, `per_class_accuracy`: tp / (tp + fn), of the classes in the labels;
                - `overall_accuracy`: correct pixels / pixels;
                - `frequency_weighted_iou`: IoU weighted by the classes' shares of the labels;
                - `mean_dice`, `per_class_dice`: 2 tp / (2 tp + fp + fn).
        """
        matrix = _sum_over_processes(self.confusion_matrix).cpu().double()
        correct, in_labels, in_predictions = matrix.diagonal(), matrix.sum(dim=1), matrix.sum(dim=0)
        iou = correct / (in_labels + in_predictions - correct)
        accuracy = torch.where(in_labels > 0, correct / in_labels, math.nan)
        dice = 2 * correct / (in_labels + in_predictions)
        num_pixels = in_labels.sum()
        return {
            "mean_iou": iou.nanmean().item(),
            "per_class_iou": iou.tolist(),
            "mean_accuracy": accuracy.nanmean().item(),
            "per_class_accuracy": accuracy.tolist(),
            "overall_accuracy": (correct.sum() / num_pixels).item(),
            "frequency_weighted_iou": ((in_labels * iou).nansum() / num_pixels).item(),
            "mean_dice": dice.nanmean().item(),
            "per_class_dice": dice.tolist(),
        }

    def _describe_unknown_ids(self, predictions: Tensor, labels: Tensor) -> str:
        """Make the error message for ids outside 0..K-1. Void pixels are already removed."""
        K = self.num_labels
        unknown = labels[(labels < 0) | (labels >= K)]
        rule = f"labels must lie in 0..{K - 1} or be {self.ignore_index} (void)"
        cure = "map the data set's raw ids to train ids, or raise num_labels"
        if len(unknown) == 0:
            unknown = predictions[(predictions < 0) | (predictions >= K)]
            rule = f"predictions must lie in 0..{K - 1}"
            cure = "num_labels must be the number of classes that the model predicts"
        found = ", ".join(map(str, unknown.unique()[:8].tolist()))
        return f"{rule}, found {found} on {len(unknown)} pixels; {cure}"


def _check_pair(predictions: Tensor, labels: Tensor) -> None:
    """Check that both are integer tensors of the same shape."""
    for name, ids in (("predictions", predictions), ("labels", labels)):
        if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
            raise TypeError(
                f"{name} must hold integer class ids, found {ids.dtype} of shape {tuple(ids.shape)}; "
                "use logits.argmax(dim=1) for scores, .long() for a mask"
            )
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions and labels must have one shape, found {tuple(predictions.shape)} and {tuple(labels.shape)}; "
            "resize the logits to the labels' size before the argmax"
        )


def _sum_over_processes(counts: Tensor) -> Tensor:
    """Return the sum of `counts` over all processes. `counts` itself is not changed."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return counts
    # A process without batches has its counts on the CPU, but NCCL works only on the accelerator.
    is_on_cpu = dist.get_backend() == "gloo" or not torch.accelerator.is_available()
    device = torch.device("cpu") if is_on_cpu else torch.accelerator.current_accelerator()
    total = counts.to(device, copy=True)
    dist.all_reduce(total)
    return total
