"""What an image processor does to an image, as the metadata of an exported file say it."""

from typing import Any

from PIL import Image

from .tracing import settings_of

_SAID = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order")
_OF_OTHERS = ("do_convert_rgb", "do_reduce_labels")  # the image is RGB before, and labels are not exported
_STEPS = ("size_divisor", "pad_size", "keep_aspect_ratio", "rescale_offset")
"""Settings that change images although their names do not begin with `do_`."""


def describe_preprocessing(image_processor: Any, num_channels: int) -> dict[str, Any]:
    """Say what an image processor does to an image, in numbers that always apply.

    Raises:
        ValueError: if it does something that these cannot say, such as padding.
    """
    settings = settings_of(image_processor)
    if others := [f"{key}={value}" for key, value in settings.items() if value and _is_another_step(key, value)]:
        raise ValueError(
            f"the image processor does what the metadata of the file cannot say ({', '.join(others)}); switch it off "
            "in preprocessor_config.json, or in Python export the model without image_processor and do it yourself"
        )
    is_flipped = settings.get("do_flip_channel_order")
    is_normalised = settings.get("do_normalize")
    return {
        "channel_order": ("BGR" if is_flipped else "RGB") if num_channels == 3 else None,
        "size": settings.get("size") if settings.get("do_resize") else None,
        "resample": Image.Resampling(settings["resample"]).name.lower() if "resample" in settings else None,
        "crop_size": settings.get("crop_size") if settings.get("do_center_crop") else None,
        "rescale_factor": settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale") else 1.0,
        "image_mean": settings["image_mean"] if is_normalised else [0.0] * num_channels,
        "image_std": settings["image_std"] if is_normalised else [1.0] * num_channels,
    }


def _is_another_step(key: str, value: Any) -> bool:
    if key == "ensure_multiple_of":
        return value != 1
    return (key.startswith("do_") and key not in _SAID + _OF_OTHERS) or key in _STEPS
