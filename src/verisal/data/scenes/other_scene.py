"""A scene of another class as a baseline image, from settings that fit in a configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, final

from torch import Tensor

from verisal._numbers import check_range
from verisal.data.scenes.emoji import LARGEST_SCENE, SMALLEST_SCENE, EmojiScenes
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, OtherImage
from verisal.types import Batch, Split

__all__ = ["OtherScene"]


@final
@dataclass(frozen=True, kw_only=True)
class OtherScene(Baseline):
    """:class:`.OtherImage` with a pool of EmojiScenes, drawn when it is first needed.

    Args:
        split: of the pool, best one of which nothing is reported.
        count: scenes in the pool.
        size: side of the scenes in pixels, that of the images to be explained.
        seed: of the choice among them.

    Raises:
        ConfigError: fewer than two scenes, or images of another size when called.
    """

    split: Split = "det_fit"
    count: int = 96
    size: int = 64
    seed: int = 0

    needs_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigError(f"a pool of other scenes must hold at least 2, found count={self.count}")
        check_range(SMALLEST_SCENE, LARGEST_SCENE, size=self.size)

    @property
    def name(self) -> str:
        """``other``, as of the baseline that it makes, followed by ``_seed<n>`` for a seed other than 0."""
        return f"other_seed{self.seed}" if self.seed else "other"

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, *, query_class: Tensor | None = None
    ) -> Tensor:
        """One scene of the pool per image, of another class than its query."""
        pool = _pool(self.split, self.count, self.size, self.seed)
        return pool(images, masks, query_class=query_class)


@lru_cache(maxsize=2)
def _pool(split: Split, count: int, size: int, seed: int) -> OtherImage:
    scenes = EmojiScenes(split, count, size=size)
    batch = Batch.collate([scenes[index] for index in range(count)])
    return OtherImage(images=batch.images, labels=batch.labels, seed=seed)
