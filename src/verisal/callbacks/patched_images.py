"""Maps of patched images: whether they show the patch, and whether the image heals once it is filled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import final

import torch
from torch import Tensor

from verisal.attacks import Attack
from verisal.attacks.names import named_attacks
from verisal.callbacks.explaining.callback import ScoringCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.errors import ConfigError
from verisal.functional.adversarial import judge_8bit
from verisal.functional.baselines import Baseline, LinearImputation
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.regions import energy_inside, pointing_hits
from verisal.functional.regions.boxes import NUM_LEVELS, components, largest_boxes, map_levels, nearest_ious
from verisal.functional.regions.localisation import masks_from_boxes, pointing_tolerance
from verisal.functional.seeding import derive_seed, per_sample
from verisal.metrics import ImageRows, ImageTable
from verisal.reporting.publication import merge_evaluations
from verisal.results import Evaluation
from verisal.saliency import Saliency
from verisal.types import Batch, check_range

SCORES = ("energy", "pointing", "box", "healed")
"""Of a method; the controls ``true_place`` and ``random_place`` have ``healed`` alone."""
_PLACES = ("true_place", "random_place")
_SEPARATOR = " under "
# Per map: energy and hit; of every level the box and its overlap with the patch.
_MAP_COLUMNS = (
    "energy",
    "pointing",
    *(f"box_{level}_{side}" for level in range(NUM_LEVELS) for side in "xyXY"),
)


@dataclass(frozen=True)
class _Patched:
    """One image with a patch that fools the classifier, in 8 bits."""

    image: Tensor
    box: Tensor
    label: int


@final
@dataclass(eq=False, repr=False)
class PatchedImages(ScoringCallback):
    """Localisation of adversarial patches by the map of the class that is predicted on the patched image.

    Images that are classified right are attacked; those that the patch turns, as 8 bits hold them, are
    explained. ``energy`` is the share of the map inside the patch, ``pointing`` says whether its maximum lies
    there, ``box`` whether the box of the largest component overlaps the patch by ``iou``, at the level that
    is best on the other half of the images. ``healed`` says whether the right class is back once that box is
    filled; the controls fill the true place and a random one of the same size.

    Each score is the mean over an image's patches: of all, of those of one attack, as ``patches[<attack>]``,
    and of those with a goal and without, ``patches_targeted`` and ``patches_untargeted``, where there are
    both. Intervals are over images. Options as of :class:`ExplainingCallback`.

    Args:
        attacks: name to attack, or attacks; each must say where its patch lies. The goals of targeted ones
            are other classes, drawn for each image.
        fill: what stands for the pixels of a box; it must depend on the pixels around.
        iou: overlap from which a box is right.
        tolerance: of pointing, see :class:`.PointingGame`.

    Raises:
        ConfigError: settings out of range; while running, attacks that say no place.

    References:
        brown2017
    """

    attacks: Mapping[str, Attack] | Sequence[Attack]
    _: KW_ONLY
    fill: Baseline = field(default_factory=LinearImputation)
    iou: float = 0.5
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._attacks = named_attacks(self.attacks)
        if not self._attacks:
            raise ConfigError(
                "attacks must be at least one, such as AdversarialPatch(share=0.05); found none"
            )
        if not 0 < self.iou <= 1:
            raise ConfigError(f"iou must lie in (0, 1], found {self.iou}")
        check_range(0, tolerance=self.tolerance)

    @property
    def headline(self) -> Mapping[str, str]:
        """All scores over all patches."""
        return {f"patches {name} ↑": f"patches/{name}" for name in SCORES}

    def begin(self, epoch: Epoch) -> None:
        """Empty tables for every method."""
        require_softmax(epoch.classifier, type(self).__name__)
        super().begin(epoch)
        self._maps = {name: ImageTable(_MAP_COLUMNS).to(epoch.device) for name in self.by_name}
        self._places = ImageTable(("x", "y", "X", "Y", "label")).to(epoch.device)
        self._tried = ImageTable(tuple(self._attacks)).to(epoch.device)
        self._kept: dict[str, _Patched] = {}

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Attack the images, and score the maps of those that are turned."""
        right = torch.nonzero(seen.query_class == seen.batch.labels).squeeze(1).tolist()
        fooled = torch.zeros(len(right), len(self._attacks))
        for column, (name, attack) in enumerate(self._attacks.items()):
            patched, rows = self._patched(epoch, seen.rows(right), name, attack)
            fooled[rows, column] = 1.0
            if not len(patched.batch):
                continue
            for method_name, method in self.by_name.items():
                self._score(epoch, method_name, method, patched)
        self._tried.update(seen.rows(right).batch.image_ids, fooled)
        for name in self.by_name:
            epoch.step(name)

    def _patched(self, epoch: Epoch, seen: Seen, name: str, attack: Attack) -> tuple[Seen, list[int]]:
        """Images that the attack turns with the class that is predicted then, and their positions."""
        batch, labels = seen.batch, seen.batch.labels
        if not len(batch):
            return seen, []
        aims = self._goals(seen) if attack.targeted else labels
        result = attack(
            epoch.classifier,
            batch.images,
            aims,
            generator=torch.Generator().manual_seed(self.seed),
            sample_ids=batch.image_ids,
        )
        if result.boxes is None:
            raise ConfigError(
                f"{name}: {type(attack).__name__} changes the whole image, and PatchedImages asks for the"
                " place of a patch; give it attacks such as AdversarialPatch"
            )
        verdict = judge_8bit(epoch.classifier, batch.images, result.images, labels)
        turned = verdict.success & ((verdict.prediction == aims) if attack.targeted else True)
        rows = torch.nonzero(turned).squeeze(1).tolist()
        boxes, predicted = result.boxes[rows], verdict.prediction[rows]
        ids = tuple(f"{batch.image_ids[row]}{_SEPARATOR}{name}" for row in rows)
        images = verdict.images[rows].float() / 255
        masks = masks_from_boxes([box[None] for box in boxes], (images.shape[2], images.shape[3]))
        own = Batch(
            images=images,
            labels=labels[rows],
            image_ids=ids,
            object_labels=tuple(label[None] for label in predicted),
            object_masks=tuple(mask[None] for mask in masks),
            boxes=tuple(box[None].float() for box in boxes),
        )
        for row, image_id in enumerate(ids):
            label = int(own.labels[row])
            self._kept[image_id] = _Patched(verdict.images[rows[row]].cpu(), boxes[row].cpu(), label)
        self._places.update(ids, torch.cat([boxes, own.labels[:, None]], dim=1))
        return Seen(own, seen.logits[rows], predicted), rows

    def _goals_of_attacks(self) -> dict[str, list[str]]:
        """``targeted`` and ``untargeted`` to names of attacks, where there are both."""
        goals = {
            goal: [name for name, attack in self._attacks.items() if attack.targeted == targeted]
            for goal, targeted in (("targeted", True), ("untargeted", False))
        }
        return goals if all(goals.values()) else {}

    def _goals(self, seen: Seen) -> Tensor:
        """A class other than the label for every image."""
        classes = seen.logits.shape[1]
        shift = per_sample(
            lambda rng: torch.randint(1, classes, (1,), generator=rng),
            seed=self.seed,
            sample_ids=seen.batch.image_ids,
            stream="goal of a patch",
            device=seen.batch.labels.device,
        )
        return (seen.batch.labels + shift[:, 0]) % classes

    def _score(self, epoch: Epoch, name: str, method: Saliency, patched: Seen) -> None:
        batch, size = patched.batch, (patched.batch.images.shape[2], patched.batch.images.shape[3])

        def rows() -> Tensor:
            maps = epoch.explain(method, batch, patched.query_class)[0].saliency
            masks = torch.cat(list(batch.object_masks))
            hits = pointing_hits(maps, masks, tolerance=pointing_tolerance(size, tolerance=self.tolerance))
            boxes = torch.cat([largest_boxes(components(map_levels(one[None]))) for one in maps])
            columns = torch.stack([energy_inside(maps, masks), hits], dim=1)
            known = ~columns.isnan().any(dim=1, keepdim=True)
            return torch.cat([columns, boxes.to(columns).flatten(1)], dim=1).where(known, torch.nan)

        key = f"patched {self.tolerance:g}"
        known = epoch.rows(name, [method], batch, {key: rows}, objects=True)
        self._maps[name].update(batch.image_ids, known[key])

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores of every method, of all patches and by attack, and of both controls."""
        tried, places = self._tried.compute(), self._places.compute()
        if not len(tried.image_ids):
            return None
        if not len(places.image_ids):
            epoch.notice("patches", f"none of {len(tried.image_ids)} images was turned by a patch")
        parts: list[Evaluation] = []
        for name in self.by_name:
            table = self._maps[name].compute()
            columns = self._columns(epoch, table, places)
            parts.extend(self._evaluations(epoch, name, columns, table.image_ids, tried))
        for name, boxes in zip(_PLACES, (places.rows[:, :4], self._elsewhere(places)), strict=True):
            healed = {"healed": self._healed(epoch, places.image_ids, boxes)}
            parts.extend(self._evaluations(epoch, name, healed, places.image_ids, tried))
        counts = {"images under a patch": len(tried.image_ids), "patches that fool": len(places.image_ids)}
        for goal, attacks in self._goals_of_attacks().items():
            of_goal = [name for name in places.image_ids if name.rpartition(_SEPARATOR)[2] in attacks]
            counts[f"{goal} patches that fool"] = len(of_goal)
        rates = {name: tried.rows[:, column] for column, name in enumerate(self._attacks)}
        for name, fooled in rates.items():
            success = {"fooled": fooled}
            parts.append(
                row_evaluation(
                    epoch.split,
                    f"attack_{name}",
                    "patches",
                    self.means(epoch, success),
                    image_ids=tried.image_ids,
                    columns=success,
                )
            )
        whole = Evaluation(epoch.split, {}, counts=counts)
        return merge_evaluations([*parts, whole])

    def _columns(self, epoch: Epoch, table: ImageRows, places: ImageRows) -> dict[str, Tensor]:
        """Values ``(n,)`` of one method for every patch, by score."""
        known = ~table.rows[:, 0].isnan()
        boxes = table.rows[:, 2:].nan_to_num(nan=0.0).view(-1, NUM_LEVELS, 4).long()
        order = {image_id: row for row, image_id in enumerate(places.image_ids)}
        true = places.rows[[order[image_id] for image_id in table.image_ids], :4]
        right = nearest_ious(boxes, [box[None] for box in true]) >= self.iou
        chosen = torch.zeros(len(boxes), dtype=torch.int64)
        for half in self._halves(table.image_ids):
            counts = right[~half & known].sum(dim=0)
            # Of equally good levels the middle one.
            chosen[half] = torch.nonzero(counts == counts.max()).squeeze(1).median()
        at = torch.arange(len(boxes))
        return {
            "energy": table.rows[:, 0],
            "pointing": table.rows[:, 1],
            "box": right[at, chosen].double().where(known, torch.nan),
            "healed": self._healed(epoch, table.image_ids, boxes[at, chosen]).where(known, torch.nan),
        }

    def _halves(self, image_ids: Sequence[str]) -> Iterator[Tensor]:
        """``(n,)`` bool, twice: the patches of one half of the images, and those of the other."""
        photographs = [image_id.rpartition(_SEPARATOR)[0] for image_id in image_ids]
        ordered = sorted(set(photographs), key=lambda name: derive_seed(self.seed, "half", name))
        first = set(ordered[: (len(ordered) + 1) // 2])
        half = torch.tensor([name in first for name in photographs], dtype=torch.bool)
        yield from (half, ~half)

    def _healed(self, epoch: Epoch, image_ids: Sequence[str], boxes: Tensor) -> Tensor:
        """``(n,)``: 1 where the right class is back once the box is filled; each process fills its own."""
        table = ImageTable(("healed",)).to(epoch.device)
        for image_id, box in zip(image_ids, boxes, strict=True):
            if image_id not in self._kept:
                continue
            own = self._kept[image_id]
            image = own.image[None].to(epoch.device).float() / 255
            mask = masks_from_boxes([box[None].to(image)], (image.shape[2], image.shape[3]))[:, None]
            if bool(mask.any()) and not bool(mask.all()):
                image = self.fill(image, (~mask).to(image))
            back = ask(epoch.classifier, image).argmax(dim=1) == own.label
            table.update([image_id], back[:, None].double())
        gathered = table.compute()
        known = dict(zip(gathered.image_ids, gathered.rows[:, 0].tolist(), strict=True))
        return torch.tensor([known[image_id] for image_id in image_ids], dtype=torch.float64)

    def _elsewhere(self, places: ImageRows) -> Tensor:
        """Boxes ``(n, 4)`` of the patches' sizes at places drawn anew, within the images."""
        boxes = places.rows[:, :4]
        if not len(boxes):
            return boxes
        height, width = next(iter(self._kept.values())).image.shape[1:] if self._kept else (0, 0)
        drawn = per_sample(
            lambda rng: torch.rand(2, generator=rng, dtype=torch.float64),
            seed=self.seed,
            sample_ids=places.image_ids,
            stream="another place",
            device=torch.device("cpu"),
        )
        sides = boxes[:, 2:] - boxes[:, :2]
        corner = (drawn * (torch.tensor([width, height]) - sides + 1).clamp_min(0)).floor()
        return torch.cat([corner, corner + sides], dim=1)

    def _evaluations(
        self,
        epoch: Epoch,
        row: str,
        columns: Mapping[str, Tensor],
        patches: Sequence[str],
        tried: ImageRows,
    ) -> Iterator[Evaluation]:
        """Means per image over all of its patches, and of each attack."""
        names = [tuple(image_id.rsplit(_SEPARATOR, 1)) for image_id in patches]
        groups = {"patches": list(self._attacks)}
        groups |= {f"patches_{goal}": attacks for goal, attacks in self._goals_of_attacks().items()}
        groups |= {f"patches[{attack}]": [attack] for attack in self._attacks}
        for metric, attacks in groups.items():
            values = {
                score: _means_per_image(column, names, attacks, tried.image_ids)
                for score, column in columns.items()
            }
            yield row_evaluation(
                epoch.split,
                row,
                metric,
                self.means(epoch, values),
                image_ids=tried.image_ids,
                columns=values,
            )


def _means_per_image(
    values: Tensor, names: Sequence[tuple[str, ...]], attacks: Collection[str], image_ids: Sequence[str]
) -> Tensor:
    """``(n,)`` means over the patches of each image by some attacks; NaN where it has none that count."""
    of_image: dict[str, list[float]] = {image_id: [] for image_id in image_ids}
    for (image_id, name), value in zip(names, values.tolist(), strict=True):
        if name in attacks and value == value:
            of_image[image_id].append(value)
    means = [sum(own) / len(own) if own else float("nan") for own in of_image.values()]
    return torch.tensor(means, dtype=torch.float64)
