import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from cmdl_hf.data import TrainTransform, load_synthetic
from cmdl_hf.training import CMDLTrainingArguments, TrainingLoop, train
from cmdl_hf.training.loop import share_batch
from cmdl_hf.training.optimization import make_optimizer, make_schedule, memory_format, prepare_batch_norms


@pytest.fixture(scope="module")
def scenes():
    return load_synthetic(num_train=8, num_validation=1, num_test=1, size=(64, 64), num_labels=5)["train"]


TRANSFORM = TrainTransform((64, 64), (1, 1))


def make_args(**overrides):
    settings = {
        "max_steps": 6,
        "total_batch_size": 4,
        "learning_rate": 0.05,
        "num_workers": 0,
        "logging_steps": 1,
        "freeze_batch_norm": "all",
    }
    return CMDLTrainingArguments(**(settings | overrides))


@pytest.mark.parametrize(
    ("total", "limit", "num_processes", "expected"),
    [
        (16, None, 1, (1, 16)),
        (16, 4, 1, (4, 4)),
        (16, 4, 2, (2, 4)),
        (16, 4, 8, (1, 2)),  # a share smaller than the limit
        (16, 6, 1, (4, 4)),  # 6 does not divide 16: the next smaller that does
        (6, 4, 1, (2, 3)),
        (7, 2, 1, (7, 1)),
    ],
)
def test_a_share_of_the_batch_is_cut_into_passes_that_fit(total, limit, num_processes, expected):
    assert share_batch(make_args(total_batch_size=total, per_device_batch_size=limit), num_processes) == expected


def test_a_batch_that_the_processes_cannot_reach_is_refused():
    with pytest.raises(ValueError, match="total_batch_size=16 cannot be shared equally by 3 processes"):
        share_batch(make_args(total_batch_size=16), 3)


def test_how_the_batch_is_shared_is_said(make_model, scenes, caplog):
    caplog.set_level("INFO", logger="cmdl_hf")
    TrainingLoop(make_model(), scenes, TRANSFORM, make_args(per_device_batch_size=2))
    assert "a batch of 4 images: 1 process × 2 passes × 2 images" in caplog.text


@pytest.mark.parametrize("max_grad_norm", [None, 0.01])
def test_accumulated_passes_move_the_weights_as_one_pass_does(make_model, scenes, max_grad_norm):
    # Without the memory bank, which moves once in a pass, and with as many labelled pixels in every image.
    def transform(samples):
        crops = TRANSFORM(samples)
        return crops | {"labels": [label.clamp_max(4) for label in crops["labels"]]}

    weights = []
    for limit in (4, 1):
        torch.manual_seed(0)
        model = make_model(use_distributions=False, dropout=0.0)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        args = make_args(max_steps=2, per_device_batch_size=limit, max_grad_norm=max_grad_norm)
        train(model, scenes, transform, args)
        weights.append({name: (p.detach() - before[name]) for name, p in model.named_parameters()})
    for name, moved in weights[0].items():
        torch.testing.assert_close(moved, weights[1][name], atol=1e-6, rtol=1e-3, msg=name)
    total = math.sqrt(sum(float(moved.square().sum()) for moved in weights[0].values()))
    assert total > (0.01 if max_grad_norm is None else 0)
    if max_grad_norm is not None:
        assert total < 0.05 * 0.01 * 3.1  # two steps, the second with momentum


def test_the_average_of_the_weights_is_what_is_left_and_the_bank_is_copied(make_model, scenes):
    model = make_model()
    loop = TrainingLoop(model, scenes, TRANSFORM, make_args(ema_decay=0.75, freeze_batch_norm="none"))
    name = "decode_head.0.0.weight"
    average = None
    for step in range(1, 5):
        loop.advance(step)
        weight = model.get_parameter(name).detach()
        average = weight.clone() if average is None else 0.75 * average + 0.25 * weight
        torch.testing.assert_close(loop.scored_model.get_parameter(name), average)
    assert not torch.equal(average, weight)
    averaged = dict(loop.scored_model.named_buffers())
    for buffer_name, buffer in model.named_buffers():
        assert torch.equal(averaged[buffer_name], buffer), buffer_name
    assert model.memory_bank.num_updates.sum() > 0


