"""DICOM files: their values alone, and none of the tags that say whom they are of."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import MutableSequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from verisal.errors import ConfigError, DataError

#: Centre and width of the values that are shown from black to white, or those of the file itself.
Window: TypeAlias = tuple[float, float] | Literal["file"]

DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom"})
"""In small letters; most of these files have no suffix at all."""
_PREAMBLE, _MAGIC = 128, b"DICM"
LONGEST_START: Final = _PREAMBLE + len(_MAGIC)
"""Bytes by which a file is known."""
# All that is read of a file: nobody's name is among them, so none can reach a report, a log or a message.
_READ: Final = (
    "BitsAllocated", "BitsStored", "Columns", "HighBit", "Modality", "NumberOfFrames",
    "PhotometricInterpretation", "PixelData", "PixelRepresentation", "PlanarConfiguration",
    "RescaleIntercept", "RescaleSlope", "Rows", "SamplesPerPixel", "WindowCenter", "WindowWidth",
)  # fmt: skip


@final
class DicomValues(NamedTuple):
    """Values of a file.

    Attributes:
        values: ``(H, W)`` or ``(H, W, 3)`` float64.
        in_units: True if they are in units of their own, such as Hounsfield's; False if they lie in [0, 1].
    """

    values: NDArray[np.float64]
    in_units: bool


def check_window(window: Window | None) -> None:
    """Raise ``ConfigError`` unless a window that is said is two finite numbers, the width positive."""
    ends = () if window is None or isinstance(window, str) else tuple(window)
    centre, width = ends if len(ends) == 2 else (math.nan, math.nan)
    if not (math.isfinite(float(centre)) and 0 < float(width) < math.inf):
        raise ConfigError(f"window must be (centre, width), such as (40, 400), or file; found {window!r}")


def is_dicom(start: bytes) -> bool:
    """True for the first :data:`LONGEST_START` bytes of a DICOM file."""
    return start[_PREAMBLE:LONGEST_START] == _MAGIC


def holds_dicom(path: Path) -> bool:
    """True if a file is a DICOM file; OSError if it cannot be read."""
    with path.open("rb") as file:
        return is_dicom(file.read(LONGEST_START))


def read_dicom(path: Path, content: bytes, *, window: Window | None, max_pixels: int) -> DicomValues:
    """The one image of a file.

    ``MONOCHROME1``, in which the least value is white, is inverted over the stored bits. Then slope and
    intercept are applied. With a window, values are cut at its ends and scaled to [0, 1]. Without one, values
    with a slope or an intercept, and those of CT, are in units, and others are shares of the stored bits.

    Raises:
        ConfigError: pydicom is not installed.
        DataError: a damaged file, one without or with several images, of a compression that the installed
            packages do not read, or too large; a window that the file does not have; signed values of no
            units without a window.
    """
    try:
        import pydicom
    except ImportError:
        raise ConfigError(f"{path}: DICOM files are read by pydicom; pip install 'verisal[dicom]'") from None
    with warnings.catch_warnings():
        # Warnings and messages of pydicom quote the file.
        warnings.simplefilter("ignore")
        logger = logging.getLogger("pydicom")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            found = pydicom.dcmread(io.BytesIO(content), specific_tags=list(_READ))
            _check(path, found, max_pixels)
            # YBR comes as RGB.
            pixels = found.pixel_array
            return _valued(path, found, pixels, window)
        except DataError:
            raise
        # Any error may come of a damaged file, and its words may quote it.
        except Exception as error:
            raise DataError(
                f"{path}: damaged DICOM, or one of a compression that the installed packages do not read"
                f" ({type(error).__name__}); decompress it, e.g. by dcmdjpeg of DCMTK"
            ) from None
        finally:
            logger.setLevel(level)


def _check(path: Path, found: Any, max_pixels: int) -> None:  # noqa: ANN401 - pydicom's data set
    if "PixelData" not in found:
        raise DataError(f"{path}: a DICOM file without an image; leave it out")
    frames = int(found.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(f"{path}: holds {frames} frames, and one image was expected; save one of them")
    pixels = int(found.Rows) * int(found.Columns)
    if pixels > max_pixels:
        raise DataError(f"{path}: {pixels} pixels, but at most {max_pixels} are read; shrink the image")
    kind = str(found.PhotometricInterpretation)
    if not kind.startswith(("MONOCHROME", "RGB", "YBR")):
        raise DataError(f"{path}: colours of the kind {kind}; expected MONOCHROME1, MONOCHROME2, RGB or YBR")


def _valued(path: Path, found: Any, pixels: NDArray[Any], window: Window | None) -> DicomValues:  # noqa: ANN401
    signed, bits = bool(found.PixelRepresentation), int(found.BitsStored)
    least = -(2 ** (bits - 1)) if signed else 0
    most = least + 2**bits - 1
    values = pixels.astype(np.float64)
    if values.ndim == 3:
        return DicomValues(values / most, in_units=False)
    if found.PhotometricInterpretation == "MONOCHROME1":
        values = least + most - values
    slope, intercept = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
    values = values * slope + intercept
    if window is not None:
        centre, width = _window(path, found) if window == "file" else window
        return DicomValues(((values - centre) / width + 0.5).clip(0, 1), in_units=False)
    if (slope, intercept) != (1, 0) or found.get("Modality") == "CT":
        return DicomValues(values, in_units=True)
    if signed:
        raise DataError(
            f"{path}: values from {values.min():g} to {values.max():g} of no units, whose black and white"
            " nobody has said; say window=(centre, width), or window=file for that of the file"
        )
    return DicomValues(values / most, in_units=False)


def _window(path: Path, found: Any) -> tuple[float, float]:  # noqa: ANN401
    """The first window of a file."""
    ends = [found.get(name) for name in ("WindowCenter", "WindowWidth")]
    if any(end in (None, "") for end in ends):
        raise DataError(f"{path}: has no window of its own; say window=(centre, width)")
    centre, width = (float(end[0] if isinstance(end, MutableSequence) else end) for end in ends)
    if not width > 0:
        raise DataError(f"{path}: has a window of the width {width:g}; say window=(centre, width)")
    return centre, width
