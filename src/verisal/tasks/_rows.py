"""Rows of detectors: what training and transfer study ask of them alike."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import lightning as L

from verisal.detection.data import DetectorData
from verisal.detectors import Detector, DetectorFeatures, Measurement
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


def shown_measurement(detectors: Mapping[str, Detector], head: str) -> Measurement:
    """The measurement whose masks panels show: the head's, or the first with masks if it has none."""
    measurements = [detectors[head].measurement, *distinct(detectors.values()).values()]
    for measurement in measurements:
        if any(isinstance(part, DetectorFeatures) for part in measurement.parts):
            return measurement
    return measurements[0]
