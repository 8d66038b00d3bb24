"""`cmdl evaluate`, on small Cityscapes frames whose colours tell the class."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from process_groups import join, run_processes
from short_runs import use_few_scenes
from torch import nn
from transformers import SegformerImageProcessor

from cmdl_hf import make_image_processor
from cmdl_hf.cli import main
from cmdl_hf.data import BENCHMARKS, EvalTransform, ids_digest, load_benchmark
from cmdl_hf.evaluation import evaluating, make_protocol, read_counts, run_evaluation
from cmdl_hf.evaluation.protocols import ProcessorTransform, processor_resize

CITYSCAPES = BENCHMARKS["cityscapes"]
RAW_IDS = {train_id: raw_id for raw_id, train_id in CITYSCAPES.label_table.raw_to_train.items() if train_id != 255}
SIZE = (48, 80)


class Oracle(nn.Module):
    """A segmenter that reads the class off the red channel, and the size at which it sees images."""

    def __init__(self, mean=0.485, std=0.229, num_labels=19):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.mean, self.std = mean, std
        self.config = SimpleNamespace(
            num_labels=num_labels, id2label={i: f"LABEL_{i}" for i in range(num_labels)}, use_distributions=False
        )
        self.sizes = []

    def forward(self, pixel_values):
        self.sizes.append(tuple(pixel_values.shape[-2:]))
        red = 255 * (pixel_values[:, :1] * self.std + self.mean)
        classes = 10 * torch.arange(self.config.num_labels).view(1, -1, 1, 1)
        return {"logits": -((red - classes) ** 2)}


def write_frames(folder, split, count, is_labelled=True):
    rng = np.random.default_rng(0)
    for index in range(count):
        name = f"town_00000{index}_000019"
        train_ids = rng.integers(0, 19, (SIZE[0] // 16, SIZE[1] // 16)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        image = np.stack([10 * train_ids, train_ids * 0 + 90, train_ids * 0 + 30], axis=-1)
        (folder / "leftImg8bit" / split / "town").mkdir(parents=True, exist_ok=True)
        (folder / "gtFine" / split / "town").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "leftImg8bit" / split / "town" / f"{name}_leftImg8bit.png")
        if is_labelled:
            raw = np.vectorize(RAW_IDS.get)(train_ids).astype(np.uint8)
            raw[:2] = 0  # void
            Image.fromarray(raw).save(folder / "gtFine" / split / "town" / f"{name}_gtFine_labelIds.png")


@pytest.fixture
def frames(tmp_path):
    write_frames(tmp_path / "cityscapes", "val", 3)
    write_frames(tmp_path / "cityscapes", "test", 2, is_labelled=False)
    return tmp_path / "cityscapes"


@pytest.fixture
def oracle(monkeypatch):
    model = Oracle()
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (model, make_image_processor()))
    return model


@pytest.fixture
def folder(make_model, tmp_path, frames):
    """A model of Cityscapes' 19 classes, with the recipe and the scores of its training."""
    folder = tmp_path / "run"
    make_model(num_labels=19).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"benchmark": "cityscapes", "resize": None}))
    frames_seen = load_benchmark("cityscapes", frames, splits=["validation"])["validation"]
    run = {"recipe": {"benchmark": "cityscapes"}, "data": {"splits": {"validation": ids_digest(frames_seen)}}}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "scores.json").write_text(json.dumps({"validation": {"mean_iou": 0.6123, "per_class_iou": [0.5] * 19}}))
    return folder


def _run(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments)])
    return stopped.value.code


