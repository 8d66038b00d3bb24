"""Configuration of CMDL models.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import os
from dataclasses import fields
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from .allowed_cmdl import BACKBONES, check_dtype, check_extras, check_timm_options, check_transformers_config
from .configuration_checks_cmdl import check_classes, check_feature_maps, check_names, check_ranges, check_sizes
from .context_registry_cmdl import carry_context_module, find_context_module
from .saving_cmdl import refuse_links

PRESETS: dict[str, dict[str, Any]] = {
    "reference": {
        "assignment": "reference",
        "contrast_target": "all",
        "voting": "class",
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

_OF_OLD_FILES = {"contrast_target": "all", "voting": "class"}  # what a file means that does not name them
_DEFAULT_BACKBONE = {"backbone": "resnet50", "out_indices": [1, 2, 3, 4], "output_stride": 8}


@strict
class CMDLConfig(PreTrainedConfig):
    """Configuration of [`CMDLForSemanticSegmentation`].

    With `use_distributions=False` the same fields describe the plain framework (FCN, PSPNet, DeepLabV3, CCNet or
    UPerNet), which is the baseline of every comparison.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            A `TimmBackboneConfig` or any transformers backbone configuration. Defaults to timm's `resnet50`
            with `output_stride=8` and its four stages. The pixel representation is computed from the last feature
            map, the auxiliary logits from the second-last. `upernet` uses the last four.
        backbone_kwargs (`dict`, *optional*):
            timm options that `TimmBackboneConfig` cannot hold, such as `{"pad_type": "same"}`.
        size_divisor (`int`, defaults to 1):
            Before the backbone, images are resized so that height and width are multiples of this number. Some
            backbones need this so that their feature maps fit together: 4 for Swin, 32 for HRNet.
        num_labels (`int`, *optional*, defaults to 2):
            Number of classes K, at least 2. Derived from `id2label` if that is given.
        palette (`list[list[int]]`, *optional*):
            Colours of the classes in pictures of predictions: K rows of red, green, blue in 0..255.
        context_module (`str`, defaults to `"none"`):
            Single-image context: `none` (FCN), `ppm` (PSPNet), `aspp` (DeepLabV3), `criss_cross` (CCNet),
            `upernet` (UPerNet), or a name registered with `register_context_module`.
        context_module_plugin (`str`, *optional*):
            File that registered the context module, if it comes from a plug-in. It is set automatically.
        pool_scales (`list[int]`, defaults to `(1, 2, 3, 6)`):
            Output sizes of the average pools of `ppm` and `upernet`.
        aspp_dilations (`list[int]`, defaults to `(1, 12, 24, 36)`):
            Dilations of the branches of `aspp`; 1 means a 1×1 convolution.
        criss_cross_recurrence (`int`, defaults to 2):
            How many times the criss-cross attention is applied. All applications share their weights.
        use_distributions (`bool`, defaults to `True`):
            `False` gives the plain framework, without memory bank, aggregation and memory losses.
        hidden_size (`int`, defaults to 512):
            Channels C of the pixel representation, of the prototypes and of every head.
        attention_size (`int`, defaults to 256):
            Channels T of the attention's queries, keys and values.
        num_distributions (`int`, defaults to 9):
            Number of distributions M of each class. A distribution is stored as one prototype.
        use_hard_voting (`bool`, defaults to `False`):
            Compute the votes from the one-hot arg-max of the coarse logits (first-stage scores) instead of their
            softmax.
        use_auxiliary_head (`bool`, defaults to `True`):
            Add an auxiliary head on the second-last feature map (deep supervision).
        dropout (`float`, defaults to 0.1):
            Probability of dropping a channel before each classifier, in [0, 1).
        segmentation_loss_weight (`float`, defaults to 1.0):
            Weight of the cross-entropy of the final logits. A loss of weight 0 is not computed.
        coarse_loss_weight (`float`, defaults to 0.4):
            Weight of the cross-entropy of the coarse logits.
        auxiliary_loss_weight (`float`, defaults to 0.4):
            Weight of the cross-entropy of the auxiliary logits.
        prototype_loss_weight (`float`, defaults to 0.01):
            Weight of the cross-entropy over the nearest prototype of each class.
        contrastive_loss_weight (`float`, defaults to 0.2):
            Weight of the pixel-to-distribution contrast; 0.05 in the reference.
        class_margin_loss_weight (`float`, defaults to 0.01):
            Weight of the class margin.
        class_weights (`list[float]`, *optional*):
            K weights w, 0 or more, one for each class. The cross-entropies (ce) of the final, coarse and auxiliary
            logits become weighted means Σ w·ce / Σ w over the pixels. The prototype loss uses neither these weights
            nor `ohem_threshold`, because every pixel needs a good embedding, and because its scores are bounded: a
            threshold on their probabilities would have another meaning.
        ohem_threshold (`float`, *optional*):
            Online hard example mining, in (0, 1]; usually 0.7. The same three cross-entropies use only the pixels
            whose true class has a probability below this threshold.
        ohem_min_kept (`int`, defaults to 100000):
            With `ohem_threshold`: this number of valid pixels of every image, those with the largest losses, is always
            used.
        contrastive_temperature (`float`, defaults to 0.1):
            The similarities in the contrast are divided by this number, at least 0.025. The reference has no
            temperature, which equals 1.
        contrast_target (`str`, defaults to `"all"`):
            Which distributions of its class the contrast draws a pixel to: `all`, as in the reference, or the one that
            the pixel is `assigned` to. The first makes the distributions of a class equal, the second keeps them
            distinct.
        intra_class_negative_weight (`float`, defaults to 0.2):
            With `contrast_target="assigned"`: weight of the other distributions of the pixel's class among those that
            the contrast pushes it away from, in [0, 1]. 0 leaves them out; 1 treats them like other classes. It is 0
            for a class with fewer than 2·M pixels on the feature grids of a batch.
        voting (`str`, defaults to `"class"`):
            How a pixel votes for the distributions of a class: equally for all, with the probability of the `class`,
            as in the reference; or in proportion to the `posterior`, the softmax of its cosines to them divided by
            `voting_temperature`. The second needs the embeddings, and so the projection head, at inference.
        voting_temperature (`float`, defaults to 0.1):
            Temperature of the posterior, at least 0.01. A large number gives the votes of `class`.
        use_class_margin_reference (`bool`, defaults to `False`):
            Report the class margin of the reference instead of ours. The reference compares channels, and its margin
            is a constant without gradient. Our margin compares classes.
        assignment (`str`, defaults to `"argmax"`):
            How a pixel is assigned to one distribution of its class: `argmax` takes the largest entry of the Sinkhorn
            plan, `sample` draws from the plan, `reference` draws from the softmax of the plan, which is nearly
            uniform.
        memory_init (`str`, defaults to `"random"`):
            Start of the prototypes: `random` directions of unit length, or, as in the `reference`, un-normalised
            normal numbers with standard deviation 0.02.
        memory_momentum (`float`, defaults to 0.999):
            Momentum of the prototypes, in [0, 1).
        memory_momentum_warmup (`int`, defaults to 10):
            A prototype after t updates has momentum min(`memory_momentum`, t / (t + `memory_momentum_warmup`));
            0 keeps the momentum constant.
        use_memory_fallback (`bool`, defaults to `True`):
            Normally only correctly classified pixels update the prototypes. If no pixel of a class is classified
            correctly, all pixels of the class update its prototypes. With `False`, a rare class may never get an
            update.
        is_memory_frozen (`bool`, defaults to `False`):
            Keep the prototypes at their random start. Together with memory losses of weight 0 this gives the control
            of a comparison: the same network with CMDL's layers, but with nothing learned in the memory.
        layer_scale_init_value (`float`, *optional*, defaults to 0.0):
            Initial value of a learned scale for each channel of the aggregated features (LayerScale, arXiv
            2103.17239). With 0 the network starts like one without aggregation. With a context module, the fusion of
            its features and the aggregated features also has such a scale, and is added to their sum. `None`, as in
            the reference: there are no scales, and the fusion is not added to anything.
        sinkhorn_epsilon (`float`, defaults to 0.05):
            Entropy of the assignment: similarities are divided by this number. At least 0.025, so that their
            exponentials fit into float32.
        sinkhorn_iterations (`int`, defaults to 3):
            Rounds of Sinkhorn normalisation.
        semantic_loss_ignore_index (`int`, defaults to 255):
            Label of void pixels, which all losses and the memory bank ignore.

    Raises:
        StrictDataclassError (of huggingface_hub) or ValueError: for impossible values and combinations. The message
            names the field.

    Note:
        The defaults were chosen by measurement.

        Assignment: on a simulated class with three modes and fixed embeddings, `argmax` and `sample` find all
        three modes, `reference` finds none. Within 100 updates, only the momentum with warm-up finds them. On CamVid
        (10 epochs, one seed, validation mean IoU) `argmax` reaches 54.7, `sample` 55.5, `reference` 55.2; a start from
        data reaches 54.3; one distribution per class reaches 55.3, three reach 53.6. These differences are smaller
        than those between seeds over 20 epochs. The defaults are therefore the assignment without random draws, and
        the random start.

        Contrast target and voting (`examples/distributions_study`: MSRC-21, 1,500 steps, mean IoU of three seeds, test
        split): without CMDL 78.8, `all` 79.6, `assigned` 78.6, `assigned` with votes by the `posterior` 77.6. Seeds
        spread by 1.1 to 3.9, which hides any difference. The mean cosine within a class is 0.97 with `all` and 0.74
        with `assigned`, which keeps three simulated modes apart (`benchmarks/assignment.py`).

        Layer scale, contrast and fallback (`examples/camvid_study`: CamVid at 240×180, 20 epochs, mean IoU of three
        seeds, validation / test split; the control is explained at `is_memory_frozen`):

        - FCN: without CMDL 60.7 / 51.9; control without layer scale 59.0 / 50.6, with layer scale 59.8 / 52.1; CMDL
          60.3 / 53.5. Contrast of weight 0.05, 0.2 and 1: 61.0, 61.1 and 58.9 (one seed, validation).
        - PSPNet: without CMDL 60.5 / 52.3; control 60.5 / 53.0; CMDL 61.5 / 53.9; CMDL with a fusion that is not
          added to anything 58.8 / 53.3 (one seed).

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
        "hidden_states",
        "attentions",
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
    contrast_target: Literal["all", "assigned"] = "all"
    intra_class_negative_weight: float | int = 0.2
    voting: Literal["class", "posterior"] = "class"
    voting_temperature: float | int = 0.1
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
        check_extras(kwargs, type(self))
        check_dtype("config", self.dtype)
        check_sizes(self, kwargs.get("num_labels"))
        check_timm_options(self.backbone_kwargs)
        if self.backbone_config is None:
            self.backbone_config = dict(_DEFAULT_BACKBONE)
        is_dict = isinstance(self.backbone_config, dict)
        backbone = self.backbone_config if is_dict else self.backbone_config.to_dict()
        check_transformers_config(backbone, BACKBONES, "backbone_config")
        if is_dict:
            self.backbone_config = CONFIG_MAPPING[backbone.get("model_type", "timm_backbone")].from_dict(backbone)
        context_module = find_context_module(self.context_module, self.context_module_plugin)
        self.context_module = context_module.name  # which a framework's name stands for, too
        self.context_module_plugin = context_module.plugin or self.context_module_plugin
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> "CMDLConfig":
        """Build a configuration from a named set of values.

        Args:
            preset (`str`): `"reference"`, which computes what the public reference implementation computes.
            **overrides: Fields with values other than the preset's.

        Raises:
            ValueError: if there is no such preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset: {preset!r} is unknown; known presets: {', '.join(PRESETS)}")
        return cls(**(PRESETS[preset] | overrides))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a saved one and from changes, as `from_pretrained(..., num_labels=3)` does.

        If the number of classes changes, the saved names, colours and class weights are dropped. The changes are
        checked like all other values. A file that names neither `contrast_target` nor `voting` was written before they
        existed, and means what it meant then.
        """
        config_dict = _OF_OLD_FILES | config_dict
        if num_labels := kwargs.get("num_labels") or len(kwargs.get("id2label") or ()):
            names = ("palette", "class_weights")
            stale = [name for name in names if len(config_dict.get(name) or ()) != num_labels]
            config_dict = config_dict | dict.fromkeys(stale)
        result = super().from_dict(config_dict, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        config.validate_cmdl()
        return result

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the configuration with its source files, and with the file of a plug-in's context module."""
        refuse_links(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        carry_context_module(self.context_module, save_directory)

    def validate_cmdl(self) -> None:
        """Refuse impossible values and combinations. Called at construction and before saving."""
        context_module = find_context_module(self.context_module, self.context_module_plugin)
        check_ranges(self, context_module.min_hidden_size)
        check_classes(self)
        check_feature_maps(self, context_module.num_feature_maps)
