import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from process_groups import join_group, run_processes

import cmdl_hf
from cmdl_hf.metrics import SegmentationMetrics

K = 7
VOID = 255
METRIC_FOLDER = Path(cmdl_hf.__file__).parent / "evaluation" / "segmentation_metric"


def make_pair(shape=(2, 33, 29), num_labels=K, seed=0, accuracy=0.6, void=0.15):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(num_labels, shape, generator=generator)
    guess = torch.randint(num_labels, shape, generator=generator)
    predictions = torch.where(torch.rand(shape, generator=generator) < accuracy, truth, guess)
    labels = truth.masked_fill(torch.rand(shape, generator=generator) < void, VOID)
    return predictions, labels


def score(*pairs, num_labels=K):
    metrics = SegmentationMetrics(num_labels)
    for predictions, labels in pairs:
        metrics.update(predictions, labels)
    return metrics.compute()


def brute_force(predictions, labels, num_labels=K):
    """Count with Python sets of pixels, straight from the definitions."""
    predictions, labels = predictions.flatten().tolist(), labels.flatten().tolist()
    valid = {pixel for pixel, label in enumerate(labels) if label != VOID}
    scores = {"per_class_iou": [], "per_class_accuracy": [], "per_class_dice": []}
    correct = frequency_weighted = 0
    for c in range(num_labels):
        truth = {pixel for pixel in valid if labels[pixel] == c}
        predicted = {pixel for pixel in valid if predictions[pixel] == c}
        both, either = truth & predicted, truth | predicted
        scores["per_class_iou"].append(len(both) / len(either) if either else math.nan)
        scores["per_class_accuracy"].append(len(both) / len(truth) if truth else math.nan)
        scores["per_class_dice"].append(2 * len(both) / (len(truth) + len(predicted)) if either else math.nan)
        correct += len(both)
        frequency_weighted += len(truth) / len(valid) * len(both) / len(either) if either else 0
    for name in ("iou", "accuracy", "dice"):
        present = [value for value in scores[f"per_class_{name}"] if not math.isnan(value)]
        scores[f"mean_{name}"] = sum(present) / len(present)
    return scores | {"overall_accuracy": correct / len(valid), "frequency_weighted_iou": frequency_weighted}


@pytest.mark.parametrize("shape", [(1000,), (33, 29), (2, 3, 17, 19)])
def test_agrees_with_brute_force(shape):
    predictions, labels = make_pair(shape)
    labels[labels == 3] = VOID  # class 3: predicted, never true
    predictions[predictions == 5] = 0  # class 5: true, never predicted
    predictions[(predictions == 4) & (labels != VOID)] = 1
    labels[labels == 4] = 2  # class 4: absent but for void pixels
    expected = brute_force(predictions, labels)
    found = score((predictions, labels))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True), name
    assert found["per_class_iou"][3] == 0
    assert math.isnan(found["per_class_accuracy"][3])
    assert found["per_class_accuracy"][5] == 0
    assert math.isnan(found["per_class_iou"][4])


