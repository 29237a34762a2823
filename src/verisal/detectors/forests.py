"""Random forests on vectors of an image, kept as tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.base import Detector, matching, require_rows, row_weights, unfitted
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.trees import tree_answers, tree_tensors
from verisal.errors import ConfigError
from verisal.functional.seeding import derive_seed


@dataclass(kw_only=True)
class ForestDetector(Detector):
    """A random forest on numbers of an image; the score is the mean share of adversarial ones in the leaves.

    Rows weigh as :func:`.row_weights` says.

    Args:
        trees: of the forest.
        least_leaf: fewest fit images in a leaf; above 1, so that a tree answers with shares, not with votes.

    Raises:
        ConfigError: settings out of range.
    """

    trees: int = 200
    least_leaf: int = 2

    def __post_init__(self) -> None:
        as_tuples(self)
        if self.trees < 1 or self.least_leaf < 1:
            raise ConfigError(
                f"{type(self).__name__} needs at least 1 tree and 1 image in a leaf; found"
                f" trees={self.trees}, least_leaf={self.least_leaf}; give more"
            )

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Grow the forest on at least 4 clean and 4 adversarial images."""
        require_rows(self, adversarial, clean)
        self._learned = {}
        self._grow(self._numbers(measured), adversarial, images, seed)

    @final
    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` float64 scores in [0, 1] from the vectors."""
        if "roots" not in self._learned:
            raise unfitted(self)
        vectors = self._numbers(measured).float()
        return tree_answers(vectors, self._learned, answer="share").mean(dim=1)

    @abstractmethod
    def _numbers(self, measured: Measured) -> Tensor:
        """``(B, F)``, what the trees look at, in single precision: that in which they compare."""

    @final
    def _grow(self, numbers: Tensor, adversarial: Tensor, images: Tensor | None, seed: int) -> None:
        """Learn the nodes of all trees."""
        # Imported here: it takes as long as everything else of this room together.
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            self.trees,
            min_samples_leaf=self.least_leaf,
            # One name for all forests: stored ones were grown under it.
            random_state=derive_seed(seed, "mask forest") % 2**32,
            # Equal trees in any number of threads.
            n_jobs=torch.get_num_threads(),
        )
        weights = row_weights(adversarial, images)
        # A leaf of rows without weight would have no share.
        at = weights > 0
        forest.fit(
            numbers[at].float().cpu().numpy(),
            adversarial[at].cpu().numpy(),
            sample_weight=weights[at].cpu().numpy(),
        )
        nodes = tree_tensors(forest.estimators_, lambda counts: counts[:, 1] / counts.sum(axis=1))
        nodes["share"] = nodes.pop("answer")
        self._learned |= {name: part.to(adversarial.device) for name, part in nodes.items()}


@final
@dataclass(kw_only=True)
class Forest(ForestDetector):
    """A random forest on any named vectors of an image.

    Args:
        source: what is measured of an image.
        reads: names of vectors ``(B, F)`` or values ``(B,)``, with ``*`` and ``?`` standing for anything.
        trees: of the forest.
        least_leaf: fewest fit images in a leaf; above 1, so that a tree answers with shares, not with votes.

    Raises:
        ConfigError: no name to read, or settings out of range.
    """

    source: Measurement
    reads: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_names(self, self.reads)

    def _numbers(self, measured: Measured) -> Tensor:
        return named_vectors(measured, self.reads)


def require_names(detector: Detector, reads: Sequence[str]) -> None:
    """Raise unless there is a name to read.

    Raises:
        ConfigError: no name.
    """
    if not reads:
        raise ConfigError(
            f"{type(detector).__name__}.reads must name a measured tensor, found none; name one, or * for all"
        )


def named_vectors(measured: Measured, reads: Sequence[str]) -> Tensor:
    """Tensors ``(B, F)`` and ``(B,)`` whose names match, side by side: ``(B, F')`` float32.

    Raises:
        ConfigError: a pattern that matches nothing, or a tensor that is a map.
    """
    columns = []
    for name, tensor in matching(measured, reads).items():
        if tensor.ndim > 2:
            raise ConfigError(
                f"{name} is {tuple(tensor.shape)}, not a vector (B, F); name another, or pool it first"
            )
        columns.append(tensor.float() if tensor.ndim == 2 else tensor.float()[:, None])
    return torch.cat(columns, dim=1)
