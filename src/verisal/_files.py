"""Files that appear whole or not at all, and those that a killed process or another system leaves behind."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

#: File in the folder of a run with its identifier, and with the weights that it tested.
RUN_RECORD = "run.json"


def write_atomic(path: Path | str, content: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all, at once or part by part: a temporary file beside it, then a rename.

    The temporary file is locked as long as its process writes it. One that nobody holds was left by a process
    that was killed, and the next that writes the same file makes its own of it.

    Raises:
        OSError: no space, no permission; the earlier file is untouched and no temporary file is left.
    """
    target = Path(path)
    handle, temporary = _locked_temporary(target)
    with os.fdopen(handle, "wb") as file:
        try:
            os.ftruncate(handle, 0)
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _locked_temporary(target: Path) -> tuple[int, Path]:
    """The first of ``.name.0.tmp``, ``.name.1.tmp``, ... that no process holds."""
    number = 0
    while True:
        temporary = target.with_name(f".{target.name}.{number}.tmp")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have renamed it before it was locked.
            if os.path.samestat(os.fstat(handle), temporary.stat()):
                return handle, temporary
        except BlockingIOError:
            number += 1
        except FileNotFoundError:
            pass
        except OSError:
            # A file system without locks: nobody can tell a stale file there, so each has a name of its own.
            os.close(handle)
            temporary.unlink(missing_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
            os.fchmod(handle, 0o666 & ~_umask())
            return handle, Path(name)
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


# Besides hidden files, in small letters.
_NAMES = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini"),
        *("__macosx", "network trash folder", "temporary items", "__pycache__"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("lost+found", "$recycle.bin", "system volume information"),
    }
)


def left_behind(name: str) -> bool:
    """True for the name of a file or folder that a system or editor left behind.

    >>> [name for name in ("._last.ckpt", ".DS_Store", "Thumbs.db", "last.ckpt") if left_behind(name)]
    ['._last.ckpt', '.DS_Store', 'Thumbs.db']
    """
    small = name.casefold()
    # Windows keeps where a file came from in a stream behind a colon, which becomes a file elsewhere.
    return small.startswith((".", "~$")) or small in _NAMES or small.endswith(":zone.identifier")
