"""Distribution learning: pixel embeddings, their losses, and the update of the memory bank.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .assignment_cmdl import AssignmentRule
from .context_cmdl import ConvNormReLU
from .cross_entropy_cmdl import image_size_cross_entropy
from .losses_cmdl import (
    class_margin_loss,
    class_margin_reference,
    compare_with_distributions,
    mean_over_classes,
)
from .memory_cmdl import CMDLMemoryBank
from .similarity_cmdl import cosine_similarity

ContrastTarget = Literal["all", "assigned"]


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm that computes in float32, also if its weights have another dtype."""

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Normalise the last dimension of a float32 tensor."""
        return F.layer_norm(hidden_state, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class CMDLProjectionHead(nn.Module):
    """Projection of pixel features to the embedding space of the distributions.

    Args:
        hidden_size (`int`): Channels C.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            ConvNormReLU(hidden_size, hidden_size, bias=True), nn.Conv2d(hidden_size, hidden_size, 1)
        )
        self.embedding_norm = Float32LayerNorm(hidden_size)

    def forward(self, pixel_features: Tensor) -> Tensor:
        """Project (B, C, h, w); returns unit-length, float32 `pixel_embeddings` (N, C), N = B·h·w."""
        projected = self.projection(pixel_features)
        with torch.autocast(projected.device.type, enabled=False):
            projected = F.normalize(projected.float(), dim=1)
            embeddings = projected.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, h, w) -> (N, C)
            return F.normalize(self.embedding_norm(embeddings), dim=-1)


