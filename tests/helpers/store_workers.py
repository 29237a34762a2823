"""Processes that fill a store, and what they leave."""

import os
import signal
import time

import torch

from verisal.store import FeatureStore

KEY = {"classifier": "ab12"}
COUNT = 22


def features(items):
    number = torch.tensor(list(items), dtype=torch.float32)
    return {"maps": number[:, None] * torch.arange(4.0), "labels": number.long()}


def fill(root, log, *, rank, world_size, pause, die_at=None, together=None):
    torch.set_num_threads(1)
    first = True

    def compute(items):
        nonlocal first
        with log.open("a") as file:
            file.write(f"{rank} {items[0]}\n")
        if first and together is not None:
            # Each has a shard of its own before one of them goes on, however slow the other starts.
            together.wait(250)
        first = False
        time.sleep(pause)
        if die_at is not None and die_at in items:
            os.kill(os.getpid(), signal.SIGKILL)
        return features(items)

    store = FeatureStore(root, key=KEY, shard_size=2)
    store.fill(compute, COUNT, rank=rank, world_size=world_size, progress=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def alone(root):
    store = FeatureStore(root, key=KEY, shard_size=2)
    store.fill(features, COUNT, progress=False)
    return contents(store.path)


def computed(log):
    return [tuple(int(word) for word in line.split()) for line in log.read_text().splitlines()]
