"""Memory that is too small for a pass, and the smaller pass with which a run goes on."""

import pytest
import torch

from cmdl_hf.cli import main
from cmdl_hf.data import TrainTransform, load_synthetic
from cmdl_hf.training import CMDLTrainingArguments, TrainingLoop
from cmdl_hf.training.sharing import explain_out_of_memory


@pytest.mark.parametrize(
    ("images", "share", "least", "cure"),
    [
        (8, 8, 1, "--per-device-batch-size 4: the run goes on with the same images"),
        (6, 6, 1, "--per-device-batch-size 3"),
        (3, 9, 1, "--per-device-batch-size 1"),
        (3, 6, 2, "--per-device-batch-size 2"),
        (4, 16, 2, "--per-device-batch-size 2"),
        (2, 16, 2, "begin a new run with a smaller crop_size"),
        (1, 16, 1, "step 7: a pass of 1 image does not fit into memory; begin a new run with a smaller crop_size"),
    ],
)
def test_the_cure_is_the_largest_pass_of_half_the_images_if_there_is_one(images, share, least, cure):
    assert cure in str(explain_out_of_memory(7, images, share, least))


def _forget_more_than(most, monkeypatch):
    """Let memory hold passes of `most` images."""
    from cmdl_hf import CMDLForSemanticSegmentation

    forward = CMDLForSemanticSegmentation.forward

    def forward_if_it_fits(self, pixel_values, *args, **kwargs):
        if self.training and len(pixel_values) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(CMDLForSemanticSegmentation, "forward", forward_if_it_fits)


@pytest.mark.parametrize("kind", ["none", "ppm"])
def test_the_loop_proposes_a_pass_that_it_accepts(make_model, monkeypatch, kind):
    scenes = load_synthetic(4, 1, 1, size=(64, 64), num_labels=5)["train"]
    settings = {"max_steps": 2, "total_batch_size": 4, "num_workers": 0}
    _forget_more_than(0, monkeypatch)

    def begin(size):
        args = CMDLTrainingArguments(**settings, per_device_batch_size=size)
        return TrainingLoop(make_model(context_module=kind), scenes, TrainTransform((64, 64), (1, 1)), args)

    with pytest.raises(MemoryError, match=r"step 1: a pass of 4 images .* --per-device-batch-size 2"):
        begin(4).advance(1)
    cure = "--per-device-batch-size 1" if kind == "none" else "begin a new run"
    with pytest.raises(MemoryError, match=cure):
        begin(2).advance(1)


def test_a_single_value_per_channel_is_told_with_a_cure(make_model):
    scenes = load_synthetic(4, 1, 1, size=(32, 32), num_labels=5)["train"]
    args = CMDLTrainingArguments(max_steps=2, total_batch_size=1, num_workers=0, freeze_batch_norm="none")
    loop = TrainingLoop(make_model(context_module="none"), scenes, TrainTransform((32, 32), (1, 1)), args)
    with pytest.raises(ValueError, match=r"a batch norm needs more than one value per channel .*; raise crop_size"):
        loop.advance(1)


def test_other_errors_stay_what_they_are(make_model, monkeypatch):
    scenes = load_synthetic(4, 1, 1, size=(64, 64), num_labels=5)["train"]
    args = CMDLTrainingArguments(max_steps=2, total_batch_size=4, num_workers=0)
    loop = TrainingLoop(make_model(), scenes, TrainTransform((64, 64), (1, 1)), args)
    monkeypatch.setattr(loop, "_run_pass", lambda: (_ for _ in ()).throw(RuntimeError("of the model")))
    with pytest.raises(RuntimeError, match="of the model"):
        loop.advance(1)


def test_the_command_goes_on_with_what_it_proposes(tmp_path, monkeypatch, caplog):
    from short_runs import leave_out_pictures, use_few_scenes

    use_few_scenes(monkeypatch.setattr)
    leave_out_pictures(monkeypatch.setattr)
    (tmp_path / "r.yaml").write_text(
        "benchmark: synthetic\nbackbone: mobilenetv3_small_050\nhidden_size: 16\nattention_size: 8\n"
        "output_stride: 16\ncrop_size: [64, 64]\nmax_steps: 2\nwarmup_steps: 0\ntotal_batch_size: 4\n"
        "num_workers: 0\ntest_split: false\nsave_steps: 1\neval_steps: 2\n"
    )
    arguments = ["train", str(tmp_path / "r.yaml"), "--output-dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        _forget_more_than(2, patch)
        with pytest.raises(SystemExit, match=r"cmdl: step 1: a pass of 4 images .* --per-device-batch-size 2:"):
            main(arguments)
        main([*arguments, "--per-device-batch-size", "2"])
    assert "per_device_batch_size was None and is now 2: each step has the same images" in caplog.text
    assert (tmp_path / "run" / "model.safetensors").is_file()
