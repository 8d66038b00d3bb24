"""Trackers: groups, classes, pictures, and one name for a run."""

import math

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from cmdl_hf.training.log import TrainingLog
from cmdl_hf.training.trackers import group_name

ROW = {
    "step": 2,
    "learning_rate": 0.0123,
    "loss": 1.5,
    "segmentation_loss": 1.25,
    "validation_mean_iou": 0.5,
    "validation_mean_dice": math.nan,
    "dead_distributions": 3,
    "cosine_within_class": 0.75,
    "chance_agreement": 0.25,
}


class Recorder(GeneralTracker):
    """A tracker that keeps what it is given."""

    requires_logging_directory = False

    def __init__(self, name):
        self.name = name
        super().__init__()
        self.rows, self.pictures, self.settings = [], {}, {}

    @property
    def tracker(self):
        return self

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.rows.append((step, values))

    def log_images(self, values, step=None, **_):
        self.pictures |= values


@pytest.fixture
def make_log(tmp_path):
    def make(log_with, step=0):
        folder = tmp_path / "camvid-fcn-seed1"
        accelerator = Accelerator(log_with=log_with, project_dir=folder / "runs")
        return TrainingLog(folder, accelerator, step, {"crop_size": (4, 4), "seed": 1})

    return make


def test_what_a_run_logs_is_in_groups(make_log):
    tracker = Recorder("mine")
    log = make_log([tracker])
    log.write(ROW)
    log.trackers.log_classes({"road": 0.9, "traffic/light": 0.25, "sky": math.nan}, 2)
    assert tracker.settings == {"crop_size": "(4, 4)", "seed": 1}
    assert tracker.rows == [
        (
            2,
            {
                "training/learning_rate": 0.0123,
                "loss/total": 1.5,
                "loss/segmentation": 1.25,
                "validation/mean_iou": 0.5,
                "distributions/dead": 3,
                "distributions/cosine_within_class": 0.75,
                "distributions/chance_agreement": 0.25,
            },
        ),
        (2, {"validation_iou/road": 0.9, "validation_iou/traffic-light": 0.25}),
    ]
    assert group_name("class_margin_reference") == "loss/class_margin_reference"


def test_pictures_go_to_trackers_that_show_them(make_log):
    picture = np.zeros((4, 6, 3), np.uint8)
    trackers = make_log([Recorder("mine")]).trackers
    assert not trackers.take_pictures
    tracker = Recorder("wandb")
    trackers = make_log([tracker]).trackers
    assert trackers.take_pictures
    trackers.log_pictures([picture, picture], 2)
    assert list(tracker.pictures) == ["validation_pictures/1", "validation_pictures/2"]


def test_tensorboard_has_one_run_which_it_names_after_the_folder(tmp_path, make_log):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = make_log("tensorboard")
    log.write(ROW)
    log.write(ROW | {"step": 4, "loss": 1.0})
    log.write(ROW | {"step": 6, "loss": 0.5})
    log.trackers.log_pictures([np.full((4, 6, 3), 200, np.uint8)], 4)
    log.close()
    log = make_log("tensorboard", step=4)  # killed after step 6, and gone on with from a checkpoint of step 4
    log.write(ROW | {"step": 6, "loss": 0.25})
    log.close()
    runs = tmp_path / "camvid-fcn-seed1" / "runs"
    assert {path.parent for path in runs.rglob("events.out*")} == {runs}
    events = event_accumulator.EventAccumulator(str(runs))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/total")] == [(2, 1.5), (4, 1.0), (6, 0.25)]
    (image,) = events.Images("validation_pictures/1")
    assert (image.height, image.width, image.step) == (4, 6, 4)
    assert b"crop_size" in events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