def labels_on_grid(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Resize labels (B, H, W) to the feature grid by nearest neighbour; returns (B, h, w) for size = (h, w)."""
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest").squeeze(1).long()


class DistributionComparison(NamedTuple):
    """Pixels compared with the distributions, see `CMDLDistributionLearning.compare`.

    Args:
        pixel_embeddings (`Tensor` of shape (N, C)): Embeddings of unit length.
        similarity (`Tensor` of shape (N, K, M)): Cosine of each pixel to each distribution.
        nearest (`Tensor` of shape (N, K)): Maxima of the cosines over M.
        contrasts (`Tensor` of shape (N,), *optional*): Contrast of each pixel. With labels only.
        assigned_ids (`Tensor` of shape (N,), int64, *optional*): Distribution that each pixel is assigned to. With
            labels and `contrast_target="assigned"` only.
    """

    pixel_embeddings: Tensor
    similarity: Tensor
    nearest: Tensor
    contrasts: Tensor | None = None
    assigned_ids: Tensor | None = None


class DistributionLearningOutput(NamedTuple):
    """Output of `CMDLDistributionLearning`: losses times their weights, embeddings and similarities."""

    losses: dict[str, Tensor]
    pixel_embeddings: Tensor
    similarity: Tensor


class CMDLDistributionLearning(nn.Module):
    """Multiple distributions learning: the losses of the embeddings, and the update of the memory bank.

    A loss of weight 0 is not computed.

    Args:
        num_labels (`int`): Number of classes K.
        hidden_size (`int`): Channels C.
        prototype_loss_weight (`float`): Weight of the cross-entropy over the nearest prototypes. It is an unweighted
            mean over the pixels.
        contrastive_loss_weight (`float`): Weight of the pixel-to-distribution contrast.
        class_margin_loss_weight (`float`): Weight of the class margin.
        contrastive_temperature (`float`): Temperature of the contrast.
        contrast_target (`str`): Target of the contrast: `"all"` distributions of the pixel's class, or the
            `"assigned"` one.
        intra_class_negative_weight (`float`): With `"assigned"`: weight of the class's other distributions among the
            negatives, see `compare_with_distributions`.
        use_class_margin_reference (`bool`): Report the margin of the reference, a constant, instead of ours.
        ignore_index (`int`): Label of void pixels, which are ignored.

    Note:
        The contrast of the reference draws a pixel to all distributions of its class. Its optimum is one point, so it
        makes the distributions equal. `"assigned"` draws the pixel to one of them.
    """

    def __init__(
        self,
        num_labels: int,
        hidden_size: int,
        prototype_loss_weight: float = 0.01,
        contrastive_loss_weight: float = 0.2,
        class_margin_loss_weight: float = 0.01,
        contrastive_temperature: float = 0.1,
        contrast_target: ContrastTarget = "all",
        intra_class_negative_weight: float = 0.0,
        use_class_margin_reference: bool = False,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.prototype_loss_weight = prototype_loss_weight
        self.contrastive_loss_weight = contrastive_loss_weight
        self.class_margin_loss_weight = class_margin_loss_weight
        self.contrastive_temperature = contrastive_temperature
        self.contrast_target = contrast_target
        self.intra_class_negative_weight = intra_class_negative_weight
        self.use_class_margin_reference = use_class_margin_reference
        self.ignore_index = ignore_index
        self.projection_head = CMDLProjectionHead(hidden_size)
        self.prototype_norm = Float32LayerNorm(num_labels)

    def compare(
        self,
        pixel_features: Tensor,
        memory_bank: CMDLMemoryBank,
        labels: Tensor | None = None,
        prototypes: Tensor | None = None,
    ) -> DistributionComparison:
        """Embed the pixels, and compare them with the distributions.

        Args:
            pixel_features (`Tensor` of shape (B, C, h, w)): Pixel representation.
            memory_bank (`CMDLMemoryBank`): The memory bank.
            labels (`Tensor` of shape (B, H, W), int64, *optional*): Classes at image size, for the contrast. In
                training all processes of a process group must then call this.
            prototypes (`Tensor` of shape (K, M, C), *optional*): Result of `memory_bank.read`; by default the present
                prototypes.

        Returns:
            `DistributionComparison`.
        """
        embeddings = self.projection_head(pixel_features)
        directions = memory_bank.directions(memory_bank() if prototypes is None else prototypes)
        if labels is None:
            similarity = cosine_similarity(embeddings, directions)
            return DistributionComparison(embeddings, similarity, similarity.amax(dim=2))
        with torch.autocast(embeddings.device.type, enabled=False):
            comparison = compare_with_distributions(
                embeddings,
                directions,
                labels_on_grid(labels, pixel_features.shape[-2:]).flatten(),
                self.contrastive_temperature,
                self._assignment_rule(memory_bank),
                self.intra_class_negative_weight,
                across_processes=self.training,  # in eval mode, a process may compute a loss alone
            )
        return DistributionComparison(embeddings, *comparison)

    def _assignment_rule(self, memory_bank: CMDLMemoryBank) -> AssignmentRule | None:
        """Return how the pixels of the contrast are assigned to distributions, or None if they are not."""
        if self.contrast_target == "all":
            return None
        if self.contrast_target == "assigned":
            return memory_bank.rule
        assert_never(self.contrast_target)

    def forward(
        self,
        pixel_features: Tensor,
        labels: Tensor,
        memory_bank: CMDLMemoryBank,
        comparison: DistributionComparison | None = None,
    ) -> DistributionLearningOutput:
        """Compute the losses and, in training, update the memory bank.

        Args:
            pixel_features (`Tensor` of shape (B, C, h, w)): Pixel representation.
            labels (`Tensor` of shape (B, H, W), int64): Classes at image size.
            memory_bank (`CMDLMemoryBank`): The memory bank. It is updated in place after the losses of the pixels.
            comparison (`DistributionComparison`, *optional*): Result of `compare` with the same labels, if there is
                one already.

        Returns:
            `DistributionLearningOutput`: losses by name, each times its weight; `pixel_embeddings` (N, C);
            `similarity` (N, K, M).

        Note:
            Similarities, assignment and losses are float32 also under autocast, because exp(20) overflows half
            precision. The class margin uses the prototypes after the update, as in the reference. In training every
            mean is over the pixels of all processes of a process group, so all processes must call this. In eval mode
            every process computes its own means.
        """
        across_processes = self.training  # in eval mode, a process may compute a loss alone
        batch_size, _, *grid = pixel_features.shape
        if comparison is None:
            comparison = self.compare(pixel_features, memory_bank, labels)
        embeddings, similarity, nearest, contrasts, assigned_ids = comparison
        losses: dict[str, Tensor] = {}
        with torch.autocast(embeddings.device.type, enabled=False):
            grid_labels = labels_on_grid(labels, grid).flatten()
            prototype_logits = self.prototype_norm(nearest)  # (N, K)
            if self.prototype_loss_weight:
                grid_logits = prototype_logits.unflatten(0, (batch_size, *grid)).permute(0, 3, 1, 2)
                loss = image_size_cross_entropy(grid_logits, labels, self.ignore_index, True, across_processes)
                losses["prototype_loss"] = self.prototype_loss_weight * loss
            if self.contrastive_loss_weight:
                assert contrasts is not None
                loss = mean_over_classes(contrasts, grid_labels, nearest.shape[1], across_processes)
                losses["contrastive_loss"] = self.contrastive_loss_weight * loss
            if self.training:
                is_correct = prototype_logits.argmax(dim=1) == grid_labels
                memory_bank(embeddings, similarity, grid_labels, is_correct, assigned_ids)
            if self.class_margin_loss_weight:
                prototypes = memory_bank().detach().clone()
                if self.use_class_margin_reference:
                    name, loss = "class_margin_reference", class_margin_reference(prototypes)
                else:
                    name = "class_margin_loss"
                    loss = class_margin_loss(embeddings, grid_labels, prototypes, across_processes)
                losses[name] = self.class_margin_loss_weight * loss
        return DistributionLearningOutput(losses, embeddings, similarity)
