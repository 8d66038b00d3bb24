import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from cmdl_hf.training import precision
from cmdl_hf.training.precision import bf16_slowdown, check_precision


def accelerator(mixed_precision, device="cpu"):
    return SimpleNamespace(mixed_precision=mixed_precision, device=torch.device(device), is_main_process=True)


def test_a_measurement_of_less_than_a_second_decides():
    bf16_slowdown.cache_clear()
    state = torch.get_rng_state()
    start = time.perf_counter()
    assert bf16_slowdown() > 0
    assert time.perf_counter() - start < 3  # less than one on a machine with nothing else to do
    assert torch.equal(torch.get_rng_state(), state)  # a run's own random numbers stay


def test_two_measurements_at_once_leave_the_threads_as_they_were(monkeypatch):
    bf16_slowdown.cache_clear()
    monkeypatch.setattr(precision, "_MAX_SECONDS", 0.01)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: bf16_slowdown(), range(8)))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
        bf16_slowdown.cache_clear()


def test_the_first_round_does_not_count_and_none_begins_after_the_time(monkeypatch):
    rounds = []
    monkeypatch.setattr(precision, "_MAX_SECONDS", 0.02)
    fast, slow = precision._shortest([lambda: rounds.append(0), lambda: time.sleep(0.03)])
    assert fast < 0.03 <= slow
    assert len(rounds) == 2


@pytest.mark.parametrize(("slowdown", "proposal"), [(30.0, "choose no, which"), (0.4, "choose bf16, which")])
def test_fp16_is_refused_with_what_is_fast_here(monkeypatch, slowdown, proposal):
    monkeypatch.setattr(precision, "bf16_slowdown", lambda: slowdown)
    with pytest.raises(ValueError, match=f"mixed_precision=fp16 does not work on a CPU: .*{proposal} is faster"):
        check_precision(accelerator("fp16"))


def test_slow_bf16_is_told_at_the_start(monkeypatch, caplog):
    monkeypatch.setattr(precision, "bf16_slowdown", lambda: 30.0)
    check_precision(accelerator("no"))
    check_precision(accelerator("bf16", "cuda"))
    assert not caplog.text
    check_precision(accelerator("bf16"))
    assert "takes 30.0 times as long as in float32. Choose mixed_precision=no" in caplog.text


def test_fast_bf16_is_not_spoken_of(monkeypatch, caplog):
    monkeypatch.setattr(precision, "bf16_slowdown", lambda: 0.4)
    check_precision(accelerator("bf16"))
    assert not caplog.text
