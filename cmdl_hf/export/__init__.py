"""Export segmenters to one file that runs without this package: ONNX or `torch.export`.

Input `pixel_values` (B, channels, H, W), normalised, float32; output `logits` (B, K, h, w), float32, on the
feature grid, like the model's own. Resize them once, bilinear, directly to the size of the original image. With
`output="classes"`, a file has a second output, `classes` (B, H, W), int64: the class of every pixel of the input.

The file contains metadata as JSON. ONNX has each value under one key of `metadata_props`. A torch.export file has one
object with all keys in the extra file `metadata.json`.

- `cmdl_hf_version`, `model_name`: strings.
- `id2label`: names of the classes, by their ids as strings.
- `palette`: K rows of red, green, blue in 0..255.
- `image_size`: `[height, width]`, or null if the file accepts every size that the model accepts.
- `preprocessing`: the steps of image processing, in this order; null if there is no image processor. `channel_order`,
  `"RGB"` or `"BGR"` (see the example); `size` to resize to: `{"height", "width"}`, or `{"shortest_edge"}` with an
  optional limit `"longest_edge"`, or null; `resample`, such as `"bilinear"`; `crop_size` of a centre crop, or null;
  then (pixels in 0..255 · `rescale_factor` - `image_mean`) / `image_std`.

Example, which needs only onnxruntime, numpy and Pillow:
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
    pixels = pixels[..., ::-1] if steps["channel_order"] == "BGR" else pixels  # last, as mean and std are those of RGB
    (logits,) = session.run(["logits"], {"pixel_values": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    scores = [Image.fromarray(score).resize(image.size, Image.Resampling.BILINEAR) for score in logits[0]]
    segmentation = Image.fromarray(np.stack(scores).argmax(axis=0).astype(np.uint8))
    segmentation.putpalette(np.uint8(metadata["palette"]).tobytes())
    segmentation.save("segmentation.png")
    ```
"""

from .convert import convert_reference_checkpoint
from .exporting import METADATA_FILE, OUTPUTS, SUFFIXES, TOLERANCE, ExportReport, export_model

__all__ = [
    "METADATA_FILE",
    "OUTPUTS",
    "SUFFIXES",
    "TOLERANCE",
    "ExportReport",
    "convert_reference_checkpoint",
    "export_model",
]
