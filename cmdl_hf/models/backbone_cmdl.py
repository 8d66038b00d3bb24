"""Pretrained weights for the backbones of CMDL models."""

import os
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .hub_errors_cmdl import can_reach_hub

_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # of timm's repositories on the Hub


def load_transformers_weights(
    backbone: PreTrainedModel, weights: str | os.PathLike | None, config: PreTrainedConfig
) -> None:
    """Load pretrained weights into a transformers backbone, in place.

    Args:
        backbone (`PreTrainedModel`): A transformers backbone.
        weights (`str` or `os.PathLike`): A folder or Hub name, as its `from_pretrained` takes it.
        config (`PreTrainedConfig`): The backbone's configuration.

    Raises:
        ValueError: if `weights` is None, or a tensor of the backbone is missing.
        OSError: if there is no such folder or repository.
    """
    if weights is None:
        raise ValueError(f"weights: name a folder or Hub repository with {config.model_type} weights")
    pretrained, report = type(backbone).from_pretrained(weights, config=config, output_loading_info=True)
    if missing := sorted(name for name in report["missing_keys"] if "hidden_states_norms" not in name):
        raise ValueError(f"{weights} lacks {len(missing)} tensors of the backbone, such as {missing[0]}")
    backbone.load_state_dict(pretrained.state_dict())


def load_timm_weights(
    backbone: nn.Module, weights: str | os.PathLike | None, config: PreTrainedConfig, kwargs: dict[str, Any]
) -> None:
    """Load pretrained weights into a timm network, in place.

    Args:
        backbone (`nn.Module`): timm's network, without a classifier.
        weights (`str` or `os.PathLike`, *optional*): A safetensors file with timm's key names. By default timm
            downloads its weights for the backbone.
        config (`TimmBackboneConfig`): The backbone's configuration.
        kwargs (`dict`): timm options that the configuration cannot hold.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a safetensors file, a tensor of the backbone is missing or has another shape, or
            timm has no weights for the backbone.
        OSError: if timm's weights cannot be downloaded.
    """
    state_dict = _download(config, kwargs) if weights is None else _read(Path(weights))
    _load_all(backbone, state_dict, f"{weights or config.backbone}")


def _download(config: PreTrainedConfig, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Download timm's weights by building the network, because timm then adapts them to `in_chans`."""
    pretrained = timm.get_pretrained_cfg(config.backbone)
    repo_id = pretrained.hf_hub_id if pretrained else None
    is_here = repo_id and any(isinstance(try_to_load_from_cache(repo_id, name), str) for name in _WEIGHTS_FILES)
    if repo_id and not is_here and not can_reach_hub():
        raise _not_downloaded(config.backbone, repo_id, "the Hub cannot be reached")
    try:
        network = timm.create_model(
            config.backbone,
            pretrained=True,
            features_only=True,
            in_chans=config.num_channels,
            out_indices=config.out_indices,
            output_stride=config.output_stride,
            **kwargs,
        )
    except RuntimeError as error:
        raise ValueError(
            f"timm has no weights that fit {config.backbone} ({error}); pass a file: weights=FILE.safetensors"
        ) from error
    except Exception as error:  # errors of the HTTP client differ between releases of huggingface_hub
        raise _not_downloaded(config.backbone, repo_id, f"{type(error).__name__}: {error}") from error
    return network.state_dict()


def _not_downloaded(backbone: str, repo_id: str | None, reason: str) -> OSError:
    source = f"of https://huggingface.co/{repo_id} " if repo_id else ""
    return OSError(
        f"timm's weights for {backbone} could not be downloaded ({reason}); connect to the network, or fetch "
        f"model.safetensors {source}elsewhere and name the file: --weights FILE.safetensors (in Python: "
        "weights='FILE.safetensors')"
    )


def _read(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file as float32."""
    if path.is_dir():
        found = ", ".join(sorted(file.name for file in path.glob("*.safetensors"))) or "none"
        raise ValueError(
            f"weights must be a safetensors file for a timm backbone, but {path} is a folder; name the file in it "
            f"(safetensors files there: {found})"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"weights must be a safetensors file for a timm backbone, but there is no {path}; check the path, or "
            "leave weights out to download those of timm"
        )
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}); convert it, or download it again") from error


def _load_all(module: nn.Module, state_dict: dict[str, Tensor], source: str) -> None:
    """Load a state dict that must hold all tensors of the module, and may hold others (such as a classifier).

    For some networks (ConvNeXt, Swin, ViT) the tensors of timm's feature extractor have other names than in timm's
    files: `stages_0.x` instead of `stages.0.x`, or `model.x` instead of `x`.
    """
    expected = module.state_dict()
    own_names = {_plain(name): name for name in expected}
    state_dict = {own_names.get(_plain(name), name): tensor for name, tensor in state_dict.items()}
    missing = [name for name in expected if name not in state_dict and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} of the backbone's {len(expected)} tensors, such as {missing[0]}: "
            "are these weights of another backbone?"
        )
    for name in expected.keys() & state_dict.keys():
        if expected[name].shape != state_dict[name].shape:
            raise ValueError(
                f"{source}: {name} has shape {tuple(state_dict[name].shape)}, but the backbone needs "
                f"{tuple(expected[name].shape)}; take weights of this backbone"
            )
    module.load_state_dict({name: state_dict[name] for name in expected if name in state_dict}, strict=False)


def _plain(name: str) -> str:
    """Return a tensor's name without the parts that timm's feature extractors change."""
    return name.removeprefix("model.").replace("_", ".")
