"""What a file may say of a network: numbers, and names of activations, norms and architectures.

A `config.json`, a recipe and the settings of an adapter come from others. Some options of timm and transformers load
files, reach the network or run code: `pretrained`, `checkpoint_path`, `attn_implementation`, `auto_map`. So each is
looked up in a list of options that shape a network. All others are refused before anything is built.
"""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import timm
from transformers import CONFIG_MAPPING


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TIMM_OPTIONS = _words(
    """
    aa_layer act_layer attn_drop_rate attn_ratio avg_down base_width block_reduce_first bottle_ratio cardinality
    channel_multiplier channels class_token conv_bias conv_mlp depth depths dims down_kernel_size drop_block_rate
    drop_path_rate drop_rate dynamic_img_pad dynamic_img_size embed_dim embed_dims expand_ratio feature_cls
    feature_location first_stride global_pool growth_rate head_dim head_init_scale head_norm_first img_size
    init_values kernel_size kernel_sizes layers ls_init_value mlp_ratio mlp_ratios no_embed_class norm_eps
    norm_layer num_blocks num_heads num_init_features pad_type patch_size patch_sizes pos_drop_rate pos_embed
    pre_norm proj_bias proj_drop_rate qk_norm qkv_bias reg_tokens rope_type se_ratio stem_chs stem_kernel_size
    stem_norm stem_size stem_stride stem_type stem_width strict_img_size use_abs_pos use_conv use_grn
    use_layer_scale use_rel_pos weight_init width widths window_ratio window_size zero_init_last
    """
)
"""Options of timm's networks that change their shape, their norms and activations, or how they start."""

BACKBONES = _words(
    """
    beit bit convnext convnextv2 dinov2 dinov2_with_registers dinov3_convnext dinov3_vit focalnet hgnet_v2 hiera
    maskformer-swin pvt_v2 resnet rt_detr_resnet swin swinv2 textnet timm_backbone vitdet vitpose_backbone
    """
)
"""Model types of transformers that may be the backbone of a network."""

SEGMENTERS = _words("beit data2vec-vision dpt mobilenet_v2 mobilevit mobilevitv2 segformer upernet")
"""Model types of transformers that an adapter may be on."""

_ATTENTIONS = (None, "eager", "sdpa")
_DTYPES = (None, "float32", "float16", "bfloat16", "float64")
_FEATURE_CLASSES = ("getter", "list", "hook")
# What transformers writes into every configuration beside the fields of its class.
_GENERAL = _words(
    """
    _out_features _out_indices depths hidden_size model_type num_labels num_layers out_features out_indices
    output_attentions output_hidden_states return_dict stage_names torch_dtype
    """
)
_TEXTS = _words("id2label label2id architectures transformers_version _name_or_path _commit_hash")
# Ways of earlier versions to load a backbone.
_LOADERS = _words("backbone use_pretrained_backbone use_timm_backbone backbone_kwargs")

_LOADS = re.compile(r"implementation|kernel|quantization|auto_map|remote|pretrained|checkpoint|per_layer")
_NAME = re.compile(r"[A-Za-z0-9_.+\-]{0,64}")
_MOST_ITEMS = 512
_LARGEST = 2**20


class NotAllowedError(ValueError):
    """A file says something of a network that no file may say."""


