"""Handwritten digits that scikit-learn ships: small grey scans, nothing downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from verisal.data.readers.listing import ImageRecord, ImageSet, Listing

# Of a scan, in which 0 is paper and 16 is ink.
_MOST_INK = 16


@final
@dataclass(frozen=True)
class Digits(ImageSet):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels, one channel.

    Ink is white on black. Scans are named ``digit-<number>``, by their place in scikit-learn's file.

    References:
        alpaydin1998digits
    """

    def listing(self) -> Listing:
        """All scans in the order of the file; classes ``0`` to ``9``."""
        from sklearn import datasets

        found = datasets.load_digits()
        # There is one file, and it is what all of them come from.
        path = Path(datasets.__file__).parent / "data" / "digits.csv.gz"
        scans = torch.from_numpy(found.images).mul(255 / _MOST_INK).round().byte()[:, None]
        records = tuple(
            ImageRecord(path, f"digit-{number}", str(label), pixels=scan)
            for number, (scan, label) in enumerate(zip(scans, found.target.tolist(), strict=True))
        )
        return Listing(records, tuple(map(str, range(10))))
