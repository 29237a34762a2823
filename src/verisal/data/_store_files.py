"""Files that appear whole or not at all, and claims that end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from verisal.errors import DataError

__all__ = ["claim", "write_whole"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold an exclusive lock on a file; the operating system ends it with the process, however that dies.

    Args:
        path: the file; it is made, and removed afterwards.
        wait: whether to wait for another holder.

    Yields:
        Whether the claim is ours; False only where another process holds it.

    Raises:
        DataError: the file cannot be made or locked.
    """
    descriptor = _lock(path, wait=wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in the folder of ``path`` under another name, then give it its own.

    Raises:
        DataError: no space, or the folder cannot be written; nothing half-written is left.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _write_error(path, len(content), error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _lock(path: Path, *, wait: bool) -> int | None:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _write_error(path, 0, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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
            raise _write_error(path, 0, error) from error
        os.close(descriptor)


def _write_error(path: Path, size: int, error: OSError) -> DataError:
    if error.errno in _FULL:
        return DataError(
            f"no space left to write {path} ({size / 1e6:.1f} MB): free some or choose another folder;"
            " finished shards are kept and the next run continues from them"
        )
    return DataError(f"cannot write {path}: {error.strerror}; finished shards are kept")
