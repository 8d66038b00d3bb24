"""The layers that CMDL adds to any segmenter, their forward pass, and the losses of the heads.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from typing import assert_never

import torch
from torch import Tensor, nn

from .aggregation_cmdl import CMDLSemanticAggregation
from .checks_cmdl import check_labels
from .configuration_cmdl import CMDLConfig
from .context_cmdl import ConvNormReLU
from .cross_entropy_cmdl import weighted_cross_entropy_sums
from .distributions_cmdl import CMDLDistributionLearning, DistributionComparison, DistributionLearningOutput
from .memory_cmdl import CMDLMemoryBank
from .peft_cmdl import PeftMixin
from .processes_cmdl import divide_by_total


class CMDLLayersMixin(PeftMixin):
    """The layers of a network with CMDL, without its backbone and its first classifier."""

    config: CMDLConfig
    training: bool
    class_weights: Tensor | None
    memory_bank: CMDLMemoryBank
    semantic_aggregation: CMDLSemanticAggregation
    fusion: nn.Sequential
    decode_head: nn.Sequential
    distribution_learning: CMDLDistributionLearning

    def _add_layers(self, config: CMDLConfig) -> None:
        """Make the layers for a pixel representation of `config.hidden_size` channels."""
        num_labels, hidden_size = config.num_labels, config.hidden_size
        self.memory_bank = CMDLMemoryBank(
            num_labels,
            config.num_distributions,
            hidden_size,
            config.assignment,
            config.memory_momentum,
            config.memory_momentum_warmup,
            config.sinkhorn_epsilon,
            config.sinkhorn_iterations,
            config.is_memory_frozen,
            config.use_memory_fallback,
        )
        self.semantic_aggregation = CMDLSemanticAggregation(
            hidden_size,
            config.attention_size,
            config.num_distributions,
            config.layer_scale_init_value,
            _voting_temperature(config),
        )
        self.fusion = ConvNormReLU(2 * hidden_size, hidden_size, 3)
        self.decode_head = nn.Sequential(ConvNormReLU(hidden_size, hidden_size), *make_classifier(config))
        self.distribution_learning = CMDLDistributionLearning(
            num_labels,
            hidden_size,
            config.prototype_loss_weight,
            config.contrastive_loss_weight,
            config.class_margin_loss_weight,
            config.contrastive_temperature,
            config.contrast_target,
            config.intra_class_negative_weight,
            config.use_class_margin_reference,
            config.semantic_loss_ignore_index,
        )

    def _take_labels(self, labels: Tensor, pixel_values: Tensor) -> Tensor:
        """Check labels (B, H, W), and return them as int64."""
        check_labels(labels, pixel_values, self.config.num_labels, self.config.semantic_loss_ignore_index)
        if self.training and not torch.compiler.is_compiling():
            self._check_peft()
        return labels.long()

    def _class_probabilities(self, coarse_logits: Tensor) -> Tensor:
        """Compute the weights of the votes from the coarse logits, both (B, K, h, w)."""
        if not self.config.use_hard_voting:
            return coarse_logits.softmax(dim=1)
        winners = coarse_logits.argmax(dim=1, keepdim=True)
        return torch.zeros_like(coarse_logits).scatter_(1, winners, 1.0)

    def _aggregate(
        self, pixel_features: Tensor, class_probabilities: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, DistributionComparison | None]:
        """Aggregate the class distributions for every pixel.

        Returns the features (B, C, h, w), and the comparison with the distributions if the votes need it.
        """
        prototypes, comparison = self._read_memory(), None
        if self.config.voting == "posterior":
            comparison = self.distribution_learning.compare(pixel_features, self.memory_bank, labels, prototypes)
        features = self.semantic_aggregation(
            pixel_features,
            class_probabilities.to(pixel_features.dtype),
            prototypes,
            None if comparison is None else comparison.similarity,
        )
        return features, comparison

    def _read_memory(self) -> Tensor:
        """Read the prototypes (K, M, C) for the aggregation. Only training changes them before backward."""
        prototypes: Tensor = self.memory_bank()
        return prototypes.detach().clone() if self.training else prototypes

    def _learn(
        self,
        labels: Tensor,
        logits: Tensor,
        coarse_logits: Tensor | None,
        auxiliary_logits: Tensor | None,
        pixel_features: Tensor | None,
        comparison: DistributionComparison | None,
    ) -> tuple[dict[str, Tensor], DistributionLearningOutput | None]:
        """Compute the losses by name, each times its weight. In training, also update the memory bank."""
        losses = self._cross_entropies(labels, logits, coarse_logits, auxiliary_logits)
        if pixel_features is None:
            return losses, None
        learned = self.distribution_learning(pixel_features, labels, self.memory_bank, comparison)
        return losses | learned.losses, learned

    def _cross_entropies(
        self, labels: Tensor, logits: Tensor, coarse_logits: Tensor | None, auxiliary_logits: Tensor | None
    ) -> dict[str, Tensor]:
        """Compute the losses of the heads at image size, each times its weight."""
        config = self.config
        heads = {
            "segmentation_loss": (logits, config.segmentation_loss_weight),
            "coarse_loss": (coarse_logits, config.coarse_loss_weight),
            "auxiliary_loss": (auxiliary_logits, config.auxiliary_loss_weight),
        }
        sums = {
            name: weighted_cross_entropy_sums(
                scores,
                labels,
                config.semantic_loss_ignore_index,
                class_weights=self.class_weights,
                ohem_threshold=config.ohem_threshold,
                ohem_min_kept=config.ohem_min_kept,
            )
            for name, (scores, weight) in heads.items()
            if scores is not None and weight
        }
        if not sums:
            return {}
        # All heads at once, so that processes wait for one another only once. In eval mode a process may be alone.
        totals, counts = (torch.stack(values) for values in zip(*sums.values(), strict=True))
        means = divide_by_total(totals, counts, across_processes=self.training)
        return {name: heads[name][1] * mean for name, mean in zip(sums, means.unbind(), strict=True)}


def _voting_temperature(config: CMDLConfig) -> float | None:
    """Return the temperature of votes that depend on the pixels' distributions, or None for votes by class."""
    if config.voting == "class":
        return None
    if config.voting == "posterior":
        return config.voting_temperature
    assert_never(config.voting)


def make_classifier(config: CMDLConfig) -> tuple[nn.Module, nn.Module]:
    """Make the last layers of a head: dropout of channels, and the convolution that computes the logits."""
    return nn.Dropout2d(config.dropout), nn.Conv2d(config.hidden_size, config.num_labels, 1)
