import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
from transformers.modeling_outputs import SemanticSegmenterOutput
from varied_models import make_varied

from cmdl_hf import make_image_processor, segment
from cmdl_hf.cli import main
from cmdl_hf.inference import files as prediction
from cmdl_hf.inference import outlier_map, output_files, predict_files
from cmdl_hf.inference.images import find_inputs


@pytest.fixture
def folder(make_model, tmp_path):
    palette = [[10 * i, 20 * i, 250 - i] for i in range(5)]
    model = make_model(palette=palette).eval()
    model.save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGBA"), ("deep/ü.png", "L")):
        pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_a_folder_gives_palette_images_and_overlays(folder, images, tmp_path):
    assert predict_files(folder, [images], tmp_path / "out") == {}
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert written == {f"{name}{end}" for name in ("a", "b", "deep/ü") for end in (".png", "_overlay.jpg")} | {
        "summary.json"
    }
    with Image.open(tmp_path / "out" / "a.png") as segmentation:
        assert segmentation.mode == "P"
        assert segmentation.size == (60, 40)
        assert segmentation.getpalette()[3:6] == [10, 20, 249]
        assert np.asarray(segmentation).max() < 5


def test_the_ids_are_those_of_the_model(folder, images, tmp_path):
    predict_files(folder, [images / "a.jpg"], tmp_path / "out")
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with Image.open(images / "a.jpg") as image, torch.no_grad():
        output = model(**processor(image.convert("RGB"), return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(output, target_sizes=[(40, 60)])
    with Image.open(tmp_path / "out" / "a.png") as segmentation:
        assert np.array_equal(np.asarray(segmentation), expected.numpy())


def test_exif_orientation_is_applied(folder, tmp_path):
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    predict_files(folder, [tmp_path / "turned.jpg"], tmp_path / "out")
    with Image.open(tmp_path / "out" / "turned.png") as segmentation:
        assert segmentation.size == (40, 60)


def test_command_line_lists_unreadable_files_and_goes_on(folder, images, tmp_path, capsys):
    (images / "broken.png").write_bytes(b"no image")
    (images / "empty.png").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder), str(images), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert "broken.png" in printed
    assert "empty.png" in printed
    assert (tmp_path / "out" / "a.png").exists()
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder), str(images / "*.jpg"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 0


def test_an_input_is_never_replaced(folder, images):
    before = (images / "b.png").read_bytes()
    with pytest.raises(ValueError, match="would replace an input image"):
        predict_files(folder, [images], images)
    assert (images / "b.png").read_bytes() == before


def test_nothing_to_segment_and_names_that_clash_are_errors(folder, images, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no image file"):
        predict_files(folder, [tmp_path / "nowhere"], tmp_path / "out")
    Image.new("RGB", (8, 8)).save(images / "a.png")
    with pytest.raises(ValueError, match="would both be written to"):
        predict_files(folder, [images], tmp_path / "out")


def _ids(file):
    with Image.open(file) as segmentation:
        return np.asarray(segmentation)


def _run(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    return stopped.value.code


def test_batches_give_what_single_images_do(folder, tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        size = (40, 60, 3) if index != 2 else (60, 40, 3)  # one of another size between the others
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / "images" / f"{index}.png")
    for batch_size in (1, 4):
        predict_files(folder, [tmp_path / "images"], tmp_path / f"{batch_size}", batch_size=batch_size)
    for index in range(5):
        one, four = (_ids(tmp_path / name / f"{index}.png") for name in ("1", "4"))
        assert (one != four).mean() < 0.01  # sums in another order decide ties


def test_transparency_is_dropped_as_in_training(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    Image.fromarray(pixels[..., :3]).save(tmp_path / "rgb.png")
    predict_files(folder, [tmp_path / "rgba.png", tmp_path / "rgb.png"], tmp_path / "out")
    assert np.array_equal(_ids(tmp_path / "out" / "rgba.png"), _ids(tmp_path / "out" / "rgb.png"))


def test_a_turned_image_is_segmented_upright(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    predict_files(folder, [tmp_path / "turned.png", tmp_path / "upright.png"], tmp_path / "out")
    assert np.array_equal(_ids(tmp_path / "out" / "turned.png"), _ids(tmp_path / "out" / "upright.png"))


def test_summary_lists_classes_with_their_shares(folder, images, tmp_path):
    (images / "broken.png").write_bytes(b"no image")
    predict_files(folder, [images], tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["model"] == str(folder)
    assert list(summary["not_segmented"]) == [str(images / "broken.png")]
    assert [row["segmentation"] for row in summary["images"]] == ["a.png", "b.png", "deep/ü.png"]
    for row in summary["images"]:
        ids = _ids(tmp_path / "out" / row["segmentation"])
        assert (row["height"], row["width"]) == ids.shape
        assert (tmp_path / "out" / row["overlay"]).is_file()
        shares = {entry["id"]: entry["share"] for entry in row["classes"]}
        assert shares == {int(i): pytest.approx((ids == i).mean(), abs=1e-5) for i in np.unique(ids)}
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert all(entry["name"] == f"LABEL_{entry['id']}" for entry in row["classes"])


def test_outlier_maps_are_those_of_the_model(folder, images, tmp_path):
    assert _run([folder, images, "--out", tmp_path / "out", "--outlier-map"]) == 0
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with Image.open(images / "a.jpg") as image, torch.no_grad():
        output = model(**processor(image.convert("RGB"), return_tensors="pt"), output_distributions=True)
    expected = outlier_map(output.similarity, output.distribution_ids.shape[-2:], (40, 60))[0]
    drawn = _ids(tmp_path / "out" / "a_outlier.png")
    assert np.abs(drawn / 255 - expected.clamp(0, 1).numpy()).max() < 0.01
    row = json.loads((tmp_path / "out" / "summary.json").read_text())["images"][0]
    assert row["outlier_map"] == "a_outlier.png"
    assert row["outlier_mean"] == pytest.approx(float(expected.mean()), abs=1e-3)


def test_outlier_maps_need_distributions(make_model, images, tmp_path):
    make_model(use_distributions=False).save_pretrained(tmp_path / "plain")
    make_image_processor().save_pretrained(tmp_path / "plain")
    message = _run([tmp_path / "plain", images, "--out", tmp_path / "out", "--outlier-map"])
    assert "needs class distributions" in message


def test_more_classes_than_a_palette_has(make_model, images, tmp_path):
    make_model(num_labels=300, semantic_loss_ignore_index=-100).save_pretrained(tmp_path / "many")
    make_image_processor().save_pretrained(tmp_path / "many")
    assert predict_files(tmp_path / "many", [images / "a.jpg"], tmp_path / "out") == {}
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "many").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "many")
    with Image.open(images / "a.jpg") as image, torch.no_grad():
        output = model(**processor(image.convert("RGB"), return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(output, target_sizes=[(40, 60)])
    with Image.open(tmp_path / "out" / "a.png") as segmentation:
        assert segmentation.mode == "I;16"
        assert np.array_equal(np.asarray(segmentation), expected.numpy())
    assert (tmp_path / "out" / "a_overlay.jpg").is_file()


class _Small(torch.nn.Module):
    """A segmenter that runs out of memory when it is given more than a few images, or too large ones."""

    def __init__(self, most, error):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.most, self.error, self.batches = most, error, []

    def forward(self, pixel_values):
        self.batches.append(len(pixel_values))
        if len(pixel_values) > self.most or pixel_values.shape[-1] > 100:
            raise self.error
        return SemanticSegmenterOutput(logits=torch.cat([pixel_values, -pixel_values[:, :2]], dim=1))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] can't allocate memory")]
)
def test_a_batch_that_does_not_fit_memory_is_halved(folder, tmp_path, monkeypatch, error):
    paths = [tmp_path / f"{index}.png" for index in range(9)]
    for index, path in enumerate(paths):
        Image.new("RGB", (200 if index == 8 else 30, 20), (20 * index, 0, 0)).save(path)
    load = prediction.load_folded
    small = _Small(3, error)

    def load_small(*arguments):
        model, processor = load(*arguments)
        small.config = model.config
        return small, processor

    monkeypatch.setattr(prediction, "load_folded", load_small)
    failures = predict_files(folder, paths, tmp_path / "out", batch_size=8)
    assert list(failures) == [paths[8]]
    assert "does not fit into memory" in failures[paths[8]]
    assert small.batches == [8, 4, 2, 2, 2, 2, 1]  # what did not fit once is not tried again
    assert all((tmp_path / "out" / f"{index}.png").is_file() for index in range(8))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Kernel size can't be greater"), "Kernel size can't be greater"),
        (
            AssertionError("Input height (40) doesn't match model (224)."),
            "Input height (40) doesn't match model (224).",
        ),
        (ValueError("Input image size (40*60)\n..."), "Input image size (40*60)"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_what_the_model_refuses_is_listed_and_the_others_are_done(
    folder, images, tmp_path, monkeypatch, error, reason
):
    load = prediction.load_folded
    faulty = _Small(1, error)  # of a batch, it takes single images

    def load_faulty(*arguments):
        model, processor = load(*arguments)
        faulty.config = model.config
        return faulty, processor

    monkeypatch.setattr(prediction, "load_folded", load_faulty)
    assert predict_files(folder, [images], tmp_path / "out") == {}
    faulty.most = 0
    failures = predict_files(folder, [images], tmp_path / "none")
    assert set(failures.values()) == {f"the model cannot process it: {reason}"}
    assert json.loads((tmp_path / "none" / "summary.json").read_text())["images"] == []


def test_files_of_others_are_not_replaced(folder, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("a mask")
    with pytest.raises(ValueError, match=r"a.png exists, and cmdl predict did not write it; name another folder"):
        predict_files(folder, [images], tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_text() == "a mask"


def test_unfit_images_are_listed_with_the_reason(folder, images, tmp_path, monkeypatch):
    whole = (images / "a.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("I;16", (8, 8)).save(images / "deep.png")
    Image.new("RGB", (3000, 10)).save(images / "huge.png")
    Image.new("RGB", (1, 1)).save(images / "tiny.png")
    failures = predict_files(folder, [images], tmp_path / "out", max_pixels=20_000)
    reasons = {path.name: reason for path, reason in failures.items()}
    assert reasons.keys() == {"cut.jpg", "deep.png", "huge.png"}
    assert "truncated" in reasons["cut.jpg"]
    assert "8-bit channels" in reasons["deep.png"]
    assert "30,000 pixels, more than 20,000" in reasons["huge.png"]
    assert "--max-pixels" in reasons["huge.png"]
    assert _ids(tmp_path / "out" / "tiny.png").shape == (1, 1)


def test_the_limit_of_pixels_can_be_raised_above_pillows(folder, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # Pillow refuses twice as many, 40,000
    Image.new("RGB", (300, 200)).save(tmp_path / "huge.png")
    assert _run([folder, tmp_path / "huge.png", "--out", tmp_path / "out", "--max-pixels", 59_999]) == 1
    assert _run([folder, tmp_path / "huge.png", "--out", tmp_path / "out", "--max-pixels", 60_000]) == 0
    assert Image.MAX_IMAGE_PIXELS == 20_000
    assert not [warning for warning in recwarn if issubclass(warning.category, Image.DecompressionBombWarning)]


def test_patterns_reach_into_folders_and_keep_them(folder, images, tmp_path):
    assert _run([folder, images / "**" / "*.png", "--out", tmp_path / "out"]) == 0
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert written == {"b.png", "deep/ü.png"}


def test_the_overlay_of_an_image_too_long_for_jpeg_is_made_smaller(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(output_files, "_JPEG_EDGE", 50)
    Image.new("RGB", (100, 40)).save(tmp_path / "long.png")
    assert predict_files(folder, [tmp_path / "long.png"], tmp_path / "out") == {}
    assert Image.open(tmp_path / "out" / "long.png").size == (100, 40)
    assert max(Image.open(tmp_path / "out" / "long_overlay.jpg").size) == 50


def test_files_that_are_no_images_are_counted_and_hidden_ones_are_not(images, tmp_path, caplog):
    output_dir = tmp_path / "out"
    found = list(find_inputs(images, output_dir))
    assert caplog.text == ""
    for name in ("notes.txt", "a.heic", ".a.png"):
        (images / name).touch()
    assert list(find_inputs(images, output_dir)) == found
    assert "2 file(s) are no images or videos by their names and are passed over, such as" in caplog.text
    assert "a.heic" in caplog.text


def test_outputs_below_the_input_folder_are_not_segmented_again(folder, images):
    for _ in range(2):
        assert predict_files(folder, [images], images / "segmented") == {}
    written = {path.name for path in (images / "segmented").rglob("*.png")}
    assert written == {"a.png", "b.png", "ü.png"}


def test_no_file_gets_two_contents(folder, images, tmp_path):
    Image.new("RGB", (8, 8)).save(images / "a_outlier.jpg")
    with pytest.raises(ValueError, match=r"would both be written to .*a_outlier.png"):
        predict_files(folder, [images], tmp_path / "out")


def test_mistakes_are_told_in_one_line(folder, images, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    out = ["--out", tmp_path / "out"]
    cases = {
        "there is nothing to segment": [folder, *out],
        "is no image file, no folder with images": [folder, tmp_path / "empty", *out],
        "it has no config.json": [tmp_path / "empty", images, *out],
        "missing does not exist": [tmp_path / "missing", images, *out],
        "cannot be loaded": ["nobody/nothing", images, *out],
        "is a file; name a folder to write to": [folder, images, "--out", tmp_path / "file"],
        "batch_size must be at least 1, found 0": [folder, images, *out, "--batch-size", 0],
    }
    for expected, arguments in cases.items():
        message = _run(arguments)
        assert expected in message
        assert "\n" not in message

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "cannot be written (Permission denied)" in _run([folder, images, *out])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_folder_without_permission_is_refused(folder, images, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in _run([folder, images, "--out", tmp_path / "locked" / "out"])


def test_the_command_says_what_it_loads_and_prints_a_table_of_80_columns(make_model, images, tmp_path, capsys):
    names = ["background", "a very long name of a class that goes on and on", "x\ny", "car", "tree"]
    make_varied(make_model(id2label=dict(enumerate(names)))).save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    assert _run([tmp_path / "model", images, "--out", tmp_path / "out", "--device", "cpu", "--dtype", "float32"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count(f"loading the model {tmp_path / 'model'}") == 1
    assert "CMDLForSemanticSegmentation: 5 classes, 36,481 parameters, on cpu in float32" in printed.err
    table, places = printed.out.split("\n\n")
    assert all(len(line) <= 80 for line in table.splitlines())
    rows = table.splitlines()[3 if table.startswith("\n") else 2 :]
    assert [row.split()[0] for row in rows] == ["a.jpg", "b.png", "deep/ü.png"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    for row, entry in zip(rows, summary["images"], strict=True):
        largest = entry["classes"][0]
        assert f"  {' '.join(largest['name'].split())[:20]}" in row
    assert places.startswith(f"3 images segmented, of {images}")
    assert f"class ids: {tmp_path / 'out'}/NAME.png; overlays: {tmp_path / 'out'}/NAME_overlay.jpg" in places
    assert f"all shares: {tmp_path / 'out' / 'summary.json'}" in places


def test_there_is_a_default_folder_for_the_results(folder, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _run([folder, images / "a.jpg"]) == 0
    assert (tmp_path / "outputs" / "predictions" / "a.png").is_file()


def test_overlays_as_they_are_asked_for(make_model, images, tmp_path):
    make_varied(make_model(id2label=dict(enumerate("abcde")))).save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    hidden = ["--hide", "b", "--hide", "c"]
    assert _run([tmp_path / "model", images / "a.jpg", "--out", tmp_path / "out", "--alpha", 1, *hidden]) == 0
    expected = segment(tmp_path / "model", images / "a.jpg").overlay(alpha=1, hide=["b", "c"])
    with Image.open(tmp_path / "out" / "a_overlay.jpg") as drawn:
        assert drawn.size == expected.size
        assert np.abs(np.asarray(drawn).astype(float) - np.asarray(expected)).mean() < 10
    arguments = [tmp_path / "model", images, "--out", tmp_path / "none"]
    assert "no class z; name one such as a, b, c" in _run([*arguments, "--hide", "z"])
    assert "alpha must lie in 0..1, found 3" in _run([*arguments, "--alpha", 3])
    assert "device must be one of this machine, found toaster" in _run([*arguments, "--device", "toaster"])
    assert "window must be (height, width)" in _run([*arguments, "--window", 0, 8])


def test_files_and_calls_take_one_path(folder, images, tmp_path):
    assert _run([folder, images, "--out", tmp_path / "out", "--window", 32, 24]) == 0
    for name in ("a.jpg", "b.png", "deep/ü.png"):
        expected = segment(folder, images / name, window=(32, 24)).ids
        assert np.array_equal(_ids((tmp_path / "out" / name).with_suffix(".png")), expected)
