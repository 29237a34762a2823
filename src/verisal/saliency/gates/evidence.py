r"""Evidence masks: the fewest places that hold the query's evidence, and what they contribute, in few passes.

Every stage has one gate per place, :math:`a_l \leftarrow M_l a_l` with :math:`M_l \in [0, 1]`. With
:math:`E(M) = f_c(x; M) - f_c(x; 0)`, what is looked for is

.. math:: \min_M \sum_l \lVert M_l \rVert_1 \quad \text{so that} \quad E(M) = [E(1)]^+

Each step makes it linear at the present gates, where a threshold solves it: the places of steepest slope that
together hold the evidence. Gates of these places rise by a fixed amount, all others fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from verisal.saliency._base import explaining, staged
from verisal.saliency.gates.contributions import Contributions
from verisal.saliency.gates.descent import GateProblem
from verisal.saliency.gates.masks import Shown
from verisal.saliency.gates.method import FoundGates, GateMethod, Joining
from verisal.types import check_range


@final
@dataclass(frozen=True, kw_only=True)
class EvidenceMasks(GateMethod):
    """The fewest places of every stage that hold the query's evidence, shown by what they contribute.

    Nothing is to be tuned to a network: the evidence is a constraint, so that there is no weight between it
    and the size of the masks, and where it falls short, gates rise again.

    Args:
        fall: steps in which a gate can go from 1 to 0, at least 1; each changes it by ``1 / fall``.
        settle: steps that follow, at least 1. Places at the edge come and go in them: contributions are means
            over the gates after each of these steps.
        inertia: share of a place's slope that is kept from step to step, from 0 to 0.99. Slopes of a single
            pass choose places that help at these gates alone.
        leak: smallest gate where there is evidence, from 0 to 1: a tiny one still says which of two places
            that were left out was the less important, and holds the parts of an object together. Where there
            is none, all gates go to 0 and the map is empty.
        anchor: whether the ungated contributions of the last stage take part in the fused map, a stage more:
            they come from the first pass. They keep it on the object where a pruned network finds another
            way to the same logit.
        shown: see :class:`HierarchicalMasks`, as is the next.
        fusion: how per-layer maps become one.
        smoothing: sigma of a Gaussian over the fused map, in pixels of an image of side 224; 0 for none.
        chunk_size: images at once, fewer above 128 x 128 pixels; bounds memory, never changes the result
            beyond float rounding.

    Raises:
        ConfigError: values out of range.

    References:
        wang2020haf

    Differs from:
        - The paper learns one gate per element under a penalty. One gate per place, the constraint, its
          linear steps and the maps of contributions are ours, chosen on photographs and scenes that no
          report uses.
    """

    shown: Shown = "contribution"
    fall: int = 7
    settle: int = 4
    inertia: float = 0.8
    leak: float = 0.002
    anchor: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, fall=self.fall, settle=self.settle)
        check_range(0, 0.99, inertia=self.inertia)
        check_range(0, 1, leak=self.leak)

    @property
    def uses_query(self) -> bool:
        """True: the evidence is that of a class."""
        return True

    def find(self, classifier: object, images: Tensor, query_class: Tensor) -> FoundGates:
        """One gate per place, as a view of the stage's shape; each image's are its own, whatever its batch.

        Raises:
            ConfigError: a query class out of range, or a classifier without stages.
        """
        network = staged(classifier, images, type(self).__name__)
        images = images.contiguous(memory_format=torch.channels_last)
        with explaining(network, images, query_class) as (images, query):
            with torch.no_grad():
                outputs = network.stage_outputs(images)
            problem = GateProblem("evidence", "per_channel", network, outputs, query)
            return self.run(problem)

    def run(self, problem: GateProblem, start: Sequence[Tensor] | None = None) -> FoundGates:
        """The steps on one batch; use it inside ``frozen(network)``.

        Args:
            problem: of the batch, with ``evidence`` as its objective.
            start: gates of places ``(B, 1, h_l, w_l)`` to begin from, near the end already: from there only
                the steps of ``settle`` are made, and contributions are means over all of them. Gates of 1,
                and all steps, if None.
        """
        activations, target = problem.activations, problem.evidence
        least = torch.where(target > 0, self.leak, 0.0)[:, None, None, None]
        gates = [torch.ones_like(activation[:, :1]) for activation in activations]
        if start is not None:
            gates = [torch.maximum(gate.detach(), least) for gate in start]
        gates = [gate.requires_grad_() for gate in gates]
        memories = [torch.zeros_like(gate) for gate in gates]
        earlier: list[Contributions] = []
        further: tuple[Tensor, ...] = ()
        fall = self.fall if start is None else 0
        for step in range(fall + self.settle):
            asked = problem.of_query(problem.gated(spread(gates, activations)))
            slopes = torch.autograd.grad(asked.sum(), gates)
            with torch.no_grad():
                kept = asked - problem.floor
                if step == 0 and self.anchor and start is None:
                    further = (slopes[-1],)
                if step > fall or start is not None:
                    parts = zip(gates, slopes, strict=True)
                    earlier.append(Contributions(tuple(gate * slope for gate, slope in parts), kept))
                for gate, slope, memory in zip(gates, slopes, memories, strict=True):
                    memory.lerp_(slope, 1 - self.inertia)
                    # As of Adam: the first means would be too small otherwise.
                    mean = memory / (1 - self.inertia ** (step + 1))
                    held = (gate * mean).flatten(1).sum(dim=1)
                    # Where there is no evidence, nothing is to be held.
                    wanted = torch.where(target > 0, held + target - kept, 0.0)
                    rises = torch.where(holding(mean, wanted), 1.0, -1.0)
                    gate.add_(rises, alpha=1 / self.fall).clamp_(max=1).clamp_(min=least)
        return FoundGates(
            tuple(gate.detach() for gate in spread(gates, activations)),
            activations,
            fall + self.settle + 1,
            fall + self.settle,
            tuple(earlier),
            Joining(further=further),
        )


def spread(gates: Sequence[Tensor], activations: Sequence[Tensor]) -> list[Tensor]:
    """Gates ``(B, 1, h, w)`` of places as views of the shapes of the activations."""
    return [gate.expand_as(activation) for gate, activation in zip(gates, activations, strict=True)]


def holding(slopes: Tensor, wanted: Tensor) -> Tensor:
    """The fewest places whose slopes add up to what is wanted; all positive ones where that is too little.

    Args:
        slopes: ``(B, 1, h, w)`` of a logit by the gates of places.
        wanted: ``(B,)`` in logits; no place holds what is not positive.

    Returns:
        ``(B, 1, h, w)`` bool. Places as steep as the last of them are held, too.

    >>> holding(torch.tensor([[[[3.0, 1.0, -1.0, 2.0]]]]), torch.tensor([4.0])).flatten().tolist()
    [True, False, False, True]
    """
    steepest = slopes.flatten(1).clamp_min(0).sort(dim=1, descending=True).values
    # A hair less than wanted: where all slopes are positive, rounding would decide on the last of them.
    count = (
        (steepest.cumsum(dim=1) < wanted[:, None] * (1 - 1e-5)).sum(dim=1).clamp_max(steepest.shape[1] - 1)
    )
    least = steepest.gather(1, count[:, None])[:, 0, None, None, None]
    return (slopes >= least) & (slopes > 0) & (wanted > 0)[:, None, None, None]
