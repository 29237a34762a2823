"""Views: named changes of an image under which detectors ask the classifier again.

What an image shows survives a small move or blur; noise that was fitted to every pixel hardly does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.attacks.corruptions import jpeg_copies
from verisal.errors import ConfigError
from verisal.fingerprint import Configured
from verisal.functional.adversarial import noise_norm
from verisal.functional.filters import mean_filter, median_filter, move, scale_down_and_up
from verisal.functional.seeding import derive_seed
from verisal.types import check_range


class View(Configured, ABC):
    """A change of images ``(B, C, H, W)`` in [0, 1], each on its own; the size stays.

    Concrete ones are frozen dataclasses of plain settings. Gradients pass through all of them.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Different for different settings; tensors of the view are named ``<name>/...``."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Changed images ``(B, C, H, W)`` in [0, 1]."""


@final
@dataclass(frozen=True)
class Moved(View):
    """The image moved by whole pixels; the pixels at the edges that it leaves are repeated.

    Args:
        right: pixels to the right, negative to the left.
        down: pixels down, negative up.

    Raises:
        ConfigError: no move at all.
    """

    right: int = 1
    down: int = 1

    def __post_init__(self) -> None:
        if self.right == 0 and self.down == 0:
            raise ConfigError(
                "Moved by right=0, down=0 is the image itself; set one of them, such as right=1"
            )

    @property
    def name(self) -> str:
        """``moved_<right>_<down>``."""
        return f"moved_{self.right}_{self.down}"

    def __call__(self, images: Tensor) -> Tensor:
        """Moved images."""
        return move(images, right=self.right, down=self.down)


@final
@dataclass(frozen=True)
class Flipped(View):
    """The image flipped left to right."""

    @property
    def name(self) -> str:
        """``flipped``."""
        return "flipped"

    def __call__(self, images: Tensor) -> Tensor:
        """Flipped images."""
        return images.flip(-1)


@final
@dataclass(frozen=True)
class MeanFiltered(View):
    """Means over square windows.

    Args:
        size: side of the window in pixels.

    Raises:
        ConfigError: a ``size`` below 2.
    """

    size: int = 3

    def __post_init__(self) -> None:
        check_range(2, size=self.size)

    @property
    def name(self) -> str:
        """``mean_<size>``."""
        return f"mean_{self.size}"

    def __call__(self, images: Tensor) -> Tensor:
        """Blurred images."""
        # A mean of values up to 1 may end a rounding step above it.
        return mean_filter(images, self.size).clamp(0, 1)


@final
@dataclass(frozen=True)
class MedianFiltered(View):
    """Medians over square windows.

    Args:
        size: side of the window in pixels.

    Raises:
        ConfigError: a ``size`` below 2.
    """

    size: int = 3

    def __post_init__(self) -> None:
        check_range(2, size=self.size)

    @property
    def name(self) -> str:
        """``median_<size>``."""
        return f"median_{self.size}"

    def __call__(self, images: Tensor) -> Tensor:
        """Images without what is smaller than half a window."""
        return median_filter(images, self.size)


@final
@dataclass(frozen=True)
class Scaled(View):
    """The image made smaller, and brought back to its size.

    Args:
        factor: of both sides, above 0 and below 1.

    Raises:
        ConfigError: a ``factor`` out of range.
    """

    factor: float = 0.5

    def __post_init__(self) -> None:
        check_range(0, 1, above=True, factor=self.factor)
        if self.factor == 1:
            raise ConfigError("Scaled by factor=1 is the image itself; set a factor below 1, such as 0.5")

    @property
    def name(self) -> str:
        """``scaled_<factor>``."""
        return f"scaled_{self.factor:g}"

    def __call__(self, images: Tensor) -> Tensor:
        """Images without their finest detail."""
        return scale_down_and_up(images, self.factor).clamp(0, 1)


@final
@dataclass(frozen=True)
class ReEncoded(View):
    """The image encoded as JPEG and decoded; gradients pass as if nothing had happened.

    Not for clean images that were JPEG files: encoded again they hardly change, and any noise on them does,
    so that a detector with this view finds the file format, not the attack. Watch the false alarms on noise.

    Args:
        quality: 1 (worst) to 100, as of the usual encoders.

    Raises:
        ConfigError: ``quality`` out of range.

    References:
        wallace1992
    """

    quality: int = 75

    def __post_init__(self) -> None:
        check_range(1, 100, quality=self.quality)

    @property
    def name(self) -> str:
        """``jpeg_<quality>``."""
        return f"jpeg_{self.quality}"

    def __call__(self, images: Tensor) -> Tensor:
        """Decoded images."""
        # Adds exactly nothing, and lets gradients through.
        return jpeg_copies(images, self.quality) + (images - images.detach())


@final
@dataclass(frozen=True)
class Noised(View):
    """Gaussian noise of a given norm, the same on every image of a size, clamped to [0, 1].

    Args:
        l2: L2 norm of the noise over all values of an image, before clamping.
        seed: of the noise.

    Raises:
        ConfigError: an ``l2`` that is not above 0, or a negative seed.
    """

    l2: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(0, above=True, l2=self.l2)
        check_range(0, seed=self.seed)

    @property
    def name(self) -> str:
        """``noise_<l2>_<seed>``."""
        return f"noise_{self.l2:g}_{self.seed}"

    def __call__(self, images: Tensor) -> Tensor:
        """Noisy images."""
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "noised view"))
        # On the CPU, so that the numbers do not depend on the device.
        noise = torch.randn(1, *images.shape[1:], generator=rng)
        noise = noise * (self.l2 / noise_norm(noise, "l2"))
        return (images + noise.to(images)).clamp(0, 1)


DEFAULT_VIEWS: tuple[View, ...] = (
    Moved(1, 1),
    Moved(-1, 0),
    Moved(0, -1),
    Flipped(),
    MeanFiltered(3),
    MedianFiltered(3),
    Scaled(0.75),
    Scaled(0.5),
)
"""Eight views without noise and without a file format.

Chosen on CIFAR-10 by cross-validation over fit images, by fitted attacks and images near the border alone.
"""


def check_names(names: Sequence[str], *, least: int = 0) -> None:
    """Raise ``ConfigError`` for too few names of views, and for two that are equal."""
    if len(names) < least or len(set(names)) < len(names):
        wanted = "all different" if not least else f"at least {least}, all different"
        raise ConfigError(f"views must be {wanted}; found {', '.join(names) or 'none'}")
