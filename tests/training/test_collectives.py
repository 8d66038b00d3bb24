"""What two processes send to each other in a training step. benchmarks/README.md lists it and what it costs."""

import json

import pytest
import torch
import torch.distributed as dist
from process_groups import join, run_processes

K, M, C = 5, 3, 16
FLOAT = 4  # bytes
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "_broadcast_coalesced")


def watch(name, calls):
    """Record the calls of a collective: its name and the bytes that a process gives."""
    function = getattr(dist, name)

    def watched(*args, **kwargs):
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        given = tensors[-1:] if name.startswith("all_gather") else tensors
        calls.append((name, sum(tensor.numel() * tensor.element_size() for tensor in given)))
        return function(*args, **kwargs)

    setattr(dist, name, watched)


def count(rank, num_processes, port, output, settings):
    join(rank, num_processes, port)
    from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE

    from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
    from cmdl_hf.data import TrainTransform, load_synthetic
    from cmdl_hf.training import CMDLTrainingArguments, TrainingLoop

    sizes = {"num_labels": K, "num_distributions": M, "hidden_size": C, "attention_size": 8}
    config = CMDLConfig(backbone_config=dict(TINY_BACKBONE), **sizes, **(LIVE_AGGREGATION | settings))
    scenes = load_synthetic(num_train=8, num_validation=1, num_test=1, size=(64, 64), num_labels=K)["train"]
    args = CMDLTrainingArguments(max_steps=2, total_batch_size=4, num_workers=0)
    loop = TrainingLoop(CMDLForSemanticSegmentation(config), scenes, TrainTransform((64, 64), (1, 1)), args)
    buckets, calls, ends = [], [], []
    all_reduce = dist.all_reduce

    def reduce_bucket(_, bucket):
        buckets.append(bucket.buffer().numel() * FLOAT)
        work = all_reduce(bucket.buffer().div_(num_processes), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    loop._wrapped_model.register_comm_hook(None, reduce_bucket)
    loop.advance(1)  # before the first step the processes compare their models
    buckets.clear()
    for name in COLLECTIVES:
        watch(name, calls)
    loop.advance(2, on_step=lambda: ends.append(len(calls)))  # afterwards the losses are gathered
    if rank == 0:
        parameters = sum(parameter.numel() for parameter in loop.model.parameters() if parameter.requires_grad)
        facts = {"calls": calls[: ends[0]], "gradients": sum(buckets), "parameters": parameters}
        (output / "facts.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("use_distributions", [True, False])
def test_a_step_sends_little_beside_the_gradients(tmp_path, use_distributions):
    run_processes(count, 2, tmp_path, {"use_distributions": use_distributions})
    facts = json.loads((tmp_path / "facts.json").read_text())
    calls = [tuple(call) for call in facts["calls"]]
    assert facts["gradients"] == FLOAT * facts["parameters"]
    assert len(calls) <= 9
    assert max(size for _, size in calls) <= FLOAT * (K * M + 1) * C
    if not use_distributions:
        assert calls == [("all_reduce", FLOAT * 2)]
        return
    # As in the table of benchmarks/README.md, in the order of a step.
    assert calls == [
        ("all_reduce", FLOAT * 3),  # weights of three cross-entropies
        ("all_reduce", FLOAT),  # pixels of the prototype loss
        ("all_reduce", FLOAT * K),  # pixels of the classes in the contrast
        *[("all_reduce", FLOAT * (K + 1) * M)] * 3,  # Sinkhorn
        ("all_reduce", FLOAT * 2 * (K * M + 1)),  # pixels of the distributions
        ("all_reduce", FLOAT * (K * M + 1) * C),  # their embeddings
        ("all_reduce", FLOAT * K * (C + 1)),  # class margin
    ]
