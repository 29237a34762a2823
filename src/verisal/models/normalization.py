"""The normalisation between images in [0, 1] and what a network takes, wherever a project says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.networks import plain_network
from verisal.models.bounds import Bounds

_NAMED: Final[Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "none": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_BYTE = 255
# Means of images in [0, 1] lie there, too; those of bytes are larger than this.
_LARGEST_MEAN = 2
# Data sets hold data sets and transforms hold transforms, but never so deep, nor so many.
_DEPTH, _MOST_PARTS = 8, 64
HOW_TO_SAY: Final = (
    "give normalization=: the mean and std of its training, as a pair in units of [0, 1];"
    " weights.transforms(); a Normalize; 'imagenet'; or 'none' where it takes images in [0, 1] as they are"
)
"""What to type where no normalisation was found."""


@final
@dataclass(frozen=True)
class Normalization:
    """Mean and deviation per channel, in units of [0, 1]; one number each holds for any number of channels.

    Attributes:
        mean: subtracted from images in [0, 1].
        std: by which they are then divided.

    Raises:
        ConfigError: another number of means than of deviations, none at all, values that are not finite, or
            deviations that are not positive.

    >>> Normalization((0.5,), (0.25,)).apply(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).flatten().tolist()
    [-2.0, 2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        finite = all(map(math.isfinite, [*self.mean, *self.std]))
        if not self.mean or len(self.mean) != len(self.std) or not finite or min(self.std) <= 0:
            raise ConfigError(
                "mean and std must be finite numbers, one of each per channel, std positive; found"
                f" {list(self.mean)} and {list(self.std)}"
            )

    def over(self, channels: int) -> Normalization:
        """The same for that many channels.

        Raises:
            ConfigError: it is for another number of channels.
        """
        if len(self.mean) == channels:
            return self
        if len(self.mean) > 1:
            raise ConfigError(
                f"images have {channels} channels, and the normalisation is for {len(self.mean)}: {self}"
            )
        return Normalization(self.mean * channels, self.std * channels)

    def within(self, bounds: Bounds) -> Normalization:
        """The same for images in [0, 1], of one that is in units of values in these bounds."""
        mean = tuple((value - bounds.low) / bounds.width for value in self.mean)
        return Normalization(mean, tuple(value / bounds.width for value in self.std))

    def outside(self, bounds: Bounds) -> Normalization:
        """The same in units of values in these bounds, which :meth:`within` takes back."""
        mean = tuple(value * bounds.width + bounds.low for value in self.mean)
        return Normalization(mean, tuple(value * bounds.width for value in self.std))

    def apply(self, images: Tensor) -> Tensor:
        """What the network takes, from images ``(..., C, H, W)`` in [0, 1]."""
        mean, std = self._tensors(images)
        return (images - mean) / std

    def undo(self, network_input: Tensor) -> Tensor:
        """Images in [0, 1] from what the network takes ``(..., C, H, W)``."""
        mean, std = self._tensors(network_input)
        return network_input * std + mean

    def _tensors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        own = self.over(images.shape[-3])
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (own.mean, own.std))
        return mean, std

    @classmethod
    def of(cls, told: object, *, bounds: Bounds | None = None) -> Normalization:
        """The normalisation that a user means.

        Args:
            told: a normalisation; ``"none"``; ``"imagenet"``; a pair (mean, std), a number or one number per
                channel, in units of [0, 1]; a mapping with both, such as timm's ``pretrained_cfg``; weights
                of torchvision, or their ``transforms()``; a ``Normalize`` of torchvision or albumentations,
                or a ``Compose`` or list with exactly one; an image processor of transformers.
            bounds: of the values that are normalised. ``told`` is in their units then, and what is returned
                in those of images in [0, 1]; ``None`` means that the values are taken as they are.

        Raises:
            ConfigError: anything else, none or several different ones inside, or units of 0 to 255.
        """
        if bounds is not None:
            pair = _pair(told)
            numbers = None if pair is None else (_numbers(pair[0]) or (), _numbers(pair[1]) or ())
            units = Normalization(*numbers) if numbers else cls.of("none" if told is None else told)
            return units.within(bounds)
        if isinstance(told, Normalization):
            return told
        if isinstance(told, str):
            if told not in _NAMED:
                raise ConfigError(f"normalization {told!r} is not known; {HOW_TO_SAY}")
            return Normalization(*_NAMED[told])
        pair = _pair(told)
        found = cls.found_in(told) if pair is None else _written(*pair)
        if found is None:
            raise ConfigError(f"no normalisation was found in {_shown(told)}; {HOW_TO_SAY}")
        return found

    @classmethod
    def found_in(cls, thing: object) -> Normalization | None:
        """The normalisation that a network, a transform, or a data set says of itself; None if none does.

        A network says it by timm's ``pretrained_cfg``; a transform by the ``Normalize`` in it; a data set or
        loader by the transforms that it or a data set in it holds (``Subset``, ``ConcatDataset``, wrappers).

        Raises:
            ConfigError: several that differ, one that is applied to some images only, or units of 0 to 255.
        """
        different = list(dict.fromkeys(_inside(thing, _DEPTH)))
        if len(different) > 1:
            listed = " and ".join(f"mean {list(one.mean)}, std {list(one.std)}" for one in different)
            raise ConfigError(
                f"{_shown(thing)} holds different normalisations: {listed}; say which one is meant"
                " by normalization="
            )
        return different[0] if different else None


