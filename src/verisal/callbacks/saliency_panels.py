"""Pictures of maps: every method on a few images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._gathered import gathered_panels
from verisal.results import Evaluation, SaliencyPanel
from verisal.saliency import Saliency

__all__ = ["SaliencyPanels"]


@final
class SaliencyPanels(ExplainingCallback):
    """Draws the maps of every method for the predicted class; :class:`ExplainingCallback` holds for the rest.

    Args:
        methods: name to method.
        max_images: images drawn, a fixed subset drawn by seed.
        every_n_epochs: in a fit, explain in every so manieth validation.
        seed: of the subset and the controls.

    Raises:
        ConfigError: settings out of range.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        *,
        max_images: int = 8,
        every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(methods, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed)

    def part(self, context: Context) -> Part:
        """No pictures yet."""
        return _Pictures(context)


@final
class _Pictures(Part):
    def __init__(self, context: Context) -> None:
        self._context = context
        self._panels: list[SaliencyPanel] = []

    def add(self, seen: Seen) -> None:
        maps = {}
        for name in self._context.methods:
            maps[name] = self._context.explain(name, seen)[0].saliency[:, 0].cpu()
            self._context.session.step(name)
        batch = seen.batch
        for row, image_id in enumerate(batch.image_ids):
            self._panels.append(
                SaliencyPanel(
                    image_id,
                    batch.images[row].cpu(),
                    {name: found[row] for name, found in maps.items()},
                    f"class {int(batch.labels[row])}, predicted and explained {int(seen.query_class[row])}",
                )
            )

    def evaluation(self) -> Evaluation | None:
        panels = gathered_panels(self._panels)
        return Evaluation(self._context.split, {}, panels=panels) if panels else None
