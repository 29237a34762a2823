r"""Maps of what the kept features contribute to the query's logit, on the gated network.

With the gates :math:`M` that a method found, one more pass of the gated network, forward and back, gives per
stage

.. math:: E_l = \sum_{channels} M_l \frac{\partial f_c(x; M)}{\partial M_l}

in logits: to first order, what each place of the stage adds. A strong channel that the logit does not depend
on adds nothing, where its gated activation would fill the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.saliency.gates.masks import resize_maps
from verisal.types import StagedClassifier


@dataclass(frozen=True)
class Contributions:
    """Signed contributions of one batch, in logits.

    Attributes:
        stages: per stage ``(B, 1, h_l, w_l)``: positive where a place speaks for the query.
        kept: ``(B,)`` query logit with the gates minus that with all gates at 0: what they should add up to.
    """

    stages: tuple[Tensor, ...]
    kept: Tensor

    __repr__ = brief

    def completeness(self) -> Tensor:
        """``(B,)``: sum of a stage's contributions over the evidence kept, mean over the stages.

        1 where the stages account for all of it; the biases behind a stage and the ReLUs that its gates
        switch make the difference. NaN where no evidence is kept.
        """
        totals = torch.stack([stage.flatten(1).sum(dim=1) for stage in self.stages]).mean(dim=0)
        return (totals / self.kept).where(self.kept.abs() > 1e-6, torch.nan)


def mean_of(parts: Sequence[Contributions]) -> Contributions:
    """Means over several gates of the same batch."""
    stages = (torch.stack(stage).mean(dim=0) for stage in zip(*(part.stages for part in parts), strict=True))
    return Contributions(tuple(stages), torch.stack([part.kept for part in parts]).mean(dim=0))


def contributions(
    network: StagedClassifier, activations: Sequence[Tensor], gates: Sequence[Tensor], query: Tensor
) -> Contributions:
    """What every place of every stage contributes to the query's logit; use it inside ``frozen(network)``.

    Costs one pass of the gated network, forward and back, and one forward pass of a single image.

    Args:
        network: with stages.
        activations: per stage ``(B, C_l, H_l, W_l)``, ungated.
        gates: of the same shapes.
        query: ``(B,)`` int64.
    """
    leaves = [gate.detach().requires_grad_() for gate in gates]
    logits = network.gated(activations[0], leaves)
    asked = logits.gather(1, query[:, None])[:, 0]
    slopes = torch.autograd.grad(asked.sum(), leaves)
    with torch.no_grad():
        stages = tuple(
            (gate * slope).sum(dim=1, keepdim=True) for gate, slope in zip(gates, slopes, strict=True)
        )
        none_left = network.gated(activations[0][:1], [torch.zeros_like(gate[:1]) for gate in gates])
        floor = none_left.expand_as(logits).gather(1, query[:, None])[:, 0]
    return Contributions(stages, (asked - floor).detach())


def channel_contributions(
    network: StagedClassifier, activations: Sequence[Tensor], gates: Sequence[Tensor], query: Tensor
) -> tuple[Tensor, ...]:
    """What every channel of every stage adds to the query's logit, over all its places: ``(B, C_l)``.

    In logits, as :func:`contributions` before they are added up over the channels, at one pass of the gated
    network, forward and back; use it inside ``frozen(network)``.

    Args:
        network: with stages.
        activations: per stage ``(B, C_l, H_l, W_l)``, ungated.
        gates: of these shapes, or ``(B, 1, H_l, W_l)`` for all channels of a place at once.
        query: ``(B,)`` int64.
    """
    pairs = zip(gates, activations, strict=True)
    leaves = [gate.detach().expand_as(activation).clone().requires_grad_() for gate, activation in pairs]
    asked = network.gated(activations[0], leaves).gather(1, query[:, None])
    slopes = torch.autograd.grad(asked.sum(), leaves)
    return tuple((leaf.detach() * slope).sum(dim=(2, 3)) for leaf, slope in zip(leaves, slopes, strict=True))


def in_pixels(stage: Tensor, size: tuple[int, int]) -> Tensor:
    """Contributions ``(B, 1, h, w)`` over ``size``, in logits per pixel: the sum stays about the same."""
    share = stage.shape[-2] * stage.shape[-1] / (size[0] * size[1])
    return resize_maps(stage, size) * share
