"""Files that an earlier ``verisal explain`` left: which images are done, and what their maps were made of."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

# What numpy raises for files that are damaged, or none of its own.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_KEYWORD = b"verisal\0"
_OF_A_CLASSIFIER = frozenset(
    {"classifier", "weights", "class_names", "image_size", "stages", "output", "channels and window"}
)


@final
@dataclass(frozen=True)
class Origin:
    """What a file of maps was made of, as the file itself says; equal parts mean equal maps and figures.

    Attributes:
        made_with: settings of the command that decide what the maps are.
        file: size and time of the image file.
        figure: settings that decide what the figure shows; None where none was drawn.
        size: height and width of the image in its file.
        likeliest: probability of the likeliest class.
    """

    made_with: Mapping[str, Any]
    file: Mapping[str, int]
    figure: Mapping[str, Any] | None
    size: tuple[int, int]
    likeliest: float

    def text(self) -> str:
        """As JSON."""
        return json.dumps(vars(self), default=str, sort_keys=True)

    @classmethod
    def of(cls, path: Path) -> Origin | None:
        """Of a file of maps; None where it is missing or damaged, or says nothing."""
        try:
            # numpy leaves a file open that it was given by name and finds damaged.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = json.loads(str(arrays["origin"]))
            return cls(**{**found, "size": tuple(found["size"])})
        except (*_DAMAGED, TypeError):
            return None

    def differs(self, made_with: Mapping[str, Any], file: Mapping[str, int]) -> list[str]:
        """Names of what is another thing now: settings of the command, and the image file itself."""
        mine, its = dict(self.made_with), json.loads(json.dumps(made_with, default=str))
        names = [name for name in {**mine, **its} if mine.get(name) != its.get(name)]
        return names + (["image file"] if dict(self.file) != dict(file) else [])


def causes_among(differs: Sequence[str]) -> list[str]:
    """What a person has changed: with another classifier comes all that belongs to it.

    >>> causes_among(["class_names", "classifier", "query", "weights"])
    ['classifier', 'query']
    """
    if not {"classifier", "weights"}.intersection(differs):
        return list(differs)
    return ["classifier", *(name for name in differs if name not in _OF_A_CLASSIFIER)]


def file_identity(path: Path) -> dict[str, int]:
    """Size and time of change of a file; zeros for one that is missing."""
    try:
        found = path.stat()
    except OSError:
        return {"bytes": 0, "modified": 0}
    return {"bytes": found.st_size, "modified": found.st_mtime_ns}


def mark_of(*parts: object) -> str:
    """Hexadecimal SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def with_mark(png: bytes, mark: str) -> bytes:
    """A PNG file with a mark of 64 letters before its end, which no viewer shows."""
    text = b"tEXt" + _KEYWORD + mark.encode()
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    return png[:-12] + chunk + png[-12:]


def has_mark(path: Path, mark: str) -> bool:
    """True if a file is there and carries this mark."""
    try:
        return path.read_bytes()[-80:-16] == mark.encode()
    except OSError:
        return False
