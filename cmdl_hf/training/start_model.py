"""The start of a training from a trained CMDL model: what the model decides, and what begins anew."""

import copy
import hashlib
import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from transformers import PreTrainedConfig

from ..data import IMAGENET_MEAN, IMAGENET_STD, HasClasses
from ..escaping import MAX_NAME, one_line
from ..inference import load_segmenter
from ..models import CMDLConfig, CMDLForSemanticSegmentation, find_context_module
from .arguments import CMDLTrainingArguments
from .naming import format_value
from .network import check_remote_code, find_class_weights
from .options import check_options, parse_options

logger = logging.getLogger(__name__)

_LONGEST_EDGE = 16_384  # pixels; the limit that a processor gets which has none


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Options of a network that change only how it is trained. A recipe may set them; all others say what weights mean.
_OF_TRAINING = _words(
    """
    dropout segmentation_loss_weight coarse_loss_weight auxiliary_loss_weight prototype_loss_weight
    contrastive_loss_weight class_margin_loss_weight contrastive_temperature contrast_target
    intra_class_negative_weight use_class_margin_reference assignment memory_momentum memory_momentum_warmup
    use_memory_fallback is_memory_frozen sinkhorn_epsilon sinkhorn_iterations
    """
)
# Fields of a network that other keys of a recipe set, or the data set does.
_NO_OPTIONS = _words(
    """
    backbone_config backbone_kwargs size_divisor palette context_module context_module_plugin use_distributions
    hidden_size attention_size class_weights ohem_threshold ohem_min_kept id2label
    """
)


