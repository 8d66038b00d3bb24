"""An example of your own transform, for aerial images, which have no upright direction.

cmdl train own --transform aerial --plugin examples/plugins/aerial.py --data-dir my_data --id2label my_data/classes.txt
"""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from cmdl_hf import register_transform
from cmdl_hf.data import Augmentation


class RandomQuarterTurn(v2.Transform):
    """Turn image and mask by 0, 90, 180 or 270 degrees, with equal probability."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the number of quarter turns."""
        return {"turns": int(torch.randint(4, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Turn an image or a mask."""
        return v2.functional.rotate(inpt, 90.0 * params["turns"], expand=True)


def make_aerial_transform(augmentation: Augmentation) -> v2.Transform:
    """Make a transform of quarter turns, a crop, a flip and a slight change of brightness and contrast.

    Args:
        augmentation (`Augmentation`): Settings of the recipe. Only crop size and ignore index are used.
    """
    fill = {tv_tensors.Mask: augmentation.ignore_index, "others": 0}
    return v2.Compose(
        [
            RandomQuarterTurn(),
            v2.RandomCrop(augmentation.crop_size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
        ]
    )


register_transform("aerial", make_aerial_transform)
