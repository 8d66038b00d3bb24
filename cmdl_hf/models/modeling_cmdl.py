"""CMDL for semantic segmentation as a `PreTrainedModel` of transformers.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .aggregation_cmdl import CMDLAttention, CMDLSemanticAggregation, make_layer_scale, scale_channels
from .backbone_cmdl import load_timm_weights, load_transformers_weights
from .checkpointing_cmdl import CheckpointingMixin
from .checks_cmdl import check_pixel_values, check_weight_files
from .configuration_cmdl import CMDLConfig
from .context_cmdl import ConvNormReLU, CrissCrossAttention, resize
from .context_registry_cmdl import find_context_module
from .distributions_cmdl import DistributionComparison, DistributionLearningOutput
from .layers_cmdl import CMDLLayersMixin, make_classifier
from .memory_cmdl import CMDLMemoryBank, start_prototypes
from .saving_cmdl import refuse_links, remove_superseded


@dataclass
class CMDLSemanticSegmenterOutput(ModelOutput):
    """Output of [`CMDLForSemanticSegmentation`].

    The grid is the size h×w of the feature map. N = B·h·w is the number of its pixels in the batch.

    Args:
        loss (`Tensor`, scalar, *optional*): Sum of `loss_dict`. Returned with `labels`.
        logits (`Tensor` of shape (B, K, h, w)): Final scores, float32. Resize them once, directly to the original
            image size, as the image processor's `post_process_semantic_segmentation` does.
        coarse_logits (`Tensor` of shape (B, K, h, w), *optional*): First-stage scores, from which the votes are made.
            Returned with `config.use_distributions`.
        auxiliary_logits (`Tensor` of shape (B, K, h, w), *optional*): Scores of the auxiliary head. Returned in
            training or with `labels`.
        loss_dict (`dict[str, Tensor]`, *optional*): Losses by name, each times its weight. Returned with `labels`.
        pixel_embeddings (`Tensor` of shape (N, C), *optional*): Embeddings of unit length. Returned with
            `output_distributions`.
        similarity (`Tensor` of shape (N, K, M), *optional*): Cosine of each pixel to each distribution. Returned with
            `output_distributions`.
        distribution_ids (`Tensor` of shape (B, h, w), int64, *optional*): Nearest distribution of each pixel, among
            those of its predicted class. Returned with `output_distributions`.
        hidden_states (`tuple[Tensor]`, *optional*): Hidden states of a transformers backbone as it returns them, or
            the maps (B, channels, h, w) in `out_indices` of a timm backbone, finest first. Returned with
            `output_hidden_states`.
        attentions (`tuple[Tensor]`, *optional*): Attention weights of the backbone's layers, if it returns them.
            Returned with `output_attentions`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    coarse_logits: Tensor | None = None
    auxiliary_logits: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    pixel_embeddings: Tensor | None = None
    similarity: Tensor | None = None
    distribution_ids: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CMDLPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving of CMDL models.

    Note:
        New layers have torch's default initialisation, as in the reference. transformers' own default would draw the
        weights of every convolution from N(0, 0.02).
    """

    config: CMDLConfig
    config_class = CMDLConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False
    _supports_sdpa = True  # our attention always calls SDPA, also if `attn_implementation` has another value
    _no_split_modules = ()
    # Kept in float32 for every dtype of the model: updates of the bank are tiny, and similarities are always float32.
    _keep_in_fp32_modules_strict: tuple[str, ...] = ("memory_bank.prototypes", "embedding_norm", "prototype_norm")

    @staticmethod
    def _load_pretrained_model(model: PreTrainedModel, state_dict: Any, checkpoint_files: Any, *args: Any) -> Any:
        """Load weights, after a look at how many the files hold; see transformers."""
        check_weight_files(model, checkpoint_files, model.config.name_or_path)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, CrissCrossAttention):
            init.zeros_(module.gamma)
        elif isinstance(module, CMDLSemanticAggregation):
            if module.layer_scale is not None:
                init.constant_(module.layer_scale, self.config.layer_scale_init_value)
        elif isinstance(module, CMDLMemoryBank):
            noise = torch.randn_like(module.prototypes)
            init.copy_(module.prototypes, start_prototypes(noise, self.config.memory_init))
            init.zeros_(module.num_updates)
        elif module is self:
            if self.config.class_weights is not None:
                init.copy_(module.class_weights, torch.tensor(self.config.class_weights))
            if module.context_layer_scale is not None:
                init.constant_(module.context_layer_scale, self.config.layer_scale_init_value)
        else:
            super()._init_weights(module)


class CMDLForSemanticSegmentation(CMDLLayersMixin, CheckpointingMixin, CMDLPreTrainedModel):
    """Semantic segmentation with class-wise multiple distributions learning.

    The network is FCN, PSPNet, DeepLabV3, CCNet or UPerNet (`config.context_module`) with CMDL, or without CMDL
    (`config.use_distributions=False`). A new model has random backbone weights: load pretrained ones with
    `load_backbone_weights`, or a complete model with `from_pretrained`.

    Args:
        config (`CMDLConfig`): Configuration of the network, its losses and its memory.

    Example:
        ```python
        >>> import torch
        >>> from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation

        >>> backbone = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [3, 4]}
        >>> model = CMDLForSemanticSegmentation(CMDLConfig(num_labels=19, backbone_config=backbone)).eval()
        >>> model(pixel_values=torch.rand(1, 3, 64, 96)).logits.shape
        torch.Size([1, 19, 2, 3])
        ```
    """

    def __init__(self, config: CMDLConfig) -> None:
        super().__init__(config)
        if not config.use_distributions:
            self._keep_in_fp32_modules_strict = ()  # it has none of these layers
        self.backbone = AutoBackbone.from_config(config.backbone_config, **(config.backbone_kwargs or {}))
        class_weights = None if config.class_weights is None else torch.tensor(config.class_weights).float()
        self.register_buffer("class_weights", class_weights, persistent=False)  # not saved: the config holds them
        channels, hidden_size = self.backbone.channels, config.hidden_size
        self.context_module = find_context_module(config.context_module).make(config, channels)
        self.context_layer_scale = None
        if config.use_distributions:
            self.bottleneck = ConvNormReLU(channels[-1], hidden_size, 3)
            self.coarse_head = nn.Sequential(ConvNormReLU(hidden_size, hidden_size), *make_classifier(config))
            self._add_layers(config)
            if self.context_module is not None:
                self.context_attention = CMDLAttention(hidden_size, config.attention_size)
                self.context_layer_scale = make_layer_scale(hidden_size, config.layer_scale_init_value)
                self.context_fusion = ConvNormReLU(2 * hidden_size, hidden_size, 3)
        else:
            self.decode_head = nn.Sequential(*make_classifier(config))
        self.auxiliary_head = (
            nn.Sequential(ConvNormReLU(channels[-2], hidden_size, 3), *make_classifier(config))
            if config.use_auxiliary_head
            else None
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_distributions: bool = False,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> CMDLSemanticSegmenterOutput:
        """Segment images. With labels, also compute the losses and, in training, update the memory bank.

        Args:
            pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images of any size.
            labels (`Tensor` of shape (B, H, W), integer, *optional*): Classes in 0..K-1, or
                `config.semantic_loss_ignore_index` for void pixels. In eval mode the memory bank is not updated. In
                training, every process of a process group must pass labels, because losses and update use the pixels
                of all processes: the average of a loss over the processes is the loss of the whole batch.
            output_distributions (`bool`): Also return `pixel_embeddings`, `similarity` and `distribution_ids`.
            output_hidden_states (`bool`, `int` or `list[int]`, *optional*): Also return the backbone's hidden states,
                or only those with the given indices and `None` for the others. By default as in the config.
            output_attentions (`bool`, *optional*): Also return the backbone's attentions. By default as in the config.
            return_dict (`bool`, *optional*): `False` returns a tuple.

        Returns:
            `CMDLSemanticSegmenterOutput`.

        Raises:
            ValueError: for images or labels of the wrong rank, size or dtype; on the CPU also for non-finite pixels
                and labels out of range. On an accelerator, which reading values would stall, such labels trigger an
                assertion of the device, and such pixels give a non-finite loss and do not change the memory bank.
        """
        if output_distributions and not self.config.use_distributions:
            raise ValueError("output_distributions=True needs a model with config.use_distributions=True")
        check_pixel_values(pixel_values, self.config.backbone_config.num_channels)
        labels = None if labels is None else self._take_labels(labels, pixel_values)

        feature_maps, features = self._run_backbone(pixel_values, output_hidden_states, output_attentions)
        pixel_features, coarse_logits, comparison = None, None, None
        if self.config.use_distributions:
            pixel_features = self.bottleneck(feature_maps[-1])
            coarse_logits = self.coarse_head(pixel_features).float()
            hidden_state, comparison = self._sharpen(pixel_features, coarse_logits, feature_maps, labels)
        else:
            assert self.context_module is not None
            hidden_state = self.context_module(feature_maps)
        logits = self.decode_head(hidden_state).float()
        auxiliary_logits, losses, seen = None, None, None
        if self.auxiliary_head is not None and (self.training or labels is not None):
            auxiliary_logits = self.auxiliary_head(feature_maps[-2]).float()
        if labels is not None:
            scores = logits, coarse_logits, auxiliary_logits
            losses, seen = self._learn(labels, *scores, pixel_features, comparison)
        return CMDLSemanticSegmenterOutput(
            loss=None if losses is None else torch.stack(list(losses.values())).sum(),
            logits=logits,
            coarse_logits=coarse_logits,
            auxiliary_logits=auxiliary_logits,
            loss_dict=losses,
            **(self._find_distributions(pixel_features, logits, seen or comparison) if output_distributions else {}),
            **features,
        )

    def _run_backbone(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | int | list[int] | None,
        output_attentions: bool | None,
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Compute the backbone's maps and, if asked for, its hidden states and attentions by name."""
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        asked = {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}
        is_timm = self.config.backbone_config.model_type == "timm_backbone"
        # All states are asked for, because older versions of transformers take no indices.
        options = {name: True for name, value in asked.items() if value and not (is_timm and "hidden" in name)}
        pixel_values = self._to_multiple_of_divisor(pixel_values)
        features = self.backbone(pixel_values, **options) if options else self.backbone(pixel_values)
        # timm's hidden states are its maps: TimmBackbone fails for more of them with a vision transformer.
        hidden_states = features.feature_maps if is_timm else features.hidden_states
        wanted = asked["output_hidden_states"]
        found = {
            "hidden_states": _select(hidden_states, wanted) if wanted else None,
            "attentions": features.attentions if asked["output_attentions"] else None,
        }
        return features.feature_maps, found

    def _to_multiple_of_divisor(self, pixel_values: Tensor) -> Tensor:
        """Resize images to the next multiple of `config.size_divisor`, in height and width."""
        divisor = self.config.size_divisor
        if divisor == 1:
            return pixel_values
        # Rounded up with positive numbers only, because ONNX divides integers towards zero.
        size = [(length + divisor - 1) // divisor * divisor for length in pixel_values.shape[-2:]]
        return resize(pixel_values, size)

    def _find_distributions(
        self,
        pixel_features: Tensor | None,
        logits: Tensor,
        comparison: DistributionComparison | DistributionLearningOutput | None,
    ) -> dict[str, Any]:
        """Find the nearest distribution of each pixel. A comparison that votes or losses made is reused."""
        if comparison is None:
            assert pixel_features is not None
            comparison = self.distribution_learning.compare(pixel_features, self.memory_bank)
        return {
            "pixel_embeddings": comparison.pixel_embeddings,
            "similarity": comparison.similarity,
            "distribution_ids": _nearest_distribution(comparison.similarity, logits.argmax(dim=1)),
        }

    def _sharpen(
        self,
        pixel_features: Tensor,
        coarse_logits: Tensor,
        feature_maps: tuple[Tensor, ...],
        labels: Tensor | None = None,
    ) -> tuple[Tensor, DistributionComparison | None]:
        """Improve the pixel features with the class distributions and the context module.

        Returns the features (B, C, h, w), and the comparison with the distributions if the votes need it.
        """
        aggregated_features, comparison = self._aggregate(
            pixel_features, self._class_probabilities(coarse_logits), labels
        )
        hidden_state = self.fusion(torch.cat([pixel_features, aggregated_features], dim=1))
        if self.context_module is None:
            return hidden_state, comparison
        # UPerNet's context has the finest grid, where the attention would have many more keys than queries.
        context = resize(self.context_module(feature_maps), pixel_features.shape[-2:])
        context_features = self.context_attention(pixel_features, context)
        fused = self.context_fusion(torch.cat([context_features, hidden_state], dim=1))
        if self.context_layer_scale is None:
            return fused, comparison
        # The sum bypasses attention and fusion, whose output is noise at the start of training.
        return context + hidden_state + scale_channels(fused, self.context_layer_scale), comparison

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the model as transformers does, but through no link, and without weights of an earlier save."""
        refuse_links(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            remove_superseded(save_directory)

    def load_backbone_weights(self, weights: str | os.PathLike | None = None) -> None:
        """Load pretrained weights into the backbone, in place.

        Args:
            weights (`str` or `os.PathLike`, *optional*): For a timm backbone: a safetensors file with timm's key
                names; by default timm downloads its weights for the backbone. For a transformers backbone: a folder
                or Hub name, as its `from_pretrained` takes it.

        Raises:
            ValueError: if the file is not a safetensors file, a tensor of the backbone is missing or has another
                shape, or timm has no weights for the backbone.
            OSError: if there is no such file (`FileNotFoundError`), or the weights cannot be downloaded.

        Note:
            `AutoBackbone.from_pretrained` is not used, because it would drop `output_stride`, and because
            transformers 5 resets the running statistics of timm's BatchNorms when it builds a pretrained backbone.
        """
        config = self.config.backbone_config
        if config.model_type == "timm_backbone":
            load_timm_weights(self.backbone._backbone, weights, config, self.config.backbone_kwargs or {})
        else:
            load_transformers_weights(self.backbone, weights, config)


def _select(states: tuple[Tensor, ...], wanted: bool | int | list[int] | None) -> tuple[Tensor | None, ...]:
    """Keep the hidden states with the wanted indices, and `None` for the others; all of them for a flag."""
    if wanted is None or isinstance(wanted, bool):
        return states
    kept = {index % len(states) for index in ([wanted] if isinstance(wanted, int) else wanted)}
    return tuple(state if index in kept else None for index, state in enumerate(states))


def _nearest_distribution(similarity: Tensor, classes: Tensor) -> Tensor:
    """Find each pixel's nearest distribution of its class: (N, K, M) and (B, h, w) -> (B, h, w)."""
    return similarity.argmax(dim=2).gather(1, classes.view(-1, 1)).view_as(classes)
