import json

import pytest
from PIL import Image
from short_runs import use_few_scenes

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.cli import main


def check(output_dir, printed, num_labels):
    scores = json.loads((output_dir / "scores.json").read_text())
    assert list(scores) == ["plain FCN", "CMDL-FCN"]
    for name, row in scores.items():
        assert 0 < row["mean_iou"] < 1
        assert f"{100 * row['mean_iou']:.1f}" in printed, name
    model = CMDLForSemanticSegmentation.from_pretrained(output_dir / "model")
    assert model.config.num_labels == num_labels
    assert model.memory_bank.num_updates.sum() > 0
    assert all(name in printed for name in model.config.id2label.values())
    with Image.open(output_dir / "prediction.png") as picture:
        assert picture.width >= 1000
        assert len(picture.convert("RGB").getcolors(2**24)) > 50


def test_on_generated_scenes(tmp_path, capsys, monkeypatch):
    use_few_scenes(monkeypatch.setattr)
    main(["demo", "--output-dir", str(tmp_path / "demo"), "--max-steps", "2"])
    printed = capsys.readouterr().out
    assert printed.startswith("Training a plain FCN and CMDL-FCN on generated street scenes, 2 steps each.")
    check(tmp_path / "demo", printed, num_labels=8)


@pytest.mark.slow
def test_on_camvid_with_weights(tmp_path, capsys, shared_dir):
    weights = shared_dir / "weights" / "mobilenetv2_100.tfq_in1k_imnorm.fp16.safetensors"
    data = shared_dir / "data" / "CamVid-mini"
    main(f"demo --data-dir {data} --weights {weights} --output-dir {tmp_path} --max-steps 2".split())
    check(tmp_path, capsys.readouterr().out, num_labels=11)


def test_weights_of_another_backbone_are_an_error_before_anything_is_written(tmp_path, make_model):
    make_model().save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit) as stopped:
        main(f"demo --weights {tmp_path}/other/model.safetensors --output-dir {tmp_path}/demo".split())
    assert "weights of another backbone" in str(stopped.value)
    assert not (tmp_path / "demo").exists()
