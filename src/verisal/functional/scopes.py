"""Context managers that own every side effect on a network that somebody else handed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from verisal.types import StagedClassifier

__all__ = ["frozen", "gradient_scope", "rng_preserved"]


@contextmanager
def gradient_scope(device_type: str = "cpu") -> Iterator[None]:
    """Enable gradients in float32 whatever surrounds the call.

    Leaves inference mode, enables gradients and turns autocast off, so that the same code runs in plain
    Python, under ``no_grad``, under ``inference_mode`` and under autocast. Tensors *created* under
    inference mode still cannot enter a graph: clone every tensor (image, gate, mask, baseline) inside.
    """
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autocast(device_type=device_type, enabled=False),
    ):
        yield


@contextmanager
def frozen(module: object) -> Iterator[None]:
    """Eval mode and no parameter gradients inside; every module's mode and flag as before afterwards.

    A function has neither, and stays as it is.

    Modes are kept per sub-module, not only for the root, and are restored on exceptions too.
    """
    if not isinstance(module, (nn.Module, StagedClassifier)):
        yield
        return
    modes = [(child, child.training) for child in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for child, _ in modes:
            child.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for child, training in modes:
            child.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def rng_preserved(device: torch.device | None = None) -> Iterator[None]:
    """Global random state of the CPU, and of ``device`` if it is an accelerator, as before afterwards.

    For calls into code of somebody else, such as a classifier with its own draws; our own code takes a
    generator and never touches the global state.
    """
    accelerated = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if accelerated else []):
        yield
