import json
from pathlib import Path

from own_data import write_own_data
from process_groups import run_script

from cmdl_hf import CMDLForSemanticSegmentation, make_image_processor

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_own_data.py"


def test_own_data_from_folder_to_saved_model(tmp_path, make_model):
    id2label = write_own_data(tmp_path / "data")
    make_model(num_labels=5).save_pretrained(tmp_path / "start")
    make_image_processor().save_pretrained(tmp_path / "start")
    words = [tmp_path / "start", tmp_path / "data", tmp_path / "data" / "classes.txt", tmp_path / "mine", 2]
    assert "validation: mean IoU" in run_script(tmp_path / "printed.txt", SCRIPT, *map(str, words))
    model = CMDLForSemanticSegmentation.from_pretrained(tmp_path / "mine")
    assert model.config.id2label == id2label
    assert model.memory_bank.prototypes.shape == (3, 3, 16)
    assert model.memory_bank.num_updates.sum() > 0
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["model"]["name"] == "start"
