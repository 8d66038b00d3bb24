"""Everything that needs a GPU, in one call: agreement with the CPU, no synchronisation, precisions, speed.

    python benchmarks/gpu.py

Prints a line for every check, then the tables of the benchmarks, in float32 and bf16, eager and compiled, timed by
CUDA events; exits with 1 if a check or a benchmark failed. All but the checks of the training loop need only torch,
timm and transformers, and `network.py` torchvision and, for one row, segmentation-models-pytorch. `--device cpu` runs
what a CPU can, on networks and grids that are small; `--only checks` or `--only benchmarks` runs one half.
"""

import argparse
import copy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmdl_hf import CMDLConfig, CMDLForSemanticSegmentation

CONTEXT_MODULES = ("none", "ppm", "aspp", "criss_cross", "upernet")


def make_model(context_module: str, **overrides: object) -> CMDLForSemanticSegmentation:
    """A small dilated ResNet with CMDL, deterministic but for dropout, which is off."""
    torch.manual_seed(0)
    backbone_config = {"backbone": "resnet18", "out_indices": [1, 2, 3, 4], "output_stride": 8}
    settings = {"num_labels": 19, "hidden_size": 128, "attention_size": 64, "dropout": 0.0, "assignment": "argmax"}
    settings["layer_scale_init_value"] = 0.5  # behind the default of 0 no check would see the aggregation
    return CMDLForSemanticSegmentation(
        CMDLConfig(**(settings | {"backbone_config": backbone_config, "context_module": context_module} | overrides))
    )


def make_batch(device: str) -> tuple[Tensor, Tensor]:
    """Four images and labels."""
    torch.manual_seed(1)
    labels = torch.randint(0, 19, (4, 8, 8)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, :10] = 255
    return torch.randn(4, 3, 128, 128).to(device), labels.to(device)


def agrees_with_cpu(context_module: str, device: str) -> str:
    """Losses, gradients and the updated bank of one training step, in float32."""
    reference = make_model(context_module)
    model = copy.deepcopy(reference).to(device)
    outputs = {}
    for place, network in (("cpu", reference), (device, model)):
        pixel_values, labels = make_batch(place)
        output = network(pixel_values, labels=labels)
        output.loss.backward()
        gradient = network.decode_head[-1].weight.grad
        outputs[network] = (output.loss, gradient, network.memory_bank.prototypes)
    for ours, theirs in zip(outputs[model], outputs[reference], strict=True):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach().cpu(), atol=2e-3, rtol=2e-3)
    return f"loss {outputs[model][0].item():.4f}"


def does_not_synchronise(context_module: str, device: str) -> str:
    """Forward with labels, update of the bank and backward without the host waiting for the device."""
    model = make_model(context_module, assignment="sample").to(device)
    pixel_values, labels = make_batch(device)
    model(pixel_values, labels=labels).loss.backward()  # libraries may wait on first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(pixel_values, labels=labels).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no synchronisation"


def trains_in(dtype: torch.dtype, is_compiled: bool, device: str) -> str:
    """Twenty steps under autocast: the loss falls, the bank stays float32 and of unit length."""
    model = make_model("ppm").to(device)
    step = torch.compile(model) if is_compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    pixel_values, labels = make_batch(device)
    losses = []
    start = time.perf_counter()
    for _ in range(20):
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = step(pixel_values, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    assert losses[-1] < 0.8 * losses[0], losses
    prototypes = model.memory_bank.prototypes
    assert prototypes.dtype == torch.float32
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones_like(prototypes[..., 0]))
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f} in {seconds:.1f} s"


def loop_does_not_synchronise(settings: dict[str, Any], device: str) -> str:
    """Steps of the training loop, data loading to moving average, without the host waiting for the device."""
    from cmdl_hf.data import TrainTransform, load_synthetic
    from cmdl_hf.training import CMDLTrainingArguments, TrainingLoop

    scenes = load_synthetic(num_train=16, num_validation=1, num_test=1, size=(128, 128))["train"]
    args = CMDLTrainingArguments(max_steps=20, total_batch_size=4, learning_rate=0.01, **settings)
    loop = TrainingLoop(make_model("ppm", num_labels=8), scenes, TrainTransform((128, 128)), args)
    loop.advance(5)  # libraries may wait on first use

    def watch() -> None:
        # From the first step on until the last is taken; then the losses are read, which waits.
        torch.cuda.set_sync_debug_mode("default" if loop.step == args.max_steps else "error")

    try:
        row = loop.advance(args.max_steps, on_step=watch if device == "cuda" else lambda: None)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return f"loss {row['loss']:.2f}, {row['images_per_second']:.0f} images/s, {row['memory_gib']:.2f} GiB"


def benchmarks(device: str) -> list[list[str]]:
    """Command lines of all benchmarks that a device makes a difference to."""
    is_small = device == "cpu"
    grid = ["--num-labels", "19", "--pixels", "1024"] if is_small else ["--grid"]
    network = (
        ["--size", "64", "--backbone", "resnet18", "--networks", "CMDL-FCN"] if is_small else ["--batch-size", "8"]
    )
    aggregation = ["--grids", "16x16", "16x32"] if is_small else []
    few = ["--repetitions", "2"] if is_small else ["--repetitions", "15"]
    commands = [
        ["learning_step.py", *grid, *few],
        ["learning_step.py", "--compile", *(grid if is_small else []), *few],
    ]
    for dtype in ("float32", "bf16"):
        for mode in ([], ["--compile"]):
            commands.append(["aggregation.py", "--dtype", dtype, *mode, *aggregation, *few])
            commands.append(["network.py", "--dtype", dtype, *mode, *network, *few])
    if not is_small:
        commands.append(["network.py", "--dtype", "bf16", "--compile", "--channels-last", *network, *few])
        commands += [["metrics.py"], ["inference.py"]]
    return [[*command, "--device", device] for command in commands]


def run_benchmarks(device: str) -> int:
    """Run them one after the other; returns how many failed."""
    failed = 0
    for script, *arguments in benchmarks(device):
        print(f"\n## {script} {' '.join(arguments)}\n", flush=True)
        failed += subprocess.run([sys.executable, Path(__file__).with_name(script), *arguments]).returncode != 0
    return failed


def main() -> None:
    """Run the checks, then the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--only", choices=["checks", "benchmarks"])
    args = parser.parse_args()
    device = args.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --device cpu runs what a CPU can")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    checks = [(f"agrees with the CPU, {c}", agrees_with_cpu, (c, device)) for c in CONTEXT_MODULES]
    if device == "cuda":
        checks += [(f"does not synchronise, {c}", does_not_synchronise, (c, device)) for c in CONTEXT_MODULES]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for is_compiled in (False, True):
            name = f"trains in {dtype}{', compiled' if is_compiled else ''}"
            checks.append((name, trains_in, (dtype, is_compiled, device)))
    for settings in (
        {"per_device_batch_size": 2},
        {"optimizer": "adamw", "ema_decay": 0.9, "max_grad_norm": 1.0, "mixed_precision": "bf16"},
        {"use_compile": True, "use_channels_last": True, "ohem_threshold": 0.7, "ohem_min_kept": 1000},
    ):
        name = ", ".join(f"{key}={value}" for key, value in settings.items())
        checks.append((f"training loop does not synchronise, {name}", loop_does_not_synchronise, (settings, device)))
    failed = 0
    for name, check, arguments in checks if args.only != "benchmarks" else []:
        try:
            print(f"ok    {name}: {check(*arguments)}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {str(error)[:500]}", flush=True)
    if args.only != "checks":
        failed += run_benchmarks(device)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
