"""In which precision a network is trained; everything that is reported is computed in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from lightning.pytorch.plugins import MixedPrecision

from verisal.errors import ConfigError

__all__ = ["TrainingPrecision", "training_precision"]

_FLOAT32 = (None, 32, "32", "32-true")
_BFLOAT16 = ("bf16", "bf16-mixed")


@final
class TrainingPrecision(MixedPrecision):
    """bfloat16 autocast in training steps, none in validation, test and prediction.

    A checkpoint is chosen and reported by what it does in float32, whatever it was trained in.

    Args:
        device: type of the device of the autocast.
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    @contextmanager
    def val_step_context(self) -> Iterator[None]:
        """Float32."""
        yield

    @contextmanager
    def test_step_context(self) -> Iterator[None]:
        """Float32."""
        yield

    @contextmanager
    def predict_step_context(self) -> Iterator[None]:
        """Float32."""
        yield


def training_precision(precision: object, accelerator: object) -> list[TrainingPrecision]:
    """What the trainer needs beside its defaults for ``trainer.precision``.

    Raises:
        ConfigError: another precision than ``32-true`` and ``bf16-mixed``, or the latter on a CPU.
    """
    if precision in _FLOAT32:
        return []
    if precision not in _BFLOAT16:
        raise ConfigError(
            f"trainer.precision must be 32-true or bf16-mixed (training steps alone), found {precision!r}"
        )
    if accelerator not in ("gpu", "cuda") and not (accelerator == "auto" and torch.cuda.is_available()):
        # 2026-11-22: torch 2.15 reads memory that nobody wrote, see scripts/bench/precision.py --gradients.
        raise ConfigError(
            "trainer.precision bf16-mixed needs a GPU: on CPUs torch computes wrong weight gradients of"
            " convolutions on small maps; leave trainer.precision at 32-true"
        )
    return [TrainingPrecision("cuda")]
