from pathlib import Path

from own_data import write_own_data
from process_groups import run_script
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "examples" / "lora.py"


def test_an_adapter_with_its_memory_bank(tmp_path, make_model):
    write_own_data(tmp_path / "data")
    make_model(num_labels=3).save_pretrained(tmp_path / "start")
    flags = f"--model {tmp_path}/start --data-dir {tmp_path}/data --id2label {tmp_path}/data/classes.txt"
    flags += f" --output-dir {tmp_path}/lora --num-epochs 1 --batch-size 2 --crop-size 64 64"
    printed = run_script(tmp_path / "printed.txt", SCRIPT, *flags.split())
    assert "validation: mean IoU" in printed
    assert "peft will save" not in printed
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert saved["base_model.model.memory_bank.num_updates"].sum() > 0
    start = load_file(tmp_path / "start" / "model.safetensors")
    assert not saved["base_model.model.memory_bank.prototypes"].equal(start["memory_bank.prototypes"])
