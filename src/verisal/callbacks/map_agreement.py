"""How alike the maps of several settings of a method are, beside the method's own noise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import final

import torch
from torch import Tensor

from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._samples import add_samples, no_samples
from verisal.errors import ConfigError
from verisal.functional.comparison.maps import Comparison, compare_agreement, map_agreement
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.metrics import ImageTable
from verisal.results import Evaluation, Heatmap, Score
from verisal.saliency import Saliency

__all__ = ["MapAgreement"]

_NAME = "map_agreement"


@final
class MapAgreement(ExplainingCallback):
    """Spearman similarities of the maps of the methods of each group, and whether they diverge.

    A group is a row. Scores: ``similarity``, per image the median over all pairs of the group; ``floor``, the
    same setting run twice; ``control``, similarity to random maps; ``diverges``, 1 if the similarity's
    interval lies wholly below the floor's, else 0; ``repeats``, pairs that the floor was measured with, 0 if
    it is the 1 of a deterministic method; and one score per pair, ``one ~ other``. A heat map per group shows
    the pairs. An image on which a map of the group is undefined is left out of ``similarity``.
    :class:`ExplainingCallback` says what holds for all.

    Args:
        methods: name to method. Those in no group are not run.
        groups: name of a group to names of at least two methods, e.g. one method with several settings.
        repeats: name of a group to pairs of names of methods that are the same setting with different random
            numbers; they need not be in the group. A group without is taken for deterministic.
        every_n_epochs: in a fit, explain in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset, the random maps and the intervals.
        resamples: bootstrap resamples of the intervals.

    Raises:
        ConfigError: settings out of range, unknown names, a group of fewer than two methods or one that is
            called like a method, or a repetition of equal settings and equal random numbers.
    """

    def __init__(
        self,
        methods: Mapping[str, Saliency],
        groups: Mapping[str, Sequence[str]],
        *,
        repeats: Mapping[str, Sequence[tuple[str, str]]] | None = None,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        super().__init__(
            methods, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed, resamples=resamples
        )
        self.groups = {name: tuple(members) for name, members in groups.items()}
        self.repeats = {
            name: tuple((one, other) for one, other in pairs) for name, pairs in (repeats or {}).items()
        }
        self._check()

    def _check(self) -> None:
        repeated = [pair for pairs in self.repeats.values() for pair in pairs]
        unknown = {one for part in (*self.groups.values(), *repeated) for one in part} - self.methods.keys()
        if unknown:
            raise ConfigError(
                f"groups and repeats must name methods, found {sorted(unknown)}, known are"
                f" {sorted(self.methods)}"
            )
        if not self.groups or any(
            len(set(members)) < max(2, len(members)) for members in self.groups.values()
        ):
            raise ConfigError(
                "groups must be at least one, each of at least two different methods,"
                f" found { ({name: list(members) for name, members in self.groups.items()}) }"
            )
        bad = [name for name in self.groups if not name or "/" in name or name in self.methods]
        lost = self.repeats.keys() - self.groups.keys()
        if bad or lost:
            raise ConfigError(
                "groups must have a name without a slash that is not that of a method, and repeats must name"
                f" groups; found groups called {bad} and repeats of {sorted(lost)}"
            )
        same = [pair for pair in repeated if self.methods[pair[0]] == self.methods[pair[1]]]
        if same:
            raise ConfigError(
                f"repeats must differ in their random numbers, found {same} with equal settings; give one of"
                " each pair another seed"
            )

    def part(self, context: Context) -> Part:
        """A table of its own for every group."""
        return _Groups(context, self.groups, self.repeats)


@final
class _Groups(Part):
    def __init__(
        self,
        context: Context,
        groups: Mapping[str, tuple[str, ...]],
        repeats: Mapping[str, tuple[tuple[str, str], ...]],
    ) -> None:
        self._context, self._groups, self._repeats = context, groups, repeats
        self._tables = {
            name: ImageTable(("similarity", "floor", "control", *_pair_names(members))).to(context.device)
            for name, members in groups.items()
        }

    def add(self, seen: Seen) -> None:
        """Rows of every group, known or computed."""
        context, batch = self._context, seen.batch
        for name, members in self._groups.items():
            repeats = self._repeats.get(name, ())
            # The maps that decide the rows, and how they are put together.
            involved = [*members, *(one for pair in repeats for one in pair)]
            key = f"{_NAME} {len(members)} {len(repeats)} {context.seed}"
            found = context.store.rows(
                f"{_NAME} {name}",
                [context.methods[one] for one in involved],
                batch.images,
                image_ids=batch.image_ids,
                wanted={key: partial(self._rows, seen, members, repeats)},
            )
            self._tables[name].update(batch.image_ids, found[key])
        for name in context.methods:
            context.session.step(name)

    def evaluation(self) -> Evaluation | None:
        """Scores, rows per image and a heat map of every group."""
        scores: dict[str, Score] = {}
        heatmaps: list[Heatmap] = []
        samples = no_samples()
        counted = 0
        for name, members in self._groups.items():
            columns, table = self._tables[name].columns, self._tables[name].compute()
            counted = len(table.image_ids)
            if not counted:
                return None
            rows = dict(zip(columns, table.rows.T, strict=True))
            repeats = len(self._repeats.get(name, ()))
            own = self._scores(rows, repeats)
            scores |= {f"{self._context.split}/{name}/{_NAME}/{key}": one for key, one in own.items()}
            heatmaps.append(_heatmap(name, members, own))
            for key, values in rows.items():
                add_samples(samples, table.image_ids, name, f"{_NAME}/{key}", values)
        return Evaluation(
            self._context.split,
            scores,
            counts={"images of the map agreement": counted},
            heatmaps=tuple(heatmaps),
            samples=samples,
            headline={
                f"map agreement: {key}": f"{_NAME}/{key}"
                for key in ("similarity", "floor", "control", "diverges")
            },
        )

    def _rows(self, seen: Seen, members: Sequence[str], repeats: Sequence[tuple[str, str]]) -> Tensor:
        maps = {
            name: self._context.explain(name, seen)[0].saliency
            for name in dict.fromkeys([*members, *(one for pair in repeats for one in pair)])
        }
        found = map_agreement(
            [maps[name] for name in members],
            image_ids=seen.batch.image_ids,
            repeats=[(maps[one], maps[other]) for one, other in repeats],
            seed=self._context.seed,
        )
        return torch.stack([found.similarity, found.floor, found.control, *found.pairs], dim=1)

    def _scores(self, rows: Mapping[str, Tensor], repeats: int) -> dict[str, Score]:
        resamples, seed = self._context.resamples, self._context.seed
        found = compare_agreement(
            rows["similarity"],
            rows["floor"],
            rows["control"],
            deterministic=not repeats,
            resamples=resamples,
            seed=seed,
        )
        pairs = {
            key: bootstrap_mean(values, kind="measure", resamples=resamples, seed=seed)
            for key, values in rows.items()
            if key not in ("similarity", "floor", "control")
        }
        counted = found.similarity.n
        return {
            "similarity": found.similarity,
            "floor": found.floor,
            "control": found.control,
            "diverges": _number(_verdict(found), counted),
            "repeats": _number(float(repeats), counted),
            **pairs,
        }


def _pair_names(members: Sequence[str]) -> list[str]:
    return [f"{one} ~ {other}" for one, other in combinations(members, 2)]


def _verdict(found: Comparison) -> float:
    return torch.nan if found.diverges is None else float(found.diverges)


def _number(value: float, counted: int) -> Score:
    return Score(value, torch.nan, torch.nan, n=counted)


def _heatmap(name: str, members: tuple[str, ...], found: Mapping[str, Score]) -> Heatmap:
    values = torch.full((len(members), len(members)), torch.nan, dtype=torch.float64)
    for (i, j), pair in zip(combinations(range(len(members)), 2), _pair_names(members), strict=True):
        values[i, j] = values[j, i] = found[pair].value
    floor = found["floor"].value
    measured = "measured" if found["repeats"].value else "that of a deterministic method"
    return Heatmap(
        figure=f"{_NAME}_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}",
        title=f"How alike the maps are: {name}",
        rows=members,
        columns=members,
        values=values,
        limits=(0.0, 1.0),
        row_label="setting",
        column_label="setting",
        caption=f"Mean Spearman similarity. The same setting run twice: {floor:.3f} ({measured}).",
    )
