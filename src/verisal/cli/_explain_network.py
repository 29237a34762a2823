"""The network that ``verisal explain`` takes where none is named, and how far it can be trusted there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, final

import yaml

from verisal.checkpoint import trained_file
from verisal.detection.detector_file import ALARM, DetectorFile
from verisal.errors import ConfigError
from verisal.fingerprint import state_hash
from verisal.models import ClassifierSource, load_classifier
from verisal.models.sources.zoo import shipped_classifiers
from verisal.reporting.run_folder import find_run_of

DEFAULT = "imagenet_efficientnet_lite0"
"""Network of images of which nothing is said."""

_UNSURE = 0.5


def classifier_of(file: DetectorFile) -> ClassifierSource:
    """The network that a detector was trained beside.

    That of the run or the export in whose folder an alarm lies; that of the config of its run; without a run,
    a shipped one with the same weights. A file may not say what is imported: a function of the user's must be
    named in the command.

    Raises:
        ConfigError: neither, or a function.
    """
    if file.path.name == ALARM:
        with suppress(ConfigError):
            return ClassifierSource(name=str(trained_file(file.path.parent)))
    source = _configured(file)
    if source is None:
        for name in shipped_classifiers():
            if state_hash(load_classifier(name)) == file.card.get("classifier"):
                return ClassifierSource(name=name)
        raise ConfigError(
            f"{file.path} does not say which network it was trained beside; give it with --classifier"
        )
    library, colon, _ = source.name.partition(":")
    if colon and library not in ("torchvision", "timm", "hf"):
        raise ConfigError(
            f"{file.path} was trained beside {source.name}, a function that is not imported because a file"
            f" says so; give it with --classifier {source.name}"
        )
    return source


def _configured(file: DetectorFile) -> ClassifierSource | None:
    run = find_run_of(file.path)
    if run is None:
        return None
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
    parts: list[Mapping[str, Any]] = [config.get(name) or {} for name in ("data", "model")]
    found = [(part.get("init_args") or {}).get("classifier") for part in parts]
    given = next((each for each in found if each), None)
    if isinstance(given, Mapping):
        told = given.get("init_args", given)
        known = {field.name for field in fields(ClassifierSource)}
        return ClassifierSource(**{name: value for name, value in told.items() if name in known})
    return ClassifierSource(name=given) if isinstance(given, str) else None


@final
class Doubts:
    """Signs that the images are none of those that the network knows.

    Args:
        size: height and width of what the network looks at.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._images = self._unsure = self._small = 0

    def add(self, probability: float, size: tuple[int, int]) -> None:
        """Take one more image.

        Args:
            probability: of its likeliest class.
            size: its height and width.
        """
        self._images += 1
        self._unsure += probability < _UNSURE
        self._small += 2 * size[0] <= self._size[0] and 2 * size[1] <= self._size[1]

    def words(self) -> str:
        """A sentence with both counts; empty where there is no doubt."""
        height, width = self._size
        size = f"have at most half of the {height} x {width} px that it looks at"
        small = f"{self._small} of {self._images} images {size}"
        sure = f"its likeliest class has a probability below {_UNSURE:.2f}"
        unsure = f"for {self._unsure} of {self._images} images {sure}"
        # Of photographs, too, some show what is hard to name.
        signs = [small if self._small else "", unsure if 2 * self._unsure > self._images else ""]
        found = " and ".join(sign for sign in signs if sign)
        if not found:
            return ""
        return (
            f"doubt: no network was named, and {DEFAULT} may not know what these images show: {found}. Name"
            " another with --classifier; emoji_scenes_64 is that of the scenes that come with verisal"
        )
