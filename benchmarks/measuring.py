"""What the benchmarks share: steps in turn, medians, peak memory, growth, and the machine's own rate."""

import argparse
import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def add_device_arguments(parser: argparse.ArgumentParser, repetitions: int) -> None:
    """Add where and how to run."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="bf16 is autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile our modules and theirs")
    parser.add_argument("--threads", type=int, help="of the CPU; omitted, as many as torch takes")
    parser.add_argument("--repetitions", type=int, default=repetitions)


def set_up(args: argparse.Namespace) -> None:
    """Set threads and precision, and print what the run is made with."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name() if is_cuda(args.device) else f"CPU, {torch.get_num_threads()} threads"
    mode = "compiled" if args.compile else "eager"
    print(f"torch {torch.__version__}, {name}, {args.dtype}, {mode}, medians of {args.repetitions}", flush=True)


def is_cuda(device: str) -> bool:
    """Tell whether times and memory come from CUDA."""
    return torch.device(device).type == "cuda"


def precision(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Autocast, when bf16 is asked for."""
    if args.dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(args.device).type, dtype=DTYPES[args.dtype])


def time_once(step: Callable[[], object], device: str) -> float:
    """Time one step in ms: by events on a CUDA device, by the clock elsewhere."""
    if not is_cuda(device):
        begin = time.perf_counter()
        step()
        return (time.perf_counter() - begin) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def time_in_turn(
    steps: Mapping[str, Callable[[], object]], repetitions: int, device: str, warmups: int = 1
) -> dict[str, list[float]]:
    """Time the steps in turn, so that what else the machine does hits all of them: ms of every repetition."""
    for step in steps.values():
        for _ in range(warmups):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions):
        for name, step in steps.items():
            times[name].append(time_once(step, device))
    return times


def peak_memory(step: Callable[[], object], device: str) -> float:
    """MiB of tensors that a step holds at its peak on top of what is there before."""
    if is_cuda(device):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    # Over the lowest point before: what an earlier step left, such as gradients, is freed at the start of this one.
    held = list(itertools.accumulate(sizes, initial=0))
    return max(now - lowest for now, lowest in zip(held, itertools.accumulate(held, min), strict=True)) / 2**20


def ratios(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> list[float]:
    """How many times as long one step took as the other, of every turn."""
    return [a / b for a, b in zip(times[slow], times[fast], strict=True)]


def summarize(values: Sequence[float], digits: int = 3) -> str:
    """Word the median and the range."""
    low, median, high = (f"{value:.{digits}g}" for value in (min(values), statistics.median(values), max(values)))
    return f"{float(median):g} ({float(low):g}..{float(high):g})"


def growth(factors: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Exponents of the factors (one row a value) in a product of powers, by least squares on logarithms.

    A factor that never changes has none: not a number.
    """
    logs = torch.tensor(factors, dtype=torch.float64).log()
    logs = logs - logs.mean(dim=0)
    is_varied = logs.abs().amax(dim=0) > 0
    targets = torch.tensor(values, dtype=torch.float64).log()
    solution = torch.linalg.lstsq(logs[:, is_varied], (targets - targets.mean())[:, None]).solution[:, 0]
    exponents = torch.full((logs.shape[1],), torch.nan, dtype=torch.float64)
    exponents[is_varied] = solution
    return exponents.tolist()


def matmul_rate(args: argparse.Namespace, size: int = 2048) -> float:
    """Rate of a square matrix product in GFLOP/s, the best of five: what the machine can do now."""
    a, b = torch.randn(2, size, size, device=args.device, dtype=DTYPES[args.dtype])
    times = time_in_turn({"product": lambda: a @ b}, 5, args.device)["product"]
    return 2 * size**3 / min(times) / 1e6
