"""Semantic aggregation: every pixel votes for the distributions, and attends to what it and the others voted for.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constants_cmdl import Constant
from .context_cmdl import ConvNormReLU


class CMDLAttention(nn.Module):
    """Attention with one head from all pixels of a feature map to all pixels of a second map of the same image.

    Args:
        hidden_size (`int`): Channels C of both maps and of the output.
        attention_size (`int`): Channels T of queries, keys and values.
    """

    def __init__(self, hidden_size: int, attention_size: int) -> None:
        super().__init__()
        self.query = nn.Sequential(
            ConvNormReLU(hidden_size, attention_size), ConvNormReLU(attention_size, attention_size)
        )
        self.key = nn.Sequential(
            ConvNormReLU(hidden_size, attention_size), ConvNormReLU(attention_size, attention_size)
        )
        self.value = ConvNormReLU(hidden_size, attention_size)
        self.output = ConvNormReLU(attention_size, hidden_size)

    def forward(self, query_features: Tensor, key_features: Tensor) -> Tensor:
        """Attend from (B, C, h, w) to (B, C, h', w'); returns (B, C, h, w).

        The attention matrix of all pairs of pixels (4.3 GB for one 1024×2048 image at stride 8) is never stored.
        """
        query = _to_sequence(self.query(query_features))
        key, value = _to_sequence(self.key(key_features)), _to_sequence(self.value(key_features))
        attended = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return self.output(attended.transpose(1, 2).unflatten(2, query_features.shape[-2:]))


def _to_sequence(feature_map: Tensor) -> Tensor:
    """Reshape pixels to a sequence for one head: (B, T, h, w) -> (B, 1, h·w, T).

    The result is contiguous. Otherwise the fused attention kernels cannot be used, and the full matrix is stored.
    """
    return feature_map.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)


class CMDLSemanticAggregation(nn.Module):
    """Feature voting and multiple distributions semantic aggregation, computed as one product.

    In the paper, the vote of a pixel for distribution m is the mean of the classes' prototypes m, weighted with the
    pixel's class probabilities. A 1×1 convolution fuses the M voted maps. Both steps are linear, so (probabilities ·
    prototypes) · weight = probabilities · (prototypes · weight). This module computes the K×C product in brackets
    first, and never stores the voted maps.

    Args:
        hidden_size (`int`): Channels C.
        attention_size (`int`): Channels T of the attention.
        num_distributions (`int`): Number of distributions M of a class.
        layer_scale_init_value (`float`, *optional*): Initial value of a learned scale for each channel of the result.
            By default there is no scale, as in the reference.
        voting_temperature (`float`, *optional*): Divide the vote of a pixel for a class among its distributions by
            the softmax of the pixel's cosines to them, divided by this number. By default a vote counts equally for
            all distributions of its class, as in the reference. A large temperature gives the same.

    Note:
        In the reference, a pixel's votes depend on its class probabilities alone, never on which distribution of a
        class it is near. Its aggregated features are therefore the same for every number of distributions.
    """

    def __init__(
        self,
        hidden_size: int,
        attention_size: int,
        num_distributions: int,
        layer_scale_init_value: float | None = None,
        voting_temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.voting_temperature = voting_temperature
        self.vote_fusion = ConvNormReLU(num_distributions * hidden_size, hidden_size)
        self.attention = CMDLAttention(hidden_size, attention_size)
        self.layer_scale = make_layer_scale(hidden_size, layer_scale_init_value)
        self._votes = Constant()

    def _apply(self, fn: Any, recurse: bool = True) -> "CMDLSemanticAggregation":
        self._votes.clear()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "CMDLSemanticAggregation":
        """Set the mode, see `nn.Module`."""
        self._votes.clear()
        return super().train(mode)

    def forward(
        self,
        pixel_features: Tensor,
        class_probabilities: Tensor,
        prototypes: Tensor,
        similarity: Tensor | None = None,
    ) -> Tensor:
        """Aggregate the class distributions for every pixel.

        Args:
            pixel_features (`Tensor` of shape (B, C, h, w)): Pixel representation.
            class_probabilities (`Tensor` of shape (B, K, h, w)): Weights of the votes, with sum 1 over K.
            prototypes (`Tensor` of shape (K, M, C)): The memory bank, detached.
            similarity (`Tensor` of shape (N, K, M), *optional*): Cosine of each pixel to each distribution, which
                votes with a `voting_temperature` need.

        Returns:
            `aggregated_features`, `Tensor` of shape (B, C, h, w).
        """
        convolution, norm, activation = self.vote_fusion
        make_votes = self.class_votes if self.voting_temperature is None else self.distribution_votes
        votes = self._votes.get(lambda: make_votes(prototypes), prototypes, cast(Tensor, convolution.weight))
        if self.voting_temperature is None:
            voted = F.conv2d(class_probabilities, votes.to(class_probabilities.dtype))
        else:
            assert similarity is not None
            shares = divide_votes(class_probabilities, similarity, self.voting_temperature)
            voted = collect_votes(shares, votes, class_probabilities)
        return scale_channels(self.attention(pixel_features, activation(norm(voted))), self.layer_scale)

    def class_votes(self, prototypes: Tensor) -> Tensor:
        """Multiply prototypes (K, M, C) by the fusion weight; returns the weight (C, K, 1, 1) of a 1×1 convolution."""
        weight = cast(Tensor, self.vote_fusion[0].weight).flatten(1)  # (C, M·C)
        votes = F.linear(prototypes.flatten(1).to(weight.dtype), weight)  # (K, C)
        return votes.t()[:, :, None, None]

    def distribution_votes(self, prototypes: Tensor) -> Tensor:
        """Multiply prototypes (K, M, C) by their part of the fusion weight; returns (M, K, C).

        The sum over M is the weight that `class_votes` returns.
        """
        weight = cast(Tensor, self.vote_fusion[0].weight).flatten(1)  # (C, M·C)
        parts = weight.unflatten(1, prototypes.shape[1:]).permute(1, 2, 0)  # (M, C, C)
        return prototypes.transpose(0, 1).to(weight.dtype) @ parts


def divide_votes(class_probabilities: Tensor, similarity: Tensor, temperature: float) -> Tensor:
    """Divide each pixel's votes for the classes among their distributions.

    The share of distribution m of class c is p(c)·M·π(c, m). p is the class's probability, and π the softmax over the
    class's distributions of cosine / temperature. For a large temperature π is 1/M, and every share is p(c).

    Args:
        class_probabilities (`Tensor` of shape (B, K, h, w)): p.
        similarity (`Tensor` of shape (N, K, M), float32): Cosine of each pixel to each distribution, N = B·h·w.
        temperature (`float`): Above 0.

    Returns:
        `Tensor` of shape (N, M, K), float32, with sum M over all distributions.
    """
    posterior = (similarity.transpose(1, 2) / temperature).softmax(dim=1)  # (N, M, K), as similarities are stored
    probabilities = class_probabilities.permute(0, 2, 3, 1).flatten(0, 2).float()  # (N, K)
    return posterior * (probabilities * posterior.shape[1])[:, None]


def collect_votes(shares: Tensor, votes: Tensor, class_probabilities: Tensor) -> Tensor:
    """Multiply shares (N, M, K) by the votes (M, K, C) of all distributions at once; returns (B, C, h, w)."""
    collected = shares.flatten(1).to(class_probabilities.dtype) @ votes.flatten(0, 1).to(class_probabilities.dtype)
    batch_size, _, *grid = class_probabilities.shape
    return collected.unflatten(0, (batch_size, *grid)).permute(0, 3, 1, 2)


def make_layer_scale(num_channels: int, init_value: float | None) -> nn.Parameter | None:
    """Make a learned scale for each channel (C,), or None. Weight decay skips it, as it has one dimension."""
    return None if init_value is None else nn.Parameter(torch.full((num_channels,), float(init_value)))


def scale_channels(feature_map: Tensor, layer_scale: Tensor | None) -> Tensor:
    """Multiply (B, C, h, w) by a scale for each channel (C,), if there is one."""
    return feature_map if layer_scale is None else feature_map * layer_scale[:, None, None].to(feature_map.dtype)
