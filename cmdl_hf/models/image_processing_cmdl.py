"""The image processor of CMDL models: transformers' Segformer processor with fitting settings."""

from transformers import SegformerImageProcessor


def make_image_processor(size: dict[str, int] | None = None) -> SegformerImageProcessor:
    """Make the image processor that is saved with a model.

    transformers' Segformer processor fits without changes. It normalises with ImageNet's statistics. Without a size it
    does not change masks: palette images keep their ids, and no id is reduced. Its
    `post_process_semantic_segmentation` resizes the logits once, directly to the original size of each image.

    Args:
        size (`dict`, *optional*): Size to resize images to, in pixels: `{"height": H, "width": W}` or
            `{"shortest_edge": S}`. By default images keep their size, and all images of a batch must have the same
            size.

    Returns:
        `SegformerImageProcessor` that converts grey, palette, CMYK and transparent images to RGB.
    """
    if size is None:
        return SegformerImageProcessor(do_resize=False, do_convert_rgb=True)
    return SegformerImageProcessor(size=size, default_to_square=False, do_convert_rgb=True)
