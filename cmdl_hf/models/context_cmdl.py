"""Single-image context modules of FCN, PSPNet, DeepLabV3, CCNet and UPerNet, which CMDL is combined with.

Each takes the feature maps of the backbone, finest first, and returns one map (B, C, h, w).

References: PSPNet (arXiv 1612.01105), DeepLabV3 (arXiv 1706.05587), CCNet (arXiv 1811.11721), UPerNet
(arXiv 1807.10221).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormReLU(nn.Sequential):
    """Convolution, BatchNorm and ReLU. The output has the size of the input grid.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        kernel_size (`int`): Odd size of the kernel.
        dilation (`int`): Dilation of the kernel.
        bias (`bool`): Whether the convolution has a bias.

    Raises:
        ValueError: in training, if there is only a single value per channel, because BatchNorm then has no statistics.
    """

    convolution_class: type[nn.Conv2d] = nn.Conv2d

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, dilation: int = 1, bias: bool = False
    ) -> None:
        padding = dilation * (kernel_size // 2)
        convolution = self.convolution_class(
            in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=bias
        )
        super().__init__(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Apply to (B, in_channels, h, w); returns (B, out_channels, h, w)."""
        # The size is read last, and never in eval mode, because an exported graph would then not accept all sizes.
        is_batch_norm = type(self[1]) is nn.BatchNorm2d and self[1].training
        if is_batch_norm and hidden_state.shape[0] * hidden_state.shape[2] * hidden_state.shape[3] == 1:
            raise ValueError(
                "BatchNorm in training needs more than one value per channel, but the batch has 1 image and this "
                "branch a 1×1 grid (global pooling in ppm, aspp and upernet): train with at least 2 images per "
                "process (drop_last=True in the loader), or put the model in eval mode"
            )
        return super().forward(hidden_state)


class TwoConvolutions(nn.Sequential):
    """The two convolutions of a plain FCN's head.

    Args:
        in_channels (`int`): Channels of the last feature map.
        hidden_size (`int`): Channels C of both convolutions.
    """

    def __init__(self, in_channels: int, hidden_size: int) -> None:
        super().__init__(ConvNormReLU(in_channels, hidden_size, 3), ConvNormReLU(hidden_size, hidden_size, 3))

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Convolve the last map (B, in_channels, h, w); returns (B, C, h, w)."""
        return super().forward(feature_maps[-1])


class PyramidPooling(nn.Module):
    """Pyramid pooling module (PPM) of PSPNet.

    Args:
        in_channels (`int`): Channels of the feature map.
        hidden_size (`int`): Channels C of each branch and of the output.
        pool_scales (`Sequence[int]`): Output sizes of the average pools.
    """

    pools_globally = True

    def __init__(self, in_channels: int, hidden_size: int, pool_scales: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.pool_scales = tuple(pool_scales)
        self.branches = nn.ModuleList(ConvNormReLU(in_channels, hidden_size) for _ in self.pool_scales)
        self.bottleneck = ConvNormReLU(in_channels + len(self.pool_scales) * hidden_size, hidden_size, 3)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Pool the last map (B, in_channels, h, w) at every scale; returns (B, C, h, w)."""
        feature_map = feature_maps[-1]
        pooled = [
            resize(branch(average_pool(feature_map, scale)), feature_map.shape[-2:])
            for scale, branch in zip(self.pool_scales, self.branches, strict=True)
        ]
        return self.bottleneck(torch.cat([feature_map, *pooled], dim=1))


