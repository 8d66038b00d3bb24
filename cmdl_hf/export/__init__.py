"""Export of segmenters to one file that runs without this package: ONNX, or a program of `torch.export`.

Input `pixel_values` (B, channels, H, W), normalised, float32; output `logits` (B, K, h, w), float32, on the
feature grid as the model's own. Enlarge them once, bilinear, straight to the size of the original image.

Metadata, each value JSON: in ONNX under these keys of `metadata_props`, in a torch.export file as one object in the
extra file `metadata.json`.

- `cmdl_hf_version`, `model_name`: strings.
- `id2label`: names of the classes, by their ids as strings.
- `palette`: K rows of red, green, blue in 0..255.
- `image_size`: `[height, width]`, or null where the file takes every size that the model takes.
- `preprocessing`: what to do to an image, in this order; null where the model has no image processor. `channel_order`;
  `size`, to resize to: `{"height", "width"}`, or `{"shortest_edge"}`, maybe with a `"longest_edge"` as limit, or null;
  `resample`, such as `"bilinear"`; `crop_size`, to cut out of the centre, or null; then (pixels in 0..255 ·
  `rescale_factor` - `image_mean`) / `image_std`.

Example, which needs onnxruntime, numpy and Pillow only:
    ```python
    import json
    import numpy as np
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession("model.onnx")
    metadata = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    image, steps = Image.open("street.png").convert("RGB"), metadata["preprocessing"]
    size, rule = metadata["image_size"], steps["size"] or {}
    if size is None and "height" in rule:
        size = [rule["height"], rule["width"]]
    elif size is None and "shortest_edge" in rule:
        scale = min(rule["shortest_edge"] / min(image.size), rule.get("longest_edge", np.inf) / max(image.size))
        size = [round(image.height * scale), round(image.width * scale)]
    resized = image.resize(size[::-1], Image.Resampling.BILINEAR) if size else image
    pixels = (np.asarray(resized) * steps["rescale_factor"] - steps["image_mean"]) / steps["image_std"]
    (logits,) = session.run(["logits"], {"pixel_values": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    scores = [Image.fromarray(score).resize(image.size, Image.Resampling.BILINEAR) for score in logits[0]]
    segmentation = Image.fromarray(np.stack(scores).argmax(axis=0).astype(np.uint8))
    segmentation.putpalette(np.uint8(metadata["palette"]).tobytes())
    segmentation.save("segmentation.png")
    ```
"""

from .convert import convert_reference_checkpoint
from .exporting import METADATA_FILE, SUFFIXES, TOLERANCE, ExportReport, export_model

__all__ = [
    "METADATA_FILE",
    "SUFFIXES",
    "TOLERANCE",
    "ExportReport",
    "convert_reference_checkpoint",
    "export_model",
]
