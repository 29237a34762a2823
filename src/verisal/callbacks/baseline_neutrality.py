"""What the classifier itself makes of the images that stand for removed pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

from verisal.callbacks._explaining import Context, ExplainingCallback, Part, Seen
from verisal.callbacks._samples import add_samples, no_samples
from verisal.errors import ConfigError
from verisal.fingerprint import canonical
from verisal.functional.baselines import Baseline
from verisal.functional.baselines.plain import bound
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.metrics import ImageTable
from verisal.metrics.neutrality import is_neutral, neutrality
from verisal.results import Evaluation, Score

__all__ = ["BaselineNeutrality"]

_NAME = "neutrality"
_COLUMNS = ("query_probability", "max_probability", "entropy", "change")


@final
class BaselineNeutrality(ExplainingCallback):
    """How little every baseline says to the classifier; a baseline is a row.

    Scores: ``query_probability`` (I1), the probability of the predicted class on the baseline image;
    ``max_probability`` and ``entropy`` (I2), the latter over log K; ``change`` (I3), how far replacing half
    of the cells of a 7-row grid moves the query's probability; ``limit``, up to which a mean query
    probability is called neutral; ``neutral``, 1 or 0. All but ``change`` and ``limit`` are undefined for a
    baseline that depends on a mask. :class:`ExplainingCallback` says what holds for all.

    Args:
        baselines: of different names.
        area: share of the cells that are replaced for ``change``.
        chunk_size: images per pass of the classifier; changes memory and speed only.
        every_n_epochs: in a fit, look in every so manieth validation.
        max_images: at most so many images, a fixed subset drawn by seed; None for all.
        seed: of the subset, the cells and the intervals.
        resamples: bootstrap resamples of the intervals.

    Raises:
        ConfigError: settings out of range, no baseline, or two of one name.
    """

    def __init__(
        self,
        baselines: Sequence[Baseline],
        *,
        area: float = 0.5,
        chunk_size: int = 64,
        every_n_epochs: int = 1,
        max_images: int | None = None,
        seed: int = 0,
        resamples: int = 2000,
    ) -> None:
        super().__init__(
            {}, every_n_epochs=every_n_epochs, max_images=max_images, seed=seed, resamples=resamples
        )
        names = [baseline.name for baseline in baselines]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"baselines must be at least one, all of different names; found {names}")
        if chunk_size < 1 or not 0 <= area <= 1:
            raise ConfigError(
                f"chunk_size must be at least 1 and area lie in [0, 1], found {chunk_size} and {area}"
            )
        self.baselines, self.area, self.chunk_size = tuple(baselines), area, chunk_size

    def part(self, context: Context) -> Part:
        """A table of its own for every baseline."""
        baselines = [bound(baseline, context.classifier) for baseline in self.baselines]
        return _Neutralities(context, baselines, self.area, self.chunk_size)


@final
class _Neutralities(Part):
    def __init__(self, context: Context, baselines: Sequence[Baseline], area: float, chunk_size: int) -> None:
        self._context, self._baselines = context, baselines
        self._area, self._chunk_size = area, chunk_size
        columns = (*_COLUMNS, "limit")
        self._tables = {one.name: ImageTable(columns).to(context.device) for one in baselines}

    def add(self, seen: Seen) -> None:
        """Rows of every baseline, known or computed."""
        context, batch = self._context, seen.batch
        for baseline in self._baselines:
            compute = partial(self._rows, seen, baseline)
            key = _key(baseline, self._area, context.seed)
            if key is None:
                rows = compute()
            else:
                rows = context.store.rows(
                    f"{_NAME} {baseline.name}",
                    (),
                    batch.images,
                    image_ids=batch.image_ids,
                    wanted={key: compute},
                )[key]
            self._tables[baseline.name].update(batch.image_ids, rows)
        for name in context.methods:
            context.session.step(name)

    def evaluation(self) -> Evaluation | None:
        """Scores and rows per image of every baseline."""
        scores: dict[str, Score] = {}
        samples = no_samples()
        counted = 0
        for name, table in self._tables.items():
            found = table.compute()
            counted = len(found.image_ids)
            if not counted:
                return None
            for column, values in zip(_COLUMNS, found.rows.T[:-1], strict=True):
                scores[f"{self._context.split}/{name}/{_NAME}/{column}"] = bootstrap_mean(
                    values, resamples=self._context.resamples, seed=self._context.seed
                )
                add_samples(samples, found.image_ids, name, f"{_NAME}/{column}", values)
            scores |= self._verdict(name, found.rows)
        return Evaluation(
            self._context.split,
            scores,
            counts={"images of the neutrality": counted},
            samples=samples,
            headline={
                "baseline: query probability": f"{_NAME}/query_probability",
                "baseline: neutral": f"{_NAME}/neutral",
            },
        )

    def _rows(self, seen: Seen, baseline: Baseline) -> Tensor:
        found = neutrality(
            self._context.classifier,
            seen.batch.images,
            baseline,
            seen.query_class,
            area=self._area,
            seed=self._context.seed,
            chunk_size=self._chunk_size,
        )
        nothing = torch.full_like(found.change, torch.nan)
        parts = [found.query_probability, found.max_probability, found.entropy, found.change]
        columns = [(nothing if one is None else one).double() for one in parts]
        return torch.stack([*columns, torch.full_like(columns[0], found.limit)], dim=1)

    def _verdict(self, name: str, rows: Tensor) -> dict[str, Score]:
        # The mean is that of the score: images without a probability are left out of both, and counted.
        probabilities, limit = rows[:, 0][rows[:, 0].isfinite()], float(rows[0, -1])
        n = len(probabilities)
        neutral = float(is_neutral(float(probabilities.mean()), limit)) if n else torch.nan
        prefix = f"{self._context.split}/{name}/{_NAME}"
        return {
            f"{prefix}/limit": Score(limit, torch.nan, torch.nan, n=len(rows)),
            f"{prefix}/neutral": Score(neutral, torch.nan, torch.nan, n=n, undefined=len(rows) - n),
        }


def _key(baseline: Baseline, area: float, seed: int) -> str | None:
    """All that decides the rows besides classifier and images; None for more than plain data."""
    try:
        return canonical([_NAME, baseline, area, seed])
    except ConfigError:
        return None
