"""Training in two processes that divide the model (FSDP2), against two that hold it whole; what is refused."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from process_groups import join, run_processes
from safetensors.torch import load_file, save_file
from short_runs import leave_out_pictures, use_few_scenes

from cmdl_hf import CMDLForSemanticSegmentation
from cmdl_hf.cli import main
from cmdl_hf.training import CMDLTrainingArguments
from cmdl_hf.training.fully_sharded import prepare_sharding
from cmdl_hf.training.training_run import TrainingRun

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}


def shard_on_cpus(layers):
    """Let accelerate shard over processes without a GPU, which it does not: the code is the same."""
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    os.environ |= FSDP | {"FSDP_TRANSFORMER_CLS_TO_WRAP": layers}
    init = AcceleratorState.__init__

    def init_with_sharding(self, *args, fsdp_plugin=None, **kwargs):
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is None:  # a further view of the same state
            return
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = init_with_sharding


def look_at_parameters(is_sharded):
    """Check after every row of training that all parameters are divided, or none, and never a buffer."""
    from torch.distributed.tensor import DTensor

    from cmdl_hf.training import loop

    advance = loop.TrainingLoop.advance

    def advance_and_look(self, *args, **kwargs):
        row = advance(self, *args, **kwargs)
        assert {isinstance(parameter, DTensor) for parameter in self.model.parameters()} == {is_sharded}
        assert not any(isinstance(buffer, DTensor) for buffer in self.model.buffers())
        return row

    loop.TrainingLoop.advance = advance_and_look


def _train(rank, num_processes, port, output, is_sharded, model_settings, settings):
    join(rank, num_processes, port)
    if is_sharded:
        shard_on_cpus("ResNetBasicLayer,ConvNormReLU")
    look_at_parameters(is_sharded)
    from tiny_models import LIVE_AGGREGATION, TINY_BACKBONE

    from cmdl_hf import CMDLConfig
    from cmdl_hf.data import TrainTransform, load_synthetic
    from cmdl_hf.training import train

    torch.manual_seed(rank)  # the processes build different models, and train that of the first
    sizes = {"num_labels": 5, "num_distributions": 3, "hidden_size": 16, "attention_size": 8, "dropout": 0.0}
    config = CMDLConfig(backbone_config=dict(TINY_BACKBONE), **sizes, **(LIVE_AGGREGATION | model_settings))
    model = CMDLForSemanticSegmentation(config)
    scenes = load_synthetic(num_train=8, num_validation=1, num_test=1, size=(96, 96), num_labels=5)
    args = CMDLTrainingArguments(max_steps=4, total_batch_size=8, num_workers=0, logging_steps=1, **settings)
    rows = train(model, scenes["train"], TrainTransform((96, 96)), args)
    if rank == 0:
        save_file(model.state_dict(), output / f"{is_sharded}.safetensors")
        (output / f"{is_sharded}.json").write_text(json.dumps(rows))


def find_differences(rows, other_rows, weights, other_weights):
    """Find the largest differences of losses, of the bank and of all other tensors."""
    names = [name for name in rows[0] if "loss" in name]
    losses = [[[row[name] for name in names] for row in each if "loss" in row] for each in (rows, other_rows)]
    differences = {"losses": float((torch.tensor(losses[0]) - torch.tensor(losses[1])).abs().max())}
    for name, tensor in weights.items():
        part = "bank" if name.startswith("memory_bank") else "others"
        difference = float((tensor.double() - other_weights[name].double()).abs().max())
        differences[part] = max(differences.get(part, 0.0), difference)
    return differences


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_settings", "settings"),
    [
        ({"context_module": "ppm"}, {"max_grad_norm": 1.0, "per_device_batch_size": 2, "learning_rate": 0.1}),
        ({"context_module": "upernet", "voting": "posterior"}, {"optimizer": "adamw", "learning_rate": 0.001}),
    ],
    ids=["SGD", "AdamW"],
)
def test_parts_learn_what_whole_models_do(tmp_path, capsys, model_settings, settings):
    settings = settings | {"freeze_batch_norm": "all"}  # norms of two images enlarge differences of the last digit
    for is_sharded in (False, True):
        run_processes(_train, 2, tmp_path, is_sharded, model_settings, settings)
    rows = [json.loads((tmp_path / f"{is_sharded}.json").read_text()) for is_sharded in (False, True)]
    weights = [load_file(tmp_path / f"{is_sharded}.safetensors") for is_sharded in (False, True)]
    assert (weights[0]["memory_bank.num_updates"] > 0).any()
    differences = find_differences(*rows, *weights)
    with capsys.disabled():
        sys.stdout.write(f"\n  FSDP2 against DDP, 4 steps, largest difference: {differences}\n")
    assert max(differences.values()) < 1e-5


def _run_command(rank, num_processes, port, is_sharded, stop_at, arguments):
    join(rank, num_processes, port)
    use_few_scenes()
    leave_out_pictures()
    if is_sharded:
        shard_on_cpus("InvertedResidual,ConvNormReLU")
    look_at_parameters(is_sharded)
    from cmdl_hf.training import loop

    advance = loop.TrainingLoop.advance

    def advance_and_stop(self, *args, **kwargs):
        row = advance(self, *args, **kwargs)
        if self.step == stop_at and rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    loop.TrainingLoop.advance = advance_and_stop
    if stop_at is None:
        main(["train", *arguments])
    else:
        with pytest.raises(SystemExit, match="130"):
            main(["train", *arguments])


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_in_one_folder(tmp_path, capsys):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "benchmark: synthetic\nbackbone: mobilenetv3_small_050\nhidden_size: 16\nattention_size: 8\n"
        "output_stride: 16\ncrop_size: [64, 64]\nmax_steps: 4\neval_steps: 2\nlogging_steps: 1\nwarmup_steps: 0\n"
        "total_batch_size: 4\nnum_workers: 0\nmemory_start: data\nlearning_rate: 0.02\nfreeze_batch_norm: all\n"
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_processes(_run_command, 2, False, None, [str(recipe), "--output-dir", str(whole)])
    run_processes(_run_command, 2, True, 3, [str(recipe), "--output-dir", str(parts)])
    assert sorted(path.name for path in (parts / "checkpoints").iterdir())[-1] == "step-00000003"
    assert not json.loads((parts / "run.json").read_text())["is_finished"]
    run_processes(_run_command, 2, True, None, [str(recipe), "--output-dir", str(parts)])
    assert json.loads((parts / "run.json").read_text())["is_finished"]
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, parts)]
    for folder in (".", "last"):
        weights = [load_file(run / folder / "model.safetensors") for run in (whole, parts)]
        differences = find_differences(*rows, *weights)
        with capsys.disabled():
            sys.stdout.write(f"\n  a stopped run with FSDP2 against DDP, largest difference: {differences}\n")
        assert max(differences.values()) < 1e-5
        _, info = CMDLForSemanticSegmentation.from_pretrained(parts / folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    scores = [json.loads((run / "scores.json").read_text()) for run in (whole, parts)]
    assert scores[0]["test"]["mean_iou"] == pytest.approx(scores[1]["test"]["mean_iou"], abs=1e-4)


@pytest.fixture
def make_accelerator(monkeypatch):
    """What accelerate makes of the environment of a process of `accelerate launch` on a GPU."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin

    def make(mixed_precision="no", **variables):
        for name, value in (FSDP | {"FSDP_TRANSFORMER_CLS_TO_WRAP": "ConvNormReLU"} | variables).items():
            monkeypatch.setenv(name, value)
        state = SimpleNamespace(fsdp_plugin=FullyShardedDataParallelPlugin())
        return SimpleNamespace(
            distributed_type=DistributedType.FSDP, state=state, mixed_precision=mixed_precision, num_processes=2
        )

    return make


