"""How far noise that nobody sees, and that keeps the prediction, can move a method's maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional import MapAttack, MapAttackResult, attribution_of, defined_maps, map_change
from verisal.types import Explained

from ._base import Reduced, SaliencyMetric, reduce_means

__all__ = ["AttackedSensitivity"]

_CHANGES = ("sensitivity", "top_k", "spearman", "shift", "shift_share", "confidence", "not_found")


@final
class AttackedSensitivity(SaliencyMetric):
    r"""Change of the map per change of the image, :math:`S_S`, under an attack on maps; lower is better.

    Asks the method for maps of attacked images; the query class stays. Beside every score of the attack
    stands, as ``control_...``, that of random signs of the same budget, chosen in the same way. Scores:

    - ``sensitivity``: S_S, of post-processed maps;
    - ``top_k``, ``spearman``: overlap of the largest pixels and rank correlation of both maps;
    - ``shift``, ``shift_share``: of the centre of mass, in pixels and as a share of the diagonal;
    - ``confidence``: softmax probability of the predicted label on the attacked image, and
      ``clean_confidence`` on the image itself;
    - ``not_found``: share of images of which no changed version kept the predicted label. They are undefined
      for the scores above it.

    Args:
        attack: its kind, budget and direction.
        percentile: where the maps' post-processing cuts; the same for all maps that are compared.
        resamples: bootstrap resamples of the intervals.
        seed: of the resampling.

    Raises:
        ConfigError: a percentile out of range.

    References:
        lu2021decoys, ghorbani2019fragile

    Differs from:
        - See :class:`~verisal.functional.MapAttack`.
    """

    better = "low"

    def __init__(
        self, attack: MapAttack, *, percentile: float = 95.0, resamples: int = 2000, seed: int = 0
    ) -> None:
        cut = "" if percentile == 95.0 else f",p{percentile:g}"
        columns = (*_CHANGES, *(f"control_{name}" for name in _CHANGES), "clean_confidence")
        super().__init__(f"attacked_sensitivity[{attack.name}{cut}]", columns, resamples=resamples, seed=seed)
        if not 0.0 < percentile <= 100.0:
            raise ConfigError(f"percentile must lie in (0, 100], found {percentile}; the 95th is 95.0")
        self.attack, self.percentile = attack, percentile

    def rows_of(self, explained: Explained) -> Tensor:
        """The attack and its control; images whose map is undefined are not attacked."""
        attribution = attribution_of(explained.result)
        rows = defined_maps(attribution).nonzero()[:, 0]
        values = torch.full(
            (len(attribution), len(self.columns)), torch.nan, dtype=torch.float64, device=attribution.device
        )
        if len(rows):
            values[rows] = self._values(explained, rows, attribution[rows])
        return values

    def reduce(self, rows: Tensor, weights: Tensor) -> Mapping[str, Reduced]:
        """Means over images."""
        return reduce_means(self.columns, rows, weights)

    def _values(self, explained: Explained, rows: Tensor, attribution: Tensor) -> Tensor:
        images, query = explained.images[rows], explained.query_class[rows]
        asked = (explained.classifier, explained.explain, images)
        attacked, control = (
            attack(*asked, query_class=query, attribution=attribution)
            for attack in (self.attack, self.attack.control)
        )
        columns = [*self._changes(attribution, attacked), *self._changes(attribution, control)]
        return torch.stack([*columns, attacked.clean_confidence.double()], dim=1)

    def _changes(self, attribution: Tensor, found: MapAttackResult) -> list[Tensor]:
        change = map_change(
            attribution,
            found.maps,
            l2=found.l2,
            percentile=self.percentile,
            top_share=self.attack.top_share,
        )
        values = [*vars(change).values(), found.confidence.double()]
        return [*(value.where(found.found, torch.nan) for value in values), (~found.found).double()]