@runtime_checkable
class _HasStatistics(Protocol):
    """A ``Normalize``, or torchvision's preset of transforms."""

    mean: Any
    std: Any


@runtime_checkable
class _Processor(Protocol):
    """An image processor of transformers."""

    image_mean: Any
    image_std: Any


@runtime_checkable
class _Weights(Protocol):
    """A member of torchvision's enumerations of weights."""

    meta: Any
    transforms: Callable[[], Any]


def _inside(thing: object, depth: int) -> list[Normalization]:
    """All that are found, in order."""
    if depth == 0 or isinstance(thing, type):
        return []
    if isinstance(thing, Normalization):
        return [thing]
    own = _own(thing)
    if own is not None:
        return [own]
    parts = _parts(thing)
    if isinstance(thing, (list, tuple)) and sum(_own(part) is not None for part in parts) > 1:
        raise ConfigError(f"{_shown(thing)} normalises more than once; {HOW_TO_SAY}")
    found = [each for part in parts for each in _inside(part, depth - 1)]
    chance = getattr(thing, "p", None)
    if found and isinstance(chance, Real) and chance != 1:
        raise ConfigError(f"{_shown(thing)} normalises a share of {chance} of the images; {HOW_TO_SAY}")
    return found


def _own(thing: object) -> Normalization | None:
    """What a thing says about itself, not by a part of it."""
    if isinstance(thing, Mapping):
        for mean, std in (("mean", "std"), ("image_mean", "image_std")):
            if thing.get(mean) is not None and thing.get(std) is not None:
                return _written(thing[mean], thing[std])
        return None
    if _is_network(thing):
        network = plain_network(thing) if isinstance(thing, nn.Module) else thing
        said = getattr(network, "normalization", None)
        return said if isinstance(said, Normalization) else _own(getattr(network, "pretrained_cfg", {}) or {})
    if isinstance(thing, _Processor):
        return _of_processor(thing)
    # Data sets and arrays may have a mean, too, but only what is called changes an image by it.
    if callable(thing) and isinstance(thing, _HasStatistics) and _numbers(thing.mean) and _numbers(thing.std):
        return _of_transform(thing)
    return None


def _is_network(thing: object) -> bool:
    """True for modules with parameters; what normalises inside of them is done to images in [0, 1]."""
    return isinstance(thing, nn.Module) and next(thing.parameters(), None) is not None