def test_checkpoints_hold_whole_tensors_and_autocast_has_the_precision(make_accelerator, make_model):
    from torch.distributed.fsdp import FullStateDictConfig, StateDictType

    accelerator = make_accelerator("bf16", FSDP_STATE_DICT_TYPE="SHARDED_STATE_DICT")
    assert prepare_sharding(accelerator, CMDLTrainingArguments(), make_model())
    plugin = accelerator.state.fsdp_plugin
    assert plugin.state_dict_type is StateDictType.FULL_STATE_DICT
    assert isinstance(plugin.state_dict_config, FullStateDictConfig)
    assert plugin.mixed_precision_policy is None


@pytest.mark.parametrize(
    ("variables", "settings", "message"),
    [
        ({"FSDP_VERSION": "1"}, {}, "fsdp_version is 1, .*; set fsdp_version: 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, {}, "SIZE_BASED_WRAP .* set it to TRANSFORMER_BASED_WRAP"),
        ({"FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaLayer"}, {}, "names LlamaLayer, .* such as ConvNormReLU, ResNet"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}, "fsdp_cpu_ram_efficient_loading .*; set it to false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "fsdp_activation_checkpointing .* memory bank twice; set it"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params .*; set it to false"),
        ({"mixed_precision": "fp16"}, {}, "mixed_precision=fp16 .*; choose bf16 or no"),
        ({}, {"ema_decay": 0.999}, "ema_decay=0.999 .*; leave ema_decay out"),
        ({}, {"use_compile": True}, "compile is not supported; leave it out"),
        ({}, {"use_channels_last": True}, "use_channels_last is not supported; leave it out"),
    ],
)
def test_what_cannot_be_used_with_fsdp_is_refused_with_the_cure(
    make_accelerator, make_model, variables, settings, message
):
    accelerator = make_accelerator(**variables)
    with pytest.raises(ValueError, match=f"^FSDP: .*{message}"):
        prepare_sharding(accelerator, CMDLTrainingArguments(**settings), make_model())