@pytest.mark.parametrize("which", ["none", "backbone", "all"])
def test_frozen_batch_norms_keep_statistics_scales_and_shifts(make_model, scenes, which):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, scenes, TRANSFORM, make_args(max_steps=2, freeze_batch_norm=which, weight_decay=0.1))
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in norms and kind != "weight":
            is_frozen = which == "all" or (which == "backbone" and module.startswith("backbone."))
            assert torch.equal(tensor, before[name]) == is_frozen, name
    assert {norm for norm in norms if norm.startswith("backbone.")} < norms


def test_freezing_a_backbone_needs_one():
    with pytest.raises(ValueError, match="needs a model with a `backbone`"):
        prepare_batch_norms(nn.Conv2d(1, 1, 1), "backbone")


def test_frozen_norms_are_those_that_are_there_after_synchronising(make_model):
    model, norms = prepare_batch_norms(make_model(), "backbone", is_synchronised=True)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert set(norms) == {module for module in model.backbone.modules() if isinstance(module, nn.SyncBatchNorm)}
    assert len(norms) > 5
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())


def test_weights_that_the_last_step_spoilt_stop_the_run_before_they_are_saved(make_model, scenes):
    with pytest.raises(FloatingPointError, match=r"step 1: .*tensors of the model are not finite.*max_grad_norm"):
        train(make_model(), scenes, TRANSFORM, make_args(max_steps=1, learning_rate=1e38, weight_decay=1e6))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("wandb", ImportError, "pip install wandb"), ("foo", ValueError, "no tracker 'foo'; the .* are .*tensorboard")],
)
def test_trackers_that_would_track_nothing_are_refused(make_model, scenes, monkeypatch, name, error, message):
    monkeypatch.setattr("cmdl_hf.training.log.get_available_trackers", list)
    with pytest.raises(error, match=message):
        TrainingLoop(make_model(), scenes, TRANSFORM, make_args(report_to=(name,)))


def test_adamw_decays_decoupled_and_learns_at_the_recipes_rates(make_model):
    optimizer = make_optimizer(
        make_model(), make_args(optimizer="adamw", head_learning_rate_factor=10, weight_decay=0.1)
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        (0.05, 0.1),
        (0.05, 0.0),
        (0.5, 0.1),
        (0.5, 0.0),
    }


def test_the_learning_rate_rises_then_falls_whatever_the_passes(make_model, scenes):
    args = make_args(max_steps=8, warmup_steps=4, learning_rate=0.1, min_learning_rate=0.01, power=1.0)
    expected = [0.0, 0.025, 0.05, 0.075, 0.1, 0.0775, 0.055, 0.0325]
    for limit in (None, 2):
        args.per_device_batch_size = limit
        rows = train(make_model(), scenes, TRANSFORM, args)
        assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    schedule = make_schedule(make_optimizer(make_model(), args), args)
    assert schedule.get_last_lr() == [0.0] * 4


def test_rows_are_means_over_their_steps(make_model, scenes):
    rows = {}
    for logging_steps in (1, 3):
        torch.manual_seed(0)
        rows[logging_steps] = train(make_model(), scenes, TRANSFORM, make_args(logging_steps=logging_steps))
    assert [row["step"] for row in rows[3]] == [3, 6]
    assert rows[3][1]["loss"] == pytest.approx(sum(row["loss"] for row in rows[1][3:]) / 3)
    assert rows[3][1]["epoch"] == 6 * 4 / 8
    for row in rows[1]:
        assert row["images_per_second"] > 0
        assert 0.05 < row["memory_gib"] < 24


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(make_model, scenes, monkeypatch):
    model = make_model()
    loop = TrainingLoop(model, scenes, TRANSFORM, make_args(per_device_batch_size=2))
    loop.advance(2)
    forward, calls = model.forward, []

    def overflow(**batch):
        output = forward(**batch)
        calls.append(batch)
        if len(calls) == 4:  # the second pass of the second step from here
            output.loss_dict["contrastive_loss"] = output.loss_dict["contrastive_loss"] * math.inf
            output.loss = output.loss * math.nan
        return output

    monkeypatch.setattr(model, "forward", overflow)
    expected = ", ".join(loop.stream.sample_id(place) for place in (14, 15))
    with pytest.raises(FloatingPointError) as stopped:
        loop.advance(6)
    assert f"step 4: loss, contrastive_loss not finite; images {expected}." in str(stopped.value)


