"""transformers' `Trainer` trains, scores, saves and resumes the model; its logits are never gathered."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.metrics import SegmentationMetrics


class Stripes(Dataset):
    """Images whose colours tell the class; the first rows are void."""

    def __init__(self, num_images):
        generator = torch.Generator().manual_seed(4)
        coarse = torch.randint(0, 3, (num_images, 2, 3), generator=generator)
        self.labels = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
        noise = torch.randn(num_images, 3, 64, 96, generator=generator) * 0.1
        self.images = F.one_hot(self.labels, 3).movedim(-1, 1) * 2 - 1 + noise
        self.labels[:, :4] = 255

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class StreamedScore:
    """`compute_metrics` that counts every batch where it is, and keeps none."""

    def __init__(self, num_labels):
        self.metrics = SegmentationMetrics(num_labels)
        self.shapes = []

    def __call__(self, prediction, compute_result):
        logits, labels = prediction.predictions, prediction.label_ids
        self.shapes.append(tuple(logits.shape))
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        self.metrics.update(logits.argmax(dim=1), labels)
        if not compute_result:
            return {}
        scores = self.metrics.compute()
        self.metrics.reset()
        return {"mean_iou": scores["mean_iou"], "overall_accuracy": scores["overall_accuracy"]}


@pytest.fixture
def make_trainer(make_model, tmp_path):
    def make(model=None, **settings):
        model = make_model(num_labels=3, **settings) if model is None else model
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=30,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=3,
            learning_rate=5e-3,
            lr_scheduler_type="constant",
            logging_steps=5,
            save_steps=15,
            batch_eval_metrics=True,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_num_workers=0,
            seed=0,
        )
        return Trainer(
            model,
            arguments,
            train_dataset=Stripes(16),
            eval_dataset=Stripes(7),
            compute_metrics=StreamedScore(3),
        )

    return make


@pytest.mark.parametrize("use_distributions", [True, False])
def test_trainer_trains_scores_and_saves(make_trainer, tmp_path, use_distributions):
    trainer = make_trainer(use_distributions=use_distributions)
    before = trainer.evaluate()
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]

    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_mean_iou"] > before["eval_mean_iou"] + 0.2
    assert trainer.compute_metrics.shapes[-3:] == [(3, 3, 2, 3), (3, 3, 2, 3), (1, 3, 2, 3)]

    loaded = CMDLForSemanticSegmentation.from_pretrained(tmp_path / "run" / "checkpoint-30")
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    if use_distributions:
        assert 10 < loaded.memory_bank.num_updates.max() <= 30  # of training steps alone


def test_evaluation_counts_every_pixel_once(make_trainer):
    trainer = make_trainer()
    score = trainer.evaluate()["eval_overall_accuracy"]
    metrics, model = SegmentationMetrics(3), trainer.model.eval()
    with torch.no_grad():
        for sample in Stripes(7):
            logits = model(sample["pixel_values"][None]).logits
            enlarged = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
            metrics.update(enlarged.argmax(dim=1), sample["labels"][None])
    assert metrics.confusion_matrix.sum() == 7 * 60 * 96
    assert score == pytest.approx(metrics.compute()["overall_accuracy"], abs=1e-3)


def test_trainer_resumes_where_it_stopped(make_trainer, make_model, tmp_path):
    trainer = make_trainer(dropout=0.0)
    trainer.train()
    expected = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    again = make_trainer(make_model(num_labels=3, dropout=0.0))
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-15"))
    assert again.state.global_step == 30
    for name, tensor in again.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5, msg=name)