def test_table_and_file_tell_every_class(oracle, frames, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    main(["evaluate", "oracle", "--benchmark", "cityscapes", "--data-dir", str(frames), "--out", str(out)])
    printed = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["num_images"] == 3
    assert content["protocol"] == {
        "name": "whole",
        "resize": None,
        "crop_size": None,
        "stride": None,
        "scales": [1.0],
    }
    assert content["scores"]["mean_iou"] == 1.0
    assert sum(content["pixel_shares"]) == pytest.approx(1)
    assert set(oracle.sizes) == {SIZE}
    absent = [i for i, share in enumerate(content["pixel_shares"]) if share == 0]
    assert all(content["scores"]["per_class_iou"][i] is None for i in absent)
    for index, name in CITYSCAPES.id2label.items():
        (row,) = (line.split() for line in printed.splitlines() if line.startswith(f"{name} "))
        share = f"{100 * content['pixel_shares'][index]:.2f}"
        assert row[-3:] == (["–", "–", "0.00"] if index in absent else ["100.00", "100.00", share])
    assert "mean" in printed
    counts = read_counts(tmp_path / "new" / "scores.npz")["validation"]
    assert len(counts.ids) == 3
    assert counts.label_pixels.sum(axis=0) / counts.label_pixels.sum() == pytest.approx(content["pixel_shares"])


@pytest.mark.parametrize(
    ("protocol", "sizes"),
    [
        ({"protocol": "slide", "crop_size": (32, 48)}, {(32, 48)}),
        ({"protocol": "slide", "crop_size": (32, 48), "resize": (96, 400)}, {(32, 48)}),
        ({"protocol": "slide"}, {SIZE}),  # the papers' crop of 512 × 1024 is larger
        ({"protocol": "whole", "resize": (96, 400)}, {(96, 160)}),
        ({"protocol": "ms-flip"}, {(24, 40), (36, 60), (48, 80), (60, 100), (72, 120), (84, 140)}),
        ({"protocol": "ms-flip", "resize": (96, 400), "scales": (0.5, 1.0)}, {(48, 80), (96, 160)}),
        ({"protocol": "ms-flip", "crop_size": (24, 24), "scales": (1.0,)}, {(24, 24)}),
    ],
)
def test_protocols_see_images_as_they_should(oracle, frames, protocol, sizes):
    evaluation = run_evaluation("oracle", "cityscapes", frames, num_workers=0, **protocol)
    assert set(oracle.sizes) == sizes
    assert evaluation.scores["overall_accuracy"] > 0.8
    if "resize" not in protocol and protocol["protocol"] == "slide":
        assert evaluation.scores["mean_iou"] == 1.0


def test_predictions_have_the_owners_ids(oracle, frames, tmp_path):
    run_evaluation("oracle", "cityscapes", frames, save_predictions=tmp_path / "saved", num_workers=0)
    for index in range(3):
        with Image.open(tmp_path / "saved" / f"town_00000{index}_000019.png") as saved:
            assert saved.mode == "L"
            ids = np.asarray(saved)
        name = f"town_00000{index}_000019_gtFine_labelIds.png"
        truth = np.asarray(Image.open(frames / "gtFine" / "val" / "town" / name))
        assert np.array_equal(ids[2:], truth[2:])  # the void above is predicted, too


@pytest.mark.parametrize("num_labels", [171, 182])
def test_predictions_on_the_164k_release_are_saved_as_its_masks(tmp_path, monkeypatch, num_labels):
    """A perfect prediction is the owner's mask, whose ids are one less than those of the 10k release."""
    raw_ids = {
        row.raw_id - 1: row.raw_id - 1 if num_labels == 182 else row.train_id
        for row in BENCHMARKS["coco_stuff"].label_table.rows
        if row.raw_id and (num_labels == 182 or row.train_id != 255)
    }
    mask = np.array(list(raw_ids), dtype=np.uint8)[None].repeat(4, 0)  # (4, K)
    train_ids = np.array(list(raw_ids.values()))[None].repeat(4, 0)
    root = tmp_path / "coco"
    for folder in ("train2017", "val2017"):
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        Image.fromarray(np.stack([train_ids, train_ids, train_ids], -1).astype(np.uint8)).save(
            root / "images" / folder / "9.png"
        )
        Image.fromarray(mask).save(root / "annotations" / folder / "9.png")

    class Exact(Oracle):
        def forward(self, pixel_values):
            red = 255 * (pixel_values[:, :1] * self.std + self.mean)
            return {"logits": -((red - torch.arange(num_labels).view(1, -1, 1, 1)) ** 2)}

    exact = Exact(num_labels=num_labels)
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (exact, make_image_processor()))
    evaluation = run_evaluation("exact", "coco_stuff", root, save_predictions=tmp_path / "saved", num_workers=0)
    assert evaluation.scores["overall_accuracy"] == 1
    with Image.open(tmp_path / "saved" / "9.png") as saved:
        assert np.array_equal(np.asarray(saved), mask)


