"""How often torch.compile translates the network anew."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter


@pytest.fixture(autouse=True)
def _reset():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _step(model, height, width, is_training):
    model.train(is_training)
    pixel_values, labels = torch.randn(2, 3, height, width), torch.randint(0, 5, (2, height, width))
    with torch.set_grad_enabled(is_training):
        output = model(pixel_values=pixel_values, labels=labels if is_training else None)
    if is_training:
        output.loss.backward()


def test_a_second_size_costs_one_translation_and_alternation_none(make_model):
    model, counter = make_model(), CompileCounter()
    model.compile(backend=counter, fullgraph=True)
    found = []
    for height, width, is_training in (
        (64, 64, True),
        (96, 128, True),
        (128, 96, True),
        (64, 64, False),
        (96, 128, True),
        (96, 128, False),
        (64, 64, True),
        (64, 64, False),
    ):
        _step(model, height, width, is_training)
        found.append(counter.frame_count)
    # Training, a second size, no third one; then inference, in which sizes are variable from the start.
    assert found == [1, 2, 2, 3, 3, 3, 3, 3]
