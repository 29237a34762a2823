"""The files of a store: whole or not at all, and claimed by the process that makes them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, final

from safetensors import safe_open
from torch import Tensor

from verisal._whole_files import write_atomic
from verisal.errors import DataError

__all__ = ["LocalFiles", "StoreFiles", "files_at", "split_location", "write_error"]

_HIDDEN = re.compile(r"\.(store|shard-\d+)\.")
_CLAIMS = (".lock", ".lease")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoreFiles(ABC):
    """Files of one folder, by name. What cannot be read or written raises DataError in one sentence.

    Args:
        location: path or URL of the folder, for messages.
    """

    pause: ClassVar[float]
    """Seconds between two looks at what other processes work at."""

    def __init__(self, location: str) -> None:
        self.location = location

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError where there is none."""

    @abstractmethod
    def checksum(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a file; FileNotFoundError where there is none."""

    @abstractmethod
    def load(self, name: str, tensors: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors of a safetensors file."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, which appears whole; only who claims it writes it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Keep others from making the same file, and make the folder; gives whether the claim is ours."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all files, hidden ones too."""

    def tidy(self) -> None:
        """Remove what killed processes left: pieces of files, locks and leases.

        Whoever writes a file claims it, so that what is removed under the same claim is of no live process.
        What cannot be removed stays, and harms nobody.
        """
        left: dict[str, list[str]] = {}
        with suppress(DataError, OSError):
            for name in self.names():
                if found := _HIDDEN.match(name):
                    left.setdefault(found[1], []).append(name)
        for claimed, names in left.items():
            with suppress(DataError, OSError), self.claim(claimed) as ours:
                for name in names:
                    # The claim's own file goes with the claim.
                    if ours and not name.endswith(_CLAIMS):
                        self.remove(name)


@final
class LocalFiles(StoreFiles):
    """A folder of this machine, or one that it shares by a file system with locks.

    A claim is a lock, which the operating system ends with its process, however that dies.

    Args:
        folder: its path; made by the first claim.
    """

    pause = 0.2

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return (self.folder / name).read_bytes()

    def checksum(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a file."""
        with (self.folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest

    def load(self, name: str, tensors: Sequence[str]) -> dict[str, Tensor]:
        """The named tensors, mapped into memory."""
        with safe_open(self.folder / name, framework="pt") as mapped:
            return {tensor: mapped.get_tensor(tensor) for tensor in tensors}

    def write(self, name: str, content: bytes) -> None:
        """Write a file under another name, then give it its own."""
        path = self.folder / name
        try:
            write_atomic(path, content)
        except OSError as error:
            raise write_error(str(path), len(content), error) from error

    def names(self) -> list[str]:
        """Names of all files, hidden ones too."""
        return os.listdir(self.folder)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold an exclusive lock; False only where another process holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the store folder {self.folder}: {error.strerror}") from error
        path = self.folder / f".{name}.lock"
        descriptor = _lock(path)
        if descriptor is None:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise write_error(str(path), 0, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder removed its file: a lock on a file that nobody else can open excludes nobody.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(descriptor)
            raise write_error(str(path), 0, error) from error
        os.close(descriptor)


def write_error(location: str, size: int, error: OSError) -> DataError:
    """What a user can do about a write that failed."""
    if error.errno in _FULL:
        return DataError(
            f"no space left to write {location} ({size / 1e6:.1f} MB): free some or choose another folder;"
            " finished shards are kept and the next run continues from them"
        )
    return DataError(f"cannot write {location}: {error.strerror or error}; finished shards are kept")


def files_at(root: Path | str, folder: str) -> StoreFiles:
    """The files of a folder below ``root``, a path or a URL.

    Raises:
        ConfigError: a URL of a protocol that is not known, or whose driver is not installed.
    """
    if not _is_url(root):
        return LocalFiles(Path(root) / folder)
    # Most stores are folders, and need no fsspec.
    from verisal.store.remote import RemoteFiles

    return RemoteFiles(f"{root}{'' if str(root).endswith('/') else '/'}{folder}")


def split_location(path: Path | str) -> tuple[str, str]:
    """Root and folder name of a path or URL.

    >>> split_location("memory://maps"), split_location("/tmp/store/maps")
    (('memory://', 'maps'), ('/tmp/store/', 'maps'))
    """
    whole = str(path).rstrip("/") if _is_url(path) else str(Path(path).absolute())
    root, slash, name = whole.rpartition("/")
    return root + slash, name


def _is_url(path: Path | str) -> bool:
    return isinstance(path, str) and "://" in path
