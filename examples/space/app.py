"""Gradio app that shows the classes, distributions, outliers and pixel probabilities of a semantic segmenter.

    python app.py

It serves the models that `CMDL_MODEL` lists, by default the small model of street scenes: CMDL models and any other
model that `AutoModelForSemanticSegmentation` loads. For models without distributions, it shows classes and pixels
only. It does not need cmdl_hf: a CMDL model's folder contains its code. It checks whatever visitors send; `models.py`
and `segmenter.py` contain the limits.
"""

import html
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import views
from models import ALLOW_ANY, RefusedError, list_models, load
from PIL import Image
from segmenter import MAX_IMAGE_BYTES, Result, classes_present, read_image, segment, shrink

logger = logging.getLogger("space")

MAX_WAITING = 32
"""Maximum number of waiting requests. The app rejects all others."""

MAX_THREADS = 8
EXAMPLE_IMAGES = sorted(str(path) for path in (Path(__file__).parent / "images").glob("*.jpg"))
CLICK = "<p class='muted'>Click a pixel of the result.</p>"


class Page(gr.Blocks):
    """A page that accepts only uploads. Gradio itself would download a file from a URL that a visitor sends."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> Any:
        """Reject URLs, then continue as Gradio does."""
        if not all(map(_is_upload, _find_files(inputs))):
            raise gr.Error("An image must be uploaded here; addresses are not taken.", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *args, **options)


def _find_files(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all values that Gradio would treat as files."""
    if isinstance(value, dict) and "path" in value:
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _find_files(item)


def _is_upload(file: dict[str, Any]) -> bool:
    path = file["path"]
    return path is None or (isinstance(path, str) and Path(path).is_absolute() and "://" not in path)


def explain(error: Exception) -> gr.Error:
    """Make the error that a visitor sees. The details of unexpected errors are only in the log."""
    if isinstance(error, RefusedError):
        return gr.Error(html.escape(str(error)), print_exception=False)
    number = uuid.uuid4().hex[:8]
    logger.error("error %s", number, exc_info=error)
    text = f"Something went wrong here; try another image or model. The owner finds error {number} in the log."
    return gr.Error(text, print_exception=False)


def build_page() -> gr.Blocks:
    """Lay out the page and connect its parts."""
    models = list_models()
    with Page(title="Inside a segmenter", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        result, pixel = gr.State(time_to_live=3600), gr.State()
        gr.Markdown("# Inside a semantic segmenter\nClasses, the distributions that describe them, outliers, pixels.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                name = gr.Dropdown(
                    models,
                    value=models[0],
                    allow_custom_value=ALLOW_ANY,
                    label="Model, or another name on the Hub" if ALLOW_ANY else "Model",
                    elem_id="model",
                )
                # Pass the value unchanged: the error of Gradio would repeat the value, and `load` checks it.
                name.preprocess = lambda payload: payload
                photo = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Image", elem_id="photo"
                )
                # Pass the path unchanged: Gradio would decode the file, and `read_image` checks it first.
                photo.preprocess = lambda payload: payload and payload.path
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                gr.Examples(EXAMPLE_IMAGES, photo, label="Generated examples")
            with gr.Column(scale=5, min_width=300):
                picture: dict[str, Any] = {
                    "buttons": ["download", "fullscreen"],
                    "interactive": False,
                    "elem_classes": "picture",
                }
                with gr.Tabs():
                    with gr.Tab("Classes"):
                        overlay = gr.Image(label="Classes", format="jpeg", elem_id="overlay", **picture)
                        opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity")
                        toggles = gr.CheckboxGroup(
                            label="Classes shown", show_select_all=True, elem_id="toggles", visible=False
                        )
                    with gr.Tab("Distributions"):
                        distributions = gr.Image(
                            label="Distributions", format="png", elem_id="distributions", **picture
                        )
                        distributions_text = gr.HTML(elem_id="distributions-text")
                    with gr.Tab("Outliers", elem_id="tab-outliers"):
                        outliers = gr.Image(label="Outliers", format="png", elem_id="outliers", **picture)
                        outliers_text = gr.HTML(elem_id="outliers-text")
                pixel_text = gr.HTML(CLICK, elem_id="pixel")
                toggle_style = gr.HTML()
        pictures = [overlay, distributions, outliers]

        def run(name: str, path: str | None, opacity: float) -> dict[Any, Any]:
            try:
                given = read_image(path)
                image = shrink(given)
                is_shrunk, given = image is not given, image  # a large one is not held while the model runs
                new = segment(*load(name if isinstance(name, str) else ""), image)
            except Exception as error:
                raise explain(error) from error
            if is_shrunk:
                gr.Info(f"The image is shrunk to {image.width} × {image.height} pixels.")
            present = classes_present(new)
            shown = [class_id for class_id, _ in present]
            choices = [
                (f"\u2068{new.names[class_id]}\u2069 {f'{share:.0%}' if share >= 0.005 else '<1%'}", class_id)
                for class_id, share in present
            ]
            return dict(zip(pictures, views.draw(new, None, shown, opacity), strict=True)) | {
                result: new,
                pixel: None,
                toggles: gr.CheckboxGroup(choices, value=shown, visible=True),
                toggle_style: views.toggle_colors(new),
                distributions_text: views.describe_distributions(new),
                outliers_text: views.describe_outliers(new),
                pixel_text: CLICK,
            }

        def toggle(result: Result | None, *choice: Any) -> Image.Image | None:
            return None if result is None else views.draw_overlay(result, *choice)

        def choose(result: Result | None, shown: list[int], opacity: float, event: gr.SelectData) -> list[Any]:
            if result is None:
                raise gr.Error("The result has expired; press Segment again.", print_exception=False)
            size = result.image.size
            factor = views.zoom(size)
            x, y = (min(max(int(place) // factor, 0), end - 1) for place, end in zip(event.index, size, strict=True))
            return [(x, y), views.describe_pixel(result, x, y), *views.draw(result, (x, y), shown, opacity)]

        everything = [result, pixel, *pictures, toggles, toggle_style, distributions_text, outliers_text, pixel_text]
        button.click(run, [name, photo, opacity], everything, api_name="segment", concurrency_limit=1)
        for control in (toggles.input, opacity.release):
            control(toggle, [result, pixel, toggles, opacity], overlay, show_progress="hidden")
        for shown_picture in pictures:
            shown_picture.select(
                choose, [result, toggles, opacity], [pixel, pixel_text, *pictures], show_progress="hidden"
            )
    return page


if __name__ == "__main__":
    page = build_page().queue(max_size=MAX_WAITING, default_concurrency_limit=2, api_open=False)
    page.launch(
        share=False,
        ssr_mode=False,
        show_error=False,
        max_threads=MAX_THREADS,
        max_file_size=MAX_IMAGE_BYTES,
        enable_monitoring=False,
        mcp_server=False,
        state_session_capacity=16,
        footer_links=[],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=views.CSS,
    )
