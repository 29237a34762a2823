"""Classical learners on learned masks: dispersion of the maps, and forests on channel gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.base import Detector, matching, require_rows, unfitted
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.statistical import LogisticDetector
from verisal.errors import ConfigError
from verisal.functional.seeding import derive_seed

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier


def map_dispersion(maps: Tensor) -> Tensor:
    r"""How a map's values spread: six statistics per image.

    Mean, largest value, standard deviation (biased), interquartile range, entropy
    :math:`-\sum_i p_i \log p_i` of the values scaled to sum 1, and total variation: the mean absolute
    difference of neighbours across and down.

    Args:
        maps: ``(B, h, w)``, non-negative.

    Returns:
        ``(B, 6)``, in this order.
    """
    flat = maps.flatten(1)
    ranked = flat.sort(dim=1).values
    share = flat / flat.sum(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    across, down = maps.diff(dim=2).abs().flatten(1), maps.diff(dim=1).abs().flatten(1)
    steps = torch.cat([across, down], dim=1)
    variation = steps.sum(dim=1) / max(steps.shape[1], 1)
    mean = flat.mean(dim=1)
    # Not ``std``, which warns where there is no image.
    deviation = (flat - mean[:, None]).square().mean(dim=1).sqrt()
    spread = _quantile(ranked, 0.75) - _quantile(ranked, 0.25)
    entropy = torch.special.entr(share).sum(dim=1)
    return torch.stack([mean, ranked[:, -1], deviation, spread, entropy, variation], dim=1)


def _quantile(ranked: Tensor, share: float) -> Tensor:
    """Linear interpolation between ranks; unlike ``torch.quantile`` of any size, and of no row too."""
    at = share * (ranked.shape[1] - 1)
    below = int(at)
    above = min(below + 1, ranked.shape[1] - 1)
    return torch.lerp(ranked[:, below], ranked[:, above], at - below)


@final
@dataclass(kw_only=True)
class MaskStatistics(LogisticDetector):
    """Logistic regression on the dispersion of every mask: mean, maximum, deviation, IQR, entropy, variation.

    Args:
        source: what is measured of an image.
        reads: names of the masks ``(B, S, h, w)``, with ``*`` and ``?`` standing for anything. The first of
            their S channels is read, which is the mean over the channels of a gate.

    Raises:
        ConfigError: no name to read.
    """

    source: Measurement
    reads: tuple[str, ...] = ("masks/*",)

    def __post_init__(self) -> None:
        as_tuples(self)
        if not self.reads:
            raise ConfigError("MaskStatistics.reads must name a mask, such as masks/*, found none")

    def _numbers(self, measured: Measured) -> Tensor:
        """``(B, 6 * masks)`` float64."""
        masks = matching(measured, self.reads).values()
        return torch.cat([map_dispersion(mask[:, 0].double()) for mask in masks], dim=1)


@final
@dataclass(kw_only=True)
class MaskForest(Detector):
    """A random forest on channel gates; the score is the mean share of adversarial images in the leaves.

    Args:
        source: what is measured of an image; :class:`ChannelGates` for the paper's inputs.
        reads: names of vectors ``(B, C)``, with ``*`` and ``?`` standing for anything.
        trees: of the forest.
        least_leaf: fewest fit images in a leaf; above 1, so that a tree answers with shares, not with votes.

    Raises:
        ConfigError: no name to read, or settings out of range.

    References:
        wang2018cdrp

    Differs from:
        - The paper learns one gate per channel; here gates are full maps, of which the channel means are
          read.
        - Both classes weigh the same.
        - The authors' code gives hard predictions to its AUC; the score here is continuous.
    """

    source: Measurement
    reads: tuple[str, ...] = ("gates/*",)
    trees: int = 200
    least_leaf: int = 2

    def __post_init__(self) -> None:
        as_tuples(self)
        if not self.reads or self.trees < 1 or self.least_leaf < 1:
            raise ConfigError(
                "MaskForest needs a name to read and at least 1 tree and 1 image in a leaf; found"
                f" reads={list(self.reads)}, trees={self.trees}, least_leaf={self.least_leaf}"
            )

    def fit(self, measured: Measured, adversarial: Tensor, clean: Tensor, *, seed: int = 0) -> None:
        """Grow the forest on at least 4 clean and 4 adversarial images."""
        from sklearn.ensemble import RandomForestClassifier

        require_rows(self, adversarial, clean)
        forest = RandomForestClassifier(
            self.trees,
            min_samples_leaf=self.least_leaf,
            class_weight="balanced",
            random_state=derive_seed(seed, "mask forest") % 2**32,
        )
        forest.fit(self._vectors(measured).cpu().numpy(), adversarial.cpu().numpy())
        self._learned = {name: part.to(adversarial.device) for name, part in _nodes(forest).items()}

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` float64 scores in [0, 1] from the vectors."""
        if not self._learned:
            raise unfitted(self)
        names = ("roots", "feature", "threshold", "children", "share")
        roots, feature, threshold, children, share = (self._learned[name] for name in names)
        vectors = self._vectors(measured)
        at = roots.expand(len(vectors), -1)
        while bool((feature[at] >= 0).any()):
            # Leaves are their own children, whichever value they look at.
            value = vectors.gather(1, feature[at].clamp_min(0)).double()
            at = children[at, (value > threshold[at]).long()]
        return torch.where(vectors.isnan().any(dim=1), torch.nan, share[at].mean(dim=1))

    def _vectors(self, measured: Measured) -> Tensor:
        """``(B, F)`` float32, the precision in which trees compare."""
        return torch.cat([vector.float() for vector in matching(measured, self.reads).values()], dim=1)


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
