"""Load semantic segmenters from folders and the Hub, with errors in one line."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils import find_adapter_config_file

from ..escaping import one_line
from ..models import can_reach_hub, check_hub_name, check_transformers_config, explain_hub_error, fold_batch_norms
from ..weight_files import check_one_shape

logger = logging.getLogger(__name__)

_LARGEST_EDGE = 16_384  # pixels

_DAMAGES = (
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What transformers, torch and timm raise on damaged files, whose fields they take as they are."""

_LOADING = threading.Lock()  # transformers switches the default dtype of the process while it loads


def load_segmenter(
    model: str | Path, trust_remote_code: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, Any]:
    """Load a semantic segmenter of any architecture, and its image processor.

    CMDL models use the code of this package. Models with remote code need `trust_remote_code`. Weights saved in half
    precision are loaded in float32, the precision of the pixels, unless you ask for another.

    Args:
        model (`str` or `Path`): Folder or Hub name.
        trust_remote_code (`bool`): Whether to run Python files that come with the model. Read them first.
        dtype (`torch.dtype`): Precision of the weights.

    Returns:
        The model in eval mode, on the CPU, and its image processor.

    Raises:
        FileNotFoundError: if the folder, its config, its image processor, or the model on the Hub does not exist.
        ValueError: if the model is not a semantic segmenter with all its weights, or its folder holds the weights of
            two.
    """
    origin = _find_origin(model)
    _check_configuration(model, trust_remote_code, origin)
    try:
        with _LOADING:
            segmenter, info = AutoModelForSemanticSegmentation.from_pretrained(
                model,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                adapter_kwargs=dict(origin),  # it looks for an adapter by itself, too
                **origin,
            )
    except OSError as error:
        raise FileNotFoundError(_explain_missing(model, error)) from error
    except _DAMAGES as error:
        raise ValueError(_explain(model, error, origin)) from error
    if missing := sorted(name for name in info["missing_keys"] if not name.endswith("num_batches_tracked")):
        raise ValueError(
            f"{model} is not a trained semantic segmenter: {len(missing)} of its weights are missing, such as "
            f"{missing[0]}; fine-tune it first, or name a trained model"
        )
    return segmenter.eval(), _load_processor(model, trust_remote_code, origin)


def load_folded(
    model: str | Path, device: torch.device, dtype: torch.dtype, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, Any]:
    """Load a segmenter with its batch norms folded, on a device, and say what it is; see [`load_segmenter`]."""
    segmenter, processor = load_segmenter(model, trust_remote_code, dtype)
    logger.info(
        "%s: %d classes, %s parameters, on %s in %s",
        type(segmenter).__name__,
        len(segmenter.config.id2label),
        f"{sum(parameter.numel() for parameter in segmenter.parameters()):,}",
        device,
        str(dtype).removeprefix("torch."),
    )
    fold_batch_norms(segmenter)
    segmenter.to(device)
    return segmenter, processor


def load_processor(model: str | Path, trust_remote_code: bool = False) -> Any:
    """Load the image processor of a model. It does not crop: the whole image is scored and drawn.

    The arguments are those of [`load_segmenter`].

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it enlarges images beyond what memory holds.
    """
    return _load_processor(model, trust_remote_code, _find_origin(model))


def _load_processor(model: str | Path, trust_remote_code: bool, origin: dict[str, bool]) -> Any:
    try:
        processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=trust_remote_code, **origin)
    except (OSError, *_DAMAGES) as error:
        raise FileNotFoundError(
            f"{model} has no image processor (preprocessor_config.json) that can be loaded; save one in its folder: "
            "cmdl_hf.make_image_processor().save_pretrained(folder)"
        ) from error
    _check_sizes(model, processor)
    if getattr(processor, "do_center_crop", False):
        processor.do_center_crop = False
    return processor


