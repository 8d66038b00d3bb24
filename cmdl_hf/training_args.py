"""The recipe of a training run: data, network and optimisation, as a file of `examples/configs` or flags state it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

CONTEXT_MODULES = {
    "fcn": "none",
    "pspnet": "ppm",
    "deeplabv3": "aspp",
    "ccnet": "criss_cross",
    "upernet": "upernet",
}
"""The context module that makes each framework."""


@dataclass(kw_only=True)
class CMDLTrainingArguments:
    """Recipe of a training run.

    Args:
        benchmark (`str`): Data set: cityscapes, ade20k, coco_stuff, camvid, synthetic, or own (with id2label).
        crop_size (`tuple[int, int]`): Height and width of the training crops, in pixels.
        scale_range (`tuple[float, float]`): Range of the random scale.
        resize (`tuple[int, int]`, *optional*): Shorter edge, and limit of the longer, that images are brought to
            before anything else; their own size by default.
        framework (`str`): Framework that CMDL is plugged into.
        use_distributions (`bool`): Whether there is CMDL in it, or the framework alone.
        backbone (`str`): timm's name of the backbone.
        output_stride (`int`, *optional*): Stride of its last feature map, for those that can be dilated.
        backbone_kwargs (`dict`, *optional*): timm's own options of it.
        hidden_size (`int`): Channels C of the heads and prototypes.
        attention_size (`int`): Width T of the attention.
        max_steps (`int`): Optimiser steps.
        total_batch_size (`int`): Images of one optimiser step, over all processes.
        learning_rate (`float`): Of the backbone at the start; it falls to min_learning_rate by power.
        head_learning_rate_factor (`float`): How many times as fast everything but the backbone learns.
        min_learning_rate (`float`): Learning rate at the end, below learning_rate.
        power (`float`): Of the polynomial by which the learning rate falls.
        momentum (`float`): Of SGD, in [0, 1).
        weight_decay (`float`): L2 penalty; norms and biases have none.
        use_channels_last (`bool`): Keep images and weights as (B, H, W, C) in memory, which is faster for
            convolutions on CPUs and on tensor cores.
        num_workers (`int`): Processes that read and transform images, for each training process.
        seed (`int`): Of weights, order and augmentation.

    Raises:
        ValueError: naming the field that is out of range.
    """

    benchmark: Literal["cityscapes", "ade20k", "coco_stuff", "camvid", "synthetic", "own"] = "synthetic"
    crop_size: tuple[int, int] = (512, 512)
    scale_range: tuple[float, float] = (0.5, 2.0)
    resize: tuple[int, int] | None = None
    framework: Literal["fcn", "pspnet", "deeplabv3", "ccnet", "upernet"] = "fcn"
    use_distributions: Annotated[bool, Parameter(name="distributions")] = True
    backbone: str = "resnet50"
    output_stride: int | None = 8
    backbone_kwargs: dict[str, Any] | None = None
    hidden_size: int = 512
    attention_size: int = 256
    max_steps: int = 40_000
    total_batch_size: int = 16
    learning_rate: float = 0.01
    head_learning_rate_factor: float = 1.0
    min_learning_rate: float = 1e-4
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 5e-4
    use_channels_last: bool = False
    num_workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"max_steps": 1, "total_batch_size": 1, "num_workers": 0, "weight_decay": 0, "power": 0}
        for name, minimum in lowest.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, found {getattr(self, name)}")
        if not 0 <= self.min_learning_rate < self.learning_rate:
            raise ValueError(
                f"min_learning_rate must lie in [0, {self.learning_rate}), below learning_rate, "
                f"found {self.min_learning_rate}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), found {self.momentum}")
        if not self.head_learning_rate_factor > 0:
            raise ValueError(f"head_learning_rate_factor must be above 0, found {self.head_learning_rate_factor}")
