"""Baseline images that are drawn at random, from noise, from the image's own pixels or from other images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.functional.baselines.plain import (
    Baseline,
    DatasetMean,
    Given,
    ImageMean,
    PerChannel,
    check_statistic,
    per_channel,
    seeded_name,
)
from verisal.functional.seeding import content_ids, derive_seed, per_image
from verisal.types import check_images


@final
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Baseline):
    """The data set's mean plus independent Gaussian noise of its standard deviation, clamped to [0, 1].

    Args:
        mean: per channel, or one number for all, in [0, 1]; None stands for the mean that the classifier
            normalises with.
        std: per channel, likewise.
        seed: of the draw.

    Raises:
        ConfigError: values outside [0, 1]; none, or as many as no image has channels, when called.
    """

    mean: PerChannel | None = None
    std: PerChannel | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        as_tuples(self)
        check_statistic(self, "mean")
        check_statistic(self, "std")

    @property
    def name(self) -> str:
        """``gauss``, followed by ``_seed<n>`` for a seed other than 0."""
        return seeded_name("gauss", self.seed)

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """One draw per image."""
        mean, std = (per_channel(self, images, name) for name in ("mean", "std"))
        shape = tuple(images.shape[1:])
        noise = per_image(
            lambda rng: torch.randn(shape, generator=rng), images, seed=self.seed, stream="gauss"
        )
        return (mean + std * noise).clamp(0, 1)


@final
@dataclass(frozen=True, kw_only=True)
class UniformNoise(Baseline):
    """Independent uniform noise in [0, 1] per pixel and channel.

    Args:
        seed: of the draw.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        """``uniform``, followed by ``_seed<n>`` for a seed other than 0."""
        return seeded_name("uniform", self.seed)

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """One draw per image."""
        shape = tuple(images.shape[1:])
        return per_image(
            lambda rng: torch.rand(shape, generator=rng), images, seed=self.seed, stream="uniform"
        )


@final
@dataclass(frozen=True, kw_only=True)
class Shuffle(Baseline):
    """The image's own pixels in random order, the channels of a pixel kept together.

    Args:
        seed: of the draw.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        """``shuffle``, followed by ``_seed<n>`` for a seed other than 0."""
        return seeded_name("shuffle", self.seed)

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """One order per image."""
        pixels = images.flatten(2)
        count = pixels.shape[2]
        order = per_image(
            lambda rng: torch.randperm(count, generator=rng), images, seed=self.seed, stream="shuffle"
        )
        return pixels.gather(2, order[:, None].expand_as(pixels)).view_as(images)


@final
@dataclass(frozen=True, kw_only=True)
class OtherImage(Baseline):
    """Another image of a pool, of another class than the query, drawn by seed and content.

    Args:
        images: ``(N, C, H, W)`` float32 in [0, 1], the pool, of the size of the images to be explained.
        labels: ``(N,)`` int64, the class of every image of the pool.
        seed: of the draw.

    Raises:
        ConfigError: a pool whose labels or size do not fit, no query class, or no image of another class.
        DataError: a pool of something else than images.
    """

    images: Tensor = field(repr=False, compare=False)
    labels: Tensor = field(repr=False, compare=False)
    seed: int = 0
    contents: tuple[tuple[str, int], ...] = field(init=False, repr=False)

    __repr__ = brief

    def __post_init__(self) -> None:
        check_images(self.images)
        if tuple(self.labels.shape) != (len(self.images),):
            raise ConfigError(
                "OtherImage needs a pool of images (N, C, H, W) with labels (N,),"
                f" found {tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )
        contents = zip(content_ids(self.images), self.labels.tolist(), strict=True)
        object.__setattr__(self, "contents", tuple(contents))

    @property
    def name(self) -> str:
        """``other``, followed by ``_seed<n>`` for a seed other than 0."""
        return seeded_name("other", self.seed)

    def __call__(self, images: Tensor, masks: Given = None, *, query_class: Given = None) -> Tensor:
        """One image of the pool per image, never the image itself."""
        if query_class is None:
            raise ConfigError("OtherImage chooses an image of another class: give query_class (B,) int64")
        if images.shape[1:] != self.images.shape[1:]:
            raise ConfigError(
                f"the pool of OtherImage holds images of {tuple(self.images.shape[1:])}, and the images are"
                f" {tuple(images.shape[1:])}; resize the pool"
            )
        names = content_ids(images)
        chosen = [self._choice(name, query) for name, query in zip(names, query_class.tolist(), strict=True)]
        return self.images[chosen].to(images)

    def _choice(self, name: str, query: int) -> int:
        others = [row for row, (own, label) in enumerate(self.contents) if label != query and own != name]
        if not others:
            raise ConfigError(
                f"the pool of OtherImage has no other image than of class {query}, found labels"
                f" {sorted({label for _, label in self.contents})}; give a pool of several classes"
            )
        generator = torch.Generator().manual_seed(derive_seed(self.seed, name, "other"))
        return others[int(torch.randint(len(others), (1,), generator=generator))]


def recommended_baselines() -> tuple[Baseline, ...]:
    """Baselines that are neutral, need neither a mask nor a pool, and together rank methods most as all do.

    Chosen by the rule of :class:`verisal_studies.BaselineChoice` on scenes that no report uses:
    docs/studies/baseline_choice.md.

    >>> [baseline.name for baseline in recommended_baselines()]
    ['dataset_mean', 'image_mean', 'gauss']
    """
    return (DatasetMean(), ImageMean(), GaussianNoise())
