"""Pixel counts of single images, in `scores.npz`."""

import dataclasses

import numpy as np
import pytest
import torch

from cmdl_hf.evaluation import ImageCounter, ImageCounts, Prediction, Protocol, describe_protocol
from cmdl_hf.evaluation.counts import add_counts, read_counts, write_counts
from cmdl_hf.metrics import SegmentationMetrics


@pytest.fixture
def predictions():
    return [
        Prediction(f"street_{index}", torch.randint(0, 4, (6, 7)), torch.tensor([0, 1, 2, 3, 255])[ids])
        for index, ids in enumerate(torch.randint(0, 5, (3, 6, 7)))
    ]


def count(predictions, protocol="whole", num_labels=4):
    counter = ImageCounter(num_labels)
    for prediction in predictions:
        counter(prediction)
    return counter.collect(protocol)


def test_counts_are_those_of_each_image_and_add_up_to_the_scores(predictions):
    counts = count(predictions)
    assert counts.ids.tolist() == ["street_0", "street_1", "street_2"]
    assert counts.stacked.shape == (3, 2, 4)
    for prediction, stacked, in_labels in zip(predictions, counts.stacked, counts.label_pixels, strict=True):
        is_valid = prediction.labels != 255
        for k in range(4):
            predicted, true = ((ids == k) & is_valid for ids in (prediction.class_ids, prediction.labels))
            assert stacked[:, k].tolist() == [int((predicted & true).sum()), int((predicted | true).sum())]
            assert in_labels[k] == true.sum()
    metrics = SegmentationMetrics(4)
    for prediction in predictions:
        metrics.update(prediction.class_ids, prediction.labels)
    correct, union = counts.stacked.sum(axis=0)
    assert (correct / union).tolist() == pytest.approx(metrics.compute()["per_class_iou"])


def test_a_file_gives_back_what_was_written_and_takes_more(predictions, tmp_path):
    file = tmp_path / "scores.npz"
    assert read_counts(file) == {}
    counts = {"validation": count(predictions), "test, other \x1b": count(predictions[:2], "slide")}
    write_counts(file, counts)
    add_counts(file, "test", count(predictions[:1]))
    found = read_counts(file)
    assert list(found) == [*counts, "test"]
    assert len(found["test"].ids) == 1
    for name, each in counts.items():
        assert each.find_difference(found[name]) is None
        assert np.array_equal(each.stacked, found[name].stacked)
        assert np.array_equal(each.confusion, found[name].confusion)
        assert np.array_equal(each.confusion.sum(axis=1), each.label_pixels.sum(axis=0))
    write_counts(file, {"old": dataclasses.replace(counts["validation"], confusion=None)})
    assert read_counts(file)["old"].confusion is None  # of an earlier version


@pytest.mark.parametrize("damage", ["text", "empty", "other arrays", "other shapes"])
def test_a_damaged_file_says_what_to_do(predictions, tmp_path, damage):
    file = tmp_path / "scores.npz"
    if damage == "other arrays":
        np.savez(file, x=np.zeros(3))
    elif damage == "other shapes":
        counts = count(predictions)
        write_counts(file, {"test": ImageCounts(counts.ids[:1], counts.unions, counts.unions, counts.unions, "whole")})
    else:
        file.write_text("no archive" if damage == "text" else "")
    with pytest.raises(ValueError, match=r"scores.npz cannot be read .* cmdl evaluate"):
        read_counts(file)


def test_what_cannot_be_compared_says_why(predictions):
    counts = count(predictions)
    assert counts.find_difference(count(predictions)) is None
    assert "other protocols: whole and slide" in counts.find_difference(count(predictions, "slide"))
    assert "3 and 2, of which 2 are the same" in counts.find_difference(count(predictions[:2]))
    relabelled = [each._replace(labels=each.labels.flip(0).clamp(max=1)) for each in predictions]
    assert "other labels" in counts.find_difference(count(relabelled))


def test_a_protocol_with_another_precision_is_another():
    protocol = Protocol("whole", (512, 2048))
    assert describe_protocol(protocol, "no") == str(protocol)
    assert describe_protocol(protocol, "bf16") != describe_protocol(protocol, "no")