def test_one_image_in_a_pass_is_refused_where_a_batch_norm_would_see_one_value(make_model, scenes):
    args = make_args(per_device_batch_size=1, freeze_batch_norm="none")
    with pytest.raises(ValueError, match="see a single value per channel; raise per_device_batch_size"):
        TrainingLoop(make_model(context_module="ppm"), scenes, TRANSFORM, args)
    TrainingLoop(make_model(context_module="ppm"), scenes, TRANSFORM, make_args(per_device_batch_size=1))


def test_bf16_keeps_weights_and_bank_in_float32(make_model, scenes):
    model = make_model()
    rows = train(model, scenes, TRANSFORM, make_args(mixed_precision="bf16", max_steps=3))
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}


def test_a_training_that_fails_leaves_the_model_in_float32(make_model, scenes):
    model = make_model()
    with pytest.raises(FloatingPointError):
        train(
            model,
            scenes,
            TRANSFORM,
            make_args(mixed_precision="bf16", max_steps=1, learning_rate=1e38, weight_decay=1e6),
        )
    assert not vars(model).keys() & {"forward", "_original_forward"}


@pytest.mark.parametrize("is_own_forward", [False, True])
def test_a_trained_model_computes_in_float32_again(make_model, scenes, is_own_forward):
    model = make_model().eval()
    of_class = model.forward
    if is_own_forward:
        model.forward = lambda *args, **kwargs: of_class(*args, **kwargs)
    forward = model.forward
    train(model, scenes, TRANSFORM, make_args(mixed_precision="bf16", max_steps=1))
    assert model.forward == forward
    assert ("forward" in vars(model)) == is_own_forward
    fresh = make_model().eval()
    fresh.load_state_dict(model.state_dict())
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(pixel_values).logits, fresh(pixel_values).logits)


def test_a_precision_that_the_device_lacks_is_refused(make_model, scenes):
    with pytest.raises(ValueError, match=r"mixed_precision=fp16 does not work on a CPU.*choose .* faster on this CPU"):
        TrainingLoop(make_model(), scenes, TRANSFORM, make_args(mixed_precision="fp16"))


@pytest.mark.parametrize(("asked", "format"), [(None, torch.contiguous_format), (True, torch.channels_last)])
def test_the_layout_is_the_devices_unless_asked_for(make_model, scenes, monkeypatch, asked, format):
    loop = TrainingLoop(make_model(), scenes, TRANSFORM, make_args(use_channels_last=asked))
    convolution = next(module for module in loop.model.modules() if isinstance(module, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=format)
    assert not asked or not convolution.weight.is_contiguous()
    monkeypatch.setattr("cmdl_hf.training.optimization._CHANNELS_LAST_DEVICES", ("cpu",))
    args = make_args(use_channels_last=asked)
    assert memory_format(args, torch.device("cpu")) == torch.channels_last
    assert memory_format(make_args(use_channels_last=False), torch.device("cpu")) == torch.contiguous_format


@pytest.mark.parametrize(("passes_then", "passes_now"), [(2, 4), (1, 2)])
def test_a_step_is_whole_after_a_resume_in_another_number_of_passes(
    make_model, scenes, tmp_path, passes_then, passes_now
):
    # as another number of processes makes them
    loop = TrainingLoop(make_model(), scenes, TRANSFORM, make_args(per_device_batch_size=4 // passes_then))
    loop.advance(1)
    loop.save_state(tmp_path)
    state = loop.schedule_state()
    loop = TrainingLoop(make_model(), scenes, TRANSFORM, make_args(per_device_batch_size=4 // passes_now))
    loop.load_state(tmp_path, 1, state)
    is_whole = []
    loop.advance(3, lambda: is_whole.append(loop.accelerator.sync_gradients))
    assert is_whole == [True, True]
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in loop.model.parameters())


def test_a_checkpoint_is_for_any_number_of_processes_where_a_parameter_gets_no_loss(
    make_model, scenes, tmp_path, monkeypatch
):
    def make_loop():
        return TrainingLoop(make_model(prototype_loss_weight=0.0), scenes, TRANSFORM, make_args())

    loop = make_loop()
    loop.advance(1)
    loop.save_state(tmp_path)
    state = loop.schedule_state()
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    loop = make_loop()
    frozen = {name for name, parameter in loop.model.named_parameters() if not parameter.requires_grad}
    assert any(name.startswith("distribution_learning") for name in frozen)
    loop.load_state(tmp_path, 1, state)
    before = {name: parameter.detach().clone() for name, parameter in loop.model.named_parameters()}
    loop.advance(2)
    moved = {name for name, parameter in loop.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert not moved & frozen
