"""CMDL on any segmenter, without changes to the segmenter's code.

Reference: CMDL, class-wise multiple distributions learning, described as MDRL in arXiv 2303.08029.
"""

import difflib
import logging
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .adapter_hub_cmdl import CMDLAdapterHubMixin
from .checkpointing_cmdl import StatisticsOnce
from .checks_cmdl import check_pixel_values
from .configuration_cmdl import CMDLConfig
from .context_cmdl import ConvNormReLU, resize
from .distributions_cmdl import DistributionComparison
from .layers_cmdl import CMDLLayersMixin
from .memory_cmdl import start_prototypes
from .modeling_cmdl import CMDLSemanticSegmenterOutput
from .segmenter_cmdl import (
    check_segmenter,
    find_auxiliary_classifiers,
    find_classifier,
    get_classifier,
)

logger = logging.getLogger(__name__)

_STRIDE = 8  # stride of the finest grid for attention and memory, as in the paper's networks

_OF_OUR_NETWORKS = {
    "backbone_config",
    "backbone_kwargs",
    "size_divisor",
    "palette",
    "context_module",
    "pool_scales",
    "aspp_dilations",
    "criss_cross_recurrence",
    "use_distributions",
    "use_auxiliary_head",
}
_OPTIONS = {option.name for option in fields(CMDLConfig) if option.name in CMDLConfig.__annotations__}


@dataclass
class _Pass:
    """Tensors recorded during one forward pass of the adapter."""

    size: tuple[int, int]
    labels: Tensor | None
    pixel_features: Tensor | None = None
    comparison: DistributionComparison | None = None
    coarse_logits: Tensor | None = None
    logits: Tensor | None = None
    auxiliary_logits: list[Tensor] = field(default_factory=list)