def test_agrees_with_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    predictions, labels = make_pair()
    valid = labels != VOID
    truth, guess = labels[valid].numpy(), predictions[valid].numpy()
    found = score((predictions, labels))
    assert found["per_class_iou"] == pytest.approx(sklearn_metrics.jaccard_score(truth, guess, average=None))
    assert found["per_class_dice"] == pytest.approx(sklearn_metrics.f1_score(truth, guess, average=None))
    assert found["per_class_accuracy"] == pytest.approx(sklearn_metrics.recall_score(truth, guess, average=None))
    assert found["overall_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, guess))
    assert found["frequency_weighted_iou"] == pytest.approx(
        sklearn_metrics.jaccard_score(truth, guess, average="weighted")
    )


def test_agrees_with_cityscapes_scripts(tmp_path):
    evaluation = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    to_label_id = np.zeros(256, dtype=np.uint8)  # void becomes 0, "unlabeled"
    for train_id in range(19):
        to_label_id[train_id] = evaluation.trainId2label[train_id].id
    matrix = evaluation.generateMatrix(evaluation.args)
    evaluation.args.evalInstLevelScore = False
    metrics = SegmentationMetrics(num_labels=19)
    for seed in range(2):
        predictions, labels = make_pair((64, 128), num_labels=17, seed=seed)  # classes 17 and 18 are absent
        paths = [str(tmp_path / f"{kind}_{seed}.png") for kind in ("prediction", "labelIds")]
        for path, ids in zip(paths, (predictions, labels), strict=True):
            Image.fromarray(to_label_id[ids.numpy()]).save(path)
        evaluation.evaluatePair(*paths, matrix, {}, {}, evaluation.args)
        metrics.update(predictions, labels)
    expected = {
        evaluation.id2label[i].name: evaluation.getIouScoreForLabel(int(i), matrix, evaluation.args)
        for i in to_label_id[:19]
    }
    found = metrics.compute()
    assert found["per_class_iou"] == pytest.approx(list(expected.values()), nan_ok=True)
    assert found["mean_iou"] == pytest.approx(evaluation.getScoreAverage(expected, evaluation.args))


def test_perfect_prediction_with_void_pixels_scores_one():
    _, labels = make_pair()
    for predictions in (labels, labels.masked_fill(labels == VOID, 0)):
        found = score((predictions, labels))
        assert {name: value for name, value in found.items() if not name.startswith("per_class")} == {
            "mean_iou": 1.0,
            "mean_accuracy": 1.0,
            "overall_accuracy": 1.0,
            "frequency_weighted_iou": 1.0,
            "mean_dice": 1.0,
        }


def test_batches_add_up_and_reset_forgets():
    pairs = [make_pair(seed=seed) for seed in range(3)]
    together = [torch.cat(tensors) for tensors in zip(*pairs, strict=True)]
    metrics = SegmentationMetrics(K)
    metrics.update(*make_pair(seed=9))
    metrics.reset()
    for pair in pairs:
        metrics.update(*pair)
    assert metrics.compute() == score(together)
    assert metrics.compute() == score(together), "compute leaves the counts as they are"


def test_scores_are_plain_floats_and_nan_without_pixels():
    predictions, labels = make_pair()
    for pair in ((predictions, labels), (predictions, torch.full_like(labels, VOID))):
        for name, value in score(pair).items():
            values = value if name.startswith("per_class") else [value]
            assert all(type(v) is float for v in values)
    assert math.isnan(score((predictions, torch.full_like(labels, VOID)))["mean_iou"])
    assert all(math.isnan(score()[name]) for name in ("mean_iou", "overall_accuracy", "frequency_weighted_iou"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_narrow_integers_do_not_overflow(dtype):
    predictions, labels = make_pair(num_labels=150)
    expected = score((predictions, labels), num_labels=150)
    assert score((predictions.to(dtype), labels.to(dtype)), num_labels=150) == expected


def test_ignore_index_may_be_a_class_or_negative():
    predictions, labels = make_pair()
    for ignore_index in (-100, 0):
        metrics = SegmentationMetrics(K, ignore_index=ignore_index)
        is_void = (labels == VOID) | (labels == 0)
        metrics.update(predictions, labels.masked_fill(is_void, ignore_index))
        expected = score((predictions, labels.masked_fill(is_void, VOID)))
        for name, value in metrics.compute().items():
            assert value == pytest.approx(expected[name], nan_ok=True), name


def test_inputs_stay_as_they_are_and_state_does_not_grow():
    metrics = SegmentationMetrics(K)
    predictions, labels = make_pair()
    before = predictions.clone(), labels.clone()
    for _ in range(3):
        metrics.update(predictions, labels)
    torch.testing.assert_close((predictions, labels), before)
    tensors = [value for value in vars(metrics).values() if isinstance(value, torch.Tensor)]
    assert [(tensor.shape, tensor.dtype) for tensor in tensors] == [((K, K), torch.int64)]


def test_counts_stay_on_the_device_asked_for():
    predictions, labels = make_pair()
    asked = SegmentationMetrics(K, device="cpu")
    asked.update(predictions, labels)
    assert asked.confusion_matrix.device.type == "cpu"


def test_counts_follow_the_predictions_or_stay_on_the_device_asked_for(cuda):
    predictions, labels = make_pair()
    asked, following = SegmentationMetrics(K, device="cpu"), SegmentationMetrics(K)
    following.update(predictions.to(cuda), labels)
    assert following.confusion_matrix.is_cuda
    asked.update(predictions.to(cuda), labels.to(cuda))
    assert asked.confusion_matrix.device.type == "cpu"
    assert following.compute() == asked.compute()


@pytest.mark.parametrize(
    ("predictions", "labels", "error", "message"),
    [
        (torch.rand(4, 4), torch.zeros(4, 4).long(), TypeError, "predictions must hold integer .*float32.*argmax"),
        (torch.zeros(4).long(), torch.zeros(4).bool(), TypeError, "labels must hold integer .*bool"),
        (torch.zeros(2, 4).long(), torch.zeros(4, 4).long(), ValueError, r"one shape, found \(2, 4\) and \(4, 4\)"),
        (torch.tensor([0, 1]), torch.tensor([33, 1]), ValueError, r"0\.\.6 or be 255 .*found 33 on 1 pixels"),
        (torch.tensor([0, 1]), torch.tensor([-1, 1]), ValueError, "labels must lie .*found -1 on 1 pixels"),
        (torch.tensor([7, 1]), torch.tensor([0, 1]), ValueError, r"predictions must lie in 0\.\.6, found 7"),
        (torch.tensor([-2, 7]), torch.tensor([0, 1]), ValueError, "found -2, 7 on 2 pixels"),
    ],
)
def test_wrong_input_is_refused_and_not_counted(predictions, labels, error, message):
    metrics = SegmentationMetrics(K)
    with pytest.raises(error, match=message):
        metrics.update(predictions, labels)
    assert metrics.confusion_matrix.sum() == 0


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="at least 1, found 0"):
        SegmentationMetrics(0)


def compute_in_process_group(rank, num_processes, port, folder):
    join_group(rank, num_processes, port)
    metrics = SegmentationMetrics(K)
    if rank == 0:  # the other process sees no batch at all
        metrics.update(*make_pair(seed=0))
        metrics.update(*make_pair(seed=1))
    first = metrics.compute()
    assert metrics.compute() == first, "reducing a copy lets compute run twice"
    if rank == 1:
        metrics.update(*make_pair(seed=2))
    (folder / f"{rank}.json").write_text(json.dumps([first, metrics.compute()]))
    dist.destroy_process_group()


def test_processes_are_summed(tmp_path):
    run_processes(compute_in_process_group, 2, tmp_path)
    pairs = [make_pair(seed=seed) for seed in range(3)]
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [score(*pairs[:2]), score(*pairs)]


@pytest.fixture
def load_metric(tmp_path, monkeypatch):
    """Load the `evaluate` metric by class or by path, with every cache in a temporary folder."""
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))

    def load(how):
        if how == "class":
            from cmdl_hf.evaluation.segmentation_metric import SegmentationMetric

            return SegmentationMetric(num_labels=K, cache_dir=str(tmp_path))
        path = METRIC_FOLDER if how == "folder" else METRIC_FOLDER / "segmentation_metric.py"
        return evaluate.load(str(path), num_labels=K, cache_dir=str(tmp_path))

    return load


@pytest.mark.parametrize("how", ["class", "folder", "file"])
def test_evaluate_metric_streams_the_same_scores(load_metric, how, tmp_path):
    metric = load_metric(how)
    predictions, labels = make_pair((4, 20, 30))
    expected = score((predictions, labels))
    metric.add_batch(predictions=predictions[:2], references=labels[:2].numpy())
    metric.add(prediction=Image.fromarray(predictions[2].byte().numpy()), reference=labels[2].tolist())
    assert metric.compute(predictions=[predictions[3]], references=[labels[3]]) == expected
    assert math.isnan(metric.compute()["mean_iou"]), "compute starts afresh"
    assert not list(tmp_path.rglob("*.arrow"))


def test_evaluate_metric_takes_pairs_only(load_metric):
    metric = load_metric("class")
    predictions, labels = make_pair()
    with pytest.raises(ValueError, match="pairs, found 2 and 1"):
        metric.add_batch(predictions=predictions, references=labels[:1])
    with pytest.raises(ValueError, match="pairs, found 2 and None"):
        metric.compute(predictions=predictions)


def test_evaluate_is_imported_only_where_used():
    code = "import sys, cmdl_hf.metrics; sys.exit('evaluate' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
