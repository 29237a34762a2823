"""The files of a store behind a URL, on any file system that fsspec knows, locks or none."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import final
from uuid import uuid4

import fsspec
import safetensors.torch
from fsspec.core import url_to_fs
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.store.files import StoreFiles, write_error

__all__ = ["RemoteFiles"]

_LEASE_SECONDS = 60.0
_BEATS_PER_LEASE = 6


@final
class RemoteFiles(StoreFiles):
    """A folder behind a URL.

    A claim is a lease: a file that its owner rewrites as long as it works. One that stays the same for a
    minute, by the clock of who watches it, belongs to a process that is gone, and is taken over. Where two
    take the same lease at once both do the work, and the later one finds it done or writes it again; a file
    is never wrong by it, since a shard counts only with its checksum.

    Args:
        url: of the folder.

    Raises:
        ConfigError: a protocol that is not known, or whose driver is not installed.
    """

    pause = 1.0

    def __init__(self, url: str) -> None:
        # A password in the address is nobody's business but the driver's.
        super().__init__(re.sub(r"//[^/@]*@", "//", url))
        try:
            self._fs: fsspec.AbstractFileSystem
            self._fs, self._folder = url_to_fs(url)
        except ImportError as error:
            raise ConfigError(
                f"the driver of {self.location} is not installed: {_first_line(error)}; add it with pip"
            ) from error
        except Exception as error:
            raise ConfigError(f"{self.location} cannot be a store: {_first_line(error)}") from error
        # Others copy and remove, which is no better than writing at once: a put shows files whole.
        self._renames = type(self._fs).mv is not fsspec.AbstractFileSystem.mv
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._watched: dict[str, tuple[bytes | None, float]] = {}
        self._last_read = ("", b"")

    def read(self, name: str) -> bytes:
        """Content of a file."""
        with self._told("read", name):
            content: bytes = self._fs.cat_file(self._path(name))
            return content

    def checksum(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a file; what was read is kept for :meth:`load`."""
        content = self.read(name)
        self._last_read = (name, content)
        return len(content), hashlib.sha256(content).hexdigest()

    def load(self, name: str, tensors: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors, of the very bytes whose checksum was taken last, if they are this file's."""
        content = self._last_read[1] if self._last_read[0] == name else self.read(name)
        self._last_read = ("", b"")
        loaded = safetensors.torch.load(content)
        return {tensor: loaded[tensor] for tensor in tensors}

    def write(self, name: str, content: bytes) -> None:
        """Write a file; under another name first, where the file system can rename it."""
        with self._told("write", name, len(content)):
            if not self._renames:
                self._fs.pipe_file(self._path(name), content)
                return
            try:
                self._put(name, content)
            except FileNotFoundError:
                # Who took the lease over has done the work and tidied up.
                self._put(name, content)

    def _put(self, name: str, content: bytes) -> None:
        temporary = self._path(f".{name}.{self._owner}.tmp")
        try:
            self._fs.pipe_file(temporary, content)
            self._fs.mv(temporary, self._path(name))
        except BaseException:
            with suppress(Exception):
                self._fs.rm_file(temporary)
            raise

    def names(self) -> list[str]:
        """Names of all files, hidden ones too."""
        with self._told("list", ""):
            self._fs.invalidate_cache(self._folder)
            return [str(path).rpartition("/")[2] for path in self._fs.ls(self._folder, detail=False)]

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError), self._told("remove", name):
            self._fs.rm_file(self._path(name))

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold a lease; False where another process seems to hold it."""
        lease = f".{name}.lease"
        with self._told("make", ""):
            self._fs.makedirs(self._folder, exist_ok=True)
        if not self._taken(lease):
            yield False
            return
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(lease, done), daemon=True)
        heart.start()
        try:
            yield True
        finally:
            done.set()
            heart.join()
            # A lease that stays behind lapses.
            with suppress(OSError, DataError):
                if self._is_ours(lease):
                    self.remove(lease)

    def _taken(self, lease: str) -> bool:
        try:
            held = self.read(lease)
        except FileNotFoundError:
            if not self._created(lease):
                return False
        else:
            now = time.monotonic()
            seen, since = self._watched.get(lease, (None, now))
            if seen != held:
                self._watched[lease] = (held, now)
            if seen != held or now - since < _LEASE_SECONDS:
                return False
            self._renew(lease)
        # Of two that wrote at once the later one has it.
        return self._is_ours(lease)

    def _created(self, lease: str) -> bool:
        with self._told("write", lease):
            try:
                self._fs.pipe_file(self._path(lease), self._signed(), mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError, ValueError):
                self._renew(lease)
        return True

    def _beat(self, lease: str, done: threading.Event) -> None:
        while not done.wait(_LEASE_SECONDS / _BEATS_PER_LEASE):
            # A beat that is lost is made up by the next one.
            with suppress(OSError, DataError):
                if not self._is_ours(lease):
                    return
                self._renew(lease)

    def _renew(self, lease: str) -> None:
        with self._told("write", lease):
            self._fs.pipe_file(self._path(lease), self._signed())

    def _is_ours(self, lease: str) -> bool:
        try:
            found = json.loads(self.read(lease))
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(found, dict) and found.get("owner") == self._owner

    def _signed(self) -> bytes:
        return json.dumps({"owner": self._owner, "time": time.time()}).encode()

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"

    @contextmanager
    def _told(self, doing: str, name: str, size: int = 0) -> Iterator[None]:
        """Turn what drivers raise, which has no common class, into one sentence."""
        place = f"{self.location}/{name}" if name else self.location
        try:
            yield
        except (FileNotFoundError, FileExistsError, DataError):
            raise
        except PermissionError as error:
            raise DataError(f"no permission to {doing} {place}: {_first_line(error)}") from error
        except OSError as error:
            if doing == "write":
                raise write_error(place, size, error) from error
            raise DataError(f"cannot {doing} {place}: {_first_line(error)}") from error
        except Exception as error:
            raise DataError(f"cannot {doing} {place}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