def test_a_parameter_without_dimension_is_refused(make_accelerator, make_model):
    with pytest.raises(
        ValueError, match=r"context_module.attention.gamma has no dimension .*; choose another framework"
    ):
        prepare_sharding(make_accelerator(), CMDLTrainingArguments(), make_model(context_module="criss_cross"))


def test_the_example_configuration_is_accepted(make_accelerator, make_model):
    import yaml

    file = Path(__file__).parents[2] / "examples" / "configs" / "accelerate" / "fsdp.yaml"
    config = yaml.safe_load(file.read_text())
    assert config["distributed_type"] == "FSDP"
    variables = {
        name.upper(): str(value) for name, value in config["fsdp_config"].items()
    }  # as accelerate launch does
    timm = {"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [3, 4]}
    variables["FSDP_TRANSFORMER_CLS_TO_WRAP"] = variables.pop("FSDP_TRANSFORMER_LAYER_CLS_TO_WRAP")
    with torch.device("meta"):
        model = make_model(backbone_config=timm)
    assert prepare_sharding(make_accelerator(**variables), CMDLTrainingArguments(), model)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (
            "ACCELERATE_USE_FSDP",
            "accelerate shards only over processes with an accelerator .* in 1 process on cpu; start",
        ),
        ("ACCELERATE_USE_DEEPSPEED", "does not train with DeepSpeed, .*; start it with data parallel .* with FSDP2"),
        ("ACCELERATE_USE_MEGATRON_LM", "does not train with Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "does not train with a parallelism configuration"),
    ],
)
def test_what_the_launcher_asks_for_is_never_passed_over(monkeypatch, tmp_path, variable, message):
    for name, value in FSDP.items():
        monkeypatch.setenv(name, "false" if name.startswith("ACCELERATE") else value)
    monkeypatch.setenv(variable, "true")
    use_few_scenes(monkeypatch.setattr)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("benchmark: synthetic\nbackbone: mobilenetv3_small_050\nhidden_size: 16\noutput_stride: 16\n")
    with pytest.raises(SystemExit, match=message):
        main(["train", str(recipe), "--output-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("saved", "here", "word"), [(True, False, "with"), (False, True, "without")])
def test_a_run_goes_on_as_it_began(saved, here, word):
    run = object.__new__(TrainingRun)
    run.checkpoints = SimpleNamespace(read=lambda _: {"is_sharded": saved})
    run.loop = SimpleNamespace(is_sharded=here)
    with pytest.raises(FileExistsError, match=f"step-1 was saved {word} FSDP; continue the run as it began, or name"):
        run._resume(Path("step-1"))
