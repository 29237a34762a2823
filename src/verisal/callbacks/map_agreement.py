"""Similarity of the maps of several settings of a method, beside the method's own noise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import chain, combinations
from typing import final

import torch
from torch import Tensor

from verisal.callbacks.explaining.callback import ScoringCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.errors import ConfigError
from verisal.functional.comparison import map_agreement
from verisal.functional.comparison.similarity import diverges
from verisal.metrics import ImageTable
from verisal.reporting.publication import merge_evaluations
from verisal.results import Evaluation, Heatmap, Score

_NAME = "map_agreement"
_OF_GROUP = ("similarity", "floor", "control")


@final
@dataclass(eq=False, repr=False)
class MapAgreement(ScoringCallback):
    """Spearman similarities of the maps of the methods of each group, and a verdict on their divergence.

    A group is a row. Scores: ``similarity``, per image the median over all pairs of the group; ``floor``, the
    same setting run twice; ``control``, similarity to random maps; ``diverges``, 1 if the similarity's
    interval lies wholly below the floor's, else 0; ``repeats``, pairs that the floor was measured with, 0 if
    it is the 1 of a deterministic method; and one score per pair, ``one ~ other``. A heat map per group shows
    the pairs. An image on which a map of the group is undefined is left out of ``similarity``.
    Options as of :class:`ExplainingCallback`.

    Args:
        methods: name to method. Those in no group are not run.
        groups: name of a group to names of at least two methods, e.g. one method with several settings.
        repeats: name of a group to pairs of names of methods that are the same setting with different random
            numbers; they need not be in the group. A group without is taken for deterministic.

    Raises:
        ConfigError: settings out of range, unknown names, a group of fewer than two methods or one that is
            called like a method, or a repetition of equal settings and equal random numbers.
    """

    groups: Mapping[str, Sequence[str]]
    _: KW_ONLY
    repeats: Mapping[str, Sequence[tuple[str, str]]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = {name: list(members) for name, members in self.groups.items()}
        repeats = self.repeats or {}
        repeated = list(chain.from_iterable(repeats.values()))
        unknown = set(chain(*groups.values(), *repeated)) - self.by_name.keys()
        if unknown:
            raise ConfigError(
                f"groups and repeats must name methods, found {sorted(unknown)}, known are"
                f" {sorted(self.by_name)}"
            )
        if not groups or any(len(set(members)) < max(2, len(members)) for members in groups.values()):
            raise ConfigError(
                f"groups must be at least one, each of at least two different methods, found {groups}"
            )
        bad = [name for name in groups if not name or "/" in name or name in self.by_name]
        lost = repeats.keys() - groups.keys()
        if bad or lost:
            raise ConfigError(
                "groups must have a name without a slash that is not that of a method, and repeats must name"
                f" groups; found groups called {bad} and repeats of {sorted(lost)}"
            )
        same = [pair for pair in repeated if self.by_name[pair[0]] == self.by_name[pair[1]]]
        if same:
            raise ConfigError(
                f"repeats must differ in their random numbers, found {same} with equal settings; give one of"
                " each pair another seed"
            )

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(self.groups)

    @property
    def headline(self) -> Mapping[str, str]:
        """Similarity, floor, control and verdict."""
        return {f"map agreement: {key}": f"{_NAME}/{key}" for key in (*_OF_GROUP, "diverges")}

    def begin(self, epoch: Epoch) -> None:
        """Empty tables."""
        super().begin(epoch)
        self._tables = {
            name: ImageTable((*_OF_GROUP, *_pair_names(members))).to(epoch.device)
            for name, members in self.groups.items()
        }

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of every group, known or computed."""
        for name, members in self.groups.items():
            repeats = self._repeats_of(name)
            # The maps that decide the rows, and how they are put together.
            involved = [self.by_name[method] for method in chain(members, *repeats)]
            key = f"{_NAME} {len(members)} {len(repeats)} {self.seed}"
            rows = partial(self._rows, epoch, seen, members, repeats)
            known = epoch.rows(f"{_NAME} {name}", involved, seen.batch, {key: rows})
            self._tables[name].update(seen.batch.image_ids, known[key])
            epoch.step(name)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores, values per image and a heat map of every group."""
        heatmaps: list[Heatmap] = []
        parts = []
        counted = 0
        for name, members in self.groups.items():
            table = self._tables[name].compute()
            counted = len(table.image_ids)
            if not counted:
                return None
            columns = dict(zip(self._tables[name].columns, table.rows.T, strict=True))
            scores = self._scores(epoch, columns, len(self._repeats_of(name)))
            heatmaps.append(_heatmap(name, tuple(members), scores))
            parts.append(
                row_evaluation(epoch.split, name, _NAME, scores, image_ids=table.image_ids, columns=columns)
            )
        whole = Evaluation(
            epoch.split,
            {},
            counts={"images of the map agreement": counted},
            heatmaps=tuple(heatmaps),
        )
        return merge_evaluations([*parts, whole])

    def _repeats_of(self, group: str) -> Sequence[tuple[str, str]]:
        return (self.repeats or {}).get(group, ())

    def _rows(
        self, epoch: Epoch, seen: Seen, members: Sequence[str], repeats: Sequence[tuple[str, str]]
    ) -> Tensor:
        maps = {
            name: epoch.explain(self.by_name[name], seen.batch, seen.query_class)[0].saliency
            for name in dict.fromkeys(chain(members, *repeats))
        }
        alike = map_agreement(
            [maps[name] for name in members],
            image_ids=seen.batch.image_ids,
            repeats=[(maps[first], maps[second]) for first, second in repeats],
            seed=self.seed,
        )
        return torch.stack([alike.similarity, alike.floor, alike.control, *alike.pairs], dim=1)

    def _scores(self, epoch: Epoch, columns: Mapping[str, Tensor], repeats: int) -> dict[str, Score]:
        bootstrap = self.bootstrap_in(epoch)
        means = {key: bootstrap.mean(values, kind="measure").score() for key, values in columns.items()}
        apart, n = diverges(means["similarity"], means["floor"]), means["similarity"].n
        return {
            **{key: means.pop(key) for key in _OF_GROUP},
            "diverges": Score(torch.nan if apart is None else float(apart), n=n),
            "repeats": Score(float(repeats), n=n),
            **means,
        }


def _pair_names(members: Sequence[str]) -> list[str]:
    return [f"{first} ~ {second}" for first, second in combinations(members, 2)]


def _heatmap(name: str, members: tuple[str, ...], scores: Mapping[str, Score]) -> Heatmap:
    values = torch.full((len(members), len(members)), torch.nan, dtype=torch.float64)
    for (i, j), pair in zip(combinations(range(len(members)), 2), _pair_names(members), strict=True):
        values[i, j] = values[j, i] = scores[pair].value
    floor = f"{scores['floor'].value:z.3f}"
    measured = "measured" if scores["repeats"].value else "that of a deterministic method"
    return Heatmap(
        figure=f"{_NAME}_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}",
        title=f"How alike the maps are: {name}",
        rows=members,
        columns=members,
        values=values,
        limits=(0.0, 1.0),
        row_label="setting",
        column_label="setting",
        caption=f"Mean Spearman similarity. The same setting run twice: {floor} ({measured}).",
    )
