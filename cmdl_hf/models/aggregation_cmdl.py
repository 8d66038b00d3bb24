"""Semantic aggregation: every pixel votes for the distributions, and attends to what it and the others voted for.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

from typing import Any

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


class VoteConvolution(nn.Conv2d):
    """1×1 convolution that fuses M voted maps, and that multiplies prototypes by its weight.

    The products are computed in this module's forward pass, and not where the votes are used. An offloaded weight is
    in memory only then, and peft's LoRA adds its part to the output of this module.
    """

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Convolve maps, or multiply prototypes.

        Args:
            hidden_state (`Tensor`): Voted maps (B, M·C, h, w), the prototypes of classes (K, M·C, 1, 1), or the
                prototypes (K, M, C), of which each has its own part of the weight.

        Returns:
            `Tensor` of shape (B, C, h, w), (K, C, 1, 1), or (M, K, C), whose sum over M are the votes of the classes.
        """
        if hidden_state.shape[2:] == (1, 1):
            hidden_state = hidden_state.flatten(1).to(self.weight.dtype)
            return F.linear(hidden_state, self.weight.flatten(1))[:, :, None, None]
        if hidden_state.dim() == 3:
            parts = self.weight.flatten(1).unflatten(1, hidden_state.shape[1:]).permute(1, 2, 0)  # (M, C, C)
            return hidden_state.transpose(0, 1).to(self.weight.dtype) @ parts
        return super().forward(hidden_state)


class VoteFusion(ConvNormReLU):
    """Feature voting: fuses the maps in which every pixel votes for the classes' distributions.

    Args:
        hidden_size (`int`): Channels C.
        num_distributions (`int`): Number of distributions M of a class.
    """

    convolution_class = VoteConvolution

    def __init__(self, hidden_size: int, num_distributions: int) -> None:
        super().__init__(num_distributions * hidden_size, hidden_size)
        self._votes = Constant()

    def _apply(self, fn: Any, recurse: bool = True) -> "VoteFusion":
        self._votes.clear()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "VoteFusion":
        """Set the mode, see `nn.Module`."""
        self._votes.clear()
        return super().train(mode)

    def forward(
        self,
        hidden_state: Tensor,
        prototypes: Tensor | None = None,
        similarity: Tensor | None = None,
        voting_temperature: float | None = None,
    ) -> Tensor:
        """Let the pixels vote, and fuse their votes.

        Args:
            hidden_state (`Tensor`): Class probabilities (B, K, h, w), or without `prototypes` the voted maps
                (B, M·C, h, w).
            prototypes (`Tensor` of shape (K, M, C), *optional*): The memory bank, detached.
            similarity (`Tensor` of shape (N, K, M), *optional*): Cosine of each pixel to each distribution, which
                votes with a `voting_temperature` need.
            voting_temperature (`float`, *optional*): See [`CMDLSemanticAggregation`].

        Returns:
            `Tensor` of shape (B, C, h, w).
        """
        if prototypes is None:
            return super().forward(hidden_state)
        is_by_class = voting_temperature is None
        convolution, norm, activation = self
        if type(convolution) is VoteConvolution:
            votes = self._votes.get(lambda: self.make_votes(prototypes, is_by_class), prototypes, convolution.weight)
        else:  # a wrapper, such as peft's: its other weights may change unseen
            self._votes.clear()
            votes = self.make_votes(prototypes, is_by_class)
        if voting_temperature is None:
            voted = F.conv2d(hidden_state, votes.to(hidden_state.dtype))
        else:
            assert similarity is not None
            voted = collect_votes(divide_votes(hidden_state, similarity, voting_temperature), votes, hidden_state)
        return activation(norm(voted))

    def make_votes(self, prototypes: Tensor, is_by_class: bool) -> Tensor:
        """Multiply prototypes (K, M, C) by the fusion weight.

        Returns the votes of the classes as the weight (C, K, 1, 1) of a 1×1 convolution, or those of all
        distributions, (M, K, C).
        """
        if is_by_class:
            return self[0](prototypes.flatten(1)[:, :, None, None]).flatten(1).t()[:, :, None, None]
        if type(self[0]) is VoteConvolution:
            return self[0](prototypes)
        # A wrapper takes maps alone. Each distribution is shown to it on its own, with zeros for the others.
        blocks = torch.diag_embed(prototypes.permute(0, 2, 1))  # (K, C, M, M)
        blocks = blocks.permute(3, 0, 2, 1).flatten(0, 1).flatten(1)  # (M·K, M·C)
        return self[0](blocks[:, :, None, None]).flatten(1).unflatten(0, (-1, len(prototypes)))


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
        self.vote_fusion = VoteFusion(hidden_size, num_distributions)
        self.attention = CMDLAttention(hidden_size, attention_size)
        self.layer_scale = make_layer_scale(hidden_size, layer_scale_init_value)

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
        voted = self.vote_fusion(class_probabilities, prototypes, similarity, self.voting_temperature)
        return scale_channels(self.attention(pixel_features, voted), self.layer_scale)


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
