"""Gradio app that shows the classes, distributions, outliers and pixel probabilities of a semantic segmenter.

    CMDL_MODEL=outputs/demo/model python app.py

It accepts CMDL models and any other model that `AutoModelForSemanticSegmentation` loads. For models without
distributions, it shows classes and pixels only. It does not need cmdl_hf: a CMDL model's folder contains its code.
"""

import logging
from pathlib import Path
from typing import Any

import gradio as gr
import views
from PIL import Image
from segmenter import OWN_MODELS, Result, classes_present, load, read_image, segment, shrink

logger = logging.getLogger("space")

EXAMPLE_MODELS = ["nvidia/segformer-b0-finetuned-ade-512-512", "openmmlab/upernet-convnext-tiny"]
EXAMPLE_IMAGES = sorted(str(path) for path in (Path(__file__).parent / "images").glob("*.jpg"))
CLICK = "<p class='muted'>Click a pixel of the result.</p>"


def build_page() -> gr.Blocks:
    """Lay out the page and connect its parts."""
    models = OWN_MODELS + EXAMPLE_MODELS
    with gr.Blocks(title="Inside a segmenter", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        result, pixel = gr.State(time_to_live=3600), gr.State()
        gr.Markdown("# Inside a semantic segmenter\nClasses, the distributions that describe them, outliers, pixels.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                name = gr.Dropdown(
                    models,
                    value=models[0],
                    allow_custom_value=True,
                    label="Model: a folder or a Hub name",
                    elem_id="model",
                )
                photo = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Image", elem_id="photo"
                )
                # Pass the path unchanged: if Pillow cannot open the file, `read_image` reports why.
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
                new = segment(*load((name or "").strip()), image)
            except Exception as error:
                logger.warning("%s", error, exc_info=not isinstance(error, ValueError))
                raise gr.Error(str(error) or type(error).__name__, print_exception=False) from error
            if image is not given:
                gr.Info(f"The image is shrunk to {image.width} × {image.height} pixels.")
            present = classes_present(new)
            shown = [class_id for class_id, _ in present]
            choices = [
                (f"{new.names[class_id]} {f'{share:.0%}' if share >= 0.005 else '<1%'}", class_id)
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
            x, y = (min(int(place) // views.zoom(size), end - 1) for place, end in zip(event.index, size, strict=True))
            return [(x, y), views.describe_pixel(result, x, y), *views.draw(result, (x, y), shown, opacity)]

        everything = [result, pixel, *pictures, toggles, toggle_style, distributions_text, outliers_text, pixel_text]
        button.click(run, [name, photo, opacity], everything)
        for control in (toggles.input, opacity.release):
            control(toggle, [result, pixel, toggles, opacity], overlay, show_progress="hidden")
        for shown_picture in pictures:
            shown_picture.select(
                choose, [result, toggles, opacity], [pixel, pixel_text, *pictures], show_progress="hidden"
            )
    return page


if __name__ == "__main__":
    build_page().launch(
        share=False,
        ssr_mode=False,
        max_file_size="50mb",
        state_session_capacity=16,
        footer_links=[],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=views.CSS,
    )
