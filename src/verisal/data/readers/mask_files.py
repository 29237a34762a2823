"""Masks from pictures that lie in a folder of their own."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from verisal.data._files import NameIndex, find_images, image_id_of
from verisal.data.readers.listing import Annotations, ObjectRecord, Problem
from verisal.data.readers.mask_sources import IndexMask

__all__ = ["find_mask_files"]


def find_mask_files(folder: Path, names: NameIndex) -> tuple[Annotations, dict[str, IndexMask]]:
    """Masks of objects, and pictures that number objects, by image.

    ``cat/a.png`` belongs to the image ``cat/a`` of any suffix and numbers its objects: 0 is no object, 255 is
    not known. Pictures ``cat/a/*.png`` or ``cat/a_*.png`` are one object each, wherever they are not 0.
    """
    found, numbered = Annotations(), dict[str, IndexMask]()
    files = find_images(folder)
    found.left_out = files.left_out
    if not files.paths:
        found.problems.append(Problem(str(folder), "holds no mask picture"))
    for path in files.paths:
        name = str(PurePosixPath(image_id_of(path, folder)).with_suffix(""))
        owner, whole = _owner(name, names)
        if owner is None:
            found.problems.append(Problem(str(path), names.problem(name), entry=True))
        elif whole:
            if (first := numbered.setdefault(owner, IndexMask(path)).path) != path:
                found.problems.append(Problem(str(path), f"is the mask of {owner}, as {first} is", owner))
        else:
            found.add(owner, ObjectRecord(str(path), mask=IndexMask(path)))
    return found, numbered


def _owner(name: str, names: NameIndex) -> tuple[str | None, bool]:
    """The image that a mask belongs to, and whether the mask is of all of its objects."""
    part = name.rpartition("_")[0]
    guesses = (
        *((name, True, True), (name.rpartition("/")[0], True, False), (part, True, False)),
        *((name, False, True), (part, False, False)),
    )
    for guess, path_only, whole in guesses:
        if len(found := names.find(guess, path_only=path_only)) == 1:
            return found[0], whole
    return None, False
