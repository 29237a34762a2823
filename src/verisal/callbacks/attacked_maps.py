"""Pictures of maps before and after an attack on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from verisal.attacks.on_maps.attack import MapAttack
from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._gathered import gathered_panels
from verisal.functional.comparison.similarity import attribution_of, defined_maps, postprocess
from verisal.results import Evaluation, SaliencyPanel
from verisal.saliency import Saliency

__all__ = ["AttackedMaps"]


@final
class AttackedMaps(ExplainingCallback):
    """Draws every method's map of an image beside its map of the image that an attack on that map found.

    Maps are post-processed like everything that is compared, so that the colours of both mean the same. Where
    the attack found nothing that keeps the label, there is no attacked map.

    Args:
        methods: name to method.
        attack: of the maps of every method; for methods that are none of its surrogate, a transfer attack.
        max_images: images drawn, a fixed subset drawn by seed.
        every_n_epochs: in a fit, explain in every so manieth validation.
        seed: of the subset and the controls.

    Raises:
        ConfigError: settings out of range.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        attack: MapAttack,
        *,
        max_images: int = 4,
        every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(methods, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed)
        self.attack = attack

    def part(self, context: Context) -> Part:
        """No pictures yet."""
        return _Pairs(context, self.attack)


@final
class _Pairs(Part):
    def __init__(self, context: Context, attack: MapAttack) -> None:
        self._context, self._attack = context, attack
        self._panels: list[SaliencyPanel] = []

    def add(self, seen: Seen) -> None:
        ids = seen.batch.image_ids
        maps: list[dict[str, Tensor]] = [{} for _ in ids]
        for name in self._context.methods:
            plain, attacked, found = self._pair(name, seen)
            for row, own in enumerate(maps):
                own[name] = plain[row]
                if found[row]:
                    own[f"{name}, attacked"] = attacked[row]
            self._context.session.step(name)
        for row, image_id in enumerate(ids):
            words = f"maps before and after {self._attack.name}; explained {int(seen.query_class[row])}"
            self._panels.append(SaliencyPanel(image_id, seen.batch.images[row].cpu(), maps[row], words))

    def evaluation(self) -> Evaluation | None:
        panels = gathered_panels(self._panels)
        return Evaluation(self._context.split, {}, panels=panels) if panels else None

    def _pair(self, name: str, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Maps ``(B, H, W)`` of the images and of the attacked ones, and which of the latter there are."""
        explained = self._context.explained(name, seen, self._context.explain(name, seen)[0])
        attribution = attribution_of(explained.result)
        after, found = attribution.abs().amax(dim=1, keepdim=True), torch.zeros(len(attribution)).bool()
        rows = defined_maps(attribution).nonzero()[:, 0]
        if len(rows):
            result = self._attack(
                explained.classifier,
                explained.explain,
                explained.images[rows],
                query_class=explained.query_class[rows],
                attribution=attribution[rows],
            )
            after = after.index_copy(0, rows, result.maps.to(after.dtype))
            found[rows.cpu()] = result.found.cpu()
        return postprocess(attribution)[:, 0].cpu(), postprocess(after)[:, 0].cpu(), found
