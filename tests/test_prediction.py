import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from cmdl_hf import make_image_processor
from cmdl_hf.cli import main
from cmdl_hf.prediction import predict_files


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
    with pytest.raises(ValueError, match="would replace an image"):
        predict_files(folder, [images], images)
    assert (images / "b.png").read_bytes() == before


def test_nothing_to_segment_and_names_that_clash_are_errors(folder, images, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no image file"):
        predict_files(folder, [tmp_path / "nowhere"], tmp_path / "out")
    Image.new("RGB", (8, 8)).save(images / "a.png")
    with pytest.raises(ValueError, match="would both be written to"):
        predict_files(folder, [images], tmp_path / "out")
