"""One family of baseline images, shared by saliency methods and metrics.

A baseline is what replaces removed pixels. It is made in pixel space, before the classifier normalises, and
its name is part of every score that it enters. A new one is one frozen dataclass, here or beside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.fingerprint import Configured
from verisal.functional.filters import gaussian_blur
from verisal.types import check_range

#: One number for all channels, or one for each.
PerChannel = tuple[float, ...]
Given = Tensor | None
_STATISTICS = frozenset({"mean", "std"})
_NAMED_LEVELS = {0.0: "black", 0.5: "grey", 1.0: "white"}
_KERNELS = {5.0: 11, 10.0: 61}
_KERNEL_IMAGE = 224


@runtime_checkable
class Normalised(Protocol):
    """A classifier that says how it normalises images; both ``(1, C, 1, 1)``, in units of [0, 1]."""

    mean: Tensor
    std: Tensor


class Baseline(Configured, ABC):
    """Makes the image that replaces removed pixels.

    Sub-classes are frozen dataclasses. What they draw at random depends on their seed and the content of the
    image, never on its place in a batch or on global random state. A ``mean`` or ``std`` that is None stands
    for that of the data set and is filled in by :func:`bound`.
    """

    needs_mask: ClassVar[bool] = False
    """True if the baseline depends on which pixels are removed; if not, it is made once per image."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short, file-name-safe, different for different settings; printed in every score: ``blur5``."""

    @abstractmethod
    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """Baseline images ``(B, C, H, W)`` float32 in [0, 1], on the device of the images.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            masks: ``(B, 1, H, W)`` in [0, 1], 1 keeps; pixels below 0.5 count as removed. Read only by
                baselines with ``needs_mask``, which leave kept pixels as they are.
            query_class: ``(B,)`` int64, read only by baselines that choose an image of another class.

        Raises:
            ConfigError: something that this baseline needs was not given.
        """

    def without_statistics(self, who: str) -> Baseline:
        """The baseline for a network that normalises by nothing, so that no mean is known; may be overridden.

        Raises:
            ConfigError: there is none.
        """
        name = next(item.name for item in fields(self) if item.name in _STATISTICS)  # type: ignore[arg-type]
        raise ConfigError(
            f"{type(self).__name__} takes its statistics from the classifier's normalisation, and {who} has"
            f" none; give {name}=, one number per channel"
        )


@final
@dataclass(frozen=True, kw_only=True)
class Constant(Baseline):
    """One grey level in [0, 1] everywhere: 0 is ``black``, 0.5 ``grey``, 1 ``white``."""

    level: float = 0.0

    def __post_init__(self) -> None:
        check_range(0, 1, level=self.level)

    @property
    def name(self) -> str:
        """``black``, ``grey``, ``white``, or ``level<value>``."""
        return _NAMED_LEVELS.get(self.level, f"level{self.level:g}")

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The level in every channel of every pixel."""
        return torch.full_like(images, self.level)


@final
@dataclass(frozen=True, kw_only=True)
class DatasetMean(Baseline):
    """The training data's mean per channel: 0 once the classifier has normalised, and not black.

    Args:
        mean: per channel, or one number for all, in [0, 1]; None stands for the mean that the classifier
            normalises with, and for :class:`Constant` mid-grey, as which it is named, where a network
            normalises by nothing.

    Raises:
        ConfigError: values outside [0, 1]; none, or as many as no image has channels, when called.
    """

    mean: PerChannel | None = None

    rules = 2

    def __post_init__(self) -> None:
        as_tuples(self)
        check_statistic(self, "mean")

    def without_statistics(self, who: str) -> Baseline:
        """Mid-grey."""
        return Constant(level=0.5)

    @property
    def name(self) -> str:
        """``dataset_mean``."""
        return "dataset_mean"

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The mean in every pixel."""
        return per_channel(self, images, "mean").expand_as(images).clone()


