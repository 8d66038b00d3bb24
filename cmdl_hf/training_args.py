"""What a training run is made of, besides the model and the data."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class CMDLTrainingArguments:
    """Recipe of a training run.

    Args:
        max_steps (`int`): Optimiser steps.
        total_batch_size (`int`): Images of one optimiser step, over all processes.
        learning_rate (`float`): Of the backbone at the start; it falls to `min_learning_rate` by `power`.
        head_learning_rate_factor (`float`): How many times as fast everything but the backbone learns.
        min_learning_rate (`float`): Learning rate at the end, at most `learning_rate`.
        power (`float`): Of the polynomial by which the learning rate falls.
        momentum (`float`): Of SGD.
        weight_decay (`float`): L2 penalty; norms and biases have none.
        use_channels_last (`bool`): Keep images and weights as (B, H, W, C) in memory, which is faster for
            convolutions on CPUs and on tensor cores.
        num_workers (`int`): Processes that read and transform images, for each training process.
        seed (`int`): Of weights, order and augmentation.

    Raises:
        ValueError: naming the field that is out of range.
    """

    max_steps: int
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
