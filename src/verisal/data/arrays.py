"""Files of numbers that are no pictures: NumPy's arrays and TIFF files of many bands, as ``(C, H, W)``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from verisal.errors import ConfigError, DataError

ARRAY_SUFFIXES: Final = frozenset({".npy", ".npz"})
"""Of files that are read as arrays, in small letters."""
_NPY: Final = b"\x93NUMPY"


def read_array(path: Path, content: bytes) -> NDArray[Any]:
    """The one array of a ``.npy`` or ``.npz`` file; nothing in it is executed.

    Raises:
        DataError: a damaged file, objects in place of numbers, or not exactly one array.
    """
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = list(loaded.files)
            if len(names) != 1:
                raise DataError(
                    f"{path}: holds {len(names)} arrays ({', '.join(names[:6])}), and one was expected; save"
                    " the image alone"
                )
            found: NDArray[Any] = loaded[names[0]]
            return found
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{path}: no array of numbers can be read ({error}); save it by numpy.save"
        ) from error


def read_bands(path: Path, content: bytes) -> NDArray[Any]:
    """All bands of a TIFF file, their numbers as they are.

    Raises:
        ConfigError: tifffile is not installed.
        DataError: a damaged file, or one of another compression than the installed packages read.
    """
    try:
        import tifffile
    except ImportError:
        raise ConfigError(
            f"{path}: TIFF files of many bands are read by tifffile; pip install 'verisal[bands]'"
        ) from None
    try:
        found: NDArray[Any] = tifffile.imread(io.BytesIO(content))
    # Any error may come of a damaged file, depending on the place of the damage.
    except Exception as error:
        raise DataError(
            f"{path}: damaged TIFF, or one that tifffile cannot read ({type(error).__name__}: {error})"
        ) from error
    return found


def is_array(path: Path, content: bytes) -> bool:
    """True for a file of NumPy's, by its suffix or its first bytes."""
    return path.suffix.lower() in ARRAY_SUFFIXES or content.startswith(_NPY)


def channels_first(values: NDArray[Any], channels: int, path: Path) -> NDArray[Any]:
    """``(C, H, W)`` of an array ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)``.

    Of the two, the one whose C is ``channels``; where neither is, the shorter one of the outer axes is C.

    Raises:
        DataError: another number of axes, no element, or values that are no numbers.
    """
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3) or values.size == 0:
        raise DataError(
            f"{path}: holds {values.shape} of {values.dtype}, and an image (H, W), (C, H, W) or (H, W, C) of"
            " numbers was expected"
        )
    if values.ndim == 2:
        return values[None]
    first, last = values.shape[0], values.shape[2]
    if first == channels or (last != channels and first <= last):
        return values
    return values.transpose(2, 0, 1)
