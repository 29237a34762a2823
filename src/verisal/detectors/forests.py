"""Random forests on vectors of an image, kept as tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.base import Detector, matching, require_rows, unfitted
from verisal.detectors.measurements import Measured, Measurement
from verisal.errors import ConfigError
from verisal.functional.seeding import derive_seed

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier


@dataclass(kw_only=True)
class ForestDetector(Detector):
    """A random forest on numbers of an image; the score is the mean share of adversarial ones in the leaves.

    Both classes weigh the same.

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

    def fit(self, measured: Measured, adversarial: Tensor, clean: Tensor, *, seed: int = 0) -> None:
        """Grow the forest on at least 4 clean and 4 adversarial images."""
        require_rows(self, adversarial, clean)
        self._learned = {}
        self._grow(self._numbers(measured), adversarial, seed)

    @final
    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` float64 scores in [0, 1] from the vectors."""
        if "roots" not in self._learned:
            raise unfitted(self)
        names = ("roots", "feature", "threshold", "children", "share")
        roots, feature, threshold, children, share = (self._learned[name] for name in names)
        vectors = self._numbers(measured).float()
        at = roots.expand(len(vectors), -1)
        while bool((feature[at] >= 0).any()):
            # Leaves are their own children, whichever value they look at.
            value = vectors.gather(1, feature[at].clamp_min(0)).double()
            at = children[at, (value > threshold[at]).long()]
        return torch.where(vectors.isnan().any(dim=1), torch.nan, share[at].mean(dim=1))

    @abstractmethod
    def _numbers(self, measured: Measured) -> Tensor:
        """``(B, F)``, what the trees look at, in single precision: that in which they compare."""

    @final
    def _grow(self, numbers: Tensor, adversarial: Tensor, seed: int) -> None:
        """Learn the nodes of all trees."""
        # Imported here: it takes as long as everything else of this room together.
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            self.trees,
            min_samples_leaf=self.least_leaf,
            class_weight="balanced",
            # One name for all forests: stored ones were grown under it.
            random_state=derive_seed(seed, "mask forest") % 2**32,
        )
        forest.fit(numbers.float().cpu().numpy(), adversarial.cpu().numpy())
        self._learned |= {name: part.to(adversarial.device) for name, part in _nodes(forest).items()}


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


def _nodes(forest: RandomForestClassifier) -> dict[str, Tensor]:
    """All trees as one list of nodes.

    Returns:
        ``roots (trees,)``; and per node ``feature``, negative in leaves, ``threshold`` up to which images go
        to the first of ``children (nodes, 2)``, and the ``share`` of adversarial images.
    """
    trees = [tree.tree_ for tree in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
    children = [
        np.where(
            (tree.children_left < 0)[:, None],
            np.arange(tree.node_count)[:, None],
            np.stack([tree.children_left, tree.children_right], axis=1),
        )
        + root
        for tree, root in zip(trees, roots, strict=True)
    ]
    counts = np.concatenate([tree.value[:, 0] for tree in trees])
    return {
        "roots": torch.as_tensor(roots),
        "feature": torch.as_tensor(np.concatenate([tree.feature for tree in trees])),
        "threshold": torch.as_tensor(np.concatenate([tree.threshold for tree in trees])),
        "children": torch.as_tensor(np.concatenate(children)),
        "share": torch.as_tensor(counts[:, 1] / counts.sum(axis=1)),
    }
