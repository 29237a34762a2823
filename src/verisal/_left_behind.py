"""Files and folders that desktops, servers and editors leave beside those of a person."""

from __future__ import annotations

__all__ = ["left_behind"]

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
    """Whether a file or folder of this name is nobody's.

    >>> [name for name in ("._last.ckpt", ".DS_Store", "Thumbs.db", "last.ckpt") if left_behind(name)]
    ['._last.ckpt', '.DS_Store', 'Thumbs.db']
    """
    small = name.casefold()
    # Windows keeps where a file came from in a stream behind a colon, which becomes a file elsewhere.
    return small.startswith((".", "~$")) or small in _NAMES or small.endswith(":zone.identifier")