@dataclass(frozen=True)
class StartModel:
    """A trained model that a training starts from; [`load_start_model`] loads it.

    Args:
        name (`str`): Name of its folder, or its name on the Hub.
        is_on_hub (`bool`): Whether it came from the Hub.
        model (`CMDLForSemanticSegmentation`): The model, in float32 on the CPU.
        resize (`tuple[int, int]`, *optional*): Size to which its image processor resizes images: the shorter edge, and
            the limit of the longer edge, in pixels.
        digest (`str`): SHA-256 of its weights. It is recognised by it when a run continues.
    """

    name: str
    is_on_hub: bool
    model: CMDLForSemanticSegmentation
    resize: tuple[int, int] | None
    digest: str

    @property
    def facts(self) -> dict[str, Any]:
        """What `run.json` says of the model."""
        return {"name": self.name, "is_on_hub": self.is_on_hub, "digest": self.digest}

    def fit(self, args: CMDLTrainingArguments) -> CMDLTrainingArguments:
        """Take the network and the size of images from the model, and everything else from a recipe.

        A setting of the network that has its default value in the recipe counts as not given. Options of the losses,
        of the dropout and of the memory's updates are kept from the model, unless the recipe has others.

        Args:
            args (`CMDLTrainingArguments`): The recipe.

        Raises:
            ValueError: if the recipe gives another network, or another size of images. The message names both.
        """
        own, defaults = self._settings(), CMDLTrainingArguments()
        options = parse_options(args.model_options)
        check_options(options, _NO_OPTIONS)
        found = {name: (value, getattr(args, name)) for name, value in own.items() if name != "model_options"}
        wrong = {
            name: pair
            for name, pair in found.items()
            if pair[1] != getattr(defaults, name) and not self._agree(name, *pair)
        }
        for name, value in options.items():
            if name in own["model_options"] and name not in _OF_TRAINING:
                there = own["model_options"][name]
                if format_value(there) != format_value(value):
                    wrong[f"model_options.{name}"] = (there, value)
        if wrong:
            differences = "; ".join(
                f"{name} is {_show(there)} in the model and {_show(here)} in the recipe"
                for name, (there, here) in wrong.items()
            )
            raise ValueError(
                f"a training from the model {one_line(self.name, MAX_NAME)} keeps its network and its size of images, "
                f"and the recipe gives others: {differences}. Leave them out of the recipe, or add "
                f"{' '.join(_flag(name, there) for name, (there, _) in wrong.items())}"
            )
        return self.overwrite(args)

    def overwrite(self, args: CMDLTrainingArguments) -> CMDLTrainingArguments:
        """Put the model's network and size of images into a recipe, whatever is there. See [`StartModel.fit`]."""
        own, given = self._settings(), parse_options(args.model_options)
        standard = CMDLConfig(num_labels=self.model.config.num_labels)
        options = own["model_options"] | given
        kept = {
            name: value
            for name, value in options.items()
            if name in given or format_value(value) != format_value(getattr(standard, name))
        }
        return replace(args, **own | {"model_options": kept or None})

    def make_model(self, args: CMDLTrainingArguments, dataset: HasClasses) -> CMDLForSemanticSegmentation:
        """Make the network for the classes of a data set, with the weights of the model.

        For other classes than the model's, the classifiers and the memory bank begin anew. A line of the log says what
        is kept.

        Args:
            args (`CMDLTrainingArguments`): A recipe that [`StartModel.fit`] returned. Its seed determines what begins
                anew.
            dataset (`SegmentationDataset` or `Benchmark`): Gives names and colours of the classes, and their weights.

        Raises:
            FileNotFoundError: if the file of class weights does not exist.
            ValueError: if an option is out of range.
        """
        set_seed(args.seed)
        model = CMDLForSemanticSegmentation(self.make_config(args, dataset))
        is_kept = self._has_classes_of(dataset)
        anew = set() if is_kept else _class_tensors(model.config)
        new = {name: tensor for name, tensor in model.state_dict().items() if name in anew}
        model.load_state_dict(self.model.state_dict() | new)
        self._tell(args, dataset, is_kept)
        if model.config.context_module_plugin is not None:
            check_remote_code(model)
        return model

    def _tell(self, args: CMDLTrainingArguments, dataset: HasClasses, is_kept: bool) -> None:
        """Say what is kept of the model, and what begins anew."""
        old, new = self.model.config.num_labels, dataset.num_labels
        name = one_line(self.name, MAX_NAME)
        what = "classifiers and memory bank" if args.use_distributions else "classifiers"
        if not is_kept:
            which = f"{new} instead of {old}" if new != old else f"other names for {new}"
            logger.info(f"the classes differ from those of the model {name} ({which}): {what} begin anew")
        elif args.use_distributions and args.memory_start == "data":
            logger.info(
                f"the classes are those of the model {name}: classifiers are kept, the memory starts from data"
            )
        else:
            logger.info(f"the classes are those of the model {name}: {what} are kept")

    def make_config(self, args: CMDLTrainingArguments, dataset: HasClasses) -> CMDLConfig:
        """Make the configuration of the network for the classes of a data set; see [`StartModel.make_model`]."""
        changes = {
            "id2label": dataset.id2label,
            "palette": dataset.palette,
            "class_weights": find_class_weights(args.class_weights, dataset),
            "ohem_threshold": args.ohem_threshold,
            "ohem_min_kept": args.ohem_min_kept,
        }
        return CMDLConfig(**_settings_of(self.model.config) | parse_options(args.model_options) | changes)

    def _has_classes_of(self, dataset: HasClasses) -> bool:
        """Whether model and data set have the same classes, in one order."""
        return {int(id_): name for id_, name in self.model.config.id2label.items()} == dict(dataset.id2label)

    def _settings(self) -> dict[str, Any]:
        """Return what the model decides, as a recipe says it."""
        config = self.model.config
        backbone: Any = config.backbone_config
        return {
            "resize": self.resize,
            "framework": find_context_module(config.context_module).framework,
            "use_distributions": config.use_distributions,
            "backbone": getattr(backbone, "backbone", None) or backbone.model_type,
            "output_stride": getattr(backbone, "output_stride", None),
            "backbone_kwargs": config.backbone_kwargs,
            "hidden_size": config.hidden_size,
            "attention_size": config.attention_size,
            "model_options": {name: value for name, value in _settings_of(config).items() if name not in _NO_OPTIONS},
        }

    def _agree(self, name: str, own: Any, given: Any) -> bool:
        """Whether a setting of a recipe is the model's, in other words perhaps."""
        if name == "framework":
            return find_context_module(given).framework == own
        if name == "backbone":  # what follows the dot names timm's weights
            return given.partition(".")[0] == own.partition(".")[0]
        if name == "backbone_kwargs":
            return all(key in (own or {}) and own[key] == value for key, value in parse_options(given).items())
        if name == "output_stride" and own is None and hasattr(self.model.backbone, "_backbone"):
            return given == self.model.backbone._backbone.feature_info.reduction()[-1]
        return format_value(own) == format_value(given)


