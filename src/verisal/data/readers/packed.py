"""Data sets that pack all images into a few files, as torchvision reads and fetches them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from verisal.data.readers.listing import ImageRecord, ImageSet, Listing
from verisal.data.readers.voc import through_torchvision


@dataclass(frozen=True, kw_only=True)
class PackedSet(ImageSet):
    """A data set whose images are named ``<part>-<number>``, by their place in its files.

    Args:
        root: the folder that torchvision's class of that name takes.
        part: which of the images are meant.
        download: whether to fetch the set if it is not there.
    """

    root: str
    part: str
    download: bool = False

    @final
    def listing(self) -> Listing:
        """All images of the part in the order of the files, and all classes."""
        images, labels, names = through_torchvision(self.root, self._read)
        records = tuple(
            ImageRecord(Path(self.root), f"{self.part}-{number}", names[label], pixels=image)
            for number, (image, label) in enumerate(zip(images, labels, strict=True))
        )
        return Listing(records, tuple(names))

    @abstractmethod
    def _read(self) -> tuple[Tensor, Sequence[int], Sequence[str]]:
        """Images ``(N, C, H, W)`` uint8, the numbers of their classes, and the names of the classes."""

    def _train_or_test(self, kind: Callable[..., Any]) -> Any:  # noqa: ANN401 - torchvision has no annotations
        return kind(self.root, train=self.part == "train", download=self.download)

    def _by_split(self, kind: Callable[..., Any]) -> Any:  # noqa: ANN401 - torchvision has no annotations
        return kind(self.root, split=self.part, download=self.download)


def _channels_first(images: Any) -> Tensor:  # noqa: ANN401 - of numpy
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@final
@dataclass(frozen=True, kw_only=True)
class CIFAR10(PackedSet):
    """CIFAR-10: 60 000 pictures of 32 px and ten classes.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        part: ``train``, 50 000, or ``test``, 10 000.
        download: whether to fetch the archive if it is not there.

    References:
        krizhevsky2009cifar
    """

    part: Literal["train", "test"] = "test"

    def _read(self) -> tuple[Tensor, Sequence[int], Sequence[str]]:
        from torchvision import datasets  # type: ignore[import-untyped]  # has no annotations

        found = self._train_or_test(datasets.CIFAR10)
        return _channels_first(found.data), found.targets, found.classes


@final
@dataclass(frozen=True, kw_only=True)
class CIFAR100(PackedSet):
    """CIFAR-100: 60 000 pictures of 32 px and a hundred classes.

    Args:
        root: the folder that holds ``cifar-100-python``.
        part: ``train``, 50 000, or ``test``, 10 000.
        download: whether to fetch the archive if it is not there.

    References:
        krizhevsky2009cifar
    """

    part: Literal["train", "test"] = "test"

    def _read(self) -> tuple[Tensor, Sequence[int], Sequence[str]]:
        from torchvision import datasets

        found = self._train_or_test(datasets.CIFAR100)
        return _channels_first(found.data), found.targets, found.classes


@final
@dataclass(frozen=True, kw_only=True)
class SVHN(PackedSet):
    """Street View House Numbers, cropped digits of 32 px.

    Args:
        root: the folder that holds ``train_32x32.mat`` and so on.
        part: ``train``, ``test`` or ``extra``.
        download: whether to fetch the file if it is not there.

    References:
        netzer2011svhn
    """

    part: Literal["train", "test", "extra"] = "test"

    def _read(self) -> tuple[Tensor, Sequence[int], Sequence[str]]:
        from torchvision import datasets

        found = self._by_split(datasets.SVHN)
        return torch.from_numpy(found.data), found.labels.tolist(), tuple(map(str, range(10)))


@final
@dataclass(frozen=True, kw_only=True)
class STL10(PackedSet):
    """STL-10: photographs of 96 px and ten classes. The hundred thousand without labels are left out.

    Args:
        root: the folder that holds ``stl10_binary``.
        part: ``train``, 5000, or ``test``, 8000.
        download: whether to fetch the archive if it is not there.

    References:
        coates2011stl10
    """

    part: Literal["train", "test"] = "test"

    def _read(self) -> tuple[Tensor, Sequence[int], Sequence[str]]:
        from torchvision import datasets

        found = self._by_split(datasets.STL10)
        return torch.from_numpy(found.data), found.labels.tolist(), found.classes


@final
@dataclass(frozen=True, kw_only=True)
class MNIST(PackedSet):
    """Handwritten digits of 28 px, one channel, light on dark.

    Args:
        root: the folder that holds ``MNIST/raw``.
        part: ``train``, 60 000, or ``test``, 10 000.
        download: whether to fetch the files if they are not there.

    References:
        lecun1998mnist
    """

    part: Literal["train", "test"] = "test"

    def _read(self) -> tuple[Tensor, Sequence[int], Sequence[str]]:
        from torchvision import datasets

        found = self._train_or_test(datasets.MNIST)
        return found.data[:, None], found.targets.tolist(), tuple(map(str, range(10)))


@final
@dataclass(frozen=True, kw_only=True)
class FashionMNIST(PackedSet):
    """Pictures of clothes of 28 px, one channel, light on dark.

    Args:
        root: the folder that holds ``FashionMNIST/raw``.
        part: ``train``, 60 000, or ``test``, 10 000.
        download: whether to fetch the files if they are not there.

    References:
        xiao2017fashion
    """

    part: Literal["train", "test"] = "test"

    def _read(self) -> tuple[Tensor, Sequence[int], Sequence[str]]:
        from torchvision import datasets

        found = self._train_or_test(datasets.FashionMNIST)
        return found.data[:, None], found.targets.tolist(), found.classes
