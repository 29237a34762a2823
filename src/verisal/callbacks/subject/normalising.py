"""The normalisation between a loader and a network: what each of them applies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verisal.callbacks.formats.batches import Read
from verisal.errors import ConfigError
from verisal.models import Normalization

NONE = Normalization((0.0,), (1.0,))
_MOST_IMAGES = 16
_SAME = 1e-3
SAY_NORMALIZATION = (
    "give normalization=: mean and std in units of [0, 1] as a pair, 'imagenet', the transform or its"
    " Normalize, torchvision weights, a timm data config, the image processor of transformers, or 'none'"
)
_EIGHT_BIT = ". Values from 0 to 255 are normalization=(0.0, 1 / 255), or uint8 images"


def measured(pixels: Tensor, given: Tensor) -> Normalization | None:
    """What a module applied to a loader's images before the network got them; None if it was something else.

    Args:
        pixels: ``(B, C, H, W)`` of the loader.
        given: ``(B, C, h, w)`` that the network got.
    """
    if pixels.shape != given.shape:
        return None
    x, y = pixels[:_MOST_IMAGES].double(), given[:_MOST_IMAGES].double()
    precision = max(2e-6, 2 * torch.finfo(given.dtype).eps)
    allowed = precision * max(1.0, float(y.abs().max()))
    if float((x - y).abs().max()) <= allowed:
        return NONE
    x, y = x.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1)
    centred = x - x.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1)
    slope = (centred * y).sum(dim=1) / variance
    offset = y.mean(dim=1) - slope * x.mean(dim=1)
    if not bool((variance > 0).all()) or not bool((slope > 0).all()):
        return None
    # Rounding of the images shows in proportion to the slope.
    allowed = 4 * precision * max(1.0, float(y.abs().max()), float((slope * x.abs().amax(dim=1)).max()))
    if float((slope[:, None] * x + offset[:, None] - y).abs().max()) > allowed:
        return None
    return Normalization(
        tuple(round(value, 5) for value in (-offset / slope).tolist()),
        tuple(float(f"{value:.5g}") for value in slope.reciprocal().tolist()),
    )


def of_loader(
    read: Read,
    told: Normalization | None,
    found: Normalization | None,
    applied: Normalization,
    *,
    bounded: bool = False,
) -> Normalization:
    """The normalisation that the loader has applied to its images.

    Args:
        read: a batch of the loader.
        told: by the user.
        found: in the loader's data set.
        applied: by the module to the loader's images.
        bounded: True if the user has said the bounds of the loader's images, so that nothing is guessed.

    Raises:
        ConfigError: sources that contradict each other or the images, or no source for images that are not in
            [0, 1].
    """
    channels = read.images.shape[1]
    told, found = (each and each.over(channels) for each in (told, found))
    low, high = _extent(read)
    inside = low >= -0.1 and high <= 1.1
    # Somebody who says what the module applies to images in [0, 1] means the network's.
    own = applied != NONE and (read.eight_bit or (inside and not bounded))
    if own and told is not None and (alike(told, applied) or alike(told, NONE)):
        return NONE
    if own and told is not None:
        raise ConfigError(
            f"the module normalises the loader's images by itself, by {shown(applied)} as measured, and"
            f" normalization= says {shown(told)}; leave out normalization="
        )
    if told is not None and found is not None and not alike(told, found):
        raise ConfigError(
            f"normalization= says {shown(told)}, and the transform of the loader's data set"
            f" {shown(found)}; give the one that the loader applies, and read images that are normalised"
            " otherwise by a function batch="
        )
    said = told or found
    if read.eight_bit:
        return NONE
    if said is None and not inside:
        raise ConfigError(
            f"the loader's images hold values from {low:.4g} to {high:.4g}, and no normalisation was found"
            f" that it applies to images in [0, 1]; {SAY_NORMALIZATION}"
            f"{_EIGHT_BIT if 2 < high <= 255 and low >= 0 else ''}; or bounds=(least, greatest) where"
            " values have units of their own"
        )
    if said is None or alike(said, NONE):
        return NONE
    if inside and not bounded and low >= 0 and min(said.mean) > 0.01:
        source = "normalization=" if told else "the transform of its data set"
        raise ConfigError(
            f"the loader's images hold values from {low:.4g} to {high:.4g}, as images do that are not"
            f" normalised, and {source} says {shown(said)}; say normalization='none' if the loader does not"
            " normalise, or give a function batch= that gives images in [0, 1]"
        )
    return said


def found_in(datasets: Sequence[object]) -> Normalization | None:
    """The normalisation in the transforms of all loaders' data sets, None where none says one.

    Raises:
        ConfigError: two say another one.
    """
    found = [one for dataset in datasets if (one := Normalization.found_in(dataset)) is not None]
    if different := [one for one in found if not alike(one, found[0])]:
        raise ConfigError(
            f"the data sets of the evaluation's loaders are normalised by {shown(found[0])} and by"
            f" {shown(different[0])}; normalise all alike, or give a function batch= that gives images in"
            " [0, 1]"
        )
    return found[0] if found else None


def combined(loader: Normalization, module: Normalization, channels: int) -> Normalization:
    """What the network takes of images in [0, 1]: first the loader's normalisation, then the module's."""
    first, second = loader.over(channels), module.over(channels)
    return Normalization(
        tuple(m + s * n for m, s, n in zip(first.mean, first.std, second.mean, strict=True)),
        tuple(s * t for s, t in zip(first.std, second.std, strict=True)),
    )


def alike(one: Normalization, other: Normalization) -> bool:
    """True for equal numbers, up to what is lost when they are measured or written down."""
    channels = max(len(one.mean), len(other.mean))
    if {len(one.mean), len(other.mean)} - {1, channels}:
        return False
    first, second = one.over(channels), other.over(channels)
    pairs = zip((*first.mean, *first.std), (*second.mean, *second.std), strict=True)
    return all(abs(a - b) <= _SAME * max(1.0, abs(b)) for a, b in pairs)


def shown(normalization: Normalization) -> str:
    """Mean and std as one types them."""
    return f"(mean {_short(normalization.mean)}, std {_short(normalization.std)})"


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _extent(read: Read) -> tuple[float, float]:
    return float(read.pixels.min()), float(read.pixels.max())
