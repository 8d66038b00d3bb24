"""Configuration of CMDL models.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import os
from dataclasses import fields
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .configuration_checks_cmdl import check_classes, check_feature_maps, check_names, check_ranges
from .context_registry_cmdl import carry_context_module, find_context_module

PRESETS: dict[str, dict[str, Any]] = {
    "reference": {
        "assignment": "reference",
        "layer_scale_init_value": None,
        "memory_init": "reference",
        "memory_momentum_warmup": 0,
        "use_memory_fallback": False,
        "contrastive_loss_weight": 0.05,
        "contrastive_temperature": 1.0,
        "use_class_margin_reference": True,
    },
}
"""Named sets of field values. `reference` computes what the public reference implementation computes."""

_DEFAULT_BACKBONE = {"backbone": "resnet50", "out_indices": [1, 2, 3, 4], "output_stride": 8}


@strict
class CMDLConfig(PreTrainedConfig):
    """Configuration of [`CMDLForSemanticSegmentation`].

    With `use_distributions=False` the same fields describe the plain framework (FCN, PSPNet, DeepLabV3,
    CCNet or UPerNet), the baseline of every comparison.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            A `TimmBackboneConfig` or any transformers backbone configuration. Defaults to timm's `resnet50`
            with `output_stride=8` and its four stages. The last feature map is the pixel representation, the
            second-last feeds the auxiliary head, `upernet` takes four.
        backbone_kwargs (`dict`, *optional*):
            timm options that `TimmBackboneConfig` cannot hold, such as `{"pad_type": "same"}`.
        size_divisor (`int`, defaults to 1):
            Images are resized to the next multiple of it, in height and width, on their way into the backbone: 4 for
            Swin, 32 for HRNet, whose maps would not fit onto each other otherwise.
        num_labels (`int`, *optional*, defaults to 2):
            Number of classes K, at least 2. Derived from `id2label` where that is given.
        palette (`list[list[int]]`, *optional*):
            K rows of red, green, blue in 0..255: the colours in which predictions are drawn.
        context_module (`str`, defaults to `"none"`):
            Single-image context: `none` (FCN), `ppm` (PSPNet), `aspp` (DeepLabV3), `criss_cross` (CCNet),
            `upernet` (UPerNet), or what `register_context_module` has registered.
        context_module_plugin (`str`, *optional*):
            File that registered the context module, where it is none of ours. It is filled in by itself.
        pool_scales (`list[int]`, defaults to `(1, 2, 3, 6)`):
            Output sizes of the average pools of `ppm` and `upernet`.
        aspp_dilations (`list[int]`, defaults to `(1, 12, 24, 36)`):
            Dilations of the branches of `aspp`; 1 stands for a 1×1 convolution.
        criss_cross_recurrence (`int`, defaults to 2):
            How many times the one criss-cross attention is applied.
        use_distributions (`bool`, defaults to `True`):
            `False` gives the plain framework without memory bank, aggregation and memory losses.
        hidden_size (`int`, defaults to 512):
            Channels C of the pixel representation, of the prototypes and of every head.
        attention_size (`int`, defaults to 256):
            Width T of the attention's queries, keys and values.
        num_distributions (`int`, defaults to 9):
            Distributions M that describe each class.
        use_hard_voting (`bool`, defaults to `False`):
            Vote with the one-hot arg-max of the coarse logits instead of their softmax.
        use_auxiliary_head (`bool`, defaults to `True`):
            Deep supervision on the second-last feature map.
        dropout (`float`, defaults to 0.1):
            Probability with which a channel is dropped before each classifier, in [0, 1).
        segmentation_loss_weight (`float`, defaults to 1.0):
            Weight of the cross-entropy of the final logits. A loss of weight 0 is not computed.
        coarse_loss_weight (`float`, defaults to 0.4):
            Weight of the cross-entropy of the coarse logits.
        auxiliary_loss_weight (`float`, defaults to 0.4):
            Weight of the cross-entropy of the auxiliary logits.
        prototype_loss_weight (`float`, defaults to 0.01):
            Weight of the cross-entropy over the classes' nearest prototypes.
        contrastive_loss_weight (`float`, defaults to 0.2):
            Weight of the pixel-to-distribution contrast; 0.05 in the reference.
        class_margin_loss_weight (`float`, defaults to 0.01):
            Weight of the class margin.
        class_weights (`list[float]`, *optional*):
            K weights, 0 or more, of the pixels of each class in the cross-entropies of the final, coarse and auxiliary
            logits, whose means then are Σ w·ce / Σ w. The prototype loss takes neither these nor the hard pixels: it
            shapes the embeddings, of which every pixel is to have a good one, and its scores are bounded, so that
            a threshold on their probabilities would mean something else.
        ohem_threshold (`float`, *optional*):
            In (0, 1]; 0.7 is usual. Online hard example mining: the same three cross-entropies count only the pixels
            whose class has a probability below it.
        ohem_min_kept (`int`, defaults to 100000):
            With `ohem_threshold`, so many valid pixels of every image count in any case, those of the largest losses.
        contrastive_temperature (`float`, defaults to 0.1):
            Divides the similarities of the contrast, at least 0.025. The reference has none, which is 1.
        use_class_margin_reference (`bool`, defaults to `False`):
            Report the reference's class margin, a constant without gradient that compares channels, instead
            of ours, which compares classes.
        assignment (`str`, defaults to `"argmax"`):
            How a pixel is given to one of its class's distributions: `sample` draws from the Sinkhorn plan,
            `argmax` takes its largest entry, `reference` draws from the softmax of the plan, which is nearly
            uniform.
        memory_init (`str`, defaults to `"random"`):
            Start of the prototypes: `random` directions of unit length, or the `reference`'s un-normalised
            normal numbers of standard deviation 0.02.
        memory_momentum (`float`, defaults to 0.999):
            Momentum of the prototypes, in [0, 1).
        memory_momentum_warmup (`int`, defaults to 10):
            A prototype that has had t updates moves with momentum min(`memory_momentum`, t / (t + warm-up));
            0 keeps the momentum constant.
        use_memory_fallback (`bool`, defaults to `True`):
            Let all pixels of a class move its prototypes where none is classified correctly; otherwise only those that
            are move them, and a rare class may never begin.
        is_memory_frozen (`bool`, defaults to `False`):
            Leave the prototypes as they started. With the memory losses at weight 0 this is the control of a
            comparison: the same layers, but nothing in the memory.
        layer_scale_init_value (`float`, *optional*, defaults to 0.0):
            Multiply the aggregated features by a learned scale for each channel, which starts here (LayerScale, arXiv
            2103.17239); with 0 the network begins as one that has no aggregation. With a context module the
            fusion of both has such a scale, too, and is added to their sum. `None`: neither is scaled and the fusion
            stands alone, which is the reference's form.
        sinkhorn_epsilon (`float`, defaults to 0.05):
            Entropy of the assignment: similarities are divided by it. At least 0.025, so that float32 holds
            its exponentials.
        sinkhorn_iterations (`int`, defaults to 3):
            Rounds of Sinkhorn normalisation.
        semantic_loss_ignore_index (`int`, defaults to 255):
            Label of pixels that count nowhere.

    Raises:
        StrictDataclassError (of huggingface_hub) or ValueError: for impossible values and combinations, naming the
            field.

    Note:
        Defaults chosen by measurement (`benchmarks/assignment.py`): on a simulated class with three modes `argmax` and
        `sample` find all three, `reference` none, and only the warmed-up momentum does so within 100 updates. On
        CamVid (10 epochs, one seed, validation mean IoU) `argmax`, `sample` and `reference` come to 54.7, 55.5 and
        55.2, a start from the data to 54.3, and one or three distributions a class to 55.3 and 53.6, which is closer
        together than seeds are over 20 epochs; so the default is the assignment without a draw, and the random start.

        Layer scale, contrast and fallback (`examples/camvid_study`: CamVid at 240×180, 20 epochs, mean IoU of three
        seeds on the validation and the test split): without CMDL 60.7 and 51.9; its layers with nothing learned in the
        memory 59.0 and 50.6 where the aggregated features are not scaled, 59.8 and 52.1 where they are; CMDL 60.3 and
        53.5. Of one seed, on validation: 61.0, 61.1 and 58.9 for a contrast of weight 0.05, 0.2 and 1. With PSPNet
        likewise: without CMDL 60.5 and 52.3; its layers alone 60.5 and 53.0; CMDL 61.5 and 53.9, or, of one seed, 58.8
        and 53.3 with a fusion that stands alone.

    Example:
        ```python
        >>> from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation

        >>> config = CMDLConfig(num_labels=19, context_module="ppm")
        >>> model = CMDLForSemanticSegmentation(config)
        >>> reference = CMDLConfig.from_preset("reference", num_labels=150)
        ```
    """

    model_type = "cmdl"
    # The plain mapping, not transformers' SubConfigSpec: it serves releases before and after 5.20.
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "coarse_logits",
        "auxiliary_logits",
        "loss_dict",
        "pixel_embeddings",
        "similarity",
        "distribution_ids",
    ]

    backbone_config: dict | PreTrainedConfig | None = None
    backbone_kwargs: dict | None = None
    size_divisor: int = 1
    palette: list[list[int]] | None = None
    context_module: str = "none"
    context_module_plugin: str | None = None
    pool_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)
    aspp_dilations: list[int] | tuple[int, ...] = (1, 12, 24, 36)
    criss_cross_recurrence: int = 2
    use_distributions: bool = True
    hidden_size: int = 512
    attention_size: int = 256
    num_distributions: int = 9
    use_hard_voting: bool = False
    use_auxiliary_head: bool = True
    dropout: float | int = 0.1
    segmentation_loss_weight: float | int = 1.0
    coarse_loss_weight: float | int = 0.4
    auxiliary_loss_weight: float | int = 0.4
    prototype_loss_weight: float | int = 0.01
    contrastive_loss_weight: float | int = 0.2
    class_margin_loss_weight: float | int = 0.01
    class_weights: list[float | int] | None = None
    ohem_threshold: float | int | None = None
    ohem_min_kept: int = 100_000
    contrastive_temperature: float | int = 0.1
    use_class_margin_reference: bool = False
    assignment: Literal["sample", "argmax", "reference"] = "argmax"
    memory_init: Literal["random", "reference"] = "random"
    memory_momentum: float | int = 0.999
    memory_momentum_warmup: int = 10
    use_memory_fallback: bool = True
    is_memory_frozen: bool = False
    layer_scale_init_value: float | int | None = 0.0
    sinkhorn_epsilon: float | int = 0.05
    sinkhorn_iterations: int = 3
    semantic_loss_ignore_index: int = 255

    def __post_init__(self, **kwargs: Any) -> None:
        check_names(kwargs, [field.name for field in fields(self)])
        if self.backbone_config is None:
            self.backbone_config = CONFIG_MAPPING["timm_backbone"](**_DEFAULT_BACKBONE)
        elif isinstance(self.backbone_config, dict):
            model_type = self.backbone_config.get("model_type", "timm_backbone")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"backbone_config: model_type {model_type!r} is not known to transformers")
            self.backbone_config = CONFIG_MAPPING[model_type].from_dict(self.backbone_config)
        context_module = find_context_module(self.context_module, self.context_module_plugin)
        self.context_module_plugin = context_module.plugin or self.context_module_plugin
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> "CMDLConfig":
        """Build a configuration from a named set of values.

        Args:
            preset (`str`): `"reference"`: everything as the public reference computes it.
            **overrides: Fields that differ from the preset.

        Raises:
            ValueError: if there is no such preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset: {preset!r} is unknown; known presets: {', '.join(PRESETS)}")
        return cls(**(PRESETS[preset] | overrides))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a saved one and changes to it, as `from_pretrained(..., num_labels=3)` does.

        Another number of classes leaves the saved colours and class weights without meaning: they go, as the saved
        names do. What the keywords set is checked like everything else.
        """
        if num_labels := kwargs.get("num_labels") or len(kwargs.get("id2label") or ()):
            names = ("palette", "class_weights")
            stale = [name for name in names if len(config_dict.get(name) or ()) != num_labels]
            config_dict = config_dict | dict.fromkeys(stale)
        result = super().from_dict(config_dict, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        config.validate_cmdl()
        return result

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the configuration, with its sources and that of a plug-in's context module; see transformers."""
        super().save_pretrained(save_directory, *args, **kwargs)
        carry_context_module(self.context_module, save_directory)

    def validate_cmdl(self) -> None:
        """Refuse impossible values and combinations; runs at construction and when saving."""
        context_module = find_context_module(self.context_module, self.context_module_plugin)
        check_ranges(self, context_module.min_hidden_size)
        check_classes(self)
        check_feature_maps(self, context_module.num_feature_maps)
