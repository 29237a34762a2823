"""Rows of detectors: what training and transfer study ask of them alike."""

from __future__ import annotations

import re
from collections.abc import Collection

import lightning as L

from verisal.detection.data import DetectorData
from verisal.detectors import Detector, Measurement
from verisal.errors import ConfigError
from verisal.fingerprint import canonical


def check_rows(rows: Collection[str], head: str) -> None:
    """Raise unless the head is a row, and every row's name can be part of file and metric names."""
    if head not in rows:
        raise ConfigError(f"head must be one of the detectors {sorted(rows)}, found {head!r}")
    if wrong := [row for row in rows if not re.fullmatch(r"[\w.-]+", row)]:
        raise ConfigError(
            f"rows are parts of file and metric names: letters, digits, '.', '_' or '-'; found {wrong}"
        )


def detector_data(task: L.LightningModule, default: str) -> DetectorData:
    """The data module of a task, which must have the fit ``default``."""
    data = task.trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, DetectorData):
        raise ConfigError(f"{type(task).__name__} needs DetectorData, found {type(data).__name__}")
    if default not in data.families.fits:
        raise ConfigError(f"default is {default!r}; the data's fits are {list(data.families.fits)}")
    return data


def distinct(detectors: Collection[Detector]) -> dict[str, Measurement]:
    """The measurements of some detectors, equal ones once, by their settings."""
    return {canonical(detector.measurement): detector.measurement for detector in detectors}
