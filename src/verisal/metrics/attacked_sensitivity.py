"""Change of a method's maps under noise that nobody sees and that keeps the prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from verisal._brief import in_short
from verisal.attacks.on_maps.attack import MapAttack
from verisal.attacks.on_maps.search import MapAttackResult
from verisal.errors import ConfigError
from verisal.functional.comparison import map_change
from verisal.functional.comparison.similarity import attribution_of, defined_maps
from verisal.functional.outputs import ask
from verisal.functional.scopes import scoring
from verisal.functional.shared_work import shared, work_key
from verisal.metrics._base import SaliencyMetric
from verisal.metrics._given import AnyMethod, check_method, maps_by
from verisal.types import Explained, SaliencyResult

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

    By default the attack aims at the maps of the method that is scored. With ``aim`` it aims at those of
    another method, so that all methods are scored on the same attacked images: the question is then what an
    attack on, say, the plain gradient does to what is made from gradients. Scores of both kinds do not
    compare.

    Args:
        attack: its kind, budget and direction.
        aim: whose maps are attacked: a :class:`.Saliency`, or a function of classifier, images and query
            class to maps; None for the scored method.
        percentile: where the maps' post-processing cuts; the same for all maps that are compared.
        control: False leaves the random signs out, which take half of the passes.

    Raises:
        ConfigError: a percentile out of range, or an aim that is bound to one network.

    References:
        lu2021decoys, ghorbani2019fragile

    Differs from:
        - See :class:`.MapAttack`.
        - Whose maps the attack aims at is not known to us; ``aim`` is one reading, the default the other.
    """

    better = "low"
    needs = ("images", "classifier", "method")

    def __init__(
        self,
        attack: MapAttack,
        *,
        aim: AnyMethod | None = None,
        percentile: float = 95.0,
        control: bool = True,
    ) -> None:
        cut = "" if percentile == 95.0 else f",p{percentile:g}"
        cut += "" if control else ",no control"
        cut += "" if aim is None else f",aim={in_short(aim)}"
        controls = tuple(f"control_{name}" for name in _CHANGES) if control else ()
        columns = (*_CHANGES, *controls, "clean_confidence")
        super().__init__(f"attacked_sensitivity[{attack.name}{cut}]", columns)
        if not 0.0 < percentile <= 100.0:
            raise ConfigError(f"percentile must lie in (0, 100], found {percentile}; the 95th is 95.0")
        if aim is not None:
            check_method(aim, "aim")
            self.asked = (aim,)
        self.attack, self.aim, self.percentile, self.control = attack, aim, percentile, control

    def rows_of(self, explained: Explained) -> Tensor:
        """The attack and its control; images whose map or prediction is undefined are not attacked."""
        attribution = attribution_of(explained.result)
        with scoring(explained.classifier, attribution.device):
            logits = ask(explained.classifier, explained.images, allow_nan=True)
        rows = (defined_maps(attribution) & ~logits.isnan().any(dim=1)).nonzero()[:, 0]
        values = torch.full(
            (len(attribution), len(self.columns)), torch.nan, dtype=torch.float64, device=attribution.device
        )
        if len(rows):
            values[rows] = self._values(explained, rows, attribution[rows])
        return values

    def _values(self, explained: Explained, rows: Tensor, attribution: Tensor) -> Tensor:
        images, query = explained.images[rows], explained.query_class[rows]
        columns: list[Tensor] = []
        for is_control in (False, True)[: 1 + self.control]:
            attacked = self._found(explained, images, query, attribution, is_control=is_control)
            columns += self._changes(attribution, attacked)
            clean_confidence = attacked.clean_confidence.double()
        return torch.stack([*columns, clean_confidence], dim=1)

    def _found(
        self, explained: Explained, images: Tensor, query: Tensor, attribution: Tensor, *, is_control: bool
    ) -> MapAttackResult:
        """Attacked images, with the scored method's maps of them."""
        attack = self.attack.control if is_control else self.attack
        aim, classifier = self.aim, explained.classifier
        if aim is None:
            return attack(classifier, explained.explain, images, query_class=query, attribution=attribution)

        def asked(images: Tensor, query: Tensor) -> SaliencyResult:
            return maps_by(aim, classifier, images, query)

        attacked = shared(
            lambda: work_key("attack", [self.attack, aim, is_control], classifier, [images, query]),
            lambda: attack(
                classifier, asked, images, query_class=query, attribution=attribution_of(asked(images, query))
            ),
        )
        return replace(attacked, maps=attribution_of(explained.explain(attacked.images, query)))

    def _changes(self, attribution: Tensor, attacked: MapAttackResult) -> list[Tensor]:
        change = map_change(
            attribution,
            attacked.maps,
            l2=attacked.l2,
            percentile=self.percentile,
            top_share=self.attack.top_share,
        )
        values = [*vars(change).values(), attacked.confidence.double()]
        # An image without a label has none that could be kept.
        missed = (~attacked.found).double().where(attacked.clean_confidence.isfinite(), torch.nan)
        return [*(value.where(attacked.found, torch.nan) for value in values), missed]