def test_withheld_labels_give_predictions_only(oracle, frames, tmp_path, capsys):
    arguments = ["oracle", "--benchmark", "cityscapes", "--data-dir", frames, "--split", "test"]
    arguments += ["--out", tmp_path / "s.json"]
    assert "are not public" in _run(arguments)
    main(["evaluate", *map(str, arguments), "--save-predictions", str(tmp_path / "saved")])
    assert "no scores" in capsys.readouterr().out
    assert len(list((tmp_path / "saved").glob("town_*.png"))) == 2
    assert json.loads((tmp_path / "s.json").read_text())["scores"] == {}


def test_own_and_generated_data_are_scored(make_model, frames, tmp_path, monkeypatch):
    model = make_model(num_labels=8)
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (model, make_image_processor()))
    use_few_scenes(monkeypatch.setattr)
    assert run_evaluation("m", "synthetic", split="test", num_workers=0).facts["num_images"] == 4

    oracle = Oracle(num_labels=3)
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (oracle, make_image_processor()))
    for kind in ("images", "masks"):
        (tmp_path / "own" / kind / "val").mkdir(parents=True)
    ids = np.arange(3, dtype=np.uint8).repeat(10)[None].repeat(20, 0)
    Image.fromarray(np.stack([10 * ids] * 3, axis=-1)).save(tmp_path / "own" / "images" / "val" / "a.png")
    Image.fromarray(ids).save(tmp_path / "own" / "masks" / "val" / "a.png")
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    options = {"id2label": tmp_path / "classes.txt", "num_workers": 0}
    assert run_evaluation("oracle", "own", tmp_path / "own", **options).scores["mean_iou"] == 1.0
    with pytest.raises(ValueError, match="own has no usual size of windows"):
        run_evaluation("oracle", "own", tmp_path / "own", protocol="slide", **options)
    with pytest.raises(ValueError, match="own has the splits validation, not test"):
        run_evaluation("oracle", "own", tmp_path / "own", split="test", **options)


def test_mixed_precision_scores_nearly_the_same(make_model, frames, monkeypatch):
    model = make_model(num_labels=19)
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (model, make_image_processor()))
    full, half = (
        run_evaluation("m", "cityscapes", frames, mixed_precision=precision, num_workers=0).scores["overall_accuracy"]
        for precision in ("no", "bf16")
    )
    assert half == pytest.approx(full, abs=0.05)


class _Half(Oracle):
    def forward(self, pixel_values):
        self.dtype = (self.weight[:, None] @ pixel_values.new_zeros(1, 1)).dtype
        return super().forward(pixel_values)


def test_mixed_precision_reaches_the_model(frames, monkeypatch):
    model = _Half()
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (model, make_image_processor()))
    for precision, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        run_evaluation("m", "cityscapes", frames, mixed_precision=precision, num_workers=0)
        assert model.dtype == dtype


def test_another_number_of_classes_is_refused(oracle, frames):
    oracle.config.num_labels = 21
    with pytest.raises(ValueError, match="found 21 in oracle and 19 in cityscapes"):
        run_evaluation("oracle", "cityscapes", frames)


