r"""Hierarchical attribution masks: gates on several layers, learned per image so that the output stays.

Every chosen stage output is multiplied element-wise by a gate, :math:`a_l \leftarrow M_l a_l`, which defines
:math:`f(x; M)`. Per image,

.. math:: J(M; x, c) = D(M) + \lambda \sum_l t_l \lVert M_l \rVert_1, \qquad M_l \ge 0

is minimised from :math:`M = 1`, where *D* says how far the output has moved. Regions whose gates survive are
the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.fingerprint import without_defaults
from verisal.functional.outputs import ask
from verisal.functional.scopes import images_at_once, in_chunks
from verisal.saliency._base import explaining, staged
from verisal.saliency.gates.descent import GateDescent, GateProblem, GateResult, Keep, Objective, logit_spread
from verisal.saliency.gates.masks import GatePenalty
from verisal.saliency.gates.method import FoundGates, GateMethod
from verisal.types import StagedClassifier, check_range


@final
@dataclass(frozen=True, kw_only=True)
class HierarchicalMasks(GateMethod):
    """Per-image optimisation of gates, fused over layers (HAF).

    Args:
        objective: what *D* keeps. ``evidence`` (default, ours): the part of the query logit above its value
            with all gates at 0, so that a class held down by negative evidence has nothing to keep.
            ``class``: the query logit. ``output``: all logits, mean over classes, no query. ``mixed``:
            ``class`` plus ``output``. ``maximise`` and ``maximise_log_probability``: raise the query's logit
            or log probability instead of keeping it, an ablation.
        reg_weight: lambda. Depends on network, layers and objective; see :func:`calibrate_reg_weight`.
        penalty: form of the weights ``t_l``.
        steps: T, Adam steps.
        learning_rate: Adam's rate; ``steps * learning_rate`` must reach 1, or no gate can reach 0.
        keep: ``best``: lowest J among admissible iterates 0..T; the start where there is none. An iterate is
            admissible unless it loses the prediction (``output``, ``mixed``), or loses it where it is asked
            for (``class``, ``evidence``); a class that was not predicted may come out on top, since biases
            decide once the evidence for all others is gated away. ``fidelity``: lowest D among iterates from
            T/2 on, rounded up. ``last``: iterate T.
        gate_max: upper bound of gates, or None.
        least_kept: share of the query's evidence, above 0 and at most 1. An image whose gates keep less of it
            is done, whatever the others do: it has the last admissible gates before, whatever ``keep`` says.
            A weight too large for the network then costs no image all of its evidence. None for no such stop.
        shown: what a stage's raw map is the channel mean of: ``gated_activation`` (gate times activation, the
            evidence that is left) or ``gate``.
        fusion: how per-layer maps become one.
        smoothing: sigma of a Gaussian over the fused map, in pixels of an image of side 224; 0 for none.
        chunk_size: images optimised at once, fewer above 128 x 128 pixels; bounds memory, never changes the
            result beyond float rounding.

    Raises:
        ConfigError: ``steps * learning_rate < 1``, values out of range, or ``least_kept`` with an objective
            that keeps no evidence of a query.

    References:
        wang2020haf

    Differs from:
        - The paper's exact objective, weight and step count are not public to us; the form of the penalty
          and ``class`` follow third-party code, ``evidence``, ``per_channel``, ``relative``, the geometric
          fusion and, as defaults, ``gated_activation`` with a smoothed map are ours: chosen on scenes that no
          report uses. The published form is ``shown="gate"``, ``fusion="mean"``, ``smoothing=0``.
        - ``least_kept`` is ours.
        - Gates start at 1 (after the first author's CDRP code), so that ``f(x; M) = f(x)`` at the start.
    """

    objective: Objective = "evidence"
    reg_weight: float = 4.0
    penalty: GatePenalty = "per_channel"
    steps: int = 30
    learning_rate: float = 0.05
    keep: Keep = "best"
    gate_max: float | None = None
    least_kept: float | None = None

    rules = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, steps=self.steps)
        check_range(0, above=True, learning_rate=self.learning_rate, gate_max=self.gate_max)
        check_range(0, reg_weight=self.reg_weight)
        if self.steps * self.learning_rate < 1 - 1e-9:
            raise ConfigError(
                f"steps * learning_rate is {self.steps * self.learning_rate:.3g}; a gate falls by at most the"
                " learning rate per step, so it must be at least 1 for gates to reach 0"
            )
        check_range(0, 1, above=True, least_kept=self.least_kept)
        if self.least_kept is not None and self.objective not in ("class", "evidence", "mixed"):
            raise ConfigError(
                f"least_kept is a share of the query's evidence, which objective {self.objective} does not"
                " keep; leave it out, or choose class, evidence or mixed"
            )

    def _decisive(self) -> dict[str, Any]:
        return without_defaults(super()._decisive(), least_kept=None)

    @property
    def uses_query(self) -> bool:
        """False for ``output``, which keeps all logits."""
        return self.objective != "output"

    @property
    def descent(self) -> GateDescent:
        """The descent of these settings."""
        return GateDescent(
            reg_weight=self.reg_weight,
            steps=self.steps,
            learning_rate=self.learning_rate,
            keep=self.keep,
            gate_max=self.gate_max,
            least_kept=self.least_kept,
        )

    def find(self, classifier: object, images: Tensor, query_class: Tensor) -> FoundGates:
        """The gates that :meth:`learn` finds."""
        learned = self.learn(classifier, images, query_class)
        return FoundGates(learned.gates, learned.activations, self.steps + 1, self.steps)

    def learn(self, classifier: object, images: Tensor, query_class: Tensor) -> GateResult:
        """Learn the gates of one batch; every image's result is independent of its batch mates.

        Args:
            classifier: with stages.
            images: ``(B, C, H, W)`` float32 in [0, 1].
            query_class: ``(B,)`` int64; ignored by ``output``.

        Raises:
            ConfigError: a query class out of range, or a classifier without stages.
        """
        network = staged(classifier, images, "HierarchicalMasks")
        with explaining(network, images, query_class) as (images, query):
            with torch.no_grad():
                outputs = network.stage_outputs(images)
            problem = GateProblem(self.objective, self.penalty, network, outputs, query)
            return self.descent.run(problem)


@final
@dataclass(frozen=True)
class Calibration:
    """Effect of one lambda on the calibration images.

    Attributes:
        reg_weight: the lambda tried.
        unchanged: share of images whose predicted class is the same with gates.
        relative_change: median of the query logit's change over the spread of the image's logits; of one
            logit over its distance from 0.
        zero_share: mean share of gates at 0.
        accepted: at least 95 % unchanged and a median change of at most 5 %.
    """

    reg_weight: float
    unchanged: float
    relative_change: float
    zero_share: float
    accepted: bool


def calibrate_reg_weight(
    method: HierarchicalMasks,
    classifier: StagedClassifier,
    images: Tensor,
    *,
    grid: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
) -> tuple[float, tuple[Calibration, ...]]:
    """Largest lambda of a grid that keeps the output, on clean images that no report uses.

    A value that suits one network empties or ignores the gates of another, so lambda belongs to a network,
    its stages, an objective and a number of steps.

    Args:
        method: all other settings.
        classifier: with stages.
        images: ``(N, C, H, W)`` in [0, 1]; the class explained is the predicted one, of several labels the
            most probable one.
        grid: values to try, rising.

    Returns:
        The chosen lambda, and what every value of the grid does.

    Raises:
        ConfigError: no value of the grid is accepted.
    """
    with torch.no_grad():
        logits = ask(classifier, images)
    query = logits.argmax(dim=1)
    spread = logit_spread(logits)
    at_once = images_at_once(method.chunk_size, images)
    tried = []
    for reg_weight in sorted(grid):
        candidate = replace(method, reg_weight=reg_weight)
        results = [candidate.learn(classifier, *some) for some in in_chunks(images, query, at_once)]
        unchanged = float(torch.cat([result.unchanged for result in results]).float().mean())
        change = torch.cat([result.query_change for result in results]).abs() / spread
        zeros = float(torch.cat([result.zero_share for result in results]).mean())
        median = float(change.median())
        tried.append(Calibration(reg_weight, unchanged, median, zeros, unchanged >= 0.95 and median <= 0.05))
    accepted = [calibration.reg_weight for calibration in tried if calibration.accepted]
    if not accepted:
        raise ConfigError(
            f"no lambda of {sorted(grid)} keeps 95 % of the predictions and the logit within 5 %;"
            " add smaller values or steps"
        )
    return max(accepted), tuple(tried)
