"""Neutrality of baselines: the classifier's own answer to the images that stand for removed pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.callbacks.explaining.callback import ScoringCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.errors import ConfigError
from verisal.fingerprint import canonical
from verisal.functional.baselines import Baseline, bound, neutrality
from verisal.functional.baselines.neutrality import is_neutral
from verisal.metrics import ImageTable
from verisal.reporting.publication import merge_evaluations
from verisal.results import Evaluation, Score
from verisal.saliency import Saliency
from verisal.types import check_range

_NAME = "neutrality"
_COLUMNS = ("query_probability", "max_probability", "entropy", "change")


@final
@dataclass(eq=False, repr=False)
class BaselineNeutrality(ScoringCallback):
    """Neutrality of every baseline to the classifier; a baseline is a row.

    Scores: ``query_probability`` (I1), the probability of the predicted class on the baseline image;
    ``max_probability`` and ``entropy`` (I2), the latter over log K; ``change`` (I3), how far replacing half
    of the cells of a 7-row grid moves the query's probability; ``limit``, up to which a mean query
    probability is called neutral; ``neutral``, 1 or 0. All but ``change`` and ``limit`` are undefined for a
    baseline that depends on a mask. Options as of :class:`ExplainingCallback`.

    Args:
        baselines: of different names.
        area: share of the cells that are replaced for ``change``.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Raises:
        ConfigError: settings out of range, no baseline, or two of one name.
    """

    methods: Mapping[str, Saliency] = field(init=False, default_factory=dict)
    baselines: Sequence[Baseline]
    _: KW_ONLY
    area: float = 0.5
    chunk_size: int = 64

    controlled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.row_names
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"baselines must be at least one, all of different names; found {list(names)}")
        check_range(1, chunk_size=self.chunk_size)
        check_range(0, 1, area=self.area)

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the baselines."""
        return tuple(baseline.name for baseline in self.baselines)

    @property
    def headline(self) -> Mapping[str, str]:
        """Query probability, and the verdict."""
        return {
            "baseline: query probability": f"{_NAME}/query_probability",
            "baseline: neutral": f"{_NAME}/neutral",
        }

    def begin(self, epoch: Epoch) -> None:
        """Empty tables."""
        super().begin(epoch)
        self._bound = [bound(baseline, epoch.classifier) for baseline in self.baselines]
        self._tables = {name: ImageTable((*_COLUMNS, "limit")).to(epoch.device) for name in self.row_names}

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of every baseline, known or computed."""
        for baseline in self._bound:
            compute = partial(self._rows, epoch, seen, baseline)
            key = self._key(baseline)
            if key is None:
                rows = compute()
            else:
                rows = epoch.rows(f"{_NAME} {baseline.name}", (), seen.batch, {key: compute})[key]
            self._tables[baseline.name].update(seen.batch.image_ids, rows)
            epoch.step(baseline.name)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores and values per image of every baseline."""
        counted = 0
        parts = []
        for name, table in self._tables.items():
            kept = table.compute()
            counted = len(kept.image_ids)
            if not counted:
                return None
            columns = dict(zip(_COLUMNS, kept.rows.T[:-1], strict=True))
            scores = self.means(epoch, columns) | verdict(kept.rows)
            parts.append(
                row_evaluation(epoch.split, name, _NAME, scores, image_ids=kept.image_ids, columns=columns)
            )
        counts = {"images of the neutrality": counted}
        return merge_evaluations([*parts, Evaluation(epoch.split, {}, counts=counts)])

    def _rows(self, epoch: Epoch, seen: Seen, baseline: Baseline) -> Tensor:
        measured = neutrality(
            epoch.classifier,
            seen.batch.images,
            baseline,
            seen.query_class,
            area=self.area,
            seed=self.seed,
            chunk_size=self.chunk_size,
        )
        nothing = torch.full_like(measured.change, torch.nan)
        parts = [measured.query_probability, measured.max_probability, measured.entropy, measured.change]
        columns = [(nothing if part is None else part).double() for part in parts]
        return torch.stack([*columns, torch.full_like(columns[0], measured.limit)], dim=1)

    def _key(self, baseline: Baseline) -> str | None:
        """All that decides the rows besides classifier and images; None for more than plain data."""
        try:
            return canonical([_NAME, baseline, self.area, self.seed])
        except ConfigError:
            return None


def verdict(rows: Tensor) -> dict[str, Score]:
    """Limit of the mean query probability, and 1 where the mean is within; rows ``(n, 5)`` of a baseline."""
    # The mean is that of the score: images without a probability are left out of both, and counted.
    probabilities, limit = rows[:, 0][rows[:, 0].isfinite()], float(rows[0, -1])
    n = len(probabilities)
    neutral = float(is_neutral(float(probabilities.mean()), limit)) if n else torch.nan
    return {
        "limit": Score(limit, n=len(rows)),
        "neutral": Score(neutral, n=n, undefined=len(rows) - n),
    }
