"""Files that appear whole or not at all, and nothing beside them that a killed process leaves behind."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["write_atomic"]


def write_atomic(path: Path | str, content: bytes) -> None:
    """Write a file whole or not at all: a temporary file in the same folder, then a rename.

    The temporary file is locked as long as its process writes it. One that nobody holds was left by a process
    that was killed, and is removed by the next that writes the same file.

    Raises:
        OSError: no space, no permission; the earlier file is untouched and no temporary file is left.
    """
    target = Path(path)
    _remove_stale(target)
    handle, temporary = _locked_temporary(target)
    with os.fdopen(handle, "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _locked_temporary(target: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix=_SUFFIX)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(name)):
                return handle, Path(name)
        # Before it was locked another process took it for stale.
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            # A file system without locks: nobody can tell what is stale there, so nobody removes anything.
            return handle, Path(name)
        os.close(handle)


def _remove_stale(target: Path) -> None:
    for entry in os.scandir(target.parent):
        if entry.name.startswith(_prefix(target)) and entry.name.endswith(_SUFFIX):
            # Locked by a writer, gone meanwhile, of another user, or without locks: not ours to remove.
            with suppress(OSError):
                handle = os.open(entry.path, os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
                finally:
                    os.close(handle)


_SUFFIX = ".tmp"


def _prefix(target: Path) -> str:
    return f".{target.name}."


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
