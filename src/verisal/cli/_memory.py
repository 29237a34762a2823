"""Memory that networks free and ask for again at once, kept by the process in between."""

from __future__ import annotations

import ctypes
import sys

# Options of glibc's mallopt, of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Have the C library keep large blocks that are freed, and say whether it will.

    It maps each large block anew and gives it back when it is freed, so that every activation of every pass
    is zeroed by the kernel page by page: a third of the time of a small pass on the CPU. Kept, the memory of
    one pass serves the next, and the most that is used at once stays the same. Other C libraries are left as
    they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
    return all(mallopt(option, value) == 1 for option, value in settings.items())