@final
@dataclass(frozen=True, kw_only=True)
class ImageMean(Baseline):
    """Each image's own mean per channel."""

    @property
    def name(self) -> str:
        """``image_mean``."""
        return "image_mean"

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The mean in every pixel."""
        return images.mean(dim=(2, 3), keepdim=True).clamp(0, 1).expand_as(images).clone()


@final
@dataclass(frozen=True, kw_only=True)
class Blur(Baseline):
    """The image under a Gaussian, reflected at the border.

    Args:
        sigma: in pixels of a 224 px image; scales with min(H, W) / 224.
        kernel: taps in pixels of a 224 px image, odd; scales likewise. None stands for 11 at sigma 5, 61 at
            sigma 10, and three sigmas on either side elsewhere.

    Raises:
        ConfigError: a sigma that is not positive, an even kernel, or one below 3.

    References:
        petsiuk2018rise

    Differs from:
        petsiuk2018rise: made before normalisation, reflected at the border, scaled with the image.
    """

    sigma: float = 5.0
    kernel: int | None = None

    def __post_init__(self) -> None:
        check_range(0, above=True, sigma=self.sigma)
        if self.kernel is not None and (self.kernel < 3 or self.kernel % 2 == 0):
            raise ConfigError(f"kernel must be odd and at least 3, found {self.kernel}")

    @property
    def name(self) -> str:
        """``blur<sigma>``, followed by ``_kernel<taps>`` where those are not the usual ones."""
        usual = self.kernel in (None, self._usual_kernel())
        return f"blur{self.sigma:g}" if usual else f"blur{self.sigma:g}_kernel{self.kernel}"

    def _usual_kernel(self) -> int:
        return _KERNELS.get(self.sigma, 2 * max(1, round(3 * self.sigma)) + 1)

    def resolved(self, height: int, width: int) -> tuple[float, int]:
        """Sigma and kernel in pixels of an image of this size; the kernel is odd and at least 3."""
        scale = min(height, width) / _KERNEL_IMAGE
        taps = self.kernel or self._usual_kernel()
        return self.sigma * scale, 2 * max(1, round((taps * scale - 1) / 2)) + 1

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """The blurred images."""
        height, width = images.shape[2:]
        sigma, kernel = self.resolved(height, width)
        with torch.autocast(device_type=images.device.type, enabled=False):
            return gaussian_blur(images, sigma, taps=kernel).clamp(0, 1)


def check_statistic(baseline: Baseline, name: str) -> None:
    """Raise :class:`ConfigError` unless the statistic ``name`` is open or values in [0, 1]."""
    values = getattr(baseline, name)
    if values is not None and not (len(values) and all(0 <= value <= 1 for value in values)):
        raise ConfigError(f"{name} must be values in [0, 1], one per channel or one for all, found {values}")


def per_channel(baseline: Baseline, images: Tensor, name: str) -> Tensor:
    """``(1, C, 1, 1)``: the statistic ``name`` of a baseline that :func:`bound` has filled in.

    Raises:
        ConfigError: it is still open, or for another number of channels.
    """
    values, kind, channels = getattr(baseline, name), type(baseline).__name__, images.shape[1]
    if values is None:
        raise ConfigError(
            f"{kind} without a {name}: give {name}=, one number per channel, or bind it to a classifier"
        )
    if len(values) not in (1, channels):
        raise ConfigError(
            f"{kind} has a {name} for {len(values)} channels, and the images have {channels}; give one number"
            " for all, or one per channel"
        )
    return images.new_tensor(values).view(1, -1, 1, 1).expand(1, channels, 1, 1)


def seeded_name(name: str, seed: int) -> str:
    """The name, followed by ``_seed<n>`` for a seed other than 0."""
    return f"{name}_seed{seed}" if seed else name


def bound(baseline: Baseline, classifier: object) -> Baseline:
    """The baseline with the data set's statistics filled in from the classifier's normalisation.

    Raises:
        ConfigError: the baseline leaves statistics open and the classifier has none.
    """
    names = {item.name for item in fields(baseline)} & _STATISTICS  # type: ignore[arg-type]
    missing = sorted(name for name in names if getattr(baseline, name) is None)
    if not missing:
        return baseline
    known = _statistics_of(classifier)
    if known is not None:
        return replace(baseline, **{name: known[name] for name in missing})  # type: ignore[type-var]
    if isinstance(classifier, nn.Module):
        return baseline.without_statistics(type(classifier).__name__)
    raise ConfigError(
        f"{type(baseline).__name__} takes its {' and '.join(missing)} from the classifier's"
        f" normalisation, and {type(classifier).__name__} has none; give {missing[0]}=, one number per"
        " channel"
    )


def _statistics_of(classifier: object) -> dict[str, tuple[float, ...]] | None:
    """Mean and deviation that a classifier normalises with, None where it has none or only scales."""
    if not isinstance(classifier, Normalised):
        return None
    mean, std = classifier.mean, classifier.std
    if getattr(classifier, "scales_only", False) is True:
        return None
    # A network may have attributes of these names for something else.
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or not 0 < mean.numel() == std.numel():
        return None
    if not bool(mean.any()) and bool((std == 1).all()):
        return None
    return {"mean": tuple(mean.flatten().tolist()), "std": tuple(std.flatten().tolist())}


def compose(images: Tensor, baseline_images: Tensor, masks: Tensor) -> Tensor:
    r"""Blend in pixel space: :math:`\pi(x, b, m) = m x + (1 - m) b`.

    Args:
        images: ``(..., C, H, W)`` in [0, 1].
        baseline_images: broadcastable to the images.
        masks: float, broadcastable to the images, in [0, 1]; 1 keeps.
    """
    # One pass over memory, and exact where the mask is 0 or 1.
    return torch.lerp(baseline_images, images, masks)
