import subprocess
import sys
from pathlib import Path

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.data import load_synthetic

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_own_data.py"


def write_own_data(folder):
    scenes = load_synthetic(num_train=6, num_validation=2, num_test=0, size=(64, 64), num_labels=3)
    for split, name in (("train", "train"), ("validation", "val")):
        for kind, column in (("images", "image"), ("masks", "label")):
            (folder / kind / name).mkdir(parents=True)
            for sample in scenes[split]:
                sample[column].save(folder / kind / name / f"{sample['id']}.png")
    (folder / "classes.txt").write_text("\n".join(scenes.id2label.values()))
    return scenes.id2label


def test_own_data_from_folder_to_saved_model(tmp_path, make_model):
    id2label = write_own_data(tmp_path / "data")
    make_model(num_labels=5).save_pretrained(tmp_path / "start")
    command = f"{SCRIPT} --model {tmp_path}/start --data-dir {tmp_path}/data --id2label {tmp_path}/data/classes.txt"
    command += f" --output-dir {tmp_path}/mine --max-steps 3 --batch-size 2 --crop-size 64 64"
    result = subprocess.run([sys.executable, *command.split()], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "validation: mean IoU" in result.stdout
    model = CMDLForSemanticSegmentation.from_pretrained(tmp_path / "mine")
    assert model.config.id2label == id2label
    assert model.memory_bank.prototypes.shape == (3, 3, 16)
    assert model.memory_bank.num_updates.sum() > 0
