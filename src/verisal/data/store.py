"""Tensors computed once per item and kept on disk: checked, resumable, shared by processes."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, final

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from verisal.errors import ConfigError, DataError

from ._store_files import claim, write_whole
from ._store_key import canonical, mismatch
from ._store_progress import progress_bar

__all__ = ["FeatureStore", "ShardRecord"]

_logger = logging.getLogger(__name__)

_FORMAT = 1
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest knows of one finished shard.

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


@final
class FeatureStore:
    """Named tensors for items 0..N-1, computed once, in shards of a fixed number of items.

    The folder is named by a hash of ``key``, so other settings never read or overwrite it. It holds
    ``store.json`` (key, number of items, shard size) and per shard a safetensors file with a JSON sidecar
    (its checksum); the sidecars together are the manifest, and a shard without one does not count. Files
    appear whole or not at all, so a run may be killed at any moment and continued by calling :meth:`fill`
    again.

    Args:
        root: folder that holds stores; made when the store is filled.
        key: everything that the values depend on (checksum of the classifier, data, attack and mask
            settings), as plain data: text, numbers, booleans, None, and lists and mappings of these.
        prefix: readable start of the folder name.
        shard_size: items per shard; a store that exists keeps its own. Never changes a value.
        folder: name of the folder, where it is not to follow from the key.

    Raises:
        ConfigError: a key that is not plain data, a prefix that is no plain word, a shard size below 1.
        DataError: the folder belongs to another key, or its ``store.json`` cannot be read.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        key: Mapping[str, Any],
        prefix: str = "features",
        shard_size: int = 64,
        folder: str | None = None,
    ) -> None:
        if shard_size < 1:
            raise ConfigError(f"shard_size must be at least 1 item, found {shard_size}")
        if not re.fullmatch(r"[\w.-]+", prefix):
            raise ConfigError(f"store prefix must be letters, digits, '.', '_' or '-', found {prefix!r}")
        text = canonical(key)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.key: dict[str, Any] = json.loads(text)
        self.path = Path(root) / (folder or f"{prefix}-{digest}")
        self.shard_size = shard_size
        self.count: int | None = None
        self._checked: set[int] = set()
        self._read_header()

    @classmethod
    def open(cls, path: Path | str, *, expect: Mapping[str, Any] | None = None) -> Self:
        """Open a store by its folder.

        Args:
            path: the folder.
            expect: key that the store must have been made with, e.g. with the checksum of the classifier in
                use; None takes any.

        Raises:
            DataError: no store there, or one made with another key; names every entry that differs.
        """
        path = Path(path).absolute()
        stored = _read_header_file(path / "store.json")["key"]
        return cls(path.parent, key=stored if expect is None else expect, folder=path.name)

    @property
    def complete(self) -> bool:
        """Whether every shard is there and its bytes are those that were written.

        A shard found sound is not read again by this object, see :meth:`verify`.
        """
        self._read_header()
        return self.count is not None and all(self._sound(shard) for shard in range(self._shards))

    def fill(
        self,
        compute: Callable[[Sequence[int]], Mapping[str, Tensor]],
        count: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        progress: bool = True,
    ) -> None:
        """Compute every shard that is missing or damaged; the store is complete and checked on return.

        Several processes may fill one store: each first takes its share (shards ``rank``, ``rank +
        world_size``, ...), then what the others have not begun or left when they died, and returns when all
        is done. A shard being computed is claimed by a file lock, which ends with its process.

        Args:
            compute: takes the numbers of some items, gives named tensors ``(len(items), ...)``. A tensor's
                values must depend on its item alone.
            count: number of items N.
            rank: of this process.
            world_size: number of processes.
            progress: whether rank 0 shows a bar (a line now and then where stderr is no terminal).

        Raises:
            ConfigError: no item, or a rank outside the world.
            DataError: the store holds another number of items; ``compute`` gave tensors that do not fit; no
                space is left, or the folder cannot be written.
        """
        if count < 1 or not 0 <= rank < world_size:
            raise ConfigError(
                f"a store needs at least one item and a rank below the number of processes,"
                f" found {count} items, rank {rank} of {world_size}"
            )
        self._write_header(count)
        self._checked.clear()
        shards = sorted(range(self._shards), key=lambda shard: ((shard - rank) % world_size, shard))
        waiting = [shard for shard in shards if not self._sound(shard)]
        done = count - sum(self._items(shard) for shard in waiting)
        with progress_bar(self.path.name, count, done=done, shown=progress and rank == 0) as advance:
            while waiting:
                busy = []
                for shard in waiting:
                    if self._settle(shard, compute):
                        advance(self._items(shard))
                    else:
                        busy.append(shard)
                if len(busy) == len(waiting):
                    time.sleep(_POLL_SECONDS)
                waiting = busy

    def load(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """All items of the named tensors, ``(N, ...)`` each, in item order; all tensors if None.

        Raises:
            DataError: a shard is missing or damaged, or a name is unknown.
        """
        self._read_header()
        damaged = [shard for shard in range(self._shards) if not self._sound(shard)]
        if self.count is None or damaged:
            raise DataError(
                f"store {self.path} is not complete: {len(damaged)} of {self._shards} shards are missing or"
                f" damaged (first: {damaged[:3]}); run the command that makes it again, it continues"
            )
        known = self._signature(0)
        if odd := [shard for shard in range(self._shards) if self._signature(shard) != known]:
            raise DataError(
                f"store {self.path}: shards {odd[:3]} hold other tensors than shard 0; delete the folder and"
                " compute it again"
            )
        wanted = sorted(known) if names is None else list(names)
        if unknown := sorted(set(wanted) - set(known)):
            raise DataError(f"store {self.path} has no tensor {unknown}; it has {sorted(known)}")
        loaded: dict[str, Tensor] = {}
        for shard in range(self._shards):
            start = shard * self.shard_size
            with safe_open(self._file(shard), framework="pt") as mapped:
                for name in wanted:
                    part = mapped.get_tensor(name)
                    if name not in loaded:
                        loaded[name] = torch.empty((self.count, *part.shape[1:]), dtype=part.dtype)
                    loaded[name][start : start + len(part)] = part
        return loaded

    def verify(self) -> tuple[int, ...]:
        """Numbers of the shards that are missing or whose bytes are not those that were written."""
        self._checked.clear()
        return tuple(shard for shard in range(self._shards) if not self._sound(shard))

    def manifest(self) -> dict[int, ShardRecord]:
        """Shard number to record, of the finished shards."""
        records = {shard: self._record(shard) for shard in range(self._shards)}
        return {shard: record for shard, record in records.items() if record is not None}

    @property
    def _shards(self) -> int:
        return -(-(self.count or 0) // self.shard_size)

    def _items(self, shard: int) -> int:
        return min(self.count or 0, (shard + 1) * self.shard_size) - shard * self.shard_size

    def _file(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.safetensors"

    def _sidecar(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.json"

    def _record(self, shard: int) -> ShardRecord | None:
        try:
            record = ShardRecord(**json.loads(self._sidecar(shard).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        start = shard * self.shard_size
        return record if (record.start, record.stop) == (start, start + self._items(shard)) else None

    def _signature(self, shard: int) -> Mapping[str, Any]:
        record = self._record(shard)
        return {} if record is None else record.tensors

    def _sound(self, shard: int) -> bool:
        """Whether the shard's bytes are those written; looked at once, then remembered."""
        if shard in self._checked:
            return True
        record = self._record(shard)
        if record is None:
            return False
        try:
            if self._file(shard).stat().st_size != record.size:
                return False
            with self._file(shard).open("rb") as file:
                sound = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
        except OSError:
            return False
        if sound:
            self._checked.add(shard)
        return sound

    def _settle(self, shard: int, compute: Callable[[Sequence[int]], Mapping[str, Tensor]]) -> bool:
        """Make sure of one shard; False if another process is at it."""
        if self._sound(shard):
            return True
        with claim(self.path / f".shard-{shard:05d}.lock") as ours:
            if not ours:
                return False
            if self._sound(shard):
                return True
            if self._file(shard).exists() and self._sidecar(shard).exists():
                _logger.warning("%s is damaged: computing it again", self._file(shard))
            self._write_shard(shard, compute)
        return True

    def _write_shard(self, shard: int, compute: Callable[[Sequence[int]], Mapping[str, Tensor]]) -> None:
        start = shard * self.shard_size
        items = range(start, start + self._items(shard))
        tensors = {
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in compute(items).items()
        }
        signature = _signature_of(tensors, items)
        self._check_signature(signature, items)
        content = safetensors.torch.save(tensors)
        digest = hashlib.sha256(content).hexdigest()
        record = ShardRecord(items.start, items.stop, len(content), digest, signature)
        # While a shard is replaced it has no sidecar, so that old checksum and new bytes never meet.
        self._sidecar(shard).unlink(missing_ok=True)
        for left in self.path.glob(f".{self._file(shard).stem}.*.tmp"):
            left.unlink(missing_ok=True)
        write_whole(self._file(shard), content)
        write_whole(self._sidecar(shard), _pretty(asdict(record)))
        self._checked.add(shard)

    def _check_signature(self, signature: Mapping[str, Any], items: range) -> None:
        for shard in sorted(self._checked)[:1]:
            known = self._signature(shard)
            if known != signature:
                raise DataError(
                    f"store {self.path}: items {items.start}..{items.stop - 1} gave {signature},"
                    f" earlier items {known}; every item must have the same names, dtypes and shapes"
                )

    def _read_header(self) -> None:
        if not (self.path / "store.json").exists():
            return
        header = _read_header_file(self.path / "store.json")
        if header["key"] != self.key:
            raise DataError(
                f"store {self.path} was made with other settings: {mismatch(header['key'], self.key)}."
                " Use the settings and the classifier it was made with, or another folder: that is then"
                " computed anew"
            )
        self.count, self.shard_size = header["count"], header["shard_size"]

    def _write_header(self, count: int) -> None:
        self._read_header()
        if self.count is None:
            header = {"format": _FORMAT, "count": count, "shard_size": self.shard_size, "key": self.key}
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"cannot make the store folder {self.path}: {error.strerror}") from error
            with claim(self.path / ".store.lock", wait=True):
                if not (self.path / "store.json").exists():
                    write_whole(self.path / "store.json", _pretty(header))
            self._read_header()
        if self.count != count:
            raise DataError(
                f"store {self.path} holds {self.count} items, asked for {count}: put what decides the number"
                " of items into the key, or delete the folder"
            )


def _read_header_file(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"no feature store at {path.parent}: {path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete the folder and compute it again") from error
    fits = (
        isinstance(header, dict) and header.get("format") == _FORMAT and isinstance(header.get("key"), dict)
    )
    if not fits or not all(isinstance(header.get(name), int) for name in ("count", "shard_size")):
        raise DataError(f"{path} is not a feature store of format {_FORMAT}; delete it and compute it again")
    known: dict[str, Any] = header
    return known


def _signature_of(tensors: Mapping[str, Tensor], items: range) -> dict[str, Any]:
    wrong = {
        name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.shape[:1] != (len(items),)
    }
    if wrong or not tensors:
        raise DataError(
            f"computing {len(items)} items must give named tensors with {len(items)} rows each, found {wrong}"
        )
    return {
        name: [str(tensors[name].dtype).removeprefix("torch."), list(tensors[name].shape[1:])]
        for name in sorted(tensors)
    }


def _pretty(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
