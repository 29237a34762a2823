"""Image files of any kind as a classifier takes them: its channels, its range, float32 in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal.data.arrays import channels_first, is_array, read_array, read_bands
from verisal.data.decode import MAX_PIXELS, content_of, decode_image, decode_picture
from verisal.data.dicom import LONGEST_START, Window, check_window, is_dicom, read_dicom
from verisal.data.pillow import is_tiff, tiff_samples
from verisal.data.readers.listing import ImageRecord
from verisal.errors import ConfigError, DataError
from verisal.models import Bounds
from verisal.models.bounds import UNIT
from verisal.types import check_range

#: What is done with a file of other channels than the classifier takes.
ChannelRule = Literal["replicate", "mean", "refuse"]
_RGB = 3


class TakesImages(Protocol):
    """A classifier, as far as its images are concerned; or one that is yet to be trained."""

    @property
    def channels(self) -> int:
        """Of its images."""
        ...

    @property
    def bounds(self) -> Bounds:
        """Of the values that its network takes."""
        ...


@final
@dataclass(frozen=True)
class ImageReader:
    """Reads image files for one classifier.

    Pictures (whatever Pillow reads) are scaled by the largest value of their type, 255 or 65535. Arrays
    (``.npy``, ``.npz``), and TIFF files of many bands or for a classifier with bounds, hold values in these
    bounds; where nobody has said any, whole numbers are scaled by the largest value of their type, and floats
    lie in [0, 1]. DICOM files hold values in the bounds where they have units, such as Hounsfield's, and
    shares of their stored bits where not; with a window, shares of it. Bytes are always shares of the range.
    Nothing is converted without a rule, but for a grey picture that a classifier of RGB images gets three
    times, as every viewer shows it.

    Attributes:
        channels: that the classifier takes.
        bounds: of the values of arrays.
        rule: what is done with a file of other channels: ``replicate`` gives a grey one to each channel,
            ``mean`` makes the mean of all for a classifier with one, ``refuse`` is an error also for a grey
            picture; None as above.
        max_pixels: largest width times height that is decoded.
        window: of DICOM files, the centre and width of the values that are shown from black to white, or
            ``file`` for the first one of each file.

    Raises:
        ConfigError: a rule that there is not, a number of channels below 1, or a window that is none.
    """

    channels: int = _RGB
    bounds: Bounds = UNIT
    rule: ChannelRule | None = None
    max_pixels: int = MAX_PIXELS
    window: Window | None = None

    def __post_init__(self) -> None:
        if self.rule not in ("replicate", "mean", "refuse", None):
            raise ConfigError(f"channel_rule must be 'replicate', 'mean' or 'refuse', found {self.rule!r}")
        check_range(1, channels=self.channels, max_pixels=self.max_pixels)
        if self.window not in (None, "file"):
            check_window(self.window)

    @classmethod
    def of(
        cls,
        classifier: TakesImages,
        *,
        rule: ChannelRule | None = None,
        max_pixels: int = MAX_PIXELS,
        window: Window | None = None,
    ) -> Self:
        """The reader for a classifier."""
        return cls(classifier.channels, classifier.bounds, rule, max_pixels, window)

    def __call__(self, path: str | PathLike[str]) -> Tensor:
        """One image ``(C, H, W)`` float32 in [0, 1], with the classifier's channels.

        Raises:
            DataError: the file is missing, damaged or too large, its values lie outside the bounds, or it has
                other channels and no rule says what to do; names the path.
        """
        start = content_of(path, LONGEST_START)
        if is_dicom(start):
            return self._with_channels(self._dicom(Path(path)), path)
        numbers = self._numbers(Path(path), start)
        if numbers is not None:
            return self._with_channels(self._of_numbers(numbers, Path(path)), path)
        if self.channels == _RGB and self.rule is None:
            return decode_image(path, max_pixels=self.max_pixels)
        picture = decode_picture(path, max_pixels=self.max_pixels, bands=self.channels == 4)
        return self._with_channels(picture, path)

    def _dicom(self, path: Path) -> Tensor:
        """A DICOM file's image ``(C, H, W)`` in [0, 1]."""
        read = read_dicom(path, content_of(path), window=self.window, max_pixels=self.max_pixels)
        values = torch.from_numpy(channels_first(read.values, self.channels, path).astype(np.float32))
        if not read.in_units:
            return values
        if self.bounds == UNIT:
            raise DataError(
                f"{path}: values from {values.min():g} to {values.max():g} in units of their own, and nobody"
                " has said the bounds of the classifier; say bounds=(least, greatest), or"
                " window=(centre, width)"
            )
        try:
            return self.bounds.to_unit(values)
        except DataError as error:
            raise DataError(f"{path}: {error}; or say window=(centre, width), which cuts them") from error

    def _numbers(self, path: Path, start: bytes) -> NDArray[Any] | None:
        """The values of a file that begins so and is an array; None of a picture."""
        if is_array(path, start):
            return read_array(path, content_of(path))
        if not is_tiff(start):
            return None
        content = content_of(path)
        several = self.channels not in (1, _RGB, 4) or tiff_samples(content) not in (1, _RGB, 4)
        return read_bands(path, content) if several or self.bounds != UNIT else None

    def of_record(self, record: ImageRecord) -> Tensor:
        """The image of a record, as :meth:`__call__` gives that of a file."""
        if record.pixels is None:
            return self(record.path)
        return self._with_channels(record.pixels.float() / 255, record.image_id)

    def as_it_is(self, record: ImageRecord) -> Tensor:
        """One image as RGB, or its values with the channels that they have; to compare images."""
        if record.pixels is not None:
            return record.pixels
        path = record.path
        start = content_of(path, LONGEST_START)
        if is_dicom(start):
            return self._dicom(path)
        numbers = self._numbers(path, start)
        if numbers is None:
            return decode_image(path, max_pixels=self.max_pixels)
        return torch.from_numpy(channels_first(numbers, self.channels, path).astype(np.float64))

    def _of_numbers(self, values: NDArray[Any], path: Path) -> Tensor:
        values = channels_first(values, self.channels, path)
        pixels = values.shape[1] * values.shape[2]
        if pixels > self.max_pixels:
            raise DataError(
                f"{path}: {pixels} pixels, but at most {self.max_pixels} are read; shrink the image"
            )
        try:
            return self._scaled(values)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def _scaled(self, values: NDArray[Any]) -> Tensor:
        if values.dtype == np.uint8:
            return torch.from_numpy(values.astype(np.float32) / 255)
        if self.bounds == UNIT and values.dtype.kind in "iu":
            most = np.iinfo(values.dtype).max
            if int(values.min()) < 0 or most > np.iinfo(np.uint16).max:
                raise DataError(
                    f"whole numbers of {values.dtype} from {values.min()} to {values.max()}, whose greatest"
                    " value nobody has said; say bounds=(least, greatest) of the classifier"
                )
            return torch.from_numpy(values.astype(np.float32) / most)
        if self.bounds == UNIT and not (values.min() >= 0 and values.max() <= 1):
            raise DataError(
                f"values from {values.min():.6g} to {values.max():.6g}, and [0, 1] was expected where nobody"
                " has said bounds; say bounds=(least, greatest) of the classifier"
            )
        return self.bounds.to_unit(torch.from_numpy(values.astype(np.float32)))

    def _with_channels(self, image: Tensor, path: str | PathLike[str]) -> Tensor:
        found = len(image)
        if found == self.channels:
            return image
        grey_picture = self.rule is None and self.channels == _RGB
        if found == 1 and (self.rule == "replicate" or grey_picture):
            return image.expand(self.channels, -1, -1)
        if self.channels == 1 and self.rule == "mean":
            return image.mean(dim=0, keepdim=True)
        way = ""
        if found == 1:
            way = ", or say channel_rule: replicate (in a command --channel_rule=replicate), for each"
        elif self.channels == 1:
            way = ", or say channel_rule: mean (in a command --channel_rule=mean), for their mean"
        raise DataError(
            f"{path}: has {found} channel(s), and the classifier takes {self.channels}; give files with as"
            f" many{way}"
        )