def choose_device() -> torch.device:
    """Return the accelerator, such as a GPU, or the CPU if there is none."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device or torch.device("cpu")


def _find_origin(model: str | Path) -> dict[str, bool]:
    """Find out where a model lies, and say it; refuse what is neither a model's folder nor a Hub name.

    Returns:
        `dict`: arguments for `from_pretrained`. Where the Hub cannot be reached, only the cache is looked at.
    """
    path = Path(model)
    if path.is_file():
        raise ValueError(f"a model is a folder or a name on the Hub, found the file {model}; name its folder")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{model} contains no model: it has no config.json; name a folder that from_pretrained loads, "
                "such as the output folder of cmdl train"
            )
        check_one_shape(path)
        logger.info("loading the model %s", one_line(model))
        return {}
    check_hub_name(model)
    logger.info("loading the model %s from the Hub", one_line(model))
    if can_reach_hub():
        return {}
    logger.warning("the Hub cannot be reached: %s is looked for among the models downloaded before", one_line(model))
    return {"local_files_only": True}


def _check_configuration(model: str | Path, trust_remote_code: bool, origin: dict[str, bool]) -> None:
    """Refuse a model whose files would load something else, such as another model or a repository's kernels.

    CMDL models check their own configuration, and who trusts a model's code trusts its configuration.
    """
    try:
        adapter = find_adapter_config_file(str(model), **origin)
        config, _ = PreTrainedConfig.get_config_dict(model, **origin)
    except (OSError, ValueError):
        return  # which loading tells in its own words
    if not isinstance(config, dict):
        raise ValueError(f"{model}: config.json must hold an object, found a {type(config).__name__}; save it again")
    if adapter is not None:
        raise ValueError(
            f"{model} is an adapter of peft, which would load another model; load it in Python with peft, and save "
            "the merged model"
        )
    model_type = config.get("model_type")
    if (
        not trust_remote_code
        and isinstance(model_type, str)
        and model_type in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    ):
        check_transformers_config(config, MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, str(model), is_strict=False)


def _check_sizes(model: str | Path, processor: Any) -> None:
    """Refuse an image processor that enlarges images beyond what memory holds."""
    settings = json.loads(processor.to_json_string())
    for name in ("size", "crop_size", "pad_size", "size_divisor"):
        value = settings.get(name)
        edges = [edge for edge in (value.values() if isinstance(value, dict) else [value]) if isinstance(edge, int)]
        if edges and max(edges) > _LARGEST_EDGE:
            raise ValueError(
                f"the image processor of {model} has {name} {max(edges):,}, and at most {_LARGEST_EDGE:,} pixels are "
                "allowed; correct preprocessor_config.json"
            )


def _explain_missing(model: str | Path, error: OSError) -> str:
    if Path(model).is_dir():
        return f"{model} cannot be loaded: {_first_line(error)}; check the folder's files"
    return explain_hub_error(str(model), error) or (
        f"{model} cannot be loaded: there is no such folder here, and the Hub has no such model or cannot be reached "
        f"({_first_line(error)}); correct the path of the folder, or the name ORG/NAME on the Hub"
    )


def _explain(model: str | Path, error: Exception, origin: dict[str, bool]) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"{model} has remote code, which would run on this machine: read it, then allow it with "
            "--trust-remote-code (in Python: trust_remote_code=True)"
        )
    if "Unrecognized model" in text and _is_adapter(model, origin):
        return (
            f"{model} is a CMDLAdapter, and the cmdl commands do not accept adapters: load it with "
            f"CMDLAdapter.from_pretrained({str(model)!r}) in Python, and score it with cmdl_hf.evaluation.evaluate"
        )
    if "Unrecognized configuration class" in text:
        return (
            f"{model} is not a semantic segmenter: transformers has no AutoModelForSemanticSegmentation for its "
            "architecture; name a model whose output has logits, such as SegFormer, UPerNet or CMDL"
        )
    reason = " ".join(text.split()) if isinstance(error, StrictDataclassError) else _first_line(error)
    return f"{model} cannot be loaded: {reason.rstrip('.')}; correct the folder's files, or save the model again"


def _is_adapter(model: str | Path, origin: dict[str, bool]) -> bool:
    """Whether CMDLAdapter saved this folder, or this repository whose config.json was just downloaded."""
    config, _ = PreTrainedConfig.get_config_dict(model, **origin)
    return {"classifier", "segmenter", "options"} <= config.keys()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
