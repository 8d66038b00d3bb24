"""What makes a training run of a test short: few scenes, and no pictures, which take most of its time."""

from os import PathLike
from pathlib import Path

from cmdl_hf.data import load_synthetic, loading
from cmdl_hf.training import log, pictures


def load_few_scenes():
    """Load what runs on generated scenes have after `use_few_scenes`."""
    return load_synthetic(8, 4, 4)


def use_few_scenes(patch=setattr):
    """Let runs on generated scenes have only a few; a test gives its `monkeypatch.setattr`."""
    patch(loading, "load_synthetic", load_few_scenes)


def leave_out_pictures(patch=setattr):
    """Let runs write empty files in place of pictures; a test gives its `monkeypatch.setattr`."""

    def touch(*args, **_):
        (path,) = (arg for arg in args if isinstance(arg, PathLike))
        Path(path).touch()

    patch(log, "draw_curves", touch)
    patch(pictures, "draw_prediction", touch)
