"""Tensors computed once per item and kept on disk: checked, resumable, shared by processes and hosts."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, final

import safetensors.torch
import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.fingerprint import canonical
from verisal.functional.seeding import derive_seed
from verisal.progress import Advance, progress_bar
from verisal.store.files import StoreFiles, split_location
from verisal.store.record import HEADER, ShardRecord, mismatch, read_header, signature_of, write_header

_logger = logging.getLogger(__name__)


@final
class FeatureStore:
    """Named tensors for items 0..N-1, computed once, in shards of a fixed number of items.

    The folder is named by a hash of ``key``, so other settings never read or overwrite it. It holds
    ``store.json`` (key, number of items, shard size) and per shard a safetensors file with a JSON sidecar
    (its checksum); the sidecars together are the manifest, and a shard without one does not count. Files
    appear whole or not at all, so a run may be killed at any moment and continued by calling :meth:`fill`
    again.

    Args:
        root: folder that holds stores, a path or a URL such as ``s3://bucket/folder``; made when the store
            is filled. Processes that fill a store by path need file locks; by URL they do not.
        key: everything that the values depend on (checksum of the classifier, data, attack and mask
            settings), as plain data: text, numbers, booleans, None, and lists and mappings of these.
        prefix: readable start of the folder name.
        shard_size: items per shard; a store that exists keeps its own. Never changes a value.
        folder: name of the folder, where it is not to follow from the key.

    Raises:
        ConfigError: a key that is not plain data, a prefix that is no plain word, a shard size below 1, a
            URL of a protocol that is not known or whose driver is not installed.
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
        self.name = folder or f"{prefix}-{digest}"
        self._words = f"filling the store {folder or prefix}"
        self.shard_size = shard_size
        self.count: int | None = None
        self._files = StoreFiles(root, self.name)
        self._checked: dict[int, ShardRecord] = {}
        self._read_header()

    @classmethod
    def open(cls, path: Path | str, *, expect: Mapping[str, Any] | None = None) -> Self:
        """Open a store by the path or URL of its folder.

        ``expect`` is the key that it must have been made with, for one with the checksum of the classifier in
        use.

        Raises:
            DataError: no store there, or one made with another key; names every entry that differs.
        """
        root, name = split_location(path)
        header = read_header(StoreFiles(root, name))
        if header is None:
            raise DataError(f"no feature store at {path}: {HEADER} is missing")
        return cls(root, key=header["key"] if expect is None else expect, folder=name)

    @property
    def location(self) -> str:
        """Path or URL of the folder."""
        return self._files.location

    @property
    def path(self) -> Path:
        """The folder; ConfigError where the store is behind a URL."""
        if self._files.folder is None:
            raise ConfigError(f"store {self.location} is no folder of this machine")
        return self._files.folder

    @property
    def complete(self) -> bool:
        """True if every shard is there with the bytes that were written; a sound one is read once."""
        self._read_header()
        return self.count is not None and all(self._sound(shard) for shard in range(self._shards))

    def fill(
        self,
        compute: Callable[[Sequence[int]], Mapping[str, Tensor]],
        count: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        progress: bool | Advance = True,
    ) -> None:
        """Compute every shard that is missing or damaged; the store is complete and checked on return.

        What other processes write meanwhile is checked when it is loaded: each of them would read all else.

        Several processes may fill one store: each first takes its share (shards ``rank``, ``rank +
        world_size``, ...), then what is missing of the others', and returns when all is done. In a folder a
        shard at work is locked, with a lock that ends with its process. Behind a URL a process waits as long
        as its slowest shard took before it makes one of another's share, which then may be made twice.

        Args:
            compute: takes the numbers of some items, gives named tensors ``(len(items), ...)``. A tensor's
                values must depend on its item alone.
            count: number of items N.
            rank: of this process.
            world_size: number of processes.
            progress: whether rank 0 shows a bar (a line now and then where stderr is no terminal); or what is
                told of the items, in the place of a bar.

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
        shards = range(self._shards)
        own, others = shards[rank::world_size], [shard for shard in shards if shard % world_size != rank]
        # In another order for each, so that those who are done meet at few shards.
        others.sort(key=lambda shard: derive_seed(rank, shard))
        there = self._files.names()
        fresh = {shard for shard in shards if _sidecar(shard) not in there}
        waiting = [shard for shard in (*own, *others) if shard in fresh or not self._sound(shard)]
        done = count - sum(len(self._items(shard)) for shard in waiting)
        with ExitStack() as shown:
            if isinstance(progress, bool):
                bar = progress_bar(self._words, count, done=done, shown=progress and rank == 0)
                advance: Advance = shown.enter_context(bar)
            else:
                advance = progress
            slowest, since = 0.0, time.monotonic()
            while waiting:
                busy, there = [], self._files.names()
                for shard in waiting:
                    known = _sidecar(shard) in there if shard in fresh else self._sound(shard)
                    start, mine, made = time.monotonic(), shard in own, not known
                    may = mine or self._files.locks or start - since >= slowest
                    if made and not (may and self._settle(shard, compute, fresh=shard in fresh)):
                        busy.append(shard)
                        continue
                    advance(len(self._items(shard)))
                    if mine or not made:
                        since = time.monotonic()
                    if mine:
                        slowest = max(slowest, since - start)
                if len(busy) == len(waiting):
                    time.sleep(self._files.pause)
                waiting = busy
        self._files.tidy()

    def load(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """All items of the named tensors, ``(N, ...)`` each, in item order; all tensors if None.

        Raises:
            DataError: a shard is missing or damaged, or a name is unknown.
        """
        self._read_header()
        records = self.manifest()
        known = records[0].tensors if 0 in records else {}
        if odd := [shard for shard, record in records.items() if known and record.tensors != known]:
            raise DataError(
                f"store {self.location}: shards {odd[:3]} hold other tensors than shard 0; delete the folder"
                " and compute it again"
            )
        wanted = sorted(known) if names is None else list(names)
        if known and (unknown := sorted(set(wanted) - set(known))):
            raise DataError(f"store {self.location} has no tensor {unknown}; it has {sorted(known)}")
        loaded: dict[str, Tensor] = {}
        damaged = []
        for shard in range(self._shards):
            if not self._sound(shard):
                damaged.append(shard)
            elif not damaged:
                items = self._items(shard)
                for name, part in self._files.load(_file(shard), wanted).items():
                    if name not in loaded:
                        loaded[name] = torch.empty((self.count or 0, *part.shape[1:]), dtype=part.dtype)
                    loaded[name][items.start : items.stop] = part
        if self.count is None or damaged:
            raise DataError(
                f"store {self.location} is not complete: {len(damaged)} of {self._shards} shards are missing"
                f" or damaged (first: {damaged[:3]}); run the command that makes it again, it continues"
            )
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

    def _items(self, shard: int) -> range:
        start = shard * self.shard_size
        return range(start, min(self.count or 0, start + self.shard_size))

    def _record(self, shard: int) -> ShardRecord | None:
        known = self._checked.get(shard)
        return known or ShardRecord.read(self._files, _sidecar(shard), self._items(shard))

    def _sound(self, shard: int) -> bool:
        """True if the shard's bytes are those written; looked at once, then remembered."""
        if shard in self._checked:
            return True
        record = self._record(shard)
        if record is None:
            return False
        try:
            sound = self._files.checksum(_file(shard)) == (record.size, record.sha256)
        except OSError:
            return False
        if sound:
            self._checked[shard] = record
        return sound

    def _settle(
        self, shard: int, compute: Callable[[Sequence[int]], Mapping[str, Tensor]], *, fresh: bool
    ) -> bool:
        """Make one shard unless another process has made it; False if another is at it.

        Of one that is ``fresh``, which was not there before, a record is enough.
        """
        with self._files.claim(f"shard-{shard:05d}") as ours:
            if not ours:
                return False
            record = self._record(shard)
            if record is not None and (fresh or self._sound(shard)):
                return True
            if record is not None:
                _logger.warning("%s/%s is damaged: computing it again", self.location, _file(shard))
            self._write_shard(shard, compute)
        return True

    def _write_shard(self, shard: int, compute: Callable[[Sequence[int]], Mapping[str, Tensor]]) -> None:
        items = self._items(shard)
        tensors = {
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in compute(items).items()
        }
        signature = signature_of(tensors, items)
        self._check_signature(signature, items)
        # Where no lock kept others out, what another made meanwhile is as good.
        if self._sound(shard):
            return
        content = safetensors.torch.save(tensors)
        # While a shard is replaced it has no sidecar, so that old checksum and new bytes never meet.
        self._files.remove(_sidecar(shard))
        self._files.write(_file(shard), content)
        record = ShardRecord.of(content, items, signature)
        record.write(self._files, _sidecar(shard))
        self._checked[shard] = record

    def _check_signature(self, signature: Mapping[str, Any], items: range) -> None:
        for record in list(self._checked.values())[:1]:
            known = record.tensors
            if known != signature:
                raise DataError(
                    f"store {self.location}: items {items.start}..{items.stop - 1} gave {signature},"
                    f" earlier items {known}; every item must have the same names, dtypes and shapes"
                )

    def _read_header(self) -> None:
        header = read_header(self._files)
        if header is None:
            return
        if header["key"] != self.key:
            raise DataError(
                f"store {self.location} was made with other settings: {mismatch(header['key'], self.key)}."
                " Use the settings and the classifier it was made with, or another folder: that is then"
                " computed anew"
            )
        self.count, self.shard_size = header["count"], header["shard_size"]

    def _write_header(self, count: int) -> None:
        self._read_header()
        while self.count is None:
            with self._files.claim("store") as ours:
                self._read_header()
                if ours and self.count is None:
                    write_header(self._files, count=count, shard_size=self.shard_size, key=self.key)
                    self.count = count
            if not ours and self.count is None:
                time.sleep(self._files.pause)
        if self.count != count:
            raise DataError(
                f"store {self.location} holds {self.count} items, asked for {count}: put what decides the"
                " number of items into the key, or delete the folder"
            )


def _file(shard: int) -> str:
    return f"shard-{shard:05d}.safetensors"


def _sidecar(shard: int) -> str:
    return f"shard-{shard:05d}.json"
