"""What a training says of its speed after the first steps."""

from types import SimpleNamespace

import pytest
import torch

from cmdl_hf.training import CMDLTrainingArguments, pace


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    return now


def make_loop(precision="no", stride=8, is_main=True, **overrides):
    accelerator = SimpleNamespace(is_main_process=is_main, device=torch.device("cpu"), mixed_precision=precision)
    model = SimpleNamespace(config=SimpleNamespace(backbone_config=SimpleNamespace(output_stride=stride)))
    args = CMDLTrainingArguments(**({"max_steps": 2306, "crop_size": (256, 384)} | overrides))
    return SimpleNamespace(accelerator=accelerator, model=model, args=args, step=0)


def go(loop, clock, seconds, steps, **options):
    tick = pace.Pace(loop, **options)
    for index in range(steps):
        clock[0] += seconds if index else 100.0  # the first prepares kernels
        loop.step += 1
        tick()


@pytest.mark.parametrize(
    ("slowdown", "options", "faster"),
    [
        (
            0.4,
            {},
            "; faster: a smaller crop (--crop-size 192 288 has 44 % fewer pixels); "
            "--output-stride 16 (a quarter of the pixels in the last feature maps); "
            "--mixed-precision bf16 (a convolution takes 0.40 times as long as in float32 on this CPU)",
        ),
        (12.0, {"is_network_given": True}, "; faster: a smaller crop (--crop-size 192 288 has 44 % fewer pixels)"),
    ],
)
def test_the_time_of_a_step_and_of_the_rest_is_said_once_with_what_would_be_faster(
    monkeypatch, caplog, clock, slowdown, options, faster
):
    monkeypatch.setattr(pace, "bf16_slowdown", lambda: slowdown)
    caplog.set_level("INFO", "cmdl_hf")
    go(make_loop(), clock, 2.6, 40, **options)
    assert caplog.messages == [f"a step takes 2.6 s here; 2,300 more take about 1 h 40 min, without scoring{faster}"]


def test_nothing_is_proposed_that_is_done_already_or_has_no_reason(monkeypatch, caplog, clock):
    monkeypatch.setattr(pace, "bf16_slowdown", lambda: 0.95)
    loop = make_loop(stride=16, crop_size=(128, 160))
    assert pace.find_faster(loop) == []
    monkeypatch.setattr(pace, "bf16_slowdown", lambda: 0.5)
    assert pace.find_faster(make_loop("bf16", stride=16, crop_size=(128, 160))) == []


def test_a_short_training_is_left_as_it_is_and_slow_steps_are_told_of_early(caplog, clock):
    caplog.set_level("INFO", "cmdl_hf")
    go(make_loop(max_steps=100), clock, 0.25, 8)
    assert caplog.messages.pop() == "a step takes 250 ms here; 94 more take about 24 s, without scoring"
    caplog.clear()
    go(make_loop(max_steps=3000, crop_size=(64, 64), stride=16, precision="bf16"), clock, 61.0, 3)
    assert caplog.messages == ["a step takes 61.0 s here; 2,997 more take about 2 d 2 h, without scoring"]
    caplog.clear()
    go(make_loop(max_steps=6), clock, 1.0, 6)
    go(make_loop(is_main=False), clock, 1.0, 8)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(45, "45 s"), (125, "2 min"), (3600, "1 h"), (6000, "1 h 40 min"), (273600, "3 d 4 h")]
)
def test_durations_in_words(seconds, words):
    assert pace.format_duration(seconds) == words
