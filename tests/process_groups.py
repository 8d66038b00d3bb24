"""Processes on this machine: single ones, scripts, and groups such as a launcher makes."""

import multiprocessing
import os
import runpy
import socket
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from cmdl_hf import cli, models
from cmdl_hf.training import running

# A server that has imported everything and forks: a process then starts in a moment, not after eight seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([module.__name__ for module in (cli, models, running, pytest)])


def start(target, *args):
    """Start `target(*args)` in a process of its own."""
    process = _context.Process(target=_run, args=(target, *args))
    process.start()
    return process


def _run(target, *args):
    multiprocessing.set_start_method(None, force=True)  # or workers that read data would be started by the server, too
    target(*args)


def run_process(target, *args):
    """Run `target(*args)` in a process of its own, and expect it to end well."""
    _expect_good_ends([start(target, *args)])


def run_processes(target, num_processes, *args):
    """Run `target(rank, num_processes, port, *args)` in a group of processes, and expect all to end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _expect_good_ends([start(target, rank, num_processes, port, *args) for rank in range(num_processes)])


def _expect_good_ends(processes):
    try:
        for process in processes:
            process.join(timeout=240)
        assert [process.exitcode for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()


def join(rank, num_processes, port):
    """Do what a launcher does."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def join_group(rank, num_processes, port):
    """Join torch's process group of these processes."""
    join(rank, num_processes, port)
    dist.init_process_group("gloo")
    assert dist.get_world_size() == num_processes


def run_script(printed, script, *arguments, prepare=None):
    """Run a script as `python script arguments` does, expect it to end well, and return what it printed to a file.

    `prepare` is called in the process before.
    """
    run_process(_run_script, printed, script, arguments, prepare)
    return printed.read_text()


def _run_script(printed, script, arguments, prepare):
    if prepare is not None:
        prepare()
    with printed.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
    sys.argv = [str(script), *map(str, arguments)]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(str(script), run_name="__main__")
