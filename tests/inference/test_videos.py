"""Videos in and out. They need PyAV."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image
from varied_models import make_varied

from cmdl_hf import make_image_processor, segment
from cmdl_hf.cli import main
from cmdl_hf.extras import install_command
from cmdl_hf.inference import predict_files

NAMES = ["background", "=road", "car", "tree", "person"]


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="PyAV is not installed: pip install av")


@pytest.fixture
def folder(make_model, tmp_path):
    make_varied(make_model(id2label=dict(enumerate(NAMES)))).save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (5, 7, 3), dtype=np.uint8) for _ in range(5)]
    return [Image.fromarray(each).resize((96, 64), Image.Resampling.BICUBIC) for each in pixels]


def write(av, path, frames, rotation=0, codec="libx264", with_sound=False):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        if with_sound:
            sound = container.add_stream("aac", rate=8000)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
        if with_sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())


def read(av, path):
    with av.open(str(path)) as container:
        return [(float(frame.time), frame.to_image()) for frame in container.decode(video=0)]


def predict(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    return stopped.value.code


def test_a_video_gives_overlays_and_shares_by_frame(av, folder, frames, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write(av, tmp_path / "in" / "deep" / "a.mp4", frames)
    assert predict_files(folder, [tmp_path / "in"], tmp_path / "out", hide=["car"]) == {}
    assert {path.name for path in (tmp_path / "out" / "deep").iterdir()} == {"a_overlay.mp4", "a_frames.csv"}
    sources, overlays = (read(av, tmp_path / name) for name in ("in/deep/a.mp4", "out/deep/a_overlay.mp4"))
    assert [time for time, _ in overlays] == [time for time, _ in sources] == [0.0, 0.2, 0.4, 0.6, 0.8]
    with (tmp_path / "out" / "deep" / "a_frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for (time, source), (_, shown), row in zip(sources, overlays, rows, strict=True):
        expected = segment(folder, source)
        drawn = np.asarray(shown.crop((0, 0, 96, 64))).astype(float)
        assert np.abs(drawn - expected.overlay(hide="car", legend=False)).mean() < 12  # compression
        assert shown.width > 96
        assert float(row["seconds"]) == time
        for id_, share in expected.shares_by_id.items():
            assert float(row[f"{id_} {NAMES[id_]}"]) == pytest.approx(share, abs=0.01)
    (entry,) = json.loads((tmp_path / "out" / "summary.json").read_text())["videos"]
    assert (entry["frames"], entry["overlay"], entry["shares_by_frame"]) == (
        5,
        "deep/a_overlay.mp4",
        "deep/a_frames.csv",
    )
    means = {each["id"]: each["share"] for each in entry["classes"]}
    for id_, name in enumerate(NAMES):
        mean = np.mean([float(row[f"{id_} {name}"]) for row in rows])
        assert means.get(id_, 0) == pytest.approx(mean, abs=1e-5)


def test_every_second_frame_keeps_its_time(av, folder, frames, tmp_path, capsys):
    write(av, tmp_path / "a.mov", frames, with_sound=True)
    assert predict(folder, tmp_path / "a.mov", "--out", tmp_path / "out", "--every", 2) == 0
    assert [time for time, _ in read(av, tmp_path / "out" / "a_overlay.mp4")] == [0.0, 0.4, 0.8]
    printed = capsys.readouterr()
    assert "the overlay video has no sound" in printed.err
    assert "3 frames: " in printed.out
    assert "1 video segmented" in printed.out


def test_a_turned_video_is_upright(av, folder, frames, tmp_path):
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV does not write rotations")
    write(av, tmp_path / "a.mp4", [frame.rotate(-90, expand=True) for frame in frames], rotation=90)
    write(av, tmp_path / "b.mp4", frames)
    assert predict_files(folder, [tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "out", alpha=0) == {}
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["videos"]
    assert [(row["width"], row["height"]) for row in rows] == [(96, 64)] * 2
    for name in ("a", "b"):
        for (_, shown), frame in zip(read(av, tmp_path / "out" / f"{name}_overlay.mp4"), frames, strict=True):
            assert np.abs(np.asarray(shown.crop((0, 0, 96, 64))).astype(float) - frame).mean() < 10


def test_what_is_no_video_is_listed_and_nothing_is_left(av, folder, frames, tmp_path):
    write(av, tmp_path / "whole.mp4", frames)
    (tmp_path / "words.mp4").write_text("words")
    (tmp_path / "empty.webm").touch()
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n" + str(tmp_path / "whole.mp4"))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:900])
    videos = [tmp_path / name for name in ("words.mp4", "empty.webm", "list.mp4", "cut.mp4", "whole.mp4")]
    failures = predict_files(folder, videos, tmp_path / "out")
    assert list(failures) == videos[:-1]
    assert all("cannot be read as a video: " in reason for reason in failures.values()), failures
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "summary.json", "whole_overlay.mp4", "whole_frames.csv",
    }  # fmt: skip
    failures = predict_files(folder, [tmp_path / "whole.mp4"], tmp_path / "small", max_pixels=6000)
    assert "has frames of 96 × 64 pixels, more than 6,000 pixels" in failures[tmp_path / "whole.mp4"]


def test_without_pyav_the_cure_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").touch()
    message = predict(folder, tmp_path / "a.mp4", "--out", tmp_path / "out")
    assert message.endswith(f"a.mp4 is a video, which needs PyAV: {install_command('video')}")
    assert not (tmp_path / "out").exists()
