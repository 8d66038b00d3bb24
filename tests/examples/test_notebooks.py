"""The notebooks run from top to bottom, and are committed without outputs."""

import json
import os
import sys
from pathlib import Path

import pytest
from hub_double import TOKEN, HubDouble
from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation, make_image_processor
from cmdl_hf.data import load_synthetic

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
AT_HAND = ROOT / "model_cards/camvid"


@pytest.fixture
def model(tmp_path):
    """The model of the repository, or a tiny one where it is not there."""
    if (AT_HAND / "model.safetensors").is_file():
        return AT_HAND
    scenes = load_synthetic(0, 0, 1)
    sizes = {"num_distributions": 3, "hidden_size": 16, "attention_size": 8}
    classes = {"id2label": scenes.id2label, "palette": scenes.palette}
    config = CMDLConfig(backbone_config=dict(TINY_BACKBONE), **classes, **sizes, **LIVE_AGGREGATION)
    CMDLForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run_notebook(name, folder, **environment):
    """Run a notebook in a folder, and return its cells' outputs as one text."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "examples/notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
    path = os.pathsep.join(part for part in [str(ROOT), *sys.path] if part)
    client.execute(env=os.environ | {"PYTHONPATH": path} | environment)
    return json.dumps(notebook.cells)


def test_notebooks_have_no_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["own_data_to_hub", "quick_start"]
    for path in NOTEBOOKS:
        cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
        assert len(cells) > 4
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), path.name


@pytest.mark.slow
def test_the_quick_start_runs(model, tmp_path):
    outputs = run_notebook("quick_start", tmp_path, CMDL_MODEL=str(model))
    assert "100.0% of the pixels agree" in outputs
    assert "image/png" in outputs
    assert (tmp_path / "segmentation.png").is_file()


@pytest.mark.slow
def test_own_data_go_to_the_hub(model, tmp_path):
    with HubDouble() as hub:
        client = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        outputs = run_notebook(
            "own_data_to_hub",
            tmp_path,
            CMDL_REPOSITORY="me/mine",
            CMDL_STEPS="2",
            CMDL_MODEL=str(model),
            HF_HOME=str(tmp_path / "hf"),
            **client,
        )
    assert {"config.json", "model.safetensors", "README.md"} <= set(hub.repos["models", "me/mine"].files)
    assert "CMDLForSemanticSegmentation 8" in outputs
    assert TOKEN not in outputs
