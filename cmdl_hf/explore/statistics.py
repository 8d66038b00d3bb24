"""What the distributions of a memory bank stand for in a data set: counts and examples, gathered image by image."""

from typing import NamedTuple

import torch
from torch import Tensor

NUM_BINS = 400
"""Bins of the histogram of outlier scores, which lie in [0, 2]."""


class Cell(NamedTuple):
    """A pixel of the feature grid of an image.

    Args:
        image (`int`): Index of the image.
        row (`int`): Row on the grid.
        column (`int`): Column on the grid.
        grid (`tuple[int, int]`): Height and width of the grid.
        similarity (`float`): Cosine of the pixel to the distribution it stands for.
    """

    image: int
    row: int
    column: int
    grid: tuple[int, int]
    similarity: float


class PixelSample(NamedTuple):
    """Pixels drawn at random, as many of every class as there are, up to a limit.

    Args:
        pixel_embeddings (`Tensor` of shape (N, C)): Unit length.
        labels (`Tensor` of shape (N,), int64): True classes, ascending.
    """

    pixel_embeddings: Tensor
    labels: Tensor


class DistributionStatistics:
    """Figures of K·M distributions over a stream of images; memory does not grow with the stream.

    A labelled pixel *belongs* to the distribution of its true class that it is most similar to. Its *nearest*
    distribution is the most similar of those of all classes.

    Args:
        num_labels (`int`): Number of classes K.
        num_distributions (`int`): Distributions M of a class.
        num_examples (`int`): Most similar pixels to keep for each distribution, each of another image.
        num_sampled (`int`): Pixels of each class to keep embeddings of.
        seed (`int`): Of the sample.
        device (`torch.device` or `str`): Where the figures are kept, and the pixels come from.

    Shape:
        - `num_pixels`: (K, M), int64, pixels that belong to each distribution.
        - `num_images`: (K, M), int64, images with such a pixel.
        - `similarity_sums`: (K, M), float64, sums of their similarities.
        - `num_nearest`: (K, M, K), int64, pixels of each true class (last) whose nearest distribution this is.
        - `outlier_histogram`: (NUM_BINS,), int64, outlier scores of all pixels, without a label too.
    """

    def __init__(
        self,
        num_labels: int,
        num_distributions: int,
        num_examples: int = 8,
        num_sampled: int = 200,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        K, M = num_labels, num_distributions
        self.num_labels, self.num_distributions, self.num_sampled = K, M, num_sampled
        self.num_pixels = torch.zeros(K, M, dtype=torch.int64, device=device)
        self.num_images = torch.zeros_like(self.num_pixels)
        self.similarity_sums = torch.zeros(K, M, dtype=torch.float64, device=device)
        self.num_nearest = torch.zeros(K, M, K, dtype=torch.int64, device=device)
        self.outlier_histogram = torch.zeros(NUM_BINS, dtype=torch.int64, device=device)
        self._scores = torch.full((K * M, num_examples), -torch.inf, device=device)
        self._places = torch.zeros(K * M, num_examples, 5, dtype=torch.int64, device=device)
        self._keys: Tensor | None = None
        self._embeddings = self._labels = torch.empty(0)
        self._generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def update(
        self, pixel_embeddings: Tensor, similarity: Tensor, labels: Tensor, grid: tuple[int, int], image: int
    ) -> Tensor:
        """Take one image in.

        Args:
            pixel_embeddings (`Tensor` of shape (N, C)): Unit length; N = h·w.
            similarity (`Tensor` of shape (N, K, M)): Cosines to the distributions.
            labels (`Tensor` of shape (N,), int64): True classes in 0..K-1; any other value is no label.
            grid (`tuple[int, int]`): Height h and width w of the feature grid.
            image (`int`): Index of the image.

        Returns:
            `Tensor` of shape (N,): outlier score of each pixel, one minus its similarity to its nearest distribution.

        Raises:
            ValueError: if a similarity is not finite.
        """
        K, M = self.num_labels, self.num_distributions
        best_of_class, best_ids = similarity.float().max(dim=2)  # (N, K)
        best, nearest_class = best_of_class.max(dim=1)
        if not bool(best.isfinite().all()):
            raise ValueError(
                f"similarities must be finite, found nan or inf in image {image}; the model's weights or this image "
                "hold values that are not finite"
            )
        bins = ((1 - best) * (NUM_BINS / 2)).long().clamp(0, NUM_BINS - 1)
        self.outlier_histogram += bins.bincount(minlength=NUM_BINS)

        (pixels,) = ((labels >= 0) & (labels < K)).nonzero(as_tuple=True)
        classes = labels[pixels]
        own = best_of_class[pixels, classes]
        slots = classes * M + best_ids[pixels, classes]
        counts = slots.bincount(minlength=K * M).view(K, M)
        self.num_pixels += counts
        self.num_images += counts > 0
        self.similarity_sums += slots.bincount(own.double(), K * M).view(K, M)
        nearest_slots = nearest_class[pixels] * M + best_ids[pixels, nearest_class[pixels]]
        self.num_nearest += (nearest_slots * K + classes).bincount(minlength=K * M * K).view(K, M, K)
        self._keep_examples(own, slots, pixels, grid, image)
        self._sample(pixel_embeddings[pixels], classes)
        return 1 - best

    def _keep_examples(self, own: Tensor, slots: Tensor, pixels: Tensor, grid: tuple[int, int], image: int) -> None:
        """Let the most similar pixel of each distribution compete with those of earlier images."""
        highest = own.new_full((len(self._scores),), -torch.inf).scatter_reduce_(0, slots, own, "amax")
        order = torch.where(own == highest[slots], pixels, grid[0] * grid[1])
        first = order.new_full((len(self._scores),), grid[0] * grid[1]).scatter_reduce_(0, slots, order, "amin")
        place = first.new_tensor([image, 0, 0, *grid]).repeat(len(first), 1)
        place[:, 1], place[:, 2] = first // grid[1], first % grid[1]
        scores = torch.cat([self._scores, highest[:, None]], dim=1)
        places = torch.cat([self._places, place[:, None]], dim=1)
        self._scores, kept = scores.topk(self._scores.shape[1], dim=1)
        self._places = places.gather(1, kept[..., None].expand(-1, -1, places.shape[2]))

    def _sample(self, embeddings: Tensor, classes: Tensor) -> None:
        """Keep the pixels of each class that drew the lowest of random keys: all of the stream are equally likely."""
        keys = torch.rand(len(classes), generator=self._generator).to(embeddings.device)
        if self._keys is not None:
            keys, classes = torch.cat([self._keys, keys]), torch.cat([self._labels, classes])
        order = keys.argsort()
        order = order[classes[order].argsort(stable=True)]  # by class, then by key
        counts = classes.bincount(minlength=self.num_labels)
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(order), device=order.device) - starts[classes[order]]
        kept = order[rank < self.num_sampled]
        num_old = 0 if self._keys is None else len(self._keys)
        new = embeddings.new_empty(len(kept), embeddings.shape[1], dtype=torch.float32)
        is_old = kept < num_old
        if num_old:
            new[is_old] = self._embeddings[kept[is_old]]
        new[~is_old] = embeddings[kept[~is_old] - num_old].float()
        self._keys, self._labels, self._embeddings = keys[kept], classes[kept], new

    @property
    def share(self) -> Tensor:
        """Share of a class's pixels that belong to each of its distributions, nan for a class without (K, M)."""
        return self.num_pixels / self.num_pixels.sum(dim=1, keepdim=True)

    @property
    def purity(self) -> Tensor:
        """Of the pixels whose nearest distribution this is, the share of its class; nan where none is (K, M)."""
        own = self.num_nearest.diagonal(dim1=0, dim2=2).transpose(0, 1)  # (M, K) -> (K, M)
        return own / self.num_nearest.sum(dim=2)

    @property
    def mean_similarity(self) -> Tensor:
        """Mean similarity of the pixels that belong to each distribution, nan where there are none (K, M)."""
        return self.similarity_sums / self.num_pixels

    @property
    def class_recall(self) -> Tensor:
        """Share of a class's pixels whose nearest distribution is one of the class (K,)."""
        own = self.num_nearest.diagonal(dim1=0, dim2=2).sum(dim=0)
        return own / self.num_nearest.sum(dim=(0, 1))

    @property
    def num_used(self) -> Tensor:
        """How many distributions a class uses: exp of the entropy of their shares, nan without pixels (K,)."""
        share = self.share
        return torch.where(share > 0, -share * share.log(), share * 0).sum(dim=1).exp()

    @property
    def examples(self) -> list[list[list[Cell]]]:
        """Pixels most similar to each distribution among those that belong to it, K lists of M, the nearest first."""
        M = self.num_distributions
        rows = [
            [
                Cell(image, row, column, (height, width), score)
                for score, (image, row, column, height, width) in zip(scores, places, strict=True)
                if score > -torch.inf
            ]
            for scores, places in zip(self._scores.tolist(), self._places.tolist(), strict=True)
        ]
        return [rows[start : start + M] for start in range(0, len(rows), M)]

    @property
    def sample(self) -> PixelSample:
        """The pixels whose embeddings were kept."""
        return PixelSample(self._embeddings, self._labels)

    def outlier_quantile(self, share: float) -> float:
        """The outlier score below which a share of all pixels lies, to 1/200."""
        below = self.outlier_histogram.cumsum(0) >= share * self.outlier_histogram.sum()
        return (int(below.long().argmax()) + 1) * 2 / NUM_BINS
