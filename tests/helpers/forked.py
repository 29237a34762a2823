"""Commands on several processes, forked from one server that has imported everything already."""

import contextlib
import multiprocessing
import os
import socket
import time

import torch

from verisal.cli import main

# tests/conftest.py says what the server imports.
CONTEXT = multiprocessing.get_context("forkserver")


def one(args, folder, log, environment):
    """One process of a command: its exit code, its output in a file."""
    os.environ |= environment
    os.chdir(folder)
    torch.set_num_threads(1)
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        os._exit(_flushed(main(list(args)), file))


def _flushed(code, file):
    file.flush()
    return code


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(count, args, folder, *, timeout=250):
    """Run one command on ``count`` processes, as torchrun would start them; their exit codes and outputs."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(count)}
    words = [*args, f"--trainer.devices={count}", "--trainer.strategy=ddp"]
    logs = [folder / f".process-{rank}.log" for rank in range(count)]
    processes = [
        CONTEXT.Process(
            target=one,
            args=(words, folder, logs[rank], {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}),
        )
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        # One that fails leaves the others waiting for it.
        if process.exitcode:
            end = min(end, time.monotonic() + 5)
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes], [log.read_text() for log in logs]
