"""Files below a folder: which are images, and finding them again by the names that annotations use.

What is missing, or cannot be read, is a DataError that names the path.
"""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

from verisal._files import left_behind
from verisal.data.arrays import ARRAY_SUFFIXES
from verisal.data.dicom import DICOM_SUFFIXES, holds_dicom
from verisal.data.pillow import holds_picture, image_suffixes
from verisal.data.readers.values import composed
from verisal.errors import DataError

# The longer marks first: that of UTF-32 starts with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def existing_folder(path: str | Path, what: str) -> Path:
    """The folder itself, which must be there; ``what`` is expected in it."""
    folder = Path(path)
    # The path's own methods raise for a name that is too long.
    if not os.path.isdir(folder):
        found = "is a file, no folder" if os.path.isfile(folder) else "no such folder"
        raise DataError(f"{folder}: {found}; expected {what}")
    return folder


def read_text(path: Path, what: str) -> str:
    """Content of a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark."""
    return text_of(read_content(path, what), path, what)


def read_content(path: Path, what: str) -> bytes:
    """Bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
    except ValueError as error:
        # A name with a null character, which no file has.
        raise DataError(f"{path}: cannot be read ({error}); expected {what}") from error


def text_of(content: bytes, path: Path, what: str, *, encoding: str = "utf-8") -> str:
    """Text of a file's bytes; a byte order mark counts more than ``encoding``."""
    marked = (name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark))
    used = next(marked, encoding)
    try:
        return content.decode(used)
    except LookupError as error:
        raise DataError(f"{path}: {error}; expected {what}, in UTF-8 for choice") from error
    except UnicodeError as error:
        raise DataError(
            f"{path}: is not {used.removesuffix('-sig').upper()} text ({error}); expected {what}"
        ) from error


@final
@dataclass(frozen=True)
class FoundImages:
    """Images in the order of their names, and kind of file to the number of those that are none."""

    root: Path
    paths: list[Path]
    left_out: Mapping[str, int]

    @property
    def by_id(self) -> dict[str, Path]:
        """Path below the root, as text, to the image."""
        return {image_id_of(path, self.root): path for path in self.paths}


def find_images(root: Path, *, without: Path | None = None, arrays: bool = True) -> FoundImages:
    """Images below ``root``, but for the file or folder ``without``; links are followed.

    A file is an image if the installed Pillow reads files with its suffix, in large or small letters, or if
    it is an array (``.npy``, ``.npz``) or a DICOM file (``.dcm``), or, without a suffix, if its first bytes
    are those of a picture or of DICOM.
    Hidden files and folders, and those that other systems leave behind, are left out and not counted. Without
    ``arrays``, only pictures are images.

    Raises:
        DataError: a symbolic link leads back to a folder that it lies in, or a folder cannot be read.
    """
    paths, left_out = list[Path](), Counter[str]()
    for path in _walk(
        root, (os.path.realpath(root),), None if without is None else os.path.realpath(without)
    ):
        kind = _no_image(path, arrays=arrays)
        if kind:
            left_out[kind] += 1
        else:
            paths.append(path)
    return FoundImages(root, paths, dict(left_out))


def left_out_words(left_out: Mapping[str, int]) -> str:
    """One line about the files that are no images, the most frequent kind first; empty if there are none."""
    if not left_out:
        return ""
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    listed = ", ".join(f"{count} {name}" for name, count in kinds)
    count = sum(left_out.values())
    files, them = ("file", "it") if count == 1 else ("files", "them")
    return f"{count} {files} left out, as Pillow reads no image in {them}: {listed}"


def no_image(folder: Path, left_out: Mapping[str, int]) -> DataError:
    """The error for a folder without an image, which says what lies there instead."""
    words = left_out_words(left_out)
    return DataError(
        f"folder {folder} holds no image (.png, .jpg or another that Pillow reads)"
        + (f"; {words}" if words else "")
    )


def files_with_suffix(root: Path, suffix: str) -> list[Path]:
    """Files below ``root``, as of :func:`find_images`, with this suffix in any letters."""
    return [path for path in _walk(root, (os.path.realpath(root),), None) if path.suffix.lower() == suffix]


