"""Header of a store and records of its shards, which are written beside the tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, final

from torch import Tensor

from verisal.errors import DataError
from verisal.fingerprint import flat
from verisal.store.files import StoreFiles

HEADER = "store.json"
_FORMAT = 1


@final
@dataclass(frozen=True)
class ShardRecord:
    """Entry of the manifest for one finished shard.

    Attributes:
        start: first item.
        stop: one past the last item.
        size: of the file in bytes.
        sha256: of the file.
        tensors: name to ``[dtype, shape of one item]``.
    """

    start: int
    stop: int
    size: int
    sha256: str
    tensors: Mapping[str, Any]

    @classmethod
    def of(cls, content: bytes, items: range, tensors: Mapping[str, Any]) -> Self:
        """Record of a file's content."""
        return cls(items.start, items.stop, len(content), hashlib.sha256(content).hexdigest(), tensors)

    @classmethod
    def read(cls, files: StoreFiles, name: str, items: range) -> Self | None:
        """The record in a sidecar; None where there is none, it is damaged, or it is of other items."""
        try:
            record = cls(**json.loads(files.read(name)))
        except (OSError, ValueError, TypeError):
            return None
        return record if (record.start, record.stop) == (items.start, items.stop) else None

    def write(self, files: StoreFiles, name: str) -> None:
        """Write the sidecar."""
        files.write(name, _pretty(asdict(self)))


def read_header(files: StoreFiles) -> dict[str, Any] | None:
    """Key, number of items and shard size of a store; None where there is none.

    Raises:
        DataError: a header that is damaged or of another format.
    """
    place = f"{files.location}/{HEADER}"
    try:
        header = json.loads(files.read(HEADER))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(
            f"{place} cannot be read ({error}); delete the folder and compute it again"
        ) from error
    fits = isinstance(header, dict) and header.get("format") == _FORMAT
    fits = fits and isinstance(header.get("key"), dict)
    if not fits or not all(isinstance(header.get(name), int) for name in ("count", "shard_size")):
        raise DataError(f"{place} is not a feature store of format {_FORMAT}; delete it and compute it again")
    known: dict[str, Any] = header
    return known


def write_header(files: StoreFiles, *, count: int, shard_size: int, key: Mapping[str, Any]) -> None:
    """Write what fixes a store."""
    files.write(HEADER, _pretty({"format": _FORMAT, "count": count, "shard_size": shard_size, "key": key}))


def mismatch(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Every entry in which two keys differ, with both values.

    >>> mismatch({"net": {"sha": "ab"}}, {"net": {"sha": "cd"}, "eps": 2})
    "eps is nothing in the store, 2 expected; net.sha is 'ab' in the store, 'cd' expected"
    """
    first, second = ({name: repr(value) for name, value in flat(key)} for key in (stored, expected))
    differing = [
        f"{name} is {first.get(name, 'nothing')} in the store, {second.get(name, 'nothing')} expected"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
    return "; ".join(differing)


def signature_of(tensors: Mapping[str, Tensor], items: range) -> dict[str, Any]:
    """Name to dtype and shape of one item.

    Raises:
        DataError: no tensors, or other numbers of rows than of items.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = {name: shape for name, shape in shapes.items() if shape[:1] != (len(items),)}
    if wrong or not tensors:
        raise DataError(
            f"computing {len(items)} items must give named tensors with {len(items)} rows each, found {wrong}"
        )
    return {
        name: [str(tensors[name].dtype).removeprefix("torch."), list(shapes[name][1:])]
        for name in sorted(tensors)
    }


def _pretty(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
