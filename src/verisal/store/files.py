"""The files of a store, in a folder or behind a URL: each appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, final
from uuid import uuid4

import fsspec
import safetensors.torch
from filelock import FileLock, Timeout
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from verisal._files import write_atomic
from verisal.errors import ConfigError, DataError

_HIDDEN = re.compile(r"\.(store|shard-\d+)\.")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TRIES = 5


@final
class StoreFiles:
    """Files of one folder, by name. What cannot be read or written raises DataError in one sentence.

    Args:
        root: path or URL of what holds the folder.
        name: of the folder, which the first claim makes.

    Raises:
        ConfigError: a URL of a protocol that is not known, or whose driver is not installed.
    """

    pause: ClassVar[float] = 0.2
    """Seconds between two looks at what other processes work at."""

    def __init__(self, root: Path | str, name: str) -> None:
        self._last_read = ("", b"")
        self._fs: fsspec.AbstractFileSystem = LocalFileSystem()
        self.folder = None if is_url(root) else Path(root) / name
        if self.folder is not None:
            self.location = str(self.folder)
            self._place = str(self.folder.absolute())
            return
        url = f"{root}{'' if str(root).endswith('/') else '/'}{name}"
        # A password in the address is nobody's business but the driver's.
        self.location = re.sub(r"//[^/@]*@", "//", url)
        try:
            self._fs, self._place = url_to_fs(url)
        except ImportError as error:
            raise ConfigError(
                f"the driver of {self.location} is not installed: {_first_line(error)}; add it with pip"
            ) from error
        except Exception as error:
            raise ConfigError(f"{self.location} cannot be a store: {_first_line(error)}") from error
        # Others copy and remove, which is no better than writing at once: a put shows files whole.
        self._renames = type(self._fs).mv is not fsspec.AbstractFileSystem.mv
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"

    @property
    def locks(self) -> bool:
        """True if a claim keeps other processes out."""
        return self.folder is not None

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError or NotADirectoryError where there is none."""
        with self._told("read", name):
            if self.folder is not None:
                # A store has thousands of small files, of which the driver takes three times as long.
                return (self.folder / name).read_bytes()
            content: bytes = self._fs.cat_file(self._path(name))
            return content

    def names(self) -> frozenset[str]:
        """Names of all files of the folder; none where there is no folder."""
        with self._told("list", ""):
            try:
                if self.folder is not None:
                    return frozenset(os.listdir(self.folder))
                self._fs.invalidate_cache(self._place)
                paths = self._fs.ls(self._place, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return frozenset()
            return frozenset(str(path).rpartition("/")[2] for path in paths)

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
        """Write a file under another name, where the file system can rename it, then give it its own."""
        with self._told("write", name, len(content)):
            if self.folder is not None:
                write_atomic(self.folder / name, content)
            elif self._renames:
                self._put(name, content)
            else:
                self._fs.pipe_file(self._path(name), content)

    def _put(self, name: str, content: bytes) -> None:
        temporary = self._path(f".{name}.{self._owner}.tmp")
        for attempt in range(1, _TRIES + 1):
            try:
                self._fs.pipe_file(temporary, content)
                self._fs.mv(temporary, self._path(name))
                return
            except BaseException as error:
                with suppress(Exception):
                    self._fs.rm_file(temporary)
                # Another process has finished the store meanwhile, and tidied up.
                if not isinstance(error, FileNotFoundError) or attempt == _TRIES:
                    raise

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError), self._told("remove", name):
            self._fs.rm_file(self._path(name))

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Keep others from making the same file, and make the folder; False if another is at it.

        In a folder the claim is a lock, which the operating system ends with its process, however that dies.
        Behind a URL nobody is kept out.
        """
        try:
            with self._told("make", ""):
                self._fs.makedirs(self._place, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise DataError(f"cannot make the store folder {self.location}: {error.strerror}") from error
        if self.folder is None:
            yield True
            return
        path = self.folder / f".{name}.lock"
        lock = FileLock(path, blocking=False, fallback_to_soft=False)
        try:
            with self._told("write", path.name):
                lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            lock.release()

    def tidy(self) -> None:
        """Remove the pieces of files and the locks that killed processes left beside a store that is whole.

        In a folder, what a live process claims stays. Behind a URL a live process writes its piece again.
        What cannot be removed stays, and harms nobody.
        """
        with suppress(DataError, OSError):
            for name in sorted(self.names()):
                if piece := _HIDDEN.match(name):
                    with self.claim(piece[1]) as ours:
                        # The lock's own file goes with the claim.
                        if ours and not name.endswith(".lock"):
                            self.remove(name)

    def _path(self, name: str) -> str:
        return f"{self._place.rstrip('/')}/{name}"

    @contextmanager
    def _told(self, doing: str, name: str, size: int = 0) -> Iterator[None]:
        """Turn what drivers raise, which has no common class, into one sentence."""
        place = f"{self.location}/{name}" if name else self.location
        try:
            yield
        except (FileNotFoundError, FileExistsError, NotADirectoryError, Timeout, DataError):
            raise
        except PermissionError as error:
            raise DataError(f"no permission to {doing} {place}: {_reason(error)}") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise DataError(
                    f"no space left to write {place} ({size / 1e6:.1f} MB): free some or choose another"
                    " folder; finished shards are kept and the next run continues from them"
                ) from error
            kept = "; finished shards are kept" if doing == "write" else ""
            raise DataError(f"cannot {doing} {place}: {_reason(error)}{kept}") from error


def split_location(path: Path | str) -> tuple[str, str]:
    """Root and folder name of a path or URL.

    >>> split_location("memory://maps"), split_location("/tmp/store/maps")
    (('memory://', 'maps'), ('/tmp/store/', 'maps'))
    """
    whole = str(path).rstrip("/") if is_url(path) else str(Path(path).absolute())
    root, slash, name = whole.rpartition("/")
    return root + slash, name


def is_url(path: Path | str) -> bool:
    """True for a URL, false for a path."""
    return isinstance(path, str) and "://" in path


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
