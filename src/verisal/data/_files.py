"""Image files below a folder, and finding them again by the names that annotations use."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import final

from verisal.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "NameIndex", "existing_folder", "image_files", "image_id_of", "read_text"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def existing_folder(path: str | Path, what: str) -> Path:
    """The folder itself.

    Raises:
        DataError: there is none.
    """
    folder = Path(path)
    if not folder.is_dir():
        found = "is a file, no folder" if folder.is_file() else "no such folder"
        raise DataError(f"{folder}: {found}; expected {what}")
    return folder


def read_text(path: Path, what: str) -> str:
    """Content of a text file.

    Raises:
        DataError: it is missing, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}); expected {what}") from error


def image_files(root: Path) -> list[Path]:
    """Files with the suffix of an image below ``root``, in the order of their names; links are followed.

    Hidden files and folders are left out.

    Raises:
        DataError: a symbolic link leads back to a folder that it lies in, or a folder cannot be read.
    """
    return list(_walk(root, (os.path.realpath(root),)))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            real = os.path.realpath(path)
            if real in above:
                raise DataError(f"{path}: symbolic link back to {real}, a folder it lies in; remove the link")
            yield from _walk(path, (*above, real))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def image_id_of(path: Path, root: Path) -> str:
    """Path below ``root`` with forward slashes; bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


@final
class NameIndex:
    """Finds images by path, by file name, and by either of them without the suffix.

    Args:
        image_ids: paths below the folder of the images, with forward slashes.
    """

    def __init__(self, image_ids: Iterable[str]) -> None:
        self._paths: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        for image_id in image_ids:
            path = PurePosixPath(_plain(image_id))
            for key in {str(path), str(path.with_suffix(""))}:
                self._paths.setdefault(key, []).append(image_id)
            for key in {path.name, path.stem}:
                self._names.setdefault(key, []).append(image_id)

    def find(self, name: str, *, path_only: bool = False) -> list[str]:
        """Images that ``name`` may mean: one if all is well, none, or several of one name.

        Args:
            name: a path below the folder, or a file name, with or without the suffix.
            path_only: whether a file name alone must not match an image in another folder.
        """
        key = _plain(name.replace("\\", "/").strip())
        found = self._paths.get(key, [])
        return found if found or path_only else self._names.get(key.rpartition("/")[2], [])

    def problem(self, name: str) -> str:
        """Why ``name`` means no single image; empty if it does."""
        found = self.find(name)
        if not found:
            return f"names image {name!r}, which is not among the images"
        if len(found) > 1:
            return f"image {name!r} may be any of {', '.join(found)}; write its path below the folder"
        return ""


def _plain(name: str) -> str:
    # Some systems store accents apart from their letters.
    return unicodedata.normalize("NFC", name)
