"""An adapter in two processes learns what it does in one."""

import torch
import torch.distributed as dist
from process_groups import join_group, run_processes
from segmenters import SmallSegmenter
from tiny_models import LIVE_AGGREGATION
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cmdl_hf import CMDLAdapter


def take_steps(part, wrap=lambda model: model):
    """Train on a part of a batch of two; returns all that two processes must share with one."""
    torch.manual_seed(1)
    sizes = {"num_distributions": 3, "hidden_size": 16, "attention_size": 8}
    options = LIVE_AGGREGATION | {
        "dropout": 0.0,
        "contrastive_temperature": 0.1,
        "class_weights": [0.5, 1.0, 2.0, 0.0, 4.0],
    }
    weights = {f"{name}_loss_weight": 0.5 for name in ("prototype", "contrastive", "class_margin")}
    segmenter = SmallSegmenter(stride=4, has_auxiliary=True)
    model = CMDLAdapter(segmenter, "classifier", **sizes, **options, **weights).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # frozen: its statistics would be those of a part of the batch
    wrapped = wrap(model)
    labels = torch.stack([torch.randint(0, 3, (4, 6)), torch.randint(2, 5, (4, 6))])  # class 2 alone is on both
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[0, :5], labels[1, :, :37] = 255, 255
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    seen = {}
    for step in range(3):
        images = torch.randn(2, 3, 64, 96)
        optimizer.zero_grad()
        output = wrapped(images[part], labels=labels[part])
        output.loss.backward()
        seen |= {f"loss {step} {name}": loss.detach() for name, loss in output.loss_dict.items()}
        seen |= {f"gradient {step} {name}": p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
    return seen | {f"state {name}": tensor.clone() for name, tensor in model.state_dict().items()}


def take_steps_in_process_group(rank, num_processes, port, folder):
    join_group(rank, num_processes, port)
    torch.save(take_steps(slice(rank, rank + 1), DistributedDataParallel), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path):
    run_processes(take_steps_in_process_group, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    one = take_steps(slice(None))
    assert first.keys() == second.keys() == one.keys()
    assert one["state memory_bank.num_updates"].sum() > 0
    for name, expected in one.items():
        pairs = [(first[name], expected), (second[name], expected)]
        if name.startswith("loss"):
            pairs = [((first[name] + second[name]) / 2, expected)]
        for value, other in pairs:
            torch.testing.assert_close(
                value, other, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
