"""Detectors that learn how the classifier's answer changes from view to view of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.base import Detector, matching, require_rows, row_weights, unfitted
from verisal.detectors.measurements import Measured, Measurement, ShiftedLogits, ViewLogits
from verisal.detectors.statistical import LogisticDetector
from verisal.detectors.trees import tree_answers, tree_tensors
from verisal.errors import ConfigError
from verisal.functional.outputs import log_odds, softmax_distance
from verisal.functional.seeding import derive_seed
from verisal.types import check_range

# A class that the network rules out has minus infinity, which trees are not grown on.
_LEAST = -1e6


def consistency_numbers(logits: Tensor, views: Sequence[Tensor]) -> Tensor:
    r"""How far the answers on views of an image agree with that on the image itself.

    Args:
        logits: ``(B, K)`` on the image, whose largest names the class c.
        views: V times ``(B, K)``.

    Returns:
        ``(B, 1 + 3 V)``: the log odds of c on the image; and per view the log odds of c, the L1 distance of
        the two softmax outputs, and :math:`\log \frac1K \sum_k (\log p_k - \log p'_k)^2`, from -18.4.
    """
    predicted = logits.argmax(dim=1, keepdim=True)
    numbers = [log_odds(logits)]
    for view in views:
        rest = view.scatter(1, predicted, -torch.inf).logsumexp(dim=1)
        change = (logits.log_softmax(dim=1) - view.log_softmax(dim=1)).square().mean(dim=1)
        numbers += [
            view.gather(1, predicted)[:, 0] - rest,
            softmax_distance(logits, view),
            change.clamp_min(1e-8).log(),
        ]
    return torch.stack(numbers, dim=1)


@final
@dataclass(kw_only=True)
class LearnedConsistency(LogisticDetector):
    r"""A logistic regression on four numbers of the logits of an image and of its shifted copy.

    They are the log odds of the predicted class c on the image, those of the same class on the shifted copy,
    the L1 distance of the two softmax outputs, and :math:`\log \frac1K \sum_k (\log p_k - \log p'_k)^2`.
    It reads no mask, no activation and no gradient: whatever a more expensive detector finds that this one
    does not is what the masks add to the shift. :class:`ViewConsistency` reads several copies.

    References:
        xu2018squeezing

    Differs from:
        the paper, which thresholds the largest distance over several squeezers.
    """

    source: Measurement = field(default_factory=ShiftedLogits)

    def _numbers(self, measured: Measured) -> Tensor:
        logits, shifted = (t.float() for t in matching(measured, ("logits", "shifted/logits")).values())
        return consistency_numbers(logits, (shifted,))


@final
@dataclass(kw_only=True)
class ViewConsistency(LogisticDetector):
    """A logistic regression on numbers of the logits of an image and of any number of its views.

    They are the log odds of the predicted class on the image, and per view the three others of
    :class:`LearnedConsistency`.

    Args:
        source: what is measured of an image.
        reads: names of the views' logits, with ``*`` and ``?`` standing for anything.

    Raises:
        ConfigError: no name to read.

    References:
        xu2018squeezing

    Differs from:
        the paper, which thresholds the largest distance over several squeezers.
    """

    source: Measurement = field(default_factory=ViewLogits)
    reads: tuple[str, ...] = ("*/logits",)

    def __post_init__(self) -> None:
        as_tuples(self)
        if not self.reads:
            raise ConfigError("ViewConsistency.reads must name a view's logits, such as */logits, found none")

    def _numbers(self, measured: Measured) -> Tensor:
        """``(B, 1 + 3 V)`` of V views."""
        logits, *views = (t.float() for t in matching(measured, ("logits", *self.reads)).values())
        return consistency_numbers(logits, views)


@final
@dataclass(kw_only=True)
class LogitTrees(Detector):
    """Boosted trees on the logits of an image and of its views; the score is the log odds.

    They read the largest of the image's own logits, as logarithms of the softmax, in their order, and those
    of the same classes on every view in the same order, so that no class is named. Rows weigh as
    :func:`.row_weights` says. Trees have no slope: no gradient passes through the score.

    Args:
        source: what is measured of an image; :class:`Logits` with no name in ``reads`` for one view alone.
        reads: names of the views' logits, with ``*`` and ``?`` standing for anything.
        trees: number of them.
        depth: most splits between the root of a tree and a leaf.
        learning_rate: factor of what each tree adds.
        ranks: how many of the largest logits are read.
        share: of the numbers, drawn anew at each split, that it is chosen among.

    Raises:
        ConfigError: settings out of range.

    References:
        friedman2001
    """

    source: Measurement = field(default_factory=ViewLogits)
    reads: tuple[str, ...] = ("*/logits",)
    trees: int = 200
    depth: int = 4
    learning_rate: float = 0.1
    ranks: int = 10
    share: float = 0.1

    def __post_init__(self) -> None:
        as_tuples(self)
        check_range(1, trees=self.trees, depth=self.depth, ranks=self.ranks)
        check_range(0, 1, above=True, learning_rate=self.learning_rate, share=self.share)

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Grow the trees on at least 4 clean and 4 adversarial images."""
        from sklearn.ensemble import GradientBoostingClassifier

        require_rows(self, adversarial, clean)
        # Both sides weigh the same, so log odds are 0 to begin with.
        boosting = GradientBoostingClassifier(
            init="zero",
            n_estimators=self.trees,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            max_features=self.share,
            random_state=derive_seed(seed, "logit trees") % 2**32,
        )
        flags = adversarial.cpu().numpy()
        weights = row_weights(adversarial, images).cpu().numpy()
        boosting.fit(self.numbers(measured).cpu().numpy(), flags, sample_weight=weights)
        rate = self.learning_rate
        nodes = tree_tensors(boosting.estimators_[:, 0], lambda values: rate * values[:, 0])
        self._learned = {name: part.to(adversarial.device) for name, part in nodes.items()}

    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` float64 log odds."""
        if not self._learned:
            raise unfitted(self)
        return tree_answers(self.numbers(measured), self._learned, depth=self.depth).sum(dim=1)

    def numbers(self, measured: Measured) -> Tensor:
        """``(B, ranks * (1 + V))`` float32, the precision in which trees compare."""
        found = matching(measured, ("logits", *self.reads)).values()
        logits, *views = (tensor.detach().float().log_softmax(dim=1).clamp_min(_LEAST) for tensor in found)
        if torch.onnx.is_in_onnx_export():
            # ONNX has no stable sort, but its largest values, where equal, come in the order of their places.
            order = logits.topk(min(self.ranks, logits.shape[1]), dim=1).indices
        else:
            order = logits.argsort(dim=1, descending=True, stable=True)[:, : self.ranks]
        return torch.cat([part.gather(1, order) for part in (logits, *views)], dim=1)
