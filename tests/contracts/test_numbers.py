"""No class takes a number that it cannot use: all numbers of all exported classes, from their signatures."""

from __future__ import annotations

import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest
import torch

from verisal.attacks import FGSM, AdversarialPatch
from verisal.attacks.on_maps.attack import MapAttack
from verisal.detectors import MaxSoftmax
from verisal.errors import ConfigError
from verisal.functional.baselines import Constant
from verisal.saliency import HierarchicalMasks

_ROOMS = (
    "attacks",
    "callbacks",
    "data",
    "detection",
    "detectors",
    "metrics",
    "models",
    "saliency",
    "store",
    "tasks",
)
# Rooms and folders whose modules are imported one by one.
_SHELVES = ("attacks.on_maps", "functional")
# What is computed, never set: fields of results and tables.
_RESULTS = {
    "Alarm", "Attribution", "Calibration", "CheckReport", "Components", "DecoyReport", "DetectionResult",
    "FoundGates", "MaskCard", "MeanCurve", "Neutrality", "PlaceCard", "Removals", "Resampled",
}  # fmt: skip
# Any seed names random numbers. Elsewhere -1 and what is no number mean: darker; left or up; no threshold;
# the last layer; a score; a mean; nothing, as the commands alone set it.
_MEANINGFUL = {
    "Brightness-change--1.0", "ClassRankScores-threshold-nan", "DisturbedScores-threshold-nan",
    "Normalization-mean--1.0s", "OneLayer-layer--1",
    "AdaptivePGD-stop_below--1.0", "Classifier-mean--1.0s", "ClassifierSource-mean--1.0s",
    "CheckpointFiles-branch--1", "Bounds-low--1.0", "Moved-right--1", "Moved-down--1",
}  # fmt: skip
# How many numbers stand together, where no default tells.
_SEVERAL = {"mean": 3, "std": 3, "ratios": 3, "tile": 2, "widths": 4, "window": 2}
# What else a class looks at before, or with, its numbers.
_GIVEN: dict[str, dict[str, Any]] = {
    "AdaptedAttack": {"function": "a", "name": "a"},
    "AttackedMaps": {"methods": {}},
    "PatchedImages": {"methods": {}, "attacks": [AdversarialPatch()]},
    "AttackedSensitivity": {"attack": MapAttack(kind="top_k")},
    "BaselineNeutrality": {"baselines": [Constant()]},
    "BaselineChoice": {"commands": []},
    "ImageTable": {"columns": ("one",)},
    "BaselineChoiceElsewhere": {"commands": []},
    "Bounds": {"low": 0.0, "high": 1.0},
    "CNNDetector": {"reads": ["masks/*"]},
    "CascadingRandomisation": {"method": HierarchicalMasks(), "images": torch.zeros(1, 3, 32, 32)},
    "ClassRankScores": {"queries": ["c1"]},
    "DetectionScores": {"rows": ["a"]},
    "DetectorTask": {"detectors": {"a": MaxSoftmax()}, "head": "a"},
    "Forest": {"reads": ["logits"]},
    "FoolboxCall": {"attack": FGSM(eps=0.1)},
    "ImagesLike": {"class_names": ("a", "b")},
    "MapAttack": {"kind": "top_k"},
    "MapSimilarity": {"label": "a", "other": HierarchicalMasks()},
    "MaskForest": {"reads": ["masks/*"]},
    "MaskNetwork": {"channels": [4]},
    "Normalization": {"mean": (0.5,) * 3, "std": (0.25,) * 3},
    "OneLayer": {"base": HierarchicalMasks()},
    "PlaceNetwork": {"channels": [4]},
    "LogisticRegression": {"reads": ["pooled/*"]},
    "Stack": {"parts": [MaxSoftmax(), MaxSoftmax()]},
    "Tiled": {"base": HierarchicalMasks()},
    "TransferTask": {"detectors": {}},
    "UnrolledGates": {"method": HierarchicalMasks()},
}
_SHOWN = ("ClassRanks", "DisturbedLocalization", "GateNoise", "MapAgreement", "PerturbationCurves")
_SHOWN += ("SaliencyMetrics", "SaliencyPanels", "SceneQueries")
_GIVEN |= {name: {"methods": {"masks": HierarchicalMasks()}, "metrics": [], "groups": {}} for name in _SHOWN}


def _numbers(annotation: object) -> set[tuple[type, bool]]:
    """``int`` and ``float`` in an annotation, alone or as an alternative, and whether there are several."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float):
        return {(typing.cast(type, annotation), False)}
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_numbers, parts))
    if origin in (tuple, Sequence):
        return {(part, True) for part in parts if part in (int, float)}
    return set()


def _modules() -> Iterator[str]:
    yield from (f"verisal.{room}" for room in _ROOMS)
    yield "verisal_studies"
    for shelf in _SHELVES:
        package = import_module(f"verisal.{shelf}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield module.name


def _classes() -> Iterator[tuple[str, type]]:
    seen: set[type] = set()
    for room in _modules():
        module = import_module(room)
        # A module without a list exports what it defines itself, less what begins with an underscore.
        own = (name for name, part in vars(module).items() if getattr(part, "__module__", "") == room)
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            found = getattr(module, name)
            if not isinstance(found, type) or found in seen:
                continue
            seen.add(found)
            if not inspect.isabstract(found) and name not in _RESULTS:
                yield room, found


def _hints(found: type) -> dict[str, object]:
    """Types of the arguments, whose names a dataclass may have from the modules of its bases."""
    known: dict[str, object] = {}
    for base in reversed(found.__mro__):
        known |= vars(import_module(base.__module__))
    return typing.get_type_hints(found.__init__, known)


def _cases() -> Iterator[Any]:
    for room, found in _classes():
        parameters = inspect.signature(found).parameters
        for key, annotation in _hints(found).items():
            for kind, several in sorted(_numbers(annotation), key=str) if key != "seed" else ():
                for number in (-1,) if kind is int else (-1.0, math.nan, math.inf):
                    usual = parameters[key].default
                    count = len(usual) if isinstance(usual, Sequence) and usual else _SEVERAL.get(key, 1)
                    name = f"{found.__name__}-{key}-{number}{'s' if several else ''}"
                    if name not in _MEANINGFUL:
                        value = (number,) * count if several else number
                        yield pytest.param(found, key, value, id=f"{room}-{name}")


@pytest.mark.parametrize(("found", "key", "value"), list(_cases()))
def test_a_number_that_a_class_cannot_use_is_refused_by_its_name(
    found: type, key: str, value: object
) -> None:
    hints = _hints(found)
    kinds = {name: {kind for kind, several in _numbers(hint) if not several} for name, hint in hints.items()}
    parameters = inspect.signature(found).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    given: dict[str, Any] = dict.fromkeys(needed)
    given |= {name: 1 if int in kinds[name] else 0.5 for name in needed if kinds.get(name)}
    given |= {name: item for name, item in _GIVEN.get(found.__name__, {}).items() if name in needed}
    with pytest.raises(ConfigError, match=rf"\b{key}\b"):
        found(**given | {key: value})
