"""The commands that a fit prints at its end; each works as it stands there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Protocol, runtime_checkable

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from verisal.detection.detector_file import ALARM
from verisal.pictures import image_pixels, write_png
from verisal.reporting.run_folder import RunFolder


@runtime_checkable
class HasExample(Protocol):
    """Data that has an image to show a command with."""

    def example(self) -> tuple[str, Tensor] | None:
        """Name and image ``(C, H, W)`` in [0, 1]; None where there is no picture."""
        ...


def next_commands(
    run: RunFolder, config: Path | None, task: LightningModule, data: LightningDataModule, settings: Namespace
) -> str:
    """Lines with the run's folder and what can be done with it.

    Args:
        run: its folder, into which an image is written where a prediction has none of its own.
        config: file with the full config.
        task: what was trained.
        data: what it was trained on.
        settings: of the data, as they were given.
    """
    place = shlex.quote(str(config))
    lines = [f"run: {run.path}"]
    if is_overridden("test_step", task, LightningModule):
        lines.append(f"  test again: verisal test --config {place}")
    if alarm := alarm_command(run.path, data):
        lines.append(alarm)
    if is_overridden("predict_step", task, LightningModule):
        # Data that reads images for a prediction alone has none of them in the config of a training.
        given = settings.get("init_args.images")
        none = isinstance(given, list | tuple) and not given
        lines.append(f"  predict:    verisal predict --config {place}{_images(run, data) if none else ''}")
        if none:
            lines.append("              images and folders of yours take the place of the one given here")
    if any(run.path.glob(f"wandb/offline-run-*-{run.run_id}")):
        folder = shlex.quote(str(run.path))
        lines.append(f"  upload:     wandb sync {folder}/wandb/offline-run-*-{run.run_id}")
    return "\n".join(lines)


def alarm_command(run: Path, data: LightningDataModule) -> str:
    """The command for the alarm in a run's folder, into which an image is put; "" without an alarm."""
    if not (run / ALARM).is_file():
        return ""
    image = shlex.quote(str(_example(run, data) or "IMAGE"))
    return f"  use the alarm: verisal explain {image} --detector {shlex.quote(str(run))}"


def _images(run: RunFolder, data: LightningDataModule) -> str:
    file = _example(run.path, data)
    if file is None:
        return " --data.images='[IMAGE, ...]'"
    return f" --data.images={shlex.quote(json.dumps([str(file)], ensure_ascii=False))}"


def _example(run: Path, data: LightningDataModule) -> Path | None:
    """A file with an image of the data; None where a picture is no such."""
    example = data.example() if isinstance(data, HasExample) else None
    if example is None:
        return None
    file, pixels = run / "example.png", image_pixels(example[1][None])[0]
    # A classifier of one channel refuses colours.
    write_png(pixels if len(example[1]) == 3 else pixels[..., 0], file)
    return file