class AtrousPyramidPooling(nn.Module):
    """Atrous spatial pyramid pooling (ASPP) of DeepLabV3.

    Args:
        in_channels (`int`): Channels of the feature map.
        hidden_size (`int`): Channels C of each branch and of the output.
        dilations (`Sequence[int]`): Dilation of each branch. 1 gives a 1×1 convolution, others a dilated 3×3 one.
    """

    pools_globally = True

    def __init__(self, in_channels: int, hidden_size: int, dilations: Sequence[int] = (1, 12, 24, 36)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNormReLU(in_channels, hidden_size, 1 if dilation == 1 else 3, dilation) for dilation in dilations
        )
        self.global_branch = ConvNormReLU(in_channels, hidden_size)
        self.bottleneck = ConvNormReLU((len(dilations) + 1) * hidden_size, hidden_size, 3)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Apply all branches to the last map (B, in_channels, h, w); returns (B, C, h, w)."""
        feature_map = feature_maps[-1]
        pooled = resize(self.global_branch(feature_map.mean(dim=(2, 3), keepdim=True)), feature_map.shape[-2:])
        return self.bottleneck(torch.cat([*(branch(feature_map) for branch in self.branches), pooled], dim=1))


class CrissCrossAttention(nn.Module):
    """Attention of every pixel to its row and its column.

    The largest intermediate tensor has h + w scores per pixel. An (h·w)² matrix is never stored.

    Args:
        hidden_size (`int`): Channels C; queries and keys have C // 8.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(hidden_size, hidden_size // 8, 1)
        self.key = nn.Conv2d(hidden_size, hidden_size // 8, 1)
        self.value = nn.Conv2d(hidden_size, hidden_size, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Attend within (B, C, h, w); returns the same shape."""
        height, width = hidden_state.shape[-2:]
        query, key, value = self.query(hidden_state), self.key(hidden_state), self.value(hidden_state)
        column_scores = torch.einsum("bchw,bcgw->bhwg", query, key)  # to (g, w) from (h, w)
        row_scores = torch.einsum("bchw,bchv->bhwv", query, key)  # to (h, v) from (h, w)
        # A pixel is in its own row and column. It is counted once, in its row.
        is_self = torch.eye(height, dtype=torch.bool, device=query.device)[:, None, :]
        column_scores = column_scores.masked_fill(is_self, -torch.inf)
        weights = torch.cat([column_scores, row_scores], dim=-1).softmax(dim=-1)
        column_weights, row_weights = weights.split([height, width], dim=-1)
        attended = torch.einsum("bhwg,bcgw->bchw", column_weights, value)
        attended = attended + torch.einsum("bhwv,bchv->bchw", row_weights, value)
        return hidden_state + self.gamma * attended


class CrissCrossContext(nn.Module):
    """Recurrent criss-cross attention (RCCA) of CCNet.

    Args:
        in_channels (`int`): Channels of the feature map.
        hidden_size (`int`): Channels C of the output.
        recurrence (`int`): How many times the same attention is applied. Two times connect all pixels.
    """

    def __init__(self, in_channels: int, hidden_size: int, recurrence: int = 2) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.reduction = ConvNormReLU(in_channels, hidden_size, 3)
        self.attention = CrissCrossAttention(hidden_size)
        self.bottleneck = ConvNormReLU(hidden_size, hidden_size, 3)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Apply the attention to the last map (B, in_channels, h, w); returns (B, C, h, w)."""
        hidden_state = self.reduction(feature_maps[-1])
        for _ in range(self.recurrence):
            hidden_state = self.attention(hidden_state)
        return self.bottleneck(hidden_state)


class FeaturePyramid(nn.Module):
    """UPerNet's pyramid: PPM on the last stage, a top-down path, and a fusion on the first stage's grid.

    Args:
        in_channels (`Sequence[int]`): Channels of the stages, finest first.
        hidden_size (`int`): Channels C of every level and of the output.
        pool_scales (`Sequence[int]`): Scales of the PPM.
    """

    def __init__(
        self, in_channels: Sequence[int], hidden_size: int, pool_scales: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        self.pyramid_pooling = PyramidPooling(in_channels[-1], hidden_size, pool_scales)
        self.laterals = nn.ModuleList(ConvNormReLU(channels, hidden_size) for channels in in_channels[:-1])
        self.smoothings = nn.ModuleList(ConvNormReLU(hidden_size, hidden_size, 3) for _ in in_channels[:-1])
        self.fusion = ConvNormReLU(len(in_channels) * hidden_size, hidden_size, 3)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Fuse the last stages (B, in_channels[i], h_i, w_i), finest first; returns (B, C, h_0, w_0)."""
        feature_maps = feature_maps[-len(self.laterals) - 1 :]
        levels = [lateral(feature_map) for lateral, feature_map in zip(self.laterals, feature_maps, strict=False)]
        levels.append(self.pyramid_pooling(feature_maps))
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i].shape[-2:])
        smoothed = [smoothing(level) for smoothing, level in zip(self.smoothings, levels, strict=False)]
        size = levels[0].shape[-2:]
        return self.fusion(torch.cat([resize(level, size) for level in (*smoothed, levels[-1])], dim=1))


def make_two_convolutions(config: Any, channels: Sequence[int]) -> TwoConvolutions | None:
    """Make the head of a plain FCN. FCN with CMDL has no context module: returns None."""
    return None if config.use_distributions else TwoConvolutions(channels[-1], config.hidden_size)


def make_pyramid_pooling(config: Any, channels: Sequence[int]) -> PyramidPooling:
    """Make PSPNet's context module."""
    return PyramidPooling(channels[-1], config.hidden_size, config.pool_scales)


def make_atrous_pyramid(config: Any, channels: Sequence[int]) -> AtrousPyramidPooling:
    """Make DeepLabV3's context module."""
    return AtrousPyramidPooling(channels[-1], config.hidden_size, config.aspp_dilations)


def make_criss_cross(config: Any, channels: Sequence[int]) -> CrissCrossContext:
    """Make CCNet's context module."""
    return CrissCrossContext(channels[-1], config.hidden_size, config.criss_cross_recurrence)


def make_feature_pyramid(config: Any, channels: Sequence[int]) -> FeaturePyramid:
    """Make UPerNet's context module."""
    return FeaturePyramid(channels[-4:], config.hidden_size, config.pool_scales)


def resize(hidden_state: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) to another grid: bilinear, align_corners=False."""
    if _is_same_size(hidden_state.shape[-2:], size):
        return hidden_state
    return F.interpolate(hidden_state, size=tuple(size), mode="bilinear", align_corners=False)


def average_pool(feature_map: Tensor, scale: int) -> Tensor:
    """Average (B, C, h, w) over the cells of a scale×scale grid, like `F.adaptive_avg_pool2d`.

    A graph that is exported for all sizes cannot use that operator: ONNX has none, and torch's decomposition is for
    one size. There, the same values are computed as a product with matrices of row and column means.
    """
    if not _is_exporting():
        return F.adaptive_avg_pool2d(feature_map, scale)
    rows, columns = (_pooling_matrix(length, scale, feature_map) for length in feature_map.shape[-2:])
    return rows @ (feature_map @ columns.t())


def _pooling_matrix(length: int, scale: int, like: Tensor) -> Tensor:
    """Return the matrix (scale, length) of the weights of each pixel of a line in the mean of each cell."""
    cells, pixels = torch.arange(scale, device=like.device), torch.arange(length, device=like.device)
    starts, ends = cells * length // scale, ((cells + 1) * length + scale - 1) // scale
    is_inside = (pixels >= starts[:, None]) & (pixels < ends[:, None])
    return is_inside.to(like.dtype) / (ends - starts)[:, None].to(like.dtype)


def _is_same_size(size: Sequence[int], other: Sequence[int]) -> bool:
    """Compare sizes. In an exported graph they must be equal for all images."""
    if not _is_exporting():
        return tuple(size) == tuple(other)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return all(statically_known_true(length == wanted) for length, wanted in zip(size, other, strict=True))


def _is_exporting() -> bool:
    """Return whether `torch.export` is running, and not `torch.compile`."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