def subfolders(root: Path) -> list[Path]:
    """Folders in ``root`` in the order of their names, but for those that other systems leave behind."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not left_behind(path.name))


def _walk(folder: Path, above: tuple[str, ...], without: str | None) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        path = folder / entry.name
        if left_behind(entry.name):
            continue
        if _is_folder(entry):
            real = os.path.realpath(path)
            if real in above:
                raise DataError(f"{path}: symbolic link back to {real}, a folder it lies in; remove the link")
            if real != without:
                yield from _walk(path, (*above, real), without)
        # No pipes and the like, from which nothing may ever come; a link to nothing is an unreadable image.
        elif (os.path.isfile(path) or not os.path.exists(path)) and not _is(path, without):
            yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A link that leads nowhere but to itself.
    except OSError:
        return False


def _is(path: Path, real: str | None) -> bool:
    return real is not None and path.name == os.path.basename(real) and os.path.realpath(path) == real


def _no_image(path: Path, *, arrays: bool) -> str:
    """Kind of a file; empty for an image."""
    suffix = path.suffix.lower()
    if suffix in image_suffixes() or (arrays and suffix in ARRAY_SUFFIXES | DICOM_SUFFIXES):
        return ""
    # Digits after a dot are the end of a name: photo.0001
    if suffix and not suffix[1:].isdigit():
        return suffix
    try:
        known = holds_picture(path) or (arrays and holds_dicom(path))
        return "" if known else "without suffix"
    except OSError as error:
        return f"without suffix ({error.strerror})"


def image_id_of(path: Path, root: Path) -> str:
    """Path below ``root`` with forward slashes, as text."""
    return path_text(path.relative_to(root).as_posix())


def path_text(path: str | Path) -> str:
    """A path as text that any file takes; bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@final
class NameIndex:
    """Images by their paths and file names, also without the suffix or with one in capitals."""

    def __init__(self, image_ids: Iterable[str]) -> None:
        self._paths: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        self._small_paths: dict[str, list[str]] = {}
        self._small_names: dict[str, list[str]] = {}
        self._folders = set[str]()
        for image_id in image_ids:
            path = PurePosixPath(composed(image_id))
            for key in {str(path), str(path.with_suffix(""))}:
                self._paths.setdefault(key, []).append(image_id)
            for key in {path.name, path.stem}:
                self._names.setdefault(key, []).append(image_id)
            self._small_paths.setdefault(_small(str(path)), []).append(image_id)
            self._small_names.setdefault(_small(path.name), []).append(image_id)
            self._folders.add(str(path.parent))
        self._folders.discard(".")

    def find(self, name: str, *, path_only: bool = False) -> list[str]:
        """Images that ``name`` may mean: one if all is well, none, or several of one name.

        It is a path below the folder, or a file name, with or without the suffix. Of a path that begins
        elsewhere, as on another machine, the longest end counts that is the path of an image. Its file name
        alone counts only if no end of its folders is a folder of images: that folder then lacks the image,
        and one of the same name in another folder is another image. With ``path_only`` a file name alone
        matches no image in another folder.
        """
        written = composed(name.strip())
        # Windows writes paths with backslashes; those of a name with bytes that are no text are its own.
        key = written if written in self._paths else written.replace("\\", "/")
        parts = key.split("/")
        for start in range(1 if path_only else max(len(parts) - 1, 1)):
            end = "/".join(parts[start:])
            if found := self._paths.get(end) or self._small_paths.get(_small(end)):
                return found
        alone, folders = parts[-1], ("/".join(parts[start:-1]) for start in range(len(parts) - 1))
        if path_only or any(folder in self._folders for folder in folders):
            return []
        return self._names.get(alone) or self._small_names.get(_small(alone), [])

    def one(self, name: str) -> str:
        """The image that ``name`` means; DataError if it means none or several."""
        if problem := self.problem(name):
            raise DataError(problem)
        return self.find(name)[0]

    def problem(self, name: str) -> str:
        """Reason why ``name`` means no single image; empty if it does."""
        found = self.find(name)
        if not found:
            return f"names image {name!r}, which is not among the images"
        if len(found) > 1:
            return f"image {name!r} may be any of {', '.join(found)}; write its path below the folder"
        return ""


def _small(name: str) -> str:
    """The name with its suffix in small letters."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}{dot}{suffix.lower()}" if dot and "/" not in suffix else name
