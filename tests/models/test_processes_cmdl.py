"""Two processes compute what one does: losses, gradients, prototypes and weights, on batches of unequal parts."""

import pytest
import torch
import torch.distributed as dist
from process_groups import join_group, run_processes
from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
from cmdl_hf.models.processes_cmdl import num_processes

NUM_STEPS = 3
TOLERANCE = 1e-5
HARD_PIXELS = {"class_weights": [0.5, 1.0, 2.0, 0.0, 4.0], "ohem_threshold": 0.22, "ohem_min_kept": 300}


def make_tiny_config(**overrides):
    settings = {"num_labels": 5, "num_distributions": 3, "hidden_size": 16, "attention_size": 8}
    return CMDLConfig(backbone_config=dict(TINY_BACKBONE), **(settings | LIVE_AGGREGATION | overrides))


ASSIGNED = {"contrast_target": "assigned", "intra_class_negative_weight": 0.2, "voting": "posterior"}


def make_batches(is_second_ignored=False):
    """Images and labels of every step: two for each process, with other classes and other numbers of void pixels."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for _ in range(NUM_STEPS):
        labels = torch.randint(0, 3, (4, 4, 6), generator=generator)
        labels[2:] = torch.randint(2, 5, (2, 4, 6), generator=generator)  # class 2 alone is on both
        labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)  # (4, 64, 96)
        labels[:2, :5] = 255
        labels[2:, :, :37] = 255
        if is_second_ignored:
            labels[2:] = 255
        batches.append((torch.randn(4, 3, 64, 96, generator=generator), labels))
    return batches


def train(config, batches, part, wrap=lambda model: model):
    """Take a few steps on a part of every batch; returns all that two processes must share with one."""
    torch.manual_seed(1)
    model = CMDLForSemanticSegmentation(config).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # frozen: its statistics would be those of a part of the batch
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    seen = {}
    for step, (pixel_values, labels) in enumerate(batches):
        optimizer.zero_grad()
        output = wrapped(pixel_values=pixel_values[part], labels=labels[part])
        output.loss.backward()
        losses = {"loss": output.loss} | output.loss_dict
        seen |= {f"losses/{step}/{name}": loss.detach() for name, loss in losses.items()}
        seen |= {f"gradients/{step}/{name}": p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
    seen |= {f"weights/{name}": p.detach().clone() for name, p in model.named_parameters()}
    if model.config.use_distributions:
        seen["prototypes"] = model.memory_bank.prototypes.clone()
        seen["num_updates"] = model.memory_bank.num_updates.clone()
    return seen


def train_in_process_group(rank, world_size, port, folder, cases):
    join_group(rank, world_size, port)
    assert num_processes() == world_size
    for name, (config, batches) in cases.items():
        seen = train(config, batches, slice(2 * rank, 2 * rank + 2), DistributedDataParallel)
        torch.save(seen, folder / f"{name}{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of every case what one process saw and what each of two saw."""
    common = {"dropout": 0.0, "assignment": "argmax", "contrastive_temperature": 0.1, "context_module": "ppm"}
    common |= {"prototype_loss_weight": 0.5, "contrastive_loss_weight": 0.5, "class_margin_loss_weight": 0.5}
    cases = {
        "default": (make_tiny_config(**common), make_batches()),
        "weighted": (make_tiny_config(**common, **HARD_PIXELS), make_batches()),
        "ignored": (make_tiny_config(**common, **HARD_PIXELS), make_batches(is_second_ignored=True)),
        "assigned": (make_tiny_config(**common, **ASSIGNED), make_batches()),
        "plain": (make_tiny_config(**common, use_distributions=False), make_batches()),
    }
    folder = tmp_path_factory.mktemp("processes")
    run_processes(train_in_process_group, 2, folder, cases)
    return {
        name: (
            train(config, batches, slice(None)),
            *(torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in range(2)),
        )
        for name, (config, batches) in cases.items()
    }


def largest_differences(one, *ranks):
    """Largest difference of each kind between one process and the ranks, of which losses are the mean."""
    table = {}
    for name, expected in one.items():
        kind = name.split("/")[0]
        values = [rank[name] for rank in ranks]
        if kind == "losses":
            values = [torch.stack(values).mean()]
        difference = max((value.double() - expected.double()).abs().max().item() for value in values)
        table[kind] = max(table.get(kind, 0.0), difference)
    return table


@pytest.mark.parametrize("case", ["default", "weighted", "ignored", "assigned", "plain"])
def test_two_processes_train_as_one(results, case):
    one, *ranks = results[case]
    table = largest_differences(one, *ranks)
    row = "  ".join(f"{kind} {difference:.1e}" for kind, difference in table.items())
    print(f"\n{case:<10}{row}")  # noqa: T201, for those who run pytest -s
    assert max(table.values()) < TOLERANCE, table
    moved = [name for name in one if name.startswith("gradients/0") and one[name].abs().max() > 1e-4]
    assert len(moved) > 20  # there was something to compare
    assert max(rank["losses/0/segmentation_loss"] for rank in ranks) > 0


@pytest.mark.parametrize("case", ["default", "weighted", "ignored", "assigned"])
def test_banks_end_equal(results, case):
    _, first, second = results[case]
    assert torch.equal(first["prototypes"], second["prototypes"])
    assert torch.equal(first["num_updates"], second["num_updates"])
    assert first["num_updates"].sum() > 0


def test_the_parts_are_unequal(results):
    """Averaging each process's own means would show: their losses differ."""
    _, first, second = results["default"]
    assert (first["losses/0/segmentation_loss"] - second["losses/0/segmentation_loss"]).abs() > 0.1
    _, first, second = results["ignored"]
    assert second["losses/0/segmentation_loss"] == 0
    assert second["losses/0/contrastive_loss"] == 0


def compute_alone(rank, world_size, port, folder, config):
    join_group(rank, world_size, port)
    assert num_processes() == world_size
    model = CMDLForSemanticSegmentation(config).eval()
    if rank == 0:  # the other one computes no loss: a collective would wait for it in vain
        (batch, *_) = make_batches()
        with torch.no_grad():
            torch.save(model(batch[0], labels=batch[1]).loss_dict, folder / "losses.pt")
    dist.destroy_process_group()


def test_a_loss_in_eval_mode_waits_for_nobody(make_config, tmp_path):
    run_processes(compute_alone, 2, tmp_path, make_config(**HARD_PIXELS, **ASSIGNED))
    losses = torch.load(tmp_path / "losses.pt", weights_only=True)
    assert len(losses) == 6
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("backend", ["gloo", None])
def test_a_process_group_of_one_changes_nothing(make_config, tmp_path, backend):
    config, batches = make_config(dropout=0.0), make_batches()
    expected = train(config, batches, slice(None))
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        found = train(config, batches, slice(None))
    finally:
        dist.destroy_process_group()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
