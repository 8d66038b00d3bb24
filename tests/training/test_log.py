import json
import math

import pytest
from accelerate import Accelerator

from cmdl_hf.json_files import read_json_lines, without_nan
from cmdl_hf.training.log import TrainingLog, describe


@pytest.fixture
def make_log(tmp_path):
    def make(step=0, **kwargs):
        return TrainingLog(tmp_path, Accelerator(project_dir=tmp_path / "runs", **kwargs), step, {"crop_size": (4, 4)})

    return make


ROW = {
    "step": 2,
    "learning_rate": 0.0123,
    "loss": 1.5,
    "segmentation_loss": 1.25,
    "class_margin_loss": 0.25,
    "images_per_second": 31.44,
    "memory_gib": 2.04,
}


def test_rows_after_the_step_gone_on_from_are_dropped_and_so_is_a_torn_one(tmp_path, make_log):
    log = make_log()
    for step in (2, 4, 6):
        log.write(ROW | {"step": step})
    log.write({"step": 6, "validation_mean_iou": math.nan})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    assert [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")] == [2, 4, 6, 6]
    log = make_log(step=4)
    assert [row["step"] for row in read_json_lines(tmp_path / "metrics.jsonl")] == [2, 4]
    assert not log.is_evaluated(4)
    log.write({"step": 4, "validation_mean_iou": 0.5})
    assert log.is_evaluated(4)
    log.draw()
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_row_is_told_in_a_line():
    assert describe(ROW) == ("loss 1.500 (segmentation 1.250, class margin 0.250), lr 0.012, 31.4 images/s, 2.0 GiB")


def test_json_has_none_for_nan():
    assert json.loads(json.dumps(without_nan({"a": [1.0, math.nan], "b": {"c": math.inf, "d": "x"}}))) == {
        "a": [1.0, None],
        "b": {"c": None, "d": "x"},
    }
