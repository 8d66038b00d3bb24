"""Adapters train with what this package, torch, transformers and peft offer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from segmenters import NUM_LABELS, segformer, small_fcn, smp_model
from tiny_models import LIVE_AGGREGATION
from torch import nn
from transformers import Trainer, TrainingArguments

from cmdl_hf import CMDLAdapter
from cmdl_hf.data import EvalTransform, TrainTransform, load_synthetic
from cmdl_hf.evaluation import evaluate
from cmdl_hf.metrics import SegmentationMetrics
from cmdl_hf.models import find_logits
from cmdl_hf.training import CMDLTrainingArguments, train


def adapt(segmenter, **options):
    return CMDLAdapter(
        segmenter, **({"num_distributions": 3, "hidden_size": 16, "attention_size": 8} | LIVE_AGGREGATION | options)
    )


def coloured_images(num_images):
    """Images whose colours tell the class; the first rows are void."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 3, (num_images, 2, 2), generator=generator)
    labels = labels.repeat_interleave(32, 1).repeat_interleave(32, 2)
    images = (
        F.one_hot(labels, 3).movedim(-1, 1) * 2 - 1 + torch.randn(num_images, 3, 64, 64, generator=generator) * 0.1
    )
    labels[:, :4] = 255
    return images, labels


@pytest.mark.parametrize("make", [small_fcn, lambda: smp_model("FPN")], ids=["torchvision", "smp"])
def test_the_training_and_the_scoring_of_this_package(make):
    scenes = load_synthetic(num_train=8, num_validation=3, num_test=1, size=(64, 64), num_labels=NUM_LABELS)
    model = adapt(make())
    args = CMDLTrainingArguments(
        max_steps=12, total_batch_size=4, learning_rate=0.05, num_workers=0, logging_steps=1, ema_decay=0.5
    )
    before = evaluate(model, scenes["validation"], EvalTransform(), NUM_LABELS)["mean_iou"]
    rows = train(model, scenes["train"], TrainTransform((64, 64), (1, 1)), args)
    assert sum(row["loss"] for row in rows[-3:]) < 0.8 * sum(row["loss"] for row in rows[:3])
    assert model.memory_bank.num_updates.sum() > 0
    scores = evaluate(model, scenes["validation"], EvalTransform(), NUM_LABELS)
    assert scores["mean_iou"] > before

    model.eval()
    metrics = SegmentationMetrics(NUM_LABELS)
    for sample in scenes["validation"].with_transform(EvalTransform()):
        with torch.no_grad():
            logits = find_logits(model(sample["pixel_values"][None]))
        metrics.update(logits.argmax(dim=1)[0], sample["labels"])
    assert metrics.compute()["per_class_iou"] == pytest.approx(scores["per_class_iou"], nan_ok=True)


def test_transformers_trainer(tmp_path):
    images, labels = coloured_images(8)
    samples = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=20,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_steps=20,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = Trainer(adapt(segformer()), arguments, train_dataset=samples, eval_dataset=samples)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(before, rel=0.3)  # the mean over the passes of a step, not their sum
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert trainer.evaluate()["eval_loss"] < 0.8 * before

    model = trainer.model
    assert model.memory_bank.num_updates.max() <= 40  # of training passes alone
    saved = load_file(tmp_path / "run" / "checkpoint-20" / "model.safetensors")
    model.save_pretrained(tmp_path / "adapter")
    loaded = CMDLAdapter.from_pretrained(tmp_path / "adapter")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
        assert torch.equal(saved[name], tensor), name


def test_peft_trains_low_ranks_and_cmdl_alone(tmp_path):
    from peft import LoraConfig, get_peft_model

    def with_lora(segmenter):
        return get_peft_model(segmenter, LoraConfig(target_modules=["q_proj", "v_proj"], r=2))

    base = segformer()
    start = copy.deepcopy(base).state_dict()
    model = adapt(with_lora(base)).train()
    assert model.classifier_name == "base_model.model.decode_head.classifier"
    images, labels = coloured_images(4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(15):
        loss = model(images, labels=labels).loss
        loss.backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    lora = {name for name in with_gradient if name.startswith("segmenter.")}
    assert lora == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert with_gradient - lora == {name for name, _ in model.named_parameters() if not name.startswith("segmenter.")}
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    for name, tensor in model.segmenter.get_base_model().named_parameters():
        if "lora_" not in name:
            assert torch.equal(tensor, start[name.replace(".base_layer", "")]), name

    model.eval().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"saved from a peft\..*, which cannot be rebuilt from its configuration"):
        CMDLAdapter.from_pretrained(tmp_path)
    loaded = CMDLAdapter.from_pretrained(tmp_path, segmenter=with_lora(segformer()))
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("make", "fullgraph"),
    # transformers' models hold a lock when they are run first, so that they are compiled as several graphs
    [
        pytest.param(small_fcn, True, marks=pytest.mark.slow, id="torchvision"),
        pytest.param(lambda: segformer(drop_path_rate=0.0), False, id="transformers"),
    ],
)
def test_compiled_training_is_the_plain_one(make, fullgraph, backend):
    images, labels = coloured_images(2)
    model = adapt(make(), dropout=0.0).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    compiled = copy.deepcopy(model)
    compiled.compile(backend=backend, fullgraph=fullgraph)
    for _ in range(2):
        output, expected = compiled(images, labels=labels), model(images, labels=labels)
        torch.testing.assert_close(dict(output.loss_dict), dict(expected.loss_dict), atol=1e-4, rtol=1e-4)
        output.loss.backward()
        expected.loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, atol=1e-3, rtol=1e-2, msg=name)
    torch.testing.assert_close(compiled.memory_bank.prototypes, model.memory_bank.prototypes, atol=1e-4, rtol=1e-4)
    assert torch.equal(compiled.memory_bank.num_updates, model.memory_bank.num_updates)