def test_classes_of_other_names_are_told(oracle, frames, caplog):
    oracle.config.id2label = dict(CITYSCAPES.id2label)
    run_evaluation("oracle", "cityscapes", frames, num_workers=0)
    assert "other names" not in caplog.text
    oracle.config.id2label |= {0: "sidewalk", 1: "road"}
    run_evaluation("oracle", "cityscapes", frames, num_workers=0)
    assert (
        "2 of 19 classes have other names in oracle than in cityscapes, such as 0: 'sidewalk' and 'road'"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "cityscapes"], "needs its folder"),
        (["--benchmark", "synthetic", "--data-dir", "x"], "x would not be read"),
        (
            ["--benchmark", "cityscapes", "--data-dir", "nowhere"],
            "nowhere does not exist; correct data_dir (--data-dir)",
        ),
        (["--benchmark", "own", "--data-dir", "nowhere", "--id2label", "y"], "correct the path (--data-dir)"),
        (["--benchmark", "cityscapes", "--data-dir", "x", "--id2label", "y"], "leave out --id2label"),
        (["--benchmark", "own", "--data-dir", "x"], "--id2label"),
        (["--benchmark", "cityscapes", "--data-dir", "FRAMES", "--stride", "4", "4"], "have no windows"),
        (
            ["--benchmark", "cityscapes", "--data-dir", "FRAMES", "--protocol", "ms-flip", "--stride", "4", "4"],
            "stride",
        ),
        (["--benchmark", "cityscapes", "--data-dir", "FRAMES", "--split", "train"], "no files of the train split"),
        (["--benchmark", "cityscapes", "--data-dir", "FRAMES", "--update-card"], "writes into the folder of a model"),
    ],
)
def test_mistakes_are_told(oracle, frames, tmp_path, arguments, message):
    arguments = [frames if argument == "FRAMES" else argument for argument in arguments]
    assert message in _run(["oracle", *arguments, "--out", tmp_path / "scores.json"])


def test_what_cannot_be_written_is_told_before_the_work(oracle, frames, tmp_path):
    (tmp_path / "file").touch()
    for flag in ("--out", "--save-predictions"):
        arguments = ["oracle", "--benchmark", "cityscapes", "--data-dir", frames, flag, tmp_path / "file" / "x"]
        assert "cannot be written" in _run([*arguments, *(["--out", tmp_path / "s"] if flag != "--out" else [])])
    assert oracle.sizes == []


def test_the_card_gets_the_scores_of_each_protocol_apart(folder, frames):
    def update(**options):
        run_evaluation(folder, "cityscapes", frames, num_workers=0, update_card=True, **options)
        return json.loads((folder / "scores.json").read_text())

    before = json.loads((folder / "scores.json").read_text())
    scores = update()
    assert list(scores) == ["validation"]
    assert scores["validation"]["mean_iou"] != before["validation"]["mean_iou"]
    whole = scores["validation"]
    slide = "validation (slide, original size, windows 32 × 48 by 21 × 32)"
    assert list(update(protocol="slide", crop_size=(32, 48))) == ["validation", slide]
    larger = "validation (whole, shorter edge 96, longer at most 400)"
    scores = update(resize=(96, 400))
    assert list(scores) == ["validation", slide, larger]
    assert scores["validation"] == whole
    half = "validation (whole, original size, bf16)"
    assert list(update(mixed_precision="bf16")) == ["validation", slide, larger, half]
    counts = read_counts(folder / "scores.npz")
    assert [each.protocol for each in counts.values()] == [
        "whole, original size",
        "slide, original size, windows 32 × 48 by 21 × 32",
        "whole, shorter edge 96, longer at most 400",
        "whole, original size, bf16",
    ]
    assert list(counts) == list(scores | {half: {}})
    card = (folder / "README.md").read_text()
    assert f"### Classes, {slide} split" in card
    assert f"{100 * whole['mean_iou']:.2f}" in card


