"""Everything that needs a GPU, in one call of a few minutes: correctness first, then speed and memory.

    python benchmarks/gpu.py [--minutes 6] [--out rows.json]

Needs torch, timm and transformers, and for the training loop accelerate and psutil. Reads no data set. The parts run
one after the other, the most valuable first, each in a process of its own. A part that is not done when its share of
the time is over is stopped, and what it has printed stays; later parts may use the time that it leaves. Nothing is
compiled while something else is timed. `--out` keeps the rows as JSON, also when the call is cut short. Exits with 1
if a check or a part failed. `--device cpu` rehearses all of it, on networks that are small, and without compiling
them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
LEAST_SECONDS = 4  # less is not enough to import torch


@dataclass
class Part:
    """A script of this folder, its share of the time, and what came of it."""

    name: str
    share: float
    command: Sequence[str]
    status: str = "not begun"
    seconds: float = 0.0
    seconds_to_first_line: float | None = None  # the imports and the start of the device
    lines: list[str] = field(default_factory=list)

    def as_row(self) -> dict[str, Any]:
        """Return what JSON keeps of it."""
        return {
            "part": self.name,
            "command": " ".join(self.command),
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "seconds_to_first_line": self.seconds_to_first_line,
            "checks": [line for line in self.lines if line.startswith(("ok  ", "FAIL"))],
            "rows": list(read_tables(self.lines)),
            "notes": [line for line in self.lines if line and not line.startswith(("|", "ok  ", "FAIL"))],
        }


def make_parts(device: str) -> list[Part]:
    """Name the parts in their order, with their shares of the time."""
    is_small = device == "cpu"
    few = ["--size", "64", "--backbone", "resnet18", "--num-labels", "5", "--repetitions", "1"]
    network = ["network.py", "--dtype", "bf16", *(few if is_small else ["--batch-size", "8", "--repetitions", "10"])]
    both = ["--networks", "CMDL-FCN", "mmseg"]
    all_networks = both if is_small else [*both, "plain", "torchvision"]
    losses = ["--batch-size", "1", "--size", "64", "--num-labels", "5", "--repetitions", "1"] if is_small else []
    learning = ["--num-labels", "4", "9", "--pixels", "300"] if is_small else []
    compiled = [*both, "--compile"]
    layouts = ["--layouts", "contiguous", "channels-last"]
    parts = [
        Part("correctness", 0.17, ["gpu_checks.py"]),
        Part("network, eager", 0.13, [*network, *all_networks, *layouts]),
        Part("losses alone", 0.07, ["losses.py", *losses]),
        Part("learning step", 0.06, ["learning_step.py", *learning, "--repetitions", "1" if is_small else "3"]),
        Part("network, compiled, inference", 0.18, [*network, *compiled, "--only", "inference", "--reduce-overhead"]),
        Part("network, compiled, training", 0.31, [*network, *compiled, "--only", "training"]),
        Part("training loop", 0.08, ["gpu_loop.py"]),
    ]
    return [Part(part.name, part.share, [*part.command, "--device", device]) for part in parts]


def read_tables(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of all tables, by the heads of their columns, each with the last line of text above its table."""
    head: list[str] = []
    previous: list[str] = []
    title = ""
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and set("".join(cells)) == {"-"}:
            head, previous = previous, []
        elif cells and head and len(cells) == len(head):
            yield {"table": title} | dict(zip(head, cells, strict=True))
        else:
            head, previous = [], cells
        if line and not cells:
            title = line


def run_part(part: Part, deadline: float, seen: TextIO, save: Callable[[], object]) -> None:
    """Run a part until it ends, or its time does; its lines appear and are saved at once."""
    start = time.monotonic()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-u", str(HERE / part.command[0]), *part.command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )

    def read() -> None:
        for line in process.stdout or ():
            if part.seconds_to_first_line is None:
                part.seconds_to_first_line = round(time.monotonic() - start, 1)
            part.lines.append(line.rstrip())
            print(line, end="", file=seen, flush=True)
            save()

    # A thread, because workers of a stopped part may keep its output open for longer than we want to wait.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        code = process.wait(max(deadline - start, 0))
        part.status = "done" if code == 0 else f"failed with {code}"
    except subprocess.TimeoutExpired:
        part.status = "stopped: its time was over"
    finally:
        with_workers(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(2)
        part.seconds = time.monotonic() - start


def with_workers(group: int, number: int) -> None:
    """Send a signal to a process and to those it started."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:  # all have ended
        return


def run_parts(parts: Sequence[Part], seconds: float, out: Path | None, seen: TextIO = sys.stdout) -> int:
    """Run the parts within their time; returns how many failed."""
    start = time.monotonic()
    total = sum(part.share for part in parts)
    share = 0.0

    def save() -> None:
        if out is not None:
            out.write_text(json.dumps([part.as_row() for part in parts], indent=1, ensure_ascii=False) + "\n")

    for part in parts:
        share += part.share / total
        deadline = start + seconds * share
        left = deadline - time.monotonic()
        print(f"\n## {part.name}: {' '.join(part.command)} ({left:.0f} s)\n", file=seen, flush=True)
        if not (HERE / part.command[0]).is_file():
            part.status = "there is no such script"
        elif left < LEAST_SECONDS:
            part.status = "not begun: its time was over"
        else:
            run_part(part, deadline, seen, save)
        print(f"\n{part.name}: {part.status}, {part.seconds:.0f} s", file=seen, flush=True)
        save()
    return sum(part.status.startswith("failed") for part in parts)


def main() -> None:
    """Run all parts, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=6.0, help="for everything together")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="parts whose name has one of the words")
    args = parser.parse_args()
    os.environ |= {"KINETO_LOG_LEVEL": "10", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # their lines would part the tables
    if args.device == "cpu":
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    parts = [part for part in make_parts(args.device) if not args.only or any(word in part.name for word in args.only)]
    if not parts:
        parser.error(f"no part is called so: {', '.join(part.name for part in make_parts(args.device))}")
    failed = run_parts(parts, 60 * args.minutes, args.out)
    print(
        "\nall parts: " + "; ".join(f"{part.name} {part.status}, {part.seconds:.0f} s" for part in parts), flush=True
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
