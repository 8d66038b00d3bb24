"""Semantic segmenters from folders and the Hub, with errors in one line."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel


def load_segmenter(model: str | Path, trust_remote_code: bool = False) -> tuple[PreTrainedModel, Any]:
    """Load a semantic segmenter and its image processor, whatever its architecture.

    CMDL models run the code of this package. Those whose code is in their own repository need `trust_remote_code`.

    Args:
        model (`str` or `Path`): Folder or Hub name.
        trust_remote_code (`bool`): Whether to run Python files that come with the model; read them first.

    Returns:
        The model in eval mode, on the CPU, and its image processor.

    Raises:
        FileNotFoundError: if there is no such folder, no config or no image processor in it, or no such model on the
            Hub.
        ValueError: if what is there is no semantic segmenter with all its weights.
    """
    _check_folder(model)
    try:
        segmenter, info = AutoModelForSemanticSegmentation.from_pretrained(
            model, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except OSError as error:
        raise FileNotFoundError(_explain_missing(model, error)) from error
    except (ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ValueError(_explain(model, error)) from error
    if missing := sorted(name for name in info["missing_keys"] if not name.endswith("num_batches_tracked")):
        raise ValueError(
            f"{model} is no trained semantic segmenter: {len(missing)} of its weights are missing, such as "
            f"{missing[0]}; fine-tune it first, or name a model that was"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{model} has no image processor (preprocessor_config.json) that can be loaded; save one beside it: "
            "cmdl_hf.make_image_processor().save_pretrained(folder)"
        ) from error
    if getattr(processor, "do_center_crop", False):
        processor.do_center_crop = False  # what is scored and drawn is the whole image
    return segmenter.eval(), processor


def choose_device() -> torch.device:
    """The accelerator, such as a GPU, where there is one, or else the CPU."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device or torch.device("cpu")


def _check_folder(model: str | Path) -> None:
    """Refuse what can be neither a folder of a model nor a Hub name, before the Hub is asked."""
    path = Path(model)
    if path.is_file():
        raise ValueError(f"a model is a folder or a name on the Hub, found the file {model}; name the folder it is in")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{model} holds no model: there is no config.json in it; name a folder that from_pretrained loads, "
                "such as the output folder of cmdl train"
            )
    elif isinstance(model, Path) or str(model).count("/") > 1 or str(model).startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder {model}; name a folder of a model, or ORG/NAME on the Hub")


def _explain_missing(model: str | Path, error: OSError) -> str:
    if Path(model).is_dir():
        return f"{model} cannot be loaded: {_first_line(error)}; check the folder's files"
    return (
        f"{model} cannot be loaded: there is no such folder here, and the Hub has no such model or cannot be reached "
        f"({_first_line(error)}); correct the path of the folder, or the name ORG/NAME on the Hub"
    )


def _explain(model: str | Path, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"{model} brings Python code of its own, which runs on this machine: read it, then allow it with "
            "--trust-remote-code (in Python: trust_remote_code=True)"
        )
    if "Unrecognized model" in text and _is_adapter(model):
        return (
            f"{model} is a CMDLAdapter, which cmdl's commands do not take: load it in Python with "
            f"CMDLAdapter.from_pretrained({str(model)!r}), and score it with cmdl_hf.evaluation.evaluate"
        )
    if "Unrecognized configuration class" in text:
        return (
            f"{model} is no semantic segmenter: transformers has no AutoModelForSemanticSegmentation for its "
            "architecture; name one whose output has logits, such as SegFormer, UPerNet or CMDL"
        )
    return f"{model} cannot be loaded: {_first_line(error)}"


def _is_adapter(model: str | Path) -> bool:
    """Whether a folder, or a repository whose config.json was just fetched, is one that CMDLAdapter saved."""
    config, _ = PreTrainedConfig.get_config_dict(model)
    return {"classifier", "segmenter", "options"} <= config.keys()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
