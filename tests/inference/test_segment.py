"""`segment` and what it returns."""

import io
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from varied_models import make_varied

import cmdl_hf
from cmdl_hf import CMDLForSemanticSegmentation, make_image_processor, segment
from cmdl_hf.inference import kept_models, outlier_map, segmenter

NAMES = ["background", "road", "car", "tree", "person"]


@pytest.fixture(autouse=True)
def _forget():
    kept_models._kept.clear()
    yield
    kept_models._kept.clear()


@pytest.fixture
def model(make_model):
    palette = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200]]
    return make_varied(make_model(palette=palette, id2label=dict(enumerate(NAMES))))


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    make_image_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((150, 100), Image.Resampling.BICUBIC)


def scores_of(model, image):
    with torch.no_grad():
        output = model(**make_image_processor()(image, return_tensors="pt"), output_distributions=True)
    size = (image.height, image.width)
    return output, torch.nn.functional.interpolate(output.logits, size, mode="bilinear", align_corners=False)[0]


def test_the_maps_are_those_of_the_model(folder, model, image):
    found = segment(folder, image)
    output, scores = scores_of(model, image)
    probabilities = scores.softmax(dim=0)
    assert found.ids.shape == (100, 150)
    assert found.ids.dtype == np.uint8
    assert len(np.unique(found.ids)) > 2
    assert (found.ids != scores.argmax(dim=0).numpy()).mean() < 1e-3
    torch.testing.assert_close(torch.from_numpy(found.confidence), probabilities.amax(dim=0))
    grid = output.distribution_ids.shape[-2:]
    torch.testing.assert_close(torch.from_numpy(found.outliers), outlier_map(output.similarity, grid, (100, 150))[0])
    own = output.similarity.unflatten(0, grid)
    for y, x in [(0, 0), (99, 149), (47, 80), (63, 11)]:
        cell = own[int((y + 0.5) * grid[0] / 100), int((x + 0.5) * grid[1] / 150)]
        assert found.distribution_ids[y, x] == cell[found.ids[y, x]].argmax()


def test_shares_are_sorted_and_sum_to_one(folder, image):
    found = segment(folder, image)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    for name, share in found.shares.items():
        assert share == pytest.approx((found.ids == NAMES.index(name)).mean())
    assert f"150 × 100 pixels: {next(iter(found.shares))}" in repr(found)


def test_every_kind_of_image_gives_the_same(folder, image, tmp_path):
    image.save(tmp_path / "a.png")
    expected = segment(folder, image).ids
    assert np.array_equal(segment(folder, tmp_path / "a.png").ids, expected)
    assert np.array_equal(segment(str(folder), str(tmp_path / "a.png")).ids, expected)
    assert np.array_equal(segment(folder, np.asarray(image)).ids, expected)
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(segment(folder, opened).ids, expected)
    alpha = np.dstack([np.asarray(image), np.full((100, 150), 7, np.uint8)])
    assert np.array_equal(segment(folder, alpha).ids, expected)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(segment(folder, tmp_path / "turned.png").ids, expected)
    with Image.open(tmp_path / "turned.png") as turned:
        assert np.array_equal(segment(folder, turned).ids, expected)


def test_a_list_gives_a_list_in_its_order(folder, image):
    images = [image, image.resize((80, 60)), image.rotate(180), image]
    found = segment(folder, images, batch_size=2)
    assert [result.ids.shape for result in found] == [(100, 150), (60, 80), (100, 150), (100, 150)]
    for result, given in zip(found, images, strict=True):
        assert (result.ids != segment(folder, given).ids).mean() < 0.01
    assert segment(folder, []) == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("nowhere.png", FileNotFoundError, "there is no image nowhere.png; correct its path"),
        ("https://a.b/c.png", ValueError, "must be a file here, found the address"),
        (np.zeros((4, 4, 3)), ValueError, "must be an image of uint8 .* found float64 of shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, "pass a list for several"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, "channels last"),
        (np.zeros((0, 4), np.uint8), ValueError, "must be an image"),
        (torch.zeros(3, 4, 4), TypeError, "found Tensor; convert it"),
        (Image.new("I;16", (4, 4)), ValueError, "8-bit channels, found mode I;16; scale"),
        (None, TypeError, "found NoneType"),
    ],
)
def test_what_is_no_image_is_refused(folder, given, error, message):
    with pytest.raises(error, match=message):
        segment(folder, given)


