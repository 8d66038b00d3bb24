"""`cmdl evaluate` and `segment` take one path from pixel values to class ids."""

import numpy as np
import pytest
from PIL import Image
from short_runs import load_few_scenes, use_few_scenes
from varied_models import make_varied

from cmdl_hf import make_image_processor, segment
from cmdl_hf.evaluation import run_evaluation


@pytest.mark.parametrize(
    ("size", "tolerance"), [(None, 0), ({"shortest_edge": 40}, 0.02)], ids=["its size", "resized"]
)
def test_saved_predictions_are_what_segment_finds(make_model, tmp_path, monkeypatch, size, tolerance):
    """Resized images differ by rounding: evaluation resizes with Pillow, as in training, the processor with torch."""
    use_few_scenes(monkeypatch.setattr)
    data = load_few_scenes()
    names = {"num_labels": data.num_labels, "id2label": data.id2label}
    make_varied(make_model(**names)).save_pretrained(tmp_path / "model")
    make_image_processor(size).save_pretrained(tmp_path / "model")
    run_evaluation(tmp_path / "model", "synthetic", save_predictions=tmp_path / "saved", num_workers=0)
    assert len(data["validation"]) > 0
    for sample in data["validation"]:
        with Image.open(tmp_path / "saved" / f"{sample['id']}.png") as saved:
            ids = segment(tmp_path / "model", sample["image"]).ids
            assert (np.asarray(saved) != ids).mean() <= tolerance