def _parts(thing: object) -> list[object]:
    """What a transform or a data set is made of, as far as it can normalise."""
    if _is_network(thing) or isinstance(thing, (Mapping, Tensor)):
        return []
    if isinstance(thing, _Weights) and callable(thing.transforms) and isinstance(thing.meta, Mapping):
        return [thing.transforms()]
    if isinstance(thing, (list, tuple)):
        return [part for part in thing[:_MOST_PARTS] if _may_hold(part)]
    held = [*thing.children()] if isinstance(thing, nn.Module) else []
    return [part for part in (*held, *getattr(thing, "__dict__", {}).values()) if _may_hold(part)]


def _may_hold(part: object) -> bool:
    """True for transforms and data sets, and for short rows of them."""
    if isinstance(part, (list, tuple)):
        return 0 < len(part) <= _MOST_PARTS and any(_may_hold(each) for each in part)
    if isinstance(part, (str, bytes, Mapping, Tensor, type)) or _is_network(part):
        return False
    return callable(part) or callable(getattr(type(part), "__getitem__", None))


def _written(mean: object, std: object) -> Normalization:
    """Of what somebody wrote down, in units of [0, 1]."""
    means, stds = _numbers(mean) or (), _numbers(std) or ()
    if means and max(map(abs, means)) > _LARGEST_MEAN:
        raise ConfigError(
            f"mean {list(means)} is in units of 0 to {_BYTE}, and units of [0, 1] were expected; divide mean"
            f" and std by {_BYTE}"
        )
    return Normalization(means, stds)


def _of_transform(transform: Any) -> Normalization:  # noqa: ANN401 - of whatever library
    """Of a ``Normalize``; that of albumentations says what counts as 1, and may do something else."""
    one = getattr(transform, "max_pixel_value", None)
    if one is None:
        return _written(transform.mean, transform.std)
    if getattr(transform, "normalization", "standard") != "standard" or getattr(transform, "p", 1) != 1:
        raise ConfigError(f"{_shown(transform)} does not do the same to every image; {HOW_TO_SAY}")
    means, stds = _numbers(transform.mean) or (), _numbers(transform.std) or ()
    # Bytes that nobody has scaled, normalised in their own units.
    unit = _BYTE if one == 1 and max(means) > _LARGEST_MEAN else 1
    return _written([each / unit for each in means], [each / unit for each in stds])


def _of_processor(processor: Any) -> Normalization:  # noqa: ANN401 - of transformers
    """Of ``(bytes * factor - offset - mean) / std``, parts of which may be turned off."""
    scaled = getattr(processor, "do_rescale", True)
    one = _BYTE * (getattr(processor, "rescale_factor", 1 / _BYTE) if scaled else 1.0)
    offset = 1.0 if scaled and getattr(processor, "rescale_offset", False) else 0.0
    mean, std = _NAMED["none"]
    if getattr(processor, "do_normalize", True):
        mean, std = _numbers(processor.image_mean) or (), _numbers(processor.image_std) or ()
    return Normalization(tuple((offset + each) / one for each in mean), tuple(each / one for each in std))


def _pair(told: object) -> tuple[object, object] | None:
    """Mean and std, where they are given one after the other."""
    if isinstance(told, (list, tuple)) and len(told) == 2 and all(_numbers(each) for each in told):
        return told[0], told[1]
    return None


def _numbers(value: object) -> tuple[float, ...] | None:
    """A number, or those of a sequence, an array or a tensor of one axis; None for anything else."""
    if isinstance(value, Real):
        return (float(value),)
    single = False
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        tensor = torch.as_tensor(value)
        single, value = tensor.dtype == torch.float32, tensor.flatten().tolist() if tensor.ndim < 2 else []
    if not isinstance(value, Sequence) or not value or not all(isinstance(each, Real) for each in value):
        return None
    # 0.485 in single precision is 0.485 again.
    return tuple(float(f"{each:.7g}") if single else float(each) for each in value)


def _shown(thing: object) -> str:
    text = " ".join(repr(thing).split())
    return text if len(text) <= 80 else f"this {type(thing).__name__}"