def test_a_file_that_would_lose_bits_is_refused_by_every_door(folder, tmp_path):
    deep = np.zeros((8, 8), np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png: an image must have 8-bit channels"):
        segment(folder, tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as opened, pytest.raises(ValueError, match="8-bit channels"):
        segment(folder, opened)


def test_options_are_checked(folder, model, image):
    for options, message in [
        ({"window": (0, 4)}, "window must be"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, found int8"),
        ({"dtype": torch.float64}, "dtype must be one of"),
        ({"device": "cuda:77"}, "device must be one of this machine, found cuda:77"),
        ({"device": "toaster"}, "device must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            segment(folder, image, **options)
    with pytest.raises(ValueError, match="leave out device and dtype"):
        segment(model, image, device="cpu")
    with pytest.raises(TypeError, match="must be a folder, a Hub name or a loaded model, found int"):
        segment(3, image)
    with pytest.raises(TypeError, match="whose config has id2label, found Linear"):
        segment(torch.nn.Linear(2, 2), image)
    with pytest.raises(ValueError, match=r"training mode.*call model.eval\(\)"):
        segment(model.train(), image)
    assert model.training


def test_an_image_that_the_model_does_not_take_is_named(model, image, monkeypatch):
    real = CMDLForSemanticSegmentation.forward

    def refuse_small(self, pixel_values, **options):
        if pixel_values.shape[-1] < 20:
            raise RuntimeError("Kernel size can't be greater\nthan that")
        return real(self, pixel_values, **options)

    monkeypatch.setattr(CMDLForSemanticSegmentation, "forward", refuse_small)
    with pytest.raises(ValueError, match="cannot segment image 1 of the list: Kernel size can't be greater; resize"):
        segment(model, [image, image.resize((8, 8))])


def test_processors_of_loaded_models(folder, model, image, tmp_path):
    loaded = CMDLForSemanticSegmentation.from_pretrained(folder)
    make_image_processor({"height": 40, "width": 60}).save_pretrained(folder)
    assert not np.array_equal(segment(loaded, image).ids, segment(model, image).ids)  # the one beside it; the default
    assert np.array_equal(segment(loaded, image, processor=make_image_processor()).ids, segment(model, image).ids)
    other = SegformerForSemanticSegmentation(
        SegformerConfig(num_labels=4, depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=8)
    ).eval()
    with pytest.raises(ValueError, match=r"comes from no folder .* pass the one .* processor=\.\.\."):
        segment(other, image)
    found = segment(other, image, processor=make_image_processor())
    assert found.distribution_ids is found.outliers is None
    assert found.confidence.shape == (100, 150)


def test_precision_can_be_chosen(folder, image):
    exact, rough = segment(folder, image), segment(folder, image, dtype="bfloat16")
    assert not np.array_equal(exact.confidence, rough.confidence)
    assert np.abs(exact.confidence - rough.confidence).max() < 0.1
    kept = list(kept_models._kept)
    assert {key[3] for key in kept} == {torch.float32, torch.bfloat16}


class TestKeeping:
    @pytest.fixture
    def loads(self, monkeypatch):
        loads, real = [], kept_models.load_folded
        monkeypatch.setattr(kept_models, "load_folded", lambda *given: loads.append(given[0]) or real(*given))
        return loads

    def test_a_model_is_loaded_once_under_all_its_names(self, folder, image, loads, monkeypatch):
        segment(folder, image)
        segment(str(folder), image)
        monkeypatch.chdir(folder.parent)
        segment("model", image)
        assert len(loads) == 1

    def test_a_retrained_folder_is_loaded_anew_and_the_old_is_let_go(self, folder, model, image, loads):
        before = segment(folder, image)
        with torch.no_grad():
            model.decode_head[-1].bias[3] += 100
        model.save_pretrained(folder)
        assert np.unique(segment(folder, image).ids).tolist() == [3]
        assert not np.array_equal(before.ids, segment(folder, image).ids)
        assert len(loads) == 2
        assert len(kept_models._kept) == 1

    def test_few_are_kept(self, folder, image, loads, tmp_path):
        for name in ("a", "b"):
            shutil.copytree(folder, tmp_path / name)
        for name in ("model", "a", "b", "a"):
            segment(tmp_path / name, image)
        assert len(kept_models._kept) == kept_models.MAX_KEPT == 2
        assert len(loads) == 3
        segment(tmp_path / "model", image)
        assert len(loads) == 4

    def test_a_model_that_cannot_be_loaded_is_tried_again(self, folder, image):
        os.rename(folder / "model.safetensors", folder / "hidden")
        with pytest.raises(FileNotFoundError):
            segment(folder, image)
        os.rename(folder / "hidden", folder / "model.safetensors")
        segment(folder, image)


class TestPictures:
    @pytest.fixture
    def found(self, folder, image):
        return segment(folder, image)

    def test_the_background_and_hidden_classes_are_left_clear(self, found, image):
        pixels, ids = np.asarray(image), found.ids
        assert {0, 1} < set(np.unique(ids))
        full = np.asarray(found.overlay(alpha=1, legend=False))
        assert np.array_equal(full[ids == 0], pixels[ids == 0])
        assert (full[ids == 1] == [0, 200, 0]).all()
        for hide in ("road", 1, ["road"], {1}):
            hidden = np.asarray(found.overlay(alpha=1, hide=hide, legend=False))
            assert np.array_equal(hidden[ids < 2], pixels[ids < 2])
            assert np.array_equal(hidden[ids >= 2], full[ids >= 2])
        assert np.array_equal(np.asarray(found.overlay(alpha=0, legend=False)), pixels)
        for hide in ("raod", 7):
            with pytest.raises(ValueError, match=rf"no class {hide}; name one such as .*road"):
                found.overlay(hide=hide)
        with pytest.raises(ValueError, match=r"0\.\.1, found 2"):
            found.overlay(alpha=2)

    def test_the_legend_stands_beside_the_picture(self, found):
        plain, whole = found.overlay(legend=False), found.overlay()
        assert whole.width > plain.width
        assert np.array_equal(np.asarray(whole.crop((0, 0, *plain.size))), np.asarray(plain))

    def test_the_ids_are_saved_with_their_colours(self, found, tmp_path):
        found.save(tmp_path / "ids.png")
        with Image.open(tmp_path / "ids.png") as saved:
            assert saved.mode == "P"
            assert saved.getpalette()[3:6] == [0, 200, 0]
            assert np.array_equal(np.asarray(saved), found.ids)
        with pytest.raises(ValueError, match=r"written as PNG.*ids.jpg"):
            found.save(tmp_path / "ids.jpg")

    def test_a_notebook_shows_it(self, found, image, folder):
        with Image.open(io.BytesIO(found._repr_png_())) as shown:
            assert shown.format == "PNG"
            assert np.array_equal(np.asarray(shown), np.asarray(found.overlay()))
        large = segment(folder, image.resize((3000, 40)))
        with Image.open(io.BytesIO(large._repr_png_())) as shown:
            assert 1400 < shown.width < 1900

    def test_colours_are_made_where_there_are_none(self, make_model, image):
        found = segment(make_varied(make_model()), image)
        assert len({tuple(color) for color in found.classes.palette}) == 5


def test_many_classes_have_sixteen_bits(make_model, image, tmp_path):
    found = segment(make_varied(make_model(num_labels=300, semantic_loss_ignore_index=-100)), image)
    assert found.ids.dtype == np.uint16
    found.save(tmp_path / "ids.png")
    with Image.open(tmp_path / "ids.png") as saved:
        assert np.array_equal(np.asarray(saved), found.ids)
    assert found.overlay().width > 150


def test_a_large_image_is_segmented_in_windows_by_itself(model, image, monkeypatch):
    monkeypatch.setattr(segmenter, "LARGE_IMAGE", 100 * 150 - 1)
    monkeypatch.setattr(segmenter, "WINDOW", (64, 64))
    assert np.array_equal(segment(model, image).ids, segment(model, image, window=(64, 64)).ids)
    resizing = make_image_processor({"height": 64, "width": 96})
    whole = segment(model, image, processor=resizing).ids
    monkeypatch.undo()
    assert np.array_equal(segment(model, image, processor=resizing).ids, whole)


def test_much_shrunk_images_are_told(model, image, monkeypatch, caplog):
    monkeypatch.setattr(segmenter, "LARGE_IMAGE", 100)
    segment(model, image, processor=make_image_processor({"height": 20, "width": 30}))
    assert "150 × 100 pixels is made 5 times smaller for the model; to keep its details, set a window" in caplog.text


def test_it_is_at_the_top(folder):
    assert cmdl_hf.segment is segment
    assert isinstance(segment(folder, np.zeros((40, 40), np.uint8)), cmdl_hf.Segmentation)
