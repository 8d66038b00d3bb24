"""The recipe of a training run: data, network and optimisation, as a YAML file or flags state it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter


@dataclass(kw_only=True)
class CMDLTrainingArguments:
    """Recipe of a training run.

    Args:
        plugin (`tuple[str, ...]`): Python files or modules that register benchmarks, context modules or transforms of
            your own, which are imported first.
        benchmark (`str`): Data set: cityscapes, ade20k, coco_stuff, camvid, synthetic, own (with id2label), or what a
            plug-in registers.
        crop_size (`tuple[int, int]`): Height and width of the training crops, in pixels.
        scale_range (`tuple[float, float]`): Range of the random scale.
        transform (`str`): How training images are varied: papers, by the options above and below, or what a plug-in
            registers.
        use_flip (`bool`): Whether images are mirrored left to right, with probability 1/2.
        use_vertical_flip (`bool`): Whether images are mirrored top to bottom, with probability 1/2.
        swapped_classes (`tuple[tuple[str, str], ...]`): Pairs of classes, by name or id, that a mirror image swaps,
            such as left and right arm.
        rotation (`float`): Largest angle in degrees, in [0, 180], by which crops are turned to either side.
        color_strength (`float`): How far colours are changed, in [0, 5/3]; 1 is as papers do, 0 leaves them.
        resize (`tuple[int, int]`, *optional*): Shorter edge, and limit of the longer, that images are brought to
            before anything else; their own size by default.
        framework (`str`): Framework that CMDL is plugged into: fcn, pspnet, deeplabv3, ccnet, upernet, or what a
            plug-in registers.
        use_distributions (`bool`): Whether there is CMDL in it, or the framework alone.
        backbone (`str`): timm's name of the backbone.
        output_stride (`int`, *optional*): Stride of its last feature map, for those that can be dilated.
        backbone_kwargs (`dict`, *optional*): timm's own options of it.
        hidden_size (`int`): Channels C of the heads and prototypes.
        attention_size (`int`): Width T of the attention.
        model_options (`dict`, *optional*): Further fields of CMDLConfig, such as num_distributions or assignment.
        memory_start (`str`): Start of the prototypes: random directions, or data, cluster centres of the embeddings
            that a short pass over training images gives each class.
        class_weights (`str`, *optional*): Weights of the classes in the cross-entropies: auto, from the pixels that
            each class has in the training split, or a JSON file with one number for each class.
        ohem_threshold (`float`, *optional*): Online hard example mining: only pixels whose class gets a probability
            below it count in the cross-entropies, in (0, 1].
        ohem_min_kept (`int`): Hardest pixels of an image that count whatever their probability.
        max_steps (`int`): Optimiser steps.
        total_batch_size (`int`): Images of one optimiser step, over all processes.
        per_device_batch_size (`int`, *optional*): Images that one process can hold at a time, where its share of the
            batch is more: gradients are then accumulated over several passes.
        optimizer (`str`): sgd or adamw.
        learning_rate (`float`): Of the backbone at the start; it falls to min_learning_rate by power.
        head_learning_rate_factor (`float`): How many times as fast everything but the backbone learns.
        min_learning_rate (`float`): Learning rate at the end, below learning_rate.
        power (`float`): Of the polynomial by which the learning rate falls.
        warmup_steps (`int`): Optimiser steps in which the learning rate rises from 0, before it falls.
        momentum (`float`): Of SGD, in [0, 1).
        weight_decay (`float`): L2 penalty, decoupled for adamw; norms and biases have none.
        max_grad_norm (`float`, *optional*): Norm that gradients are clipped to.
        ema_decay (`float`, *optional*): Decay of an exponential moving average of the weights, in (0, 1), which is
            then what is scored and saved. The memory bank is copied, not averaged.
        freeze_batch_norm (`str`): Which batch norms keep their statistics, scales and shifts: none, backbone or all.
        mixed_precision (`str`, *optional*): no, bf16 or fp16; by default what accelerate was launched with.
        use_compile (`bool`): Compile the model with torch.compile.
        use_channels_last (`bool`): Keep images and weights as (B, H, W, C) in memory, which is faster for
            convolutions on CPUs and on tensor cores.
        eval_steps (`int`, *optional*): Steps between two evaluations on the validation split; by default a tenth of
            max_steps.
        best_metric (`str`): Score on the validation split by which the model to keep is chosen.
        use_test_split (`bool`): Score the best model on the test split at the end; leave it out while you compare
            settings, so that none is chosen by it.
        save_steps (`int`, *optional*): Steps between two checkpoints; by default eval_steps.
        save_total_limit (`int`): Checkpoints that are kept.
        logging_steps (`int`): Steps between two rows of metrics.jsonl.
        report_to (`tuple[str, ...]`): Trackers of accelerate, such as tensorboard, wandb or trackio.
        num_workers (`int`): Processes that read and transform images, for each training process.
        seed (`int`): Of weights, order and augmentation.

    Raises:
        ValueError: naming the field that is out of range.
    """

    plugin: Annotated[tuple[str, ...], Parameter(negative_iterable=(), show_default=False)] = ()
    benchmark: str = "synthetic"
    crop_size: tuple[int, int] = (512, 512)
    scale_range: tuple[float, float] = (0.5, 2.0)
    transform: str = "papers"
    use_flip: Annotated[bool, Parameter(name="flip")] = True
    use_vertical_flip: Annotated[bool, Parameter(name="vertical-flip")] = False
    swapped_classes: tuple[tuple[str, str], ...] = ()
    rotation: float = 0.0
    color_strength: float = 1.0
    resize: tuple[int, int] | None = None
    framework: str = "fcn"
    use_distributions: Annotated[bool, Parameter(name="distributions")] = True
    backbone: str = "resnet50"
    output_stride: int | None = 8
    backbone_kwargs: dict[str, Any] | None = None
    hidden_size: int = 512
    attention_size: int = 256
    model_options: dict[str, Any] | None = None
    memory_start: Literal["random", "data"] = "random"
    class_weights: str | None = None
    ohem_threshold: float | None = None
    ohem_min_kept: int = 100_000
    max_steps: int = 40_000
    total_batch_size: int = 16
    per_device_batch_size: int | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    head_learning_rate_factor: float = 1.0
    min_learning_rate: float = 1e-4
    power: float = 0.9
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    freeze_batch_norm: Literal["none", "backbone", "all"] = "none"
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    use_compile: Annotated[bool, Parameter(name="compile")] = False
    use_channels_last: Annotated[bool, Parameter(name="channels-last")] = False
    eval_steps: int | None = None
    best_metric: Literal["mean_iou", "mean_accuracy", "overall_accuracy", "frequency_weighted_iou", "mean_dice"] = (
        "mean_iou"
    )
    use_test_split: Annotated[bool, Parameter(name="test-split")] = True
    save_steps: int | None = None
    save_total_limit: int = 2
    logging_steps: int = 10
    report_to: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    num_workers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, found {value}")
        if not 0 <= self.min_learning_rate < self.learning_rate:
            raise ValueError(
                f"min_learning_rate must lie in [0, {self.learning_rate}), below learning_rate, "
                f"found {self.min_learning_rate}"
            )
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps must be below max_steps={self.max_steps}, found {self.warmup_steps}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), found {self.momentum}")
        for name in ("head_learning_rate_factor", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, found {value}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), found {self.ema_decay}")
        if self.ohem_threshold is not None and not 0 < self.ohem_threshold <= 1:
            raise ValueError(f"ohem_threshold must lie in (0, 1], found {self.ohem_threshold}")

    @property
    def name(self) -> str:
        """What is trained, in a word: `camvid-cmdl-fcn-resnet50`."""
        method = f"cmdl-{self.framework}" if self.use_distributions else self.framework
        return f"{self.benchmark}-{method}-{self.backbone}".replace("/", "-")

    def to_recipe(self) -> dict[str, Any]:
        """Lay the fields out as a YAML file has them; of a file only the name is kept, as recipes are passed on."""
        fields = dataclasses.asdict(self)
        fields["plugin"] = [Path(plugin).name for plugin in self.plugin]
        if self.class_weights is not None:
            fields["class_weights"] = Path(self.class_weights).name
        return {name.removeprefix("use_"): _without_tuples(value) for name, value in fields.items()}


def _without_tuples(value: Any) -> Any:
    """Turn tuples into the lists that YAML and JSON give back, however deep."""
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return [_without_tuples(item) for item in value] if isinstance(value, list | tuple) else value


_LOWEST = {
    "max_steps": 1,
    "total_batch_size": 1,
    "per_device_batch_size": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "power": 0,
    "ohem_min_kept": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "save_total_limit": 1,
    "logging_steps": 1,
    "num_workers": 0,
}