def check_timm_name(name: Any) -> None:
    """Refuse a backbone that is no architecture of timm's own.

    Args:
        name: Name of the backbone. A prefix such as `hf-hub:` or `local-dir:` would have timm load from there.

    Raises:
        NotAllowedError: naming it.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not timm.is_model(name.partition(".")[0]):
        base = str(name).partition(".")[0]
        nearest = difflib.get_close_matches(base, timm.list_models(), n=3)
        cure = f": did you mean {', '.join(nearest)}?" if nearest else "; choose one of timm.list_models()."
        raise NotAllowedError(
            f"backbone={_shorten(name)} is no architecture of timm {timm.__version__}{cure} Names of repositories "
            "and folders are not taken"
        )


def check_timm_options(options: Mapping[str, Any] | None) -> None:
    """Refuse options of timm that do more than shape a network.

    Args:
        options (`Mapping`, *optional*): `backbone_kwargs`.

    Raises:
        NotAllowedError: naming the option.
    """
    for name, value in (options or {}).items():
        if name not in TIMM_OPTIONS:
            nearest = difflib.get_close_matches(str(name), TIMM_OPTIONS, n=1)
            cure = f"did you mean {nearest[0]}?" if nearest else "remove it"
            raise NotAllowedError(
                f"backbone_kwargs: {_shorten(name)} is none of the options that shape a network; {cure}"
            )
        if name == "feature_cls" and value not in _FEATURE_CLASSES:
            raise NotAllowedError(f"backbone_kwargs: feature_cls must be one of {', '.join(_FEATURE_CLASSES)}")
        check_plain(f"backbone_kwargs: {name}", value)


def check_transformers_config(
    config: Mapping[str, Any], allowed: Collection[str], where: str, is_strict: bool = True
) -> None:
    """Refuse a configuration of transformers that does more than shape a network.

    Args:
        config (`Mapping`): The configuration, as `to_dict` lays it out.
        allowed (`Collection[str]`): Model types that it may have.
        where (`str`): What messages call it.
        is_strict (`bool`): Whether to refuse fields that the installed version does not know. Models of earlier and
            later versions have such fields; without `is_strict` they may hold plain values.

    Raises:
        NotAllowedError: naming what is not allowed.
    """
    model_type = config.get("model_type", "timm_backbone")
    if model_type not in allowed or model_type not in CONFIG_MAPPING:
        raise NotAllowedError(
            f"{where}: model_type {_shorten(model_type)} is not allowed; known are {', '.join(sorted(allowed))}"
        )
    if model_type == "timm_backbone":
        check_timm_name(config.get("backbone", "resnet50"))
        if config.get("features_only", True) is not True:
            raise NotAllowedError(f"{where}: features_only must be true")
    known = {field.name for field in fields(CONFIG_MAPPING[model_type])} | _GENERAL | _TEXTS
    for name, value in config.items():
        if name in _LOADERS and model_type != "timm_backbone" and value:
            raise NotAllowedError(f"{where}: {name} is not allowed; describe the backbone in backbone_config")
        if name in ("attn_implementation", "_attn_implementation"):
            check_attention(where, value)
        elif name in ("dtype", "torch_dtype"):
            check_dtype(where, value)
        elif name == "backbone_config" and value is not None:
            check_transformers_config(value, BACKBONES, f"{where}.backbone_config", is_strict)
        elif name in known:
            if name not in _TEXTS and not (name in _LOADERS and not value):
                check_plain(f"{where}: {name}", value)
        elif value is not None and name not in _LOADERS:
            if is_strict or _LOADS.search(name) or callable(getattr(CONFIG_MAPPING[model_type], name, None)):
                raise NotAllowedError(
                    f"{where}: {_shorten(name)} is no field of a {model_type} configuration; remove it"
                )
            check_plain(f"{where}: {name}", value)


def check_extras(extras: Mapping[str, Any], kind: type) -> None:
    """Refuse what a configuration has beside its fields, where it would load code or replace a method.

    Args:
        extras (`Mapping`): Names and values, which transformers would set as attributes.
        kind (`type`): Class of the configuration.

    Raises:
        NotAllowedError: naming what is not allowed.
    """
    for name, value in extras.items():
        if name in ("attn_implementation", "_attn_implementation"):
            check_attention("config", value)
        elif name in ("experts_implementation", "_experts_implementation", "quantization_config", "per_layer_config"):
            if value is not None:
                raise NotAllowedError(f"{name} is not allowed in the configuration of a CMDL model; remove it")
        elif callable(getattr(kind, name, None)):
            raise NotAllowedError(f"{_shorten(name)} is a method of {kind.__name__}, not a field; remove it")


def check_attention(where: str, value: Any) -> None:
    """Refuse implementations of attention but torch's own; the name of a repository would have its code run."""
    if value not in _ATTENTIONS:
        raise NotAllowedError(f"{where}: attn_implementation must be eager or sdpa, got {_shorten(value)}")


def check_dtype(where: str, value: Any) -> None:
    """Refuse what is no floating-point type."""
    if value is not None and str(value).removeprefix("torch.") not in _DTYPES:
        raise NotAllowedError(
            f"{where}: dtype must be one of {', '.join(filter(None, _DTYPES))}, got {_shorten(value)}"
        )


def check_plain(where: str, value: Any) -> None:
    """Refuse everything but numbers, booleans, names, and short lists and mappings of them.

    Args:
        where (`str`): What messages call the value.
        value: What a file says.

    Raises:
        NotAllowedError: naming the value.
    """
    if isinstance(value, Mapping):
        items = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        items = list(value)
    else:
        _check_single(where, value)
        return
    if len(items) > _MOST_ITEMS:
        raise NotAllowedError(f"{where} has {len(items):,} items, more than {_MOST_ITEMS}")
    for item in items:
        check_plain(where, item)


def _check_single(where: str, value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= _LARGEST:
        return
    if isinstance(value, str) and _NAME.fullmatch(value):
        return
    raise NotAllowedError(
        f"{where}: {_shorten(value)} is not allowed; it must be a number of at most {_LARGEST:,}, true, false, null, "
        "or a name of letters, digits and _.+-"
    )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
