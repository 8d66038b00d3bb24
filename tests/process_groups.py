"""Groups of processes on this machine, as a launcher makes them."""

import multiprocessing
import os
import socket

import torch

# A server that has imported everything and forks: a process then starts in a moment, not after eight seconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["cmdl_hf.training.running", "cmdl_hf.models"])


def join(rank, num_processes, port):
    """Do what a launcher does."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def run_processes(target, num_processes, *args):
    """Run `target(rank, num_processes, port, *args)` in a group of processes, and expect all to end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        _context.Process(target=target, args=(rank, num_processes, port, *args)) for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    exit_codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert exit_codes == [0] * num_processes