def load_start_model(model: str | Path) -> StartModel:
    """Load a trained CMDL model to start a training from. Python files beside it are not run.

    Args:
        model (`str` or `Path`): Folder or Hub name.

    Raises:
        FileNotFoundError: if there is no such model, or it has no image processor.
        ValueError: if it is no trained CMDL model, or its image processor prepares images otherwise than a training.
    """
    with PartialState().local_main_process_first():  # the others find the files in the cache
        segmenter, processor = load_segmenter(model)
    is_on_hub = not Path(model).is_dir()
    name = str(model) if is_on_hub else Path(model).resolve().name
    if not isinstance(segmenter, CMDLForSemanticSegmentation):
        raise ValueError(
            f"{model} is no CMDL model but a {type(segmenter).__name__}: cmdl train starts from models that it "
            "trained; for others see CMDLAdapter, which adds CMDL to a segmenter"
        )
    return StartModel(name, is_on_hub, segmenter, _find_resize(processor, model), _digest(segmenter))


def _find_resize(processor: Any, model: str | Path) -> tuple[int, int] | None:
    """Read the size of images from an image processor that prepares images as a training does.

    Raises:
        ValueError: if it does not. The message names what differs.
    """
    is_rescaled = processor.do_rescale and abs(255 * processor.rescale_factor - 1) < 1e-6
    found = tuple(map(tuple, (processor.image_mean, processor.image_std)))
    if not (is_rescaled and processor.do_normalize and found == (IMAGENET_MEAN, IMAGENET_STD)):
        raise ValueError(
            f"the image processor of {model} does not normalise images with the mean {IMAGENET_MEAN} and standard "
            f"deviation {IMAGENET_STD} of ImageNet, as the training does; start from a model that cmdl train made"
        )
    if not processor.do_resize:
        return None
    size = dict(processor.size)
    if not size.get("shortest_edge"):
        raise ValueError(
            f"the image processor of {model} resizes all images to {size}, which distorts them, and a training does "
            'not; save a processor of another size in its folder: cmdl_hf.make_image_processor({"shortest_edge": 512, '
            '"longest_edge": 2048}).save_pretrained(folder)'
        )
    return size["shortest_edge"], size.get("longest_edge") or _LONGEST_EDGE


def _class_tensors(config: CMDLConfig) -> set[str]:
    """Name the tensors of a network that stand for its classes: those whose shape depends on the number of classes."""
    shapes = []
    for num_labels in (config.num_labels, config.num_labels + 1):
        with torch.device("meta"):
            network = CMDLForSemanticSegmentation(CMDLConfig(**_settings_of(config), num_labels=num_labels))
        shapes.append({name: tensor.shape for name, tensor in network.state_dict().items()})
    return {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}


def _settings_of(config: CMDLConfig) -> dict[str, Any]:
    """Copy the fields of a configuration that do not belong to its classes."""
    own = {field.name for field in fields(CMDLConfig)} - {field.name for field in fields(PreTrainedConfig)}
    return {name: copy.deepcopy(getattr(config, name)) for name in own - {"palette", "class_weights"}}


def _digest(model: CMDLForSemanticSegmentation) -> str:
    """Compute the SHA-256 of a model's weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _show(value: Any) -> str:
    is_dict = isinstance(value, dict)
    return one_line(", ".join(f"{k}: {v}" for k, v in value.items()) if is_dict else format_value(value), MAX_NAME)


def _flag(name: str, value: Any) -> str:
    """Write a setting as flags of the command line."""
    option = name.removeprefix("use_").replace("_", "-")
    if isinstance(value, dict):
        return " ".join(f"--{option}.{key.replace('_', '-')} {item}" for key, item in value.items())
    if name == "use_distributions":
        return f"--{'' if value else 'no-'}{option}"
    return (
        f"--{option} {' '.join(map(format_value, value)) if isinstance(value, list | tuple) else format_value(value)}"
    )