def test_scores_on_other_data_than_the_trainings_are_named_after_them(folder, frames):
    run = json.loads((folder / "run.json").read_text())
    splits = run["data"]["splits"]
    for other in (
        {"recipe": {"benchmark": "ade20k"}},
        {"data": {"splits": {"validation": "of other images"}}},
        {"data": {"splits": splits, "contents": {"validation": "of other images under the same names"}}},
    ):
        (folder / "run.json").write_text(json.dumps(run | other))
        run_evaluation(folder, "cityscapes", frames, num_workers=0, update_card=True)
        scores = json.loads((folder / "scores.json").read_text())
        assert list(scores) == ["validation", f"Cityscapes in {frames.name}, validation"]
        assert scores["validation"]["mean_iou"] == 0.6123


def test_predictions_stay_in_their_folder_whatever_the_ids(make_model, tmp_path, monkeypatch):
    model = make_model(num_labels=4)
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (model, make_image_processor()))
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "list").mkdir()
    rows = ["image,mask"]
    for name in ("one", "two"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / f"{name}.jpg")
        Image.new("L", (64, 64), 1).save(tmp_path / f"{name}.png")
        where = ".." if name == "one" else tmp_path
        rows.append(f"{where}/{name}.jpg,{where}/{name}.png")
    (tmp_path / "list" / "pairs.csv").write_text("\n".join(rows))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = ("m", "own", tmp_path / "list" / "pairs.csv")
    options = {"split": "train", "id2label": tmp_path / "classes.txt", "num_workers": 0}
    run_evaluation(*arguments, save_predictions=tmp_path / "saved", **options)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((tmp_path / "saved").rglob("*.png"))) == 2
    with pytest.raises(FileExistsError, match="saved is not empty; name a new folder with --save-predictions"):
        run_evaluation(*arguments, save_predictions=tmp_path / "saved", **options)


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, ValueError])
def test_an_image_that_the_model_refuses_is_named(folder, frames, monkeypatch, kind):
    def refuse(*_):
        raise kind("Kernel size can't be greater\nthan the image")

    monkeypatch.setattr("cmdl_hf.evaluation.protocols.segment_whole_images", refuse)
    with pytest.raises(ValueError, match=r"cannot score image \S+ of \d+ × \d+ pixels: Kernel size"):
        run_evaluation(folder, "cityscapes", frames, num_workers=0)


def test_windows_are_by_default_the_crops_of_the_training(folder):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"crop_size": [30, 60]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    protocol = make_protocol("slide", folder, "cityscapes")
    assert (protocol.crop_size, protocol.stride) == ((30, 60), (20, 40))
    protocol = make_protocol("slide", "some/model", "cityscapes")
    assert (protocol.crop_size, protocol.stride) == ((512, 1024), (341, 683))
    assert make_protocol("slide", "some/model", "ade20k", stride=(256, 256)).stride == (256, 256)
    (folder / "recipe.yaml").write_text("crop_size: [30,")
    with pytest.raises(ValueError, match=r"recipe\.yaml cannot be read: .* give --crop-size"):
        make_protocol("slide", folder, "cityscapes")
    with pytest.raises(ValueError, match=r"resize must be .* found \(0, 8\)"):
        make_protocol("ms-flip", folder, "cityscapes", resize=(0, 8))


@pytest.mark.parametrize(
    ("settings", "data", "expected"),
    [
        ({"do_resize": False}, "ade20k", None),
        ({"size": {"shortest_edge": 512, "longest_edge": 2048}}, "cityscapes", (512, 2048)),
        ({"size": {"height": 512, "width": 512}}, "ade20k", (512, 2048)),
        ({"size": {"height": 512, "width": 512}}, "coco_stuff", (512, 2048)),
        ({"size": {"height": 512, "width": 512}}, "cityscapes", None),
    ],
)
def test_images_get_the_size_of_the_image_processor_undistorted(settings, data, expected):
    assert processor_resize(SegformerImageProcessor(**settings), data) == expected


