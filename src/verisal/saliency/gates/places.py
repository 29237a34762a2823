r"""A network that predicts one gate per place from what the ungated network says of the query.

One pass of the classifier, forward and back, gives per stage the contributions :math:`E_l` of every place to
the query's logit with all gates at 1. They are the first step of :class:`.EvidenceMasks`, and they carry the
query: the network that reads them knows no class by its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.errors import ConfigError
from verisal.saliency.gates.contributions import Contributions, contributions
from verisal.types import StagedClassifier, StageOutputs, check_range

# Below this, a query has too little evidence to divide by, in logits.
_LEAST_EVIDENCE = 1e-3


class Ungated(NamedTuple):
    """What one pass, forward and back, says of the ungated network.

    Attributes:
        outputs: of the images.
        contributions: of the query, with all gates at 1.
        n_forward: forward passes that it took, 1 where the activations are part of the network's graph.
    """

    outputs: StageOutputs
    contributions: Contributions
    n_forward: int


@final
class PlaceNetwork(nn.Module):
    """Gates of places from the stages' activations and the query's contributions to them.

    From the last stage to the first: project the activation, add the contributions and what came from the
    stage above, look at the neighbours twice (depthwise 3x3, then 1x1), and predict one number per place.
    Contributions are read as multiples of an even share of the evidence, and as shares of the stage's
    largest; activations in units of their root mean square: a network's own scales do not matter.

    Args:
        channels: ``C_l`` of every stage.
        width: channels of the path; the first stage, the largest, has half.

    Raises:
        ConfigError: no stage, or a width below 2.

    References:
        wang2020haf

    Differs from:
        - The paper optimises masks per image; a network that predicts them is ours.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 32) -> None:
        super().__init__()
        if not channels:
            raise ConfigError("a mask network needs at least one stage, found no channels")
        check_range(1, channels=channels)
        check_range(2, width=width)
        self.channels, self.width = tuple(channels), width
        widths = [width // 2, *[width] * (len(channels) - 1)]
        above = [*widths[1:], 0]
        self.levels = nn.ModuleList(map(_Level, channels, widths, above))

    def forward(self, activations: Sequence[Tensor], ungated: Contributions) -> list[Tensor]:
        """Logits of the gates ``(B, 1, H_l, W_l)``.

        Args:
            activations: ``(B, C_l, H_l, W_l)`` of the ungated classifier.
            ungated: contributions of the query to the same stages, all gates at 1.
        """
        found: list[Tensor] = []
        path: Tensor | None = None
        evidence = ungated.kept.clamp_min(_LEAST_EVIDENCE)[:, None, None, None]
        stages = zip(self.levels, activations, ungated.stages, strict=True)
        for level, activation, stage in reversed(list(stages)):
            path, logits = level(activation, stage / evidence, path)
            found.append(logits)
        return found[::-1]

    def gates(self, activations: Sequence[Tensor], ungated: Contributions) -> list[Tensor]:
        """Gates ``(B, 1, H_l, W_l)`` in [0, 1]; all 0 where there is no evidence for the query."""
        there = (ungated.kept > 0)[:, None, None, None]
        return [logits.sigmoid() * there for logits in self(activations, ungated)]


class _Level(nn.Module):
    """One stage's part of the path: ``above`` is the width of the level above, 0 for none."""

    def __init__(self, channels: int, width: int, above: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, 1)
        self.read = nn.Conv2d(2, width, 1, bias=False)
        self.lift = nn.Conv2d(above, width, 1) if above else None
        self.spreads = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(2))
        self.mixes = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.head = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.head.weight)
        # Training starts near a gate of 1, as the optimisation does.
        nn.init.constant_(self.head.bias, 1.0)  # type: ignore[arg-type]

    def forward(self, activation: Tensor, shares: Tensor, path: Tensor | None) -> tuple[Tensor, Tensor]:
        scale = activation.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
        largest = shares.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-6)
        even = shares * (shares.shape[-2] * shares.shape[-1])
        read = torch.cat([even.asinh(), (shares / largest).clamp(-1, 1)], dim=1)
        features: Tensor = self.project(activation / scale) + self.read(read)
        if self.lift is not None and path is not None:
            size = features.shape[-2:]
            features = features + F.interpolate(
                self.lift(path), size=size, mode="bilinear", align_corners=False
            )
        features = features.relu()
        for spread, mix in zip(self.spreads, self.mixes, strict=True):
            features = features + mix(spread(features)).relu()
        return features, self.head(features)


def ungated(network: StagedClassifier, images: Tensor, query: Tensor) -> Ungated:
    """Stage outputs of the images, and the query's contributions with all gates at 1.

    One pass, forward and back, and one forward pass of a single image. Where a stage's map is made for the
    reader alone, as of tokens, one more forward pass. Use it inside ``frozen(network)``.

    Args:
        network: with stages.
        images: ``(B, C, H, W)`` in [0, 1].
        query: ``(B,)`` int64.
    """
    outputs = network.stage_outputs(images.detach().clone().requires_grad_())
    asked = outputs.logits.gather(1, query[:, None])[:, 0]
    slopes = torch.autograd.grad(asked.sum(), outputs.activations, allow_unused=True)
    activations = tuple(activation.detach() for activation in outputs.activations)
    constant = StageOutputs(outputs.logits.detach(), activations)
    ones = [torch.ones_like(activation[:, :1]) for activation in activations]
    if any(slope is None for slope in slopes):
        return Ungated(constant, contributions(network, activations, ones, query), 2)
    with torch.no_grad():
        stages = tuple(
            (activation * slope).sum(dim=1, keepdim=True)
            for activation, slope in zip(activations, slopes, strict=True)
        )
        nothing = [torch.zeros_like(one[:1]) for one in ones]
        none_left = network.gated(activations[0][:1], nothing).expand_as(constant.logits)
        kept = (constant.logits - none_left).gather(1, query[:, None])[:, 0]
    return Ungated(constant, Contributions(stages, kept), 1)


@final
@dataclass(frozen=True, kw_only=True)
class PlaceCard:
    """Purpose that a network of places was trained for.

    Attributes:
        channels: ``C_l`` of every stage.
        width: of :class:`PlaceNetwork`.
        classifier: fingerprint of the classifier whose activations it reads.
    """

    channels: tuple[int, ...]
    width: int
    classifier: str

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> PlaceCard:
        """The card inside a file's card, which may hold more."""
        own = {item.name: card[item.name] for item in fields(cls)}
        return cls(**own | {"channels": tuple(card["channels"])})
