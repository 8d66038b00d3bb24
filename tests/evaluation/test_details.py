"""The folder of details that `cmdl evaluate` writes: what it finds, and what it keeps in memory."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from cmdl_hf.data import load_synthetic
from cmdl_hf.evaluation import ImageCounter, ImageCounts, Prediction, pictures
from cmdl_hf.evaluation.confidence import segment_confidently
from cmdl_hf.evaluation.details import describe_doubtful, tabulate_images, write_details
from cmdl_hf.evaluation.inspection import Findings, Inspector, WorstImage
from cmdl_hf.evaluation.pictures import choose_classes, draw_confusion, draw_worst_images
from cmdl_hf.evaluation.protocols import Protocol
from cmdl_hf.visualization import default_palette


@pytest.fixture(scope="module")
def scenes():
    return load_synthetic(num_train=0, num_validation=12, num_test=0, size=(48, 64), num_labels=4)


def predict_with_faults(scenes):
    """Predictions that are right but for one patch of 8 × 10 pixels in the third image, and noise in the fourth."""
    predictions = []
    for place, sample in enumerate(scenes["validation"]):
        labels = torch.from_numpy(np.array(sample["label"])).long()
        class_ids, confidence = labels.clone(), torch.full(labels.shape, 0.99)
        if place == 2:
            class_ids[10:18, 20:30] = (labels[10:18, 20:30] + 1) % 4
            labels[10:18, 20:30] = 0
            class_ids[10:18, 20:30] = 3
        if place == 3:
            class_ids = (labels + 1) % 4
            confidence[:] = 0.9  # never confident
        class_ids[labels == 255] = 0
        predictions.append(Prediction(sample["id"], class_ids, labels, confidence))
    return predictions


def test_what_is_found_is_written_for_people(scenes, tmp_path):
    counter, inspector = ImageCounter(4), Inspector(4)
    for prediction in predict_with_faults(scenes):
        counter(prediction)
        inspector(prediction)
    findings = inspector.collect()
    assert [each.id for each in findings.worst_images][:2] == [scenes["validation"]["id"][place] for place in (3, 2)]
    assert len(findings.worst_images) == 8
    (found,) = findings.doubtful_labels
    assert (found.box, found.label, found.predicted, found.area) == ((20, 10, 30, 18), 0, 3, 80)
    assert found.confidence == pytest.approx(0.99)
    counts = counter.collect("whole")
    write_details(tmp_path / "a" / "b", counts, findings, scenes, "validation")
    tables = {path.stem: list(csv.reader(path.open())) for path in (tmp_path / "a" / "b").glob("*.csv")}
    names = [scenes.id2label[id_] for id_ in range(4)]
    assert tables["confusion"][0][1:] == names
    matrix = np.array([[int(value) for value in row[1:]] for row in tables["confusion"][1:]])
    assert np.array_equal(matrix, counts.confusion)
    assert np.array_equal(matrix.sum(axis=1), counts.label_pixels.sum(axis=0))
    assert tables["doubtful_labels"][1] == [found.id, "20", "10", "30", "18", names[0], names[3], "80", "0.9900"]
    assert [row[0] for row in tables["images"][1:3]] == [each.id for each in findings.worst_images[:2]]
    assert float(tables["images"][-1][2]) == 1
    for name in ("confusion", "worst_images", "doubtful_labels"):
        with Image.open(tmp_path / "a" / "b" / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB").resize((80, 80))).reshape(-1, 3), axis=0)) > 20


def test_what_is_not_shown_is_counted():
    inspector = Inspector(3)
    labels, sure = torch.zeros(40, 100, dtype=torch.long), torch.ones(40, 100)
    class_ids = torch.zeros_like(labels)
    class_ids[::4, ::4] = 1
    class_ids[1::4, ::4] = 1
    class_ids[::4, 1::4] = 1
    class_ids[1::4, 1::4] = 1  # 250 regions of four pixels
    inspector(Prediction("many", class_ids, labels, sure))
    findings = inspector.collect()
    assert (findings.num_doubtful, len(findings.doubtful_labels)) == (250, 100)
    assert describe_doubtful(findings).endswith("; the table has the 100 most doubtful; the picture shows 12 of 250")
    assert describe_doubtful(Findings([], findings.doubtful_labels[:12], 12)).endswith("0.95 or more)")


@pytest.mark.parametrize("kind", ["worst", "doubtful"])
def test_the_title_says_how_many_of_how_many(scenes, tmp_path, monkeypatch, kind):
    titles = []
    monkeypatch.setattr(pictures, "_write_title", lambda figure, text: titles.append(text))
    counter, inspector = ImageCounter(4), Inspector(4)
    for prediction in predict_with_faults(scenes):
        counter(prediction)
        inspector(prediction)
    write_details(tmp_path, counter.collect("whole"), inspector.collect(), scenes, "validation")
    expected = {
        "worst": "The 8 worst of 12 images",
        "doubtful": "1 of 1 regions whose label may be wrong, the most doubtful",
    }
    assert any(title.startswith(expected[kind]) for title in titles)


def test_pictures_of_an_earlier_evaluation_do_not_stay(scenes, tmp_path):
    (tmp_path / "doubtful_labels.png").touch()
    counter, inspector = ImageCounter(4), Inspector(4)
    for prediction in predict_with_faults(scenes)[:1]:
        counter(prediction)
        inspector(prediction)
    write_details(tmp_path, counter.collect("whole"), inspector.collect(), scenes, "validation")
    assert not (tmp_path / "doubtful_labels.png").exists()
    assert (tmp_path / "worst_images.png").exists()


@pytest.mark.parametrize("names", ["ab", ["background", "leaf", "disease"], [f"class {id_}" for id_ in range(30)]])
def test_most_of_the_confusion_matrix_is_the_matrix(tmp_path, names):
    K = len(names)
    draw_confusion(np.eye(K, dtype=np.int64) + 1, dict(enumerate(names)), tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        grey = np.asarray(picture.convert("L"))
    frame = grey < 60  # the black frame is the longest line of dark pixels
    width, height = frame.sum(axis=1).max(), frame.sum(axis=0).max()
    assert width * height > 0.35 * grey.size


def test_void_pixels_and_unsure_ones_are_not_doubtful():
    labels, class_ids = torch.zeros(40, 50, dtype=torch.long), torch.ones(40, 50, dtype=torch.long)
    inspector = Inspector(4)
    inspector(Prediction("void", class_ids, torch.full_like(labels, 255), torch.ones(40, 50)))
    inspector(Prediction("unsure", class_ids, labels, torch.full((40, 50), 0.949)))
    is_small = torch.zeros(40, 50)
    is_small[0, 0] = 1.0  # below a thousandth of the image
    inspector(Prediction("small", class_ids, labels, is_small))
    inspector(Prediction("unknown", class_ids, labels))
    findings = inspector.collect()
    assert findings.doubtful_labels == []
    assert [each.id for each in findings.worst_images] == ["unsure", "small", "unknown"]
    assert findings.num_without_confidence == 1


def test_many_findings_take_no_more_memory_than_a_few():
    inspector = Inspector(300)
    for index in range(30):
        labels = torch.randint(0, 300, (10, 10)).repeat_interleave(8, 0).repeat_interleave(8, 1)
        inspector(Prediction(str(index), (labels + 1) % 300, labels, torch.full(labels.shape, 0.95 + index / 1000)))
    findings = inspector.collect()
    assert len(findings.worst_images) == 8
    assert len(findings.doubtful_labels) == 100
    weights = [each.weight for each in findings.doubtful_labels]
    assert weights == sorted(weights, reverse=True)
    assert min(weights) > 0.97 * 64


def test_images_without_labelled_pixels_have_no_score():
    unions = np.array([[4, 4], [0, 0], [2, 0]])
    counts = ImageCounts(np.array(["a", "b", "c"]), unions // 2, unions, unions, "whole")
    header, rows = tabulate_images(counts, ["road", "sky"])
    assert rows == [
        ["a", 8, "0.5000", "0.5000", "road", "0.5000"],
        ["c", 2, *["0.5000"] * 2, "road", "0.5000"],
        ["b", 0, "", "", "", ""],
    ]
    assert len(header) == 6


def test_of_300_classes_a_legend_lists_the_largest_and_counts_the_others(tmp_path, monkeypatch):
    ids = np.repeat(np.arange(300), np.arange(300) + 1)[None].repeat(80, axis=0)
    written = []
    monkeypatch.setattr(pictures, "_write", lambda figure, left, bottom, text: written.append(text))
    worst = [WorstImage("שלום", 0.5, ids, ids)]
    names, palette = {i: f"class {i}" for i in range(300)}, default_palette(300)
    image = Image.new("RGB", ids.shape[::-1])
    draw_worst_images(worst, lambda _: image, names, palette, tmp_path / "w.png", -100, num_images=1)
    assert written[0] == "\u2068שלום\u2069: 50.0 % of the pixels are correct"  # or the number would go astray
    assert written[3:] == [*(f"class {i}" for i in range(251, 300)), "and 251 more"]


def test_of_300_classes_the_most_confused_are_drawn(tmp_path):
    confusion = np.diag(np.full(300, 100))
    confusion[7, 200], confusion[299, 3] = 900, 500
    chosen = choose_classes(confusion)
    assert len(chosen) == 25
    assert {3, 7, 200, 299} <= set(chosen)
    assert choose_classes(confusion[:20, :20]) == list(range(20))
    draw_confusion(confusion, {i: f"$x_{i}$" + "y" * 200 for i in range(300)}, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert max(picture.size) < 2000


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol("whole"),
        Protocol("slide", crop_size=(40, 48), stride=(20, 24)),
        Protocol("ms-flip", scales=(0.5, 1.0)),
    ],
    ids=lambda protocol: protocol.name,
)
def test_confidence_changes_no_class_and_is_a_probability(make_model, protocol):
    model = make_model().eval()
    pixels, size = torch.randn(1, 3, 64, 96), (70, 110)
    ids, confidence = segment_confidently(protocol, 5)(model, pixels, size)
    assert torch.equal(ids, protocol.segment_images()(model, pixels, size))
    assert confidence.shape == ids.shape
    assert confidence.min() >= 1 / 5 - 1e-6
    assert confidence.max() <= 1 + 1e-6


def test_windows_of_large_images_have_no_confidence(make_model, monkeypatch):
    monkeypatch.setattr("cmdl_hf.evaluation.confidence._MOST_SCORES", 1000)
    protocol = Protocol("slide", crop_size=(64, 64), stride=(64, 64))
    ids, confidence = segment_confidently(protocol, 5)(make_model().eval(), torch.randn(1, 3, 64, 96), (64, 96))
    assert (ids.shape, confidence) == ((1, 64, 96), None)