class CMDLAdapter(CMDLLayersMixin, nn.Module, CMDLAdapterHubMixin):
    """Adds class-wise multiple distributions learning to an existing segmenter.

    The input of the segmenter's final classifier is the pixel representation, and its output the coarse logits
    (first-stage scores, from which the votes are made). The adapter adds the memory bank, the semantic aggregation and
    a second classifier. The logits of the second classifier replace those of the first in the segmenter's output. If
    the feature map is finer than 1/8 of the image, attention and memory use its averages on that grid. The segmenter
    itself is not changed: a direct call returns its own scores.

    Args:
        segmenter (`nn.Module`): Model that takes images (B, channels, H, W) and returns the logits of each pixel: as a
            tensor, a dictionary with `out` or `logits`, a tuple whose first item is the logits, or a transformers
            output. It is trained together with CMDL's layers.
        classifier (`str`, *optional*): Name of its final `Conv2d` in `named_modules`. By default the adapter runs the
            segmenter once on an empty image to find the name, and logs it.
        num_labels (`int`, *optional*): Number of classes K. By default the outputs of the classifier.
        **options: Fields of [`CMDLConfig`] that do not describe the network: `num_distributions`, the weights of the
            losses, the rules of the memory, and so on. By default `hidden_size` C is the number of channels of the
            pixel representation, at most 512, and `attention_size` is half of C.

    Attributes:
        segmenter (`nn.Module`): The segmenter.
        classifier_name (`str`): Name of its final classifier.
        config (`CMDLConfig`): The configuration made from `options`.

    Raises:
        TypeError: if `segmenter` is not a module.
        ValueError: if there is no such classifier or option, or the segmenter classifies masks instead of pixels.
        StrictDataclassError (of huggingface_hub): if the value of an option is impossible.

    Note:
        Convolutions with K outputs and `aux` in their name are auxiliary classifiers: their logits get the auxiliary
        loss. They use the segmenter's features without CMDL.

        `save_pretrained(folder)` and `push_to_hub(name)` save the adapter with the segmenter's weights.
        `CMDLAdapter.from_pretrained(folder_or_name)` loads both, in eval mode. It can rebuild segmenters of
        transformers and segmentation_models_pytorch. For any other segmenter, or one with changed layers, pass
        `segmenter=`: a segmenter of the same structure, with any weights. To change the classes, remove CMDL with
        `remove`, replace the segmenter's classifier, and make a new adapter.

        Add peft's LoRA to the segmenter before you make the adapter. Apply torch.compile to the adapter. Only one
        thread at a time may call the adapter.

    Example:
        ```python
        >>> from torchvision.models.segmentation import fcn_resnet50

        >>> from cmdl_hf import CMDLAdapter

        >>> segmenter = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
        >>> model = CMDLAdapter(segmenter, classifier="classifier.4", num_labels=21)
        ```
    """

    accepts_loss_kwargs = False  # otherwise transformers' Trainer would not divide accumulated losses
    base_model_prefix = ""  # which peft asks for, if the segmenter is from transformers

    def __init__(
        self, segmenter: nn.Module, classifier: str | None = None, num_labels: int | None = None, **options: Any
    ) -> None:
        super().__init__()
        check_segmenter(segmenter)
        _check_options(options)
        if classifier is None:
            classifier = find_classifier(segmenter, num_labels)
            logger.warning(
                f"{type(segmenter).__name__}: the final classifier seems to be {classifier!r}, "
                f"{segmenter.get_submodule(classifier)}; if this is wrong, pass classifier=..."
            )
        final = get_classifier(segmenter, classifier, num_labels)
        hidden_size = options.get("hidden_size", min(final.in_channels, 512))
        self._options = options
        id2label = getattr(getattr(segmenter, "config", None), "id2label", None) or {}
        self.config = CMDLConfig(
            num_labels=final.out_channels,
            id2label=id2label if len(id2label) == final.out_channels else None,
            **({"hidden_size": hidden_size, "attention_size": max(hidden_size // 2, 1)} | options),
        )
        self.segmenter = segmenter
        self.classifier_name = classifier
        class_weights = None if self.config.class_weights is None else torch.tensor(self.config.class_weights).float()
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.input_projection = (
            nn.Identity() if hidden_size == final.in_channels else ConvNormReLU(final.in_channels, hidden_size)
        )
        self._add_layers(self.config)
        self._start_layers()
        self._move_to(final.weight)
        self._pass: _Pass | None = None
        self._statistics: StatisticsOnce | None = None
        self._handles: list[RemovableHandle] = [final.register_forward_hook(self._on_classifier)]
        auxiliary = [name for name in find_auxiliary_classifiers(segmenter, final.out_channels) if name != classifier]
        if len(auxiliary) > 1:
            logger.warning(f"auxiliary classifiers {', '.join(auxiliary)}: only the one that runs first gets a loss")
        for name in auxiliary:
            self._handles.append(segmenter.get_submodule(name).register_forward_hook(self._on_auxiliary_classifier))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        """Segment images. With labels, also compute the losses and, in training, update the memory bank.

        Args:
            pixel_values (`Tensor` of shape (B, channels, H, W)): Normalised images.
            labels (`Tensor` of shape (B, H, W), integer, *optional*): Classes in 0..K-1, or
                `config.semantic_loss_ignore_index` for void pixels. In training every process of a process group must
                pass labels.
            **kwargs: Passed on to the segmenter.

        Returns:
            Without labels, the output of the segmenter, computed from the final logits. With labels,
            [`CMDLSemanticSegmenterOutput`], with logits on the grid of the classifier.

        Raises:
            ValueError: for images or labels of the wrong rank, size or dtype, or with impossible values.
            RuntimeError: if the segmenter did not run its classifier, or after `remove`.
        """
        check_pixel_values(pixel_values, pixel_values.shape[1] if pixel_values.dim() == 4 else 3)
        labels = None if labels is None else self._take_labels(labels, pixel_values)
        height, width = pixel_values.shape[-2:]
        seen = self._pass = _Pass((height, width), labels)
        try:
            output = self.segmenter(pixel_values, **kwargs)
        finally:
            self._pass = None
        if seen.logits is None or seen.pixel_features is None:
            if not self._handles:
                raise RuntimeError("remove() has removed CMDL; add it again with CMDLAdapter(segmenter)")
            raise RuntimeError(
                f"{type(self.segmenter).__name__} returned its result without running {self.classifier_name!r}: pass "
                "the name of the classifier that it runs. If you used torch.compile on the segmenter, use it on the "
                "adapter instead; if you used DataParallel, start processes with torchrun instead"
            )
        if labels is None:
            return output
        if torch.is_grad_enabled() and not seen.logits.requires_grad and self.fusion[0].weight.requires_grad:
            raise RuntimeError(
                f"{self.classifier_name!r} runs without gradient, for example in reentrant activation checkpointing: "
                "do not checkpoint the classifier"
            )
        losses = self._compute_losses(seen, labels)
        return CMDLSemanticSegmenterOutput(
            loss=torch.stack(list(losses.values())).sum(),
            logits=seen.logits,
            coarse_logits=seen.coarse_logits,
            auxiliary_logits=seen.auxiliary_logits[0] if seen.auxiliary_logits else None,
            loss_dict=losses,
        )

    def remove(self) -> nn.Module:
        """Remove CMDL, and return the segmenter in its original state. The adapter cannot be called afterwards."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return self.segmenter

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Turn on activation checkpointing in a transformers segmenter. Running statistics still move once a step."""
        segmenter: Any = self.segmenter
        enable = getattr(segmenter, "activation_checkpointing_enable", None) or segmenter.gradient_checkpointing_enable
        enable(*args, **kwargs)
        self._statistics = self._statistics or StatisticsOnce(self.segmenter)

    activation_checkpointing_enable = gradient_checkpointing_enable

    def gradient_checkpointing_disable(self) -> None:
        """Turn off activation checkpointing."""
        segmenter: Any = self.segmenter
        disable = getattr(segmenter, "activation_checkpointing_disable", None)
        (disable or segmenter.gradient_checkpointing_disable)()
        if self._statistics is not None:
            self._statistics.remove()
            self._statistics = None

    activation_checkpointing_disable = gradient_checkpointing_disable

    def extra_repr(self) -> str:
        """Show the name of the classifier."""
        return f"classifier={self.classifier_name!r}"

    @torch.no_grad()
    def _start_layers(self) -> None:
        """Initialise the memory bank as `config.memory_init` says. All other layers keep torch's initialisation."""
        if self.config.memory_init != "random":  # as which a new bank starts
            noise = torch.randn_like(self.memory_bank.prototypes)
            self.memory_bank.prototypes.copy_(start_prototypes(noise, self.config.memory_init))

    def _move_to(self, weight: Tensor) -> None:
        """Move CMDL's layers to the segmenter's device and dtype. The memory bank keeps its dtype."""
        for layer in self.children():
            if layer is not self.segmenter:
                layer.to(device=weight.device, dtype=None if layer is self.memory_bank else weight.dtype)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(weight.device)

    def _read_memory(self) -> Tensor:
        """Read the prototypes (K, M, C); in training as a copy that stays valid until backward."""
        prototypes = super()._read_memory()
        return _hold(prototypes) if self.training else prototypes

    def _on_classifier(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Replace the classifier's logits (B, K, h, w) by the final logits."""
        if self._pass is None:
            return None
        if self._pass.logits is not None:
            raise RuntimeError(
                f"{type(self.segmenter).__name__} runs {self.classifier_name!r} more than once in a pass, so there is "
                "no single set of coarse logits; CMDL needs a segmenter that classifies each image once"
            )
        features = self.input_projection(inputs[0])
        coarse_logits = output.float()
        (height, width), (image_height, image_width) = features.shape[-2:], self._pass.size
        grid = min(height, -(-image_height // _STRIDE)), min(width, -(-image_width // _STRIDE))
        pixel_features = _shrink(features, grid)
        class_probabilities = _shrink(self._class_probabilities(coarse_logits), grid)
        aggregated, self._pass.comparison = self._aggregate(pixel_features, class_probabilities, self._pass.labels)
        aggregated_features = resize(aggregated, features.shape[-2:])
        logits = self.decode_head(self.fusion(torch.cat([features, aggregated_features], dim=1)))
        self._pass.pixel_features, self._pass.coarse_logits = pixel_features, coarse_logits
        self._pass.logits = logits.float()
        return logits.to(output.dtype)

    def _on_auxiliary_classifier(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._pass is not None and self._pass.labels is not None:
            self._pass.auxiliary_logits.append(output.float())

    def _compute_losses(self, seen: _Pass, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses by name, each times its weight. In training, also update the memory bank."""
        assert seen.logits is not None
        assert seen.pixel_features is not None
        auxiliary_logits = seen.auxiliary_logits[0] if seen.auxiliary_logits else None
        logits = seen.logits, seen.coarse_logits, auxiliary_logits
        return self._learn(labels, *logits, seen.pixel_features, seen.comparison)[0]


@torch.library.custom_op("cmdl_hf::hold", mutates_args=())
def _hold(prototypes: Tensor) -> Tensor:
    """Copy the prototypes for backward, because the memory bank changes before backward runs.

    Inductor would remove a plain `clone` and save the memory bank itself. If the segmenter is compiled as several
    graphs, as transformers' models are in their first run, the bank has changed before backward. Inductor does not
    remove a custom operator.
    """
    return prototypes.clone()


@_hold.register_fake
def _(prototypes: Tensor) -> Tensor:
    return torch.empty_like(prototypes)


def _shrink(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Average (B, C, h, w) over the cells of a grid that is equal or coarser."""
    return feature_map if tuple(feature_map.shape[-2:]) == size else F.adaptive_avg_pool2d(feature_map, size)


def _check_options(options: dict[str, Any]) -> None:
    """Refuse fields that describe our own networks, and unknown fields."""
    for name in options:
        if name in _OF_OUR_NETWORKS:
            raise ValueError(f"{name} describes the network, which the segmenter already defines: leave {name} out")
        if name not in _OPTIONS:
            known = sorted(_OPTIONS - _OF_OUR_NETWORKS)
            nearest = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {nearest[0]}?" if nearest else f"the options are {', '.join(known)}"
            raise ValueError(f"{name} is not an option of CMDLAdapter; {cure}")
