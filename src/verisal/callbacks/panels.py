"""Pictures of maps: every method on a few images, before and after an attack on the maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import final

import torch
from torch import Tensor, distributed

from verisal.attacks.on_maps.attack import MapAttack
from verisal.callbacks.explaining.callback import ExplainingCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.errors import ConfigError
from verisal.functional.comparison import postprocess
from verisal.functional.comparison.similarity import attribution_of, defined_maps
from verisal.models import Classifier
from verisal.pictures import OPACITY, DisplayChannels, class_name, displayed
from verisal.results import Evaluation, SaliencyPanel
from verisal.types import Explained, check_range


@final
@dataclass(eq=False, repr=False)
class SaliencyPanels(ExplainingCallback):
    """Draws the maps of every method for the predicted class; options as of :class:`ExplainingCallback`.

    Args:
        max_images: images drawn, a fixed subset drawn by seed; None for all.
        display_channels: channels that are shown as red, green and blue, or a function of images that gives
            RGB; None for the first three of images that are neither grey nor RGB.
        opacity: of the maps over the image, in [0, 1]; 0 for the maps alone.
    """

    _: KW_ONLY
    max_images: int | None = 8
    display_channels: DisplayChannels = None
    opacity: float = OPACITY

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shown(self.display_channels)
        check_range(0, 1, opacity=self.opacity)

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Draw the images of one batch."""
        maps = {}
        for name, method in self.by_name.items():
            maps[name] = epoch.explain(method, seen.batch, seen.query_class)[0].saliency[:, 0].cpu()
            epoch.step(name)
        batch = seen.batch
        for row, image_id in enumerate(batch.image_ids):
            label = int(batch.labels[row])
            known = f"labelled {name_of_class(epoch, label)}, " if label >= 0 else ""
            caption = f"{known}predicted and explained {name_of_class(epoch, int(seen.query_class[row]))}"
            own = {name: drawn[row] for name, drawn in maps.items()}
            image = _to_show(batch.images[row], self.display_channels)
            shown = SaliencyPanel(epoch.title(image_id), image, own, caption, opacity=self.opacity)
            self.panels.append(shown)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """All pictures."""
        panels = gathered(self.panels)
        return Evaluation(epoch.split, {}, panels=tuple(panels)) if panels else None


@final
@dataclass(eq=False, repr=False)
class AttackedMaps(ExplainingCallback):
    """Draws every method's map of an image beside its map of the image that an attack on that map found.

    Maps are post-processed like everything that is compared, so that the colours of both mean the same. Where
    the attack found nothing that keeps the label, there is no attacked map. Options as of
    :class:`ExplainingCallback`.

    Args:
        attack: of the maps of every method; for methods that are none of its surrogate, a transfer attack.
        max_images: images drawn, a fixed subset drawn by seed; None for all.
        display_channels: channels that are shown as red, green and blue, or a function of images that gives
            RGB; None for the first three of images that are neither grey nor RGB.
        opacity: of the maps over the image, in [0, 1]; 0 for the maps alone.
    """

    attack: MapAttack
    _: KW_ONLY
    max_images: int | None = 4
    display_channels: DisplayChannels = None
    opacity: float = OPACITY

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shown(self.display_channels)
        check_range(0, 1, opacity=self.opacity)

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Draw the images of one batch."""
        ids = seen.batch.image_ids
        maps: list[dict[str, Tensor]] = [{} for _ in ids]
        for name, method in self.by_name.items():
            plain, attacked, succeeded = self._pair(epoch.explained(method, seen))
            for row, own in enumerate(maps):
                own[name] = plain[row]
                if succeeded[row]:
                    own[f"{name}, attacked"] = attacked[row]
            epoch.step(name)
        for row, image_id in enumerate(ids):
            asked = name_of_class(epoch, int(seen.query_class[row]))
            caption = f"maps before and after {self.attack.name}; explained {asked}"
            image = _to_show(seen.batch.images[row], self.display_channels)
            shown = SaliencyPanel(
                epoch.title(image_id), image, maps[row], caption, figure="attacked_maps", opacity=self.opacity
            )
            self.panels.append(shown)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """All pictures."""
        panels = gathered(self.panels)
        return Evaluation(epoch.split, {}, panels=tuple(panels)) if panels else None

    def _pair(self, explained: Explained) -> tuple[Tensor, Tensor, Tensor]:
        """Maps ``(B, H, W)`` of the images and of the attacked ones, and which of the latter there are."""
        attribution = attribution_of(explained.result)
        after = attribution.abs().amax(dim=1, keepdim=True)
        succeeded = torch.zeros(len(attribution)).bool()
        rows = defined_maps(attribution).nonzero()[:, 0]
        if len(rows):
            result = self.attack(
                explained.classifier,
                explained.explain,
                explained.images[rows],
                query_class=explained.query_class[rows],
                attribution=attribution[rows],
            )
            after = after.index_copy(0, rows, result.maps.to(after.dtype))
            succeeded[rows.cpu()] = result.found.cpu()
        return postprocess(attribution)[:, 0].cpu(), postprocess(after)[:, 0].cpu(), succeeded


def _check_shown(channels: DisplayChannels) -> None:
    """Raise ``ConfigError`` for what no image has, before there is one."""
    if channels is None or callable(channels):
        return
    if len(channels) != 3 or not all(isinstance(one, int) and one >= 0 for one in channels):
        raise ConfigError(
            "display_channels must be three numbers of channels from 0, for red, green and blue, or a"
            f" function; found {channels!r}"
        )


def _to_show(image: Tensor, channels: DisplayChannels) -> Tensor:
    """An image ``(C, H, W)`` in memory that pictures may keep, in the colours that are asked for."""
    image = image.cpu()
    return image if channels is None else displayed(image[None], channels)[0]


def gathered(panels: Sequence[SaliencyPanel]) -> list[SaliencyPanel]:
    """Pictures of all processes by the names of their images: which process sees which decides nothing."""
    if distributed.is_available() and distributed.is_initialized():
        parts: list[list[SaliencyPanel]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(parts, list(panels))
        # A sampler that pads gives some images to two processes.
        by_id = {panel.image_id: panel for panel in chain.from_iterable(parts)}
        panels = sorted(by_id.values(), key=lambda panel: by_name(panel.image_id))
    return list(panels)


def name_of_class(epoch: Epoch, number: int) -> str:
    """Name of a class in captions, ``class 7`` where nobody has named it."""
    names = epoch.classifier.given_names if isinstance(epoch.classifier, Classifier) else ()
    return class_name(number, names) if names else f"class {number}"


def by_name(image_id: str) -> list[tuple[int, str]]:
    """Key by which names are sorted, in which numbers count as numbers."""
    words = re.findall(r"\d+|\D+", image_id)
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]
