import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cmdl_hf.training import CMDLTrainingArguments
from cmdl_hf.training.optimization import make_optimizer


@pytest.mark.parametrize(
    ("optimizer", "mixed_precision", "is_fused"),
    [
        ("adamw", "no", True),
        ("adamw", "fp16", True),
        ("sgd", "no", True),
        ("sgd", "bf16", True),
        ("sgd", "fp16", False),  # torch's would write skipped steps into the momenta
    ],
)
def test_a_cuda_device_updates_all_weights_with_one_kernel(optimizer, mixed_precision, is_fused):
    with FakeTensorMode():
        model = nn.ParameterList([torch.empty(2, 3, device="cuda"), torch.empty(2, device="cuda")])
    made = make_optimizer(model, CMDLTrainingArguments(optimizer=optimizer), mixed_precision)
    assert all(bool(group["fused"]) is is_fused for group in made.param_groups)
    assert getattr(made, "_step_supports_amp_scaling", False) is is_fused  # what torch's gradient scaler looks at


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_cpu_updates_them_as_before(optimizer):
    made = make_optimizer(nn.Linear(3, 2), CMDLTrainingArguments(optimizer=optimizer), "bf16")
    assert not any(group["fused"] for group in made.param_groups)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("was_fused", [True, False])
def test_a_state_goes_on_where_kernels_are_fused_and_where_not(optimizer, was_fused):
    def make(model, is_fused):
        made = make_optimizer(model, CMDLTrainingArguments(optimizer=optimizer, learning_rate=0.1))
        fused = True if is_fused else None
        made.defaults["fused"] = fused
        for group in made.param_groups:
            group["fused"] = fused
        return made

    def step(model, optimizer):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    first = nn.Linear(3, 2)
    writer = make(first, was_fused)
    step(first, writer)
    second = copy.deepcopy(first)
    reader = make(second, not was_fused)
    reader.load_state_dict(copy.deepcopy(writer.state_dict()))
    assert [bool(group["fused"]) for group in reader.param_groups] == [not was_fused] * len(reader.param_groups)
    step(first, writer)
    step(second, reader)
    torch.testing.assert_close(second.weight, first.weight)
