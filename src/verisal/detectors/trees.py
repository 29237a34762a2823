"""Trees of scikit-learn as plain tensors, walked in torch: kept without pickles, on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def tree_tensors(estimators: Sequence[Any], answer: Callable[[np.ndarray], np.ndarray]) -> dict[str, Tensor]:
    """All trees as one list of nodes.

    Args:
        estimators: fitted trees of scikit-learn.
        answer: what a node says, ``(nodes,)``, from its values ``(nodes, V)``.

    Returns:
        ``roots (trees,)``; and per node ``feature``, negative in leaves, ``threshold`` up to which images go
        to the first of ``children (nodes, 2)``, and ``answer``. Leaves are their own children.
    """
    trees = [estimator.tree_ for estimator in estimators]
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
    return {
        "roots": torch.as_tensor(roots),
        "feature": torch.as_tensor(np.concatenate([tree.feature for tree in trees])),
        "threshold": torch.as_tensor(np.concatenate([tree.threshold for tree in trees])),
        "children": torch.as_tensor(np.concatenate(children)),
        "answer": torch.as_tensor(answer(np.concatenate([tree.value[:, 0] for tree in trees]))),
    }


def tree_answers(
    vectors: Tensor, nodes: Mapping[str, Tensor], *, answer: str = "answer", depth: int | None = None
) -> Tensor:
    """``(B, trees)`` float64, what the leaf says that an image ends in; NaN where a number is none.

    Args:
        vectors: ``(B, F)`` float32, the precision in which trees compare.
        nodes: of :func:`tree_tensors`.
        answer: name of the answers among them.
        depth: most steps from a root to a leaf, if known; then no value decides how far the walk goes, so
            that it can be exported.
    """
    roots, feature, threshold, children = (nodes[n] for n in ("roots", "feature", "threshold", "children"))
    at, steps = roots.expand(vectors.shape[0], -1), 0
    while steps < depth if depth is not None else bool((feature[at] >= 0).any()):
        steps += 1
        # Leaves are their own children, whichever value they look at.
        value = vectors.gather(1, feature[at].clamp_min(0)).double()
        at = children[at, (value > threshold[at]).long()]
    return torch.where(vectors.isnan().any(dim=1)[:, None], torch.nan, nodes[answer][at])
