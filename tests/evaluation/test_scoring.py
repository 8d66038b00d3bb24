import copy
from functools import partial

import pytest
import torch
from accelerate import cpu_offload

from cmdl_hf.data import EvalTransform, load_synthetic
from cmdl_hf.evaluation import evaluate, predict
from cmdl_hf.inference import sliding_window_logits, whole_image_logits
from cmdl_hf.metrics import SegmentationMetrics


@pytest.fixture(scope="module")
def scenes():
    return load_synthetic(num_train=1, num_validation=3, num_test=1, size=(70, 90), num_labels=5)["validation"]


def _unlabelled(dataset):
    return dataset.remove_columns("label").add_column("label", [None] * len(dataset))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_scores_are_those_of_every_image_at_the_labels_size(make_model, scenes, num_workers):
    model = make_model()
    scores = evaluate(model, scenes, EvalTransform((64, 200)), 5, num_workers=num_workers)
    assert model.training  # as it was
    model.eval()
    metrics = SegmentationMetrics(5)
    for sample in scenes.with_transform(EvalTransform((64, 200))):
        logits = whole_image_logits(model, sample["pixel_values"][None], (70, 90))
        metrics.update(logits.argmax(dim=1)[0], sample["labels"])
    assert (metrics.confusion_matrix.sum(dim=0) > 0).any()
    assert repr(scores) == repr(metrics.compute())  # nan included


@pytest.mark.parametrize("score", [whole_image_logits, partial(sliding_window_logits, crop_size=(64, 64))])
def test_models_in_half_precision_get_pixels_in_theirs(make_model, score):
    model, pixel_values = make_model().eval(), torch.randn(1, 3, 70, 90)
    expected = score(model, pixel_values)
    found = score(model.bfloat16(), pixel_values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_offloaded_and_half_precision_models_are_scored(make_model, scenes):
    model = make_model()
    expected = evaluate(model, scenes, EvalTransform(), 5)
    assert repr(evaluate(cpu_offload(copy.deepcopy(model)), scenes, EvalTransform(), 5)) == repr(expected)
    half = evaluate(model.bfloat16(), scenes, EvalTransform(), 5)
    assert half["mean_iou"] == pytest.approx(expected["mean_iou"], abs=0.1)


def test_the_protocol_the_counts_and_every_prediction_are_the_callers(make_model, scenes):
    calls, predictions, metrics = [], [], SegmentationMetrics(5)

    def segment(model, pixel_values, size):
        calls.append((tuple(pixel_values.shape), tuple(size)))
        return torch.full((1, *size), 2)

    scores = evaluate(
        make_model(),
        scenes,
        EvalTransform((64, 200)),
        5,
        segment_images=segment,
        metrics=metrics,
        on_prediction=predictions.append,
    )
    assert calls == [((1, 3, 64, 82), (70, 90))] * 3
    assert [prediction.id for prediction in predictions] == scenes["id"][:]
    assert all((prediction.class_ids == 2).all() for prediction in predictions)
    assert metrics.confusion_matrix.sum() == sum((prediction.labels != 255).sum() for prediction in predictions)
    assert repr(metrics.compute()) == repr(scores)
    assert scores["per_class_accuracy"][2] == 1.0


def test_withheld_labels_cannot_be_scored_but_their_images_segmented(make_model, scenes):
    unlabelled = _unlabelled(scenes)
    with pytest.raises(ValueError, match="labels are needed to score"):
        evaluate(make_model(), unlabelled, EvalTransform(), 5)
    predictions = list(predict(make_model(), unlabelled, EvalTransform((40, 200))))
    assert [tuple(prediction.class_ids.shape) for prediction in predictions] == [(70, 90)] * 3
    assert all(prediction.labels is None for prediction in predictions)


def test_a_data_set_without_ids_is_scored(make_model, scenes):
    assert evaluate(make_model(), scenes.remove_columns("id"), EvalTransform(), 5)["mean_iou"] >= 0


def test_an_error_leaves_the_model_in_its_mode(make_model, scenes):
    model = make_model()
    with pytest.raises(ValueError, match="labels must lie in 0"):
        evaluate(model, scenes, EvalTransform(), 2, segment_images=lambda m, x, size: torch.zeros(1, *size).long())
    assert model.training
