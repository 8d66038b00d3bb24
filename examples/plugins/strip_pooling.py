"""An example of your own context module: strip pooling, which averages whole rows and columns.

Every saved model includes a copy of this file. The file therefore contains only the module and imports only torch.
`strip_net.py` registers the module.

Reference: "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing" (arXiv 2003.13328).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class StripPooling(nn.Module):
    """Weight every pixel by the averages of its row and its column.

    Args:
        config (`CMDLConfig`): `hidden_size` is the number of output channels C.
        channels (`Sequence[int]`): Channels of the backbone's feature maps, finest first.
    """

    def __init__(self, config: Any, channels: Sequence[int]) -> None:
        super().__init__()
        C = config.hidden_size
        self.reduction = nn.Sequential(
            nn.Conv2d(channels[-1], C, 3, padding=1, bias=False), nn.BatchNorm2d(C), nn.ReLU(inplace=True)
        )
        self.along_rows = nn.Conv2d(C, C, (3, 1), padding=(1, 0))
        self.along_columns = nn.Conv2d(C, C, (1, 3), padding=(0, 1))
        self.gate = nn.Conv2d(C, C, 1)

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Return features (B, C, h, w), computed from the last feature map (B, channels[-1], h, w)."""
        hidden_state = self.reduction(feature_maps[-1])
        rows = self.along_rows(hidden_state.mean(dim=3, keepdim=True))  # (B, C, h, 1)
        columns = self.along_columns(hidden_state.mean(dim=2, keepdim=True))  # (B, C, 1, w)
        return hidden_state * self.gate((rows + columns).relu()).sigmoid()