def test_the_shorter_edge_alone_limits_nothing():
    processor = SegformerImageProcessor(size={"shortest_edge": 512}, default_to_square=False)
    image = Image.new("RGB", (2000, 100))
    resize = processor_resize(processor, "own")
    pixel_values = EvalTransform(resize)({"image": [image], "label": [None]})["pixel_values"][0]
    assert pixel_values.shape == (3, 512, 10240)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"do_rescale": False, "image_mean": [123.0, 116.0, 103.0], "image_std": [58.0, 57.0, 57.0]},
        {"rescale_factor": 1 / 127.5, "do_normalize": False},
    ],
)
def test_pixels_are_normalised_as_the_image_processor_does(settings):
    processor = SegformerImageProcessor(do_resize=False, **settings)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    expected = processor(image, return_tensors="pt")["pixel_values"][0].float()
    found = ProcessorTransform(None, processor)({"image": [image], "label": [None]})["pixel_values"][0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_channels_are_ordered_as_the_image_processor_does():
    from transformers import MobileViTImageProcessor

    processor = MobileViTImageProcessor(do_resize=False, do_center_crop=False)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    expected = processor(image, return_tensors="pt")["pixel_values"][0].float()
    found = ProcessorTransform(None, processor)({"image": [image], "label": [None]})["pixel_values"][0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_a_class_without_pixels_has_no_score(oracle, frames):
    evaluation = run_evaluation("oracle", "cityscapes", frames, num_workers=0)
    absent = evaluation.pixel_shares.index(0)
    assert math.isnan(evaluation.scores["per_class_iou"][absent])
    assert "NaN" not in evaluation.to_json()


def _evaluate_in_processes(rank, num_processes, port, arguments):
    join(rank, num_processes, port)
    main(["evaluate", *arguments])


def test_two_processes_count_every_image_once(folder, frames, tmp_path):
    arguments = [str(folder), "--benchmark", "cityscapes", "--data-dir", str(frames), "--num-workers", "0"]
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    main(["evaluate", *arguments, "--out", str(one)])
    arguments += ["--out", str(two), "--save-predictions", str(tmp_path / "saved"), "--update-card"]
    run_processes(_evaluate_in_processes, 2, arguments)
    counts, shared = (read_counts(out.with_suffix(".npz"))["validation"] for out in (one, two))
    assert shared.find_difference(counts) is None  # the images of both processes, in the order of the split
    assert np.array_equal(shared.stacked, counts.stacked)
    one, two = json.loads(one.read_text()), json.loads(two.read_text())
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    for name in ("num_images", "pixel_shares", "scores"):  # three images: the shares of the processes are not equal
        assert two[name] == one[name]
    assert len(list((tmp_path / "saved").glob("*.png"))) == 3
    assert json.loads((folder / "scores.json").read_text())["validation"]["mean_iou"] == one["scores"]["mean_iou"]


def test_real_frames_are_scored(make_model, shared_dir, monkeypatch, tmp_path):
    model = make_model(num_labels=19)
    monkeypatch.setattr(evaluating, "load_segmenter", lambda *_: (model, make_image_processor()))
    for protocol in ("whole", "slide", "ms-flip"):
        evaluation = run_evaluation(
            "m",
            "cityscapes",
            shared_dir / "data" / "cityscapes",
            protocol=protocol,
            save_predictions=tmp_path / protocol,
            num_workers=0,
        )
        assert 0 <= evaluation.scores["mean_iou"] <= 1
    (file,) = (tmp_path / "ms-flip").glob("frankfurt_*.png")
    with Image.open(file) as saved:
        assert saved.size == (256, 128)
        assert set(np.unique(np.asarray(saved))) <= set(RAW_IDS.values())
