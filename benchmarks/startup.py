"""What a user waits for: import, the command's help, saving and loading a model and a checkpoint.

    python benchmarks/startup.py [--repetitions 5] [--backbone resnet50]

Import and help run in processes of their own, in turn with `import torch` and with importing transformers' models,
which they cannot undercut. Saving and loading run in one process, in turn with the bare tensors in one safetensors
file; a checkpoint holds weights, optimiser, schedule and random state, and is complete on the disk.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measuring import summarize

COMMANDS = {
    "`import torch`": ["-c", "import torch"],
    "`from transformers import PreTrainedModel`": ["-c", "from transformers import PreTrainedModel"],
    "`import cmdl_hf`": ["-c", "import cmdl_hf"],
    "`from cmdl_hf import CMDLForSemanticSegmentation`": ["-c", "from cmdl_hf import CMDLForSemanticSegmentation"],
    "`cmdl --help`": ["-m", "cmdl_hf.cli", "--help"],
}


def run(arguments: list[str]) -> None:
    """Run a Python process to its end."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def print_times(steps: dict[str, Callable[[], object]], repetitions: int) -> None:
    """Print the seconds of steps that run in turn; the first turn, in which the disk is read, does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    print("\n| what | seconds |\n|---|---|")
    for name, values in times.items():
        print(f"| {name} | {summarize(values[1:])} |", flush=True)


def saving_and_loading(backbone: str, folder: Path) -> dict[str, Callable[[], object]]:
    """Steps on one CMDL-FCN and the state of its training, checked to come back as they were."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers.utils.logging import disable_progress_bar

    from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation
    from cmdl_hf.data import TrainTransform, load_synthetic
    from cmdl_hf.training import CMDLTrainingArguments, TrainingLoop
    from cmdl_hf.training.checkpoints import Checkpoints

    disable_progress_bar()
    backbone_config = {"model_type": "timm_backbone", "backbone": backbone, "out_indices": [3, 4], "output_stride": 8}
    model = CMDLForSemanticSegmentation(CMDLConfig(num_labels=8, backbone_config=backbone_config))
    tensors, bare, saved = model.state_dict(), folder / "bare.safetensors", folder / "model"
    save_file(tensors, bare)
    model.save_pretrained(saved)
    loaded = CMDLForSemanticSegmentation.from_pretrained(saved).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())

    scenes = load_synthetic(num_train=4, num_validation=1, num_test=1, size=(64, 64))["train"]
    recipe = CMDLTrainingArguments(max_steps=10, total_batch_size=2, num_workers=0, learning_rate=0.01)
    loop = TrainingLoop(model, scenes, TrainTransform((64, 64)), recipe)
    loop.advance(1)  # the optimiser has its momenta
    checkpoints = Checkpoints(folder / "checkpoints")

    def save_checkpoint() -> None:
        checkpoints.save(loop.step, loop.save_state, {"schedule": loop.schedule_state()})

    def load_checkpoint() -> None:
        newest = checkpoints.newest()
        assert newest is not None
        loop.load_state(newest, loop.step, checkpoints.read(newest)["schedule"])

    size = bare.stat().st_size / 2**20
    return {
        f"write the tensors alone, {size:.0f} MiB": lambda: save_file(tensors, bare),
        "`model.save_pretrained`": lambda: model.save_pretrained(saved),
        "read the tensors alone": lambda: load_file(bare),
        "`from_pretrained`": lambda: CMDLForSemanticSegmentation.from_pretrained(saved),
        "save a checkpoint of a training": save_checkpoint,
        "find, check and load the newest checkpoint": load_checkpoint,
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--backbone", default="resnet50")
    args = parser.parse_args()
    print(f"medians of {args.repetitions}")
    print_times(
        {name: lambda arguments=arguments: run(arguments) for name, arguments in COMMANDS.items()}, args.repetitions
    )
    with tempfile.TemporaryDirectory() as folder:
        print_times(saving_and_loading(args.backbone, Path(folder)), args.repetitions)


if __name__ == "__main__":
    main()
