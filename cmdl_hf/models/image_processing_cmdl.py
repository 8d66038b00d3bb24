"""The image processor of CMDL models: a stock one of transformers, set up."""

from transformers import SegformerImageProcessor


def make_image_processor(size: dict[str, int] | None = None) -> SegformerImageProcessor:
    """Set up the image processor that a model is saved with.

    transformers' Segformer processor serves as it is: it normalises with ImageNet's statistics, leaves masks
    untouched unless a size is given (palette images keep their ids, nothing is reduced), and its
    `post_process_semantic_segmentation` enlarges the logits once, straight to each image's original size.

    Args:
        size (`dict`, *optional*): `{"height": H, "width": W}` or `{"shortest_edge": S}` to resize images to, in
            pixels. Omitted, images keep their size, and a batch must be of one size.

    Returns:
        `SegformerImageProcessor` that converts grey, palette, CMYK and transparent images to RGB.
    """
    if size is None:
        return SegformerImageProcessor(do_resize=False, do_convert_rgb=True)
    return SegformerImageProcessor(size=size, default_to_square=False, do_convert_rgb=True)
