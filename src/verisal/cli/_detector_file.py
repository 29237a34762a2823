"""A trained detector as a run, a checkpoint or an export keeps it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml
from torch import Tensor

from verisal.checkpoint import CARD_KEY, load_checkpoint, load_export
from verisal.detectors import DetectorFeatures
from verisal.errors import CheckpointError, ConfigError
from verisal.reporting import find_run_of
from verisal.saliency import GateMethod, HierarchicalMasks, LearnedMask
from verisal.tasks import DetectorTask

EXPORT = "model.safetensors"
"""File name of an export's tensors; the card beside it has the suffix ``.json``."""

# What a file may name; no other class is looked up because of what stands in a file.
_METHODS: dict[str, type[GateMethod]] = {
    "HierarchicalMasks": HierarchicalMasks,
    "LearnedMask": LearnedMask,
}


@final
@dataclass(frozen=True)
class DetectorFile:
    """Everything that scoring an image needs besides the classifier.

    Attributes:
        path: of the file, for messages.
        card: of the task.
        settings: arguments of :class:`DetectorTask`.
        features: settings of :class:`DetectorFeatures`, its method by class name.
        state: named tensors of the task.
    """

    path: Path
    card: Mapping[str, Any]
    settings: Mapping[str, Any]
    features: Mapping[str, Any]
    state: Mapping[str, Tensor]

    def made_features(self) -> DetectorFeatures:
        """What the detector reads of an image.

        Raises:
            CheckpointError: a method that files may not name, or settings that do not belong to the card.
        """
        try:
            saliency = self.features["saliency"]
            method = _METHODS[str(saliency["class_path"]).rpartition(".")[2]](**saliency["init_args"])
            made = DetectorFeatures(
                saliency=method,
                queries=tuple(self.features["queries"]),
                views=tuple(self.features["views"]),
                gated_activation=self.features["gated_activation"],
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: its settings name no detector features that can be made ({error});"
                f" masks may be {', '.join(_METHODS)}"
            ) from None
        if made.settings() != self.card["features"]:
            raise CheckpointError(
                f"{self.path}: the settings beside it make other features than it was trained on:"
                f" {made.settings()} instead of {self.card['features']}"
            )
        return made


def trained_file(path: Path) -> Path:
    """The file with the weights in a run's or an export's folder, or the file itself.

    Raises:
        ConfigError: nothing of the kind.
    """
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist; give the folder of a run that `verisal fit` wrote, or of an export by"
            " `verisal export`"
        )
    inside = (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt", path / EXPORT)
    found = [path] if path.is_file() else [file for file in inside if file.is_file()]
    if not found or found[0].suffix not in (".ckpt", ".safetensors"):
        raise ConfigError(
            f"{path} is no run, checkpoint (.ckpt) or export (.safetensors); give the folder that"
            " `verisal fit` or `verisal export` wrote"
        )
    return found[0]


def read_detector(path: Path) -> DetectorFile:
    """Read a detector from a run, one of its checkpoints, or an export.

    Raises:
        ConfigError: no such file.
        CheckpointError: a damaged file, one of another task, or a checkpoint without its run.
    """
    file = trained_file(path)
    return _from_export(file) if file.suffix == ".safetensors" else _from_checkpoint(file)


def _from_export(file: Path) -> DetectorFile:
    tensors, card = load_export(file)
    try:
        found = DetectorFile(file, card["checkpoint"]["card"], card["settings"], card["features"], tensors)
    except KeyError:
        raise CheckpointError(f"{file} is no export of a detector (network: {card.get('network')})") from None
    _check_task(found)
    return found


def _from_checkpoint(file: Path) -> DetectorFile:
    checkpoint = load_checkpoint(file)
    card = checkpoint.get(CARD_KEY, {})
    run = find_run_of(file)
    if run is None:
        raise CheckpointError(
            f"{file} lies in no run, whose config says what the detector reads; give the run's folder or an"
            " export"
        )
    given = inspect.signature(DetectorTask).parameters
    settings = {
        name: value for name, value in checkpoint.get("hyper_parameters", {}).items() if name in given
    }
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    features = config.get("data", {}).get("init_args", {}).get("features", {})
    features = features.get("init_args", features)
    found = DetectorFile(file, card, settings, features, checkpoint["state_dict"])
    _check_task(found)
    return found


def _check_task(found: DetectorFile) -> None:
    if found.card.get("task") != DetectorTask.task_name:
        raise CheckpointError(
            f"{found.path} holds no detector but {found.card.get('task', 'something without a card')!r};"
            " give a run of configs/detector.yaml"
        )
