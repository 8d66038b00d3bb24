"""The recipe of a training run: the settings of data, network and optimisation, from a YAML file or from flags."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..data import VALIDATION_FRACTION, check_fraction

# Fields that may change when a run continues: they do not change the training steps.
FREE_TO_CHANGE = {"channels_last", "logging_steps", "num_workers", "report_to", "save_steps", "save_total_limit"}

# They may change when a run continues after memory ran out: the images of each step stay the same.
SHARING = {"per_device_batch_size"}
"""Fields that only say how a batch is shared out: they may change when a run continues."""


@dataclass(kw_only=True)
class CMDLTrainingArguments:
    """Recipe of a training run.

    Args:
        plugin (`tuple[str, ...]`): Python files or modules that register your own benchmarks, context modules or
            transforms. They are imported first.
        benchmark (`str`): Data set: cityscapes, ade20k, coco_stuff, camvid, synthetic, own (with id2label), or a name
            that a plug-in registers.
        merge_classes (`str`, *optional*): CSV file with the columns from and to: names of classes, and the names that
            they become, or nothing, and their pixels are ignored.
        use_validation (`bool`): Score the model during the training, and keep the best. Without it, the last model is
            the result, and a validation split is not used.
        validation_fraction (`float`): Share of the training images, in (0, 1), that is set apart for validation if own
            data have no validation split.
        crop_size (`tuple[int, int]`): Height and width of the training crops, in pixels.
        scale_range (`tuple[float, float]`): Lowest and highest factor of the random scaling.
        transform (`str`): Augmentation of the training images: papers (set by scale_range and the options below), or a
            name that a plug-in registers.
        use_flip (`bool`): Mirror images left to right with probability 1/2.
        use_vertical_flip (`bool`): Mirror images top to bottom with probability 1/2.
        swapped_classes (`tuple[tuple[str, str], ...]`): Pairs of classes, by name or id, whose labels are swapped in
            mirrored images, such as left arm and right arm.
        rotation (`float`): Largest angle of the random rotation, in degrees, in [0, 180]. Crops are rotated in both
            directions.
        color_strength (`float`): Strength of the random colour changes, in [0, 5/3]. 1 is the strength in the papers,
            0 changes no colours.
        resize (`tuple[int, int]`, *optional*): Resize images first: length of the shorter edge and upper limit of the
            longer edge, in pixels. By default images keep their size.
        framework (`str`): Segmentation framework: fcn, pspnet, deeplabv3, ccnet, upernet, or a name that a plug-in
            registers.
        use_distributions (`bool`): Add CMDL to the framework. Without it the framework alone is trained.
        backbone (`str`): Name of the backbone in timm.
        output_stride (`int`, *optional*): Stride of the backbone's last feature map. Only for backbones that can be
            dilated.
        backbone_kwargs (`dict`, *optional*): Options of the backbone in timm, such as --backbone-kwargs.pad_type same.
        hidden_size (`int`): Channels C of the heads and prototypes.
        attention_size (`int`): Channels T of the attention's queries, keys and values.
        model_options (`dict`, *optional*): Further fields of CMDLConfig. As flags: --model-options.num_distributions 5
            --model-options.assignment sample. In a YAML file: model_options: {num_distributions: 5, assignment:
            sample}. The fields: num_distributions, assignment, voting, voting_temperature, use_hard_voting,
            contrast_target, contrastive_temperature, intra_class_negative_weight, memory_momentum,
            memory_momentum_warmup, memory_init, use_memory_fallback, is_memory_frozen, layer_scale_init_value,
            sinkhorn_epsilon, sinkhorn_iterations, use_auxiliary_head, use_class_margin_reference, dropout,
            pool_scales, aspp_dilations, criss_cross_recurrence, and NAME_weight for the losses segmentation_loss,
            coarse_loss, auxiliary_loss, prototype_loss, contrastive_loss and class_margin_loss.
        memory_start (`str`): Start of the prototypes. random: random directions. data: a short pass over training
            images gives embeddings of each class, and their cluster centres become the prototypes.
        class_weights (`str`, *optional*): Weights of the classes in the cross-entropies. auto: computed from the
            number of pixels of each class in the training split. Or a JSON file with one number for each class.
        ohem_threshold (`float`, *optional*): Online hard example mining, in (0, 1]: the cross-entropies use only the
            pixels whose true class has a probability below this threshold.
        ohem_min_kept (`int`): Number of hardest pixels of each image that are always used with ohem_threshold.
        max_steps (`int`): Number of optimiser steps.
        total_batch_size (`int`): Images of one optimiser step, over all processes.
        per_device_batch_size (`int`, *optional*): Largest number of images that one process holds at a time. If its
            share of the batch is larger, gradients are accumulated over several passes. It may change when a run
            continues; batch norms and memory bank then see passes of another size.
        optimizer (`str`): sgd or adamw.
        learning_rate (`float`): Learning rate of the backbone at the start. It decreases to min_learning_rate.
        head_learning_rate_factor (`float`): Learning rate of all other layers, as a multiple of the backbone's.
        min_learning_rate (`float`): Learning rate at the end. It must be below learning_rate.
        power (`float`): Power of the polynomial by which the learning rate decreases.
        warmup_steps (`int`): Optimiser steps at the start in which the learning rate rises from 0.
        momentum (`float`): Momentum of SGD, in [0, 1).
        weight_decay (`float`): L2 penalty, decoupled for adamw. Norms and biases have no penalty.
        max_grad_norm (`float`, *optional*): Largest norm of the gradients. Larger gradients are clipped to it.
        ema_decay (`float`, *optional*): Decay of an exponential moving average of the weights, in (0, 1). The average
            is then scored and saved. The memory bank is copied, not averaged.
        freeze_batch_norm (`str`): Batch norms whose statistics, scales and shifts do not change: none, backbone or
            all.
        mixed_precision (`str`, *optional*): no, bf16 or fp16. By default the setting of accelerate launch. On CPUs
            without AMX or AVX512-BF16, bf16 is many times slower than no; a run measures this at its start and says
            so. fp16 needs a GPU.
        use_compile (`bool`): Compile the model with torch.compile.
        use_channels_last (`bool`, *optional*): Keep images and weights as (B, H, W, C) in memory. This makes
            convolutions faster on many CPUs and on tensor cores. By default the layout that is faster on the device.
        eval_steps (`int`, *optional*): Steps between two evaluations on the validation split. By default a tenth of
            max_steps.
        best_metric (`str`): Score on the validation split that selects the best model.
        patience (`int`, *optional*): End the training after this number of evaluations without a new best score. By
            default the training goes on to max_steps. The learning rate decreases as without it.
        use_test_split (`bool`): Score the best model on the test split at the end. Switch this off while you compare
            settings, so that you do not choose them by their test score.
        save_steps (`int`, *optional*): Steps between two checkpoints. By default eval_steps.
        save_total_limit (`int`): Number of newest checkpoints to keep.
        logging_steps (`int`): Steps between two rows of metrics.jsonl.
        report_to (`tuple[str, ...]`): Trackers of accelerate, such as tensorboard, wandb or trackio.
        num_workers (`int`): Number of worker processes that read and transform images, for each training process.
        seed (`int`): Random seed of initial weights, order of the images and augmentation.

    Raises:
        ValueError: if a field is out of range. The message names the field.
    """

    plugin: Annotated[tuple[str, ...], Parameter(negative_iterable=(), show_default=False)] = ()
    benchmark: str = "synthetic"
    merge_classes: str | None = None
    use_validation: Annotated[bool, Parameter(name="validation")] = True
    validation_fraction: float = VALIDATION_FRACTION
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
    use_channels_last: Annotated[bool | None, Parameter(name="channels-last")] = None
    eval_steps: int | None = None
    best_metric: Literal["mean_iou", "mean_accuracy", "overall_accuracy", "frequency_weighted_iou", "mean_dice"] = (
        "mean_iou"
    )
    patience: int | None = None
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
        check_fraction(self.validation_fraction)
        if self.ohem_threshold is not None and not 0 < self.ohem_threshold <= 1:
            raise ValueError(f"ohem_threshold must lie in (0, 1], found {self.ohem_threshold}")

    @property
    def name(self) -> str:
        """Data, network and backbone in one word: `camvid-cmdl-fcn-resnet50`."""
        method = f"cmdl-{self.framework}" if self.use_distributions else self.framework
        return f"{self.benchmark}-{method}-{self.backbone}".replace("/", "-")

    def to_recipe(self) -> dict[str, Any]:
        """Return the fields as a YAML file holds them. Paths are cut to file names, because recipes are shared."""
        fields = dataclasses.asdict(self)
        fields["plugin"] = [Path(plugin).name for plugin in self.plugin]
        for name in ("class_weights", "merge_classes"):
            if fields[name] is not None:
                fields[name] = Path(fields[name]).name
        return {name.removeprefix("use_"): _without_tuples(value) for name, value in fields.items()}


def _without_tuples(value: Any) -> Any:
    """Turn tuples into lists at every level, because YAML and JSON have only lists."""
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
    "patience": 1,
    "save_steps": 1,
    "save_total_limit": 1,
    "logging_steps": 1,
    "num_workers": 0,
}
