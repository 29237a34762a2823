"""What metrics keep of each image: few bytes, and every value exactly."""

from __future__ import annotations

import pytest
import torch

from verisal.functional.baselines import ImageMean
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ROAD, ImageRows, MaxBoxAcc, MaxBoxAccV2, PerturbationCurve, PxAP

IMAGES = 60


def hits(columns):
    """Right boxes at every level, of three images in four."""
    rows = (torch.rand(IMAGES, columns, generator=torch.Generator().manual_seed(1)) < 0.7).double()
    rows[::4] = torch.nan
    return rows


def counts(columns):
    """Pixels in every bin, as many as an image of 512 px has."""
    rows = torch.randint(0, 2**18, (IMAGES, columns), generator=torch.Generator().manual_seed(2)).double()
    rows[::4] = torch.nan
    return rows


def curves(columns):
    """Values of any precision, and points as a network gives them."""
    rows = torch.rand(IMAGES, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    points = 65 if columns > 60 else 14
    rows[:, -points:] = rows[:, -points:].float().double()
    rows[::4] = torch.nan
    return rows


CASES = [
    pytest.param(MaxBoxAcc(), hits, 550, id="boxes"),
    pytest.param(MaxBoxAccV2(), hits, 1600, id="boxes at three overlaps"),
    pytest.param(PxAP(), counts, 8100, id="pixels"),
    pytest.param(PerturbationCurve("deletion", baseline=ImageMean()), curves, 350, id="curve"),
    pytest.param(ROAD(), curves, 150, id="road"),
]


def filled(metric, rows, *, batch=7):
    """The metric with rows of images that come in any order, a batch at a time."""
    metric.reset()
    if metric.needs_annotation:
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    for places in torch.randperm(IMAGES, generator=torch.Generator().manual_seed(4)).split(batch):
        metric.add_rows([f"{place:03d}" for place in places.tolist()], rows[places])
    return rows


def kept_bytes(metric):
    """Of all tensors that hold the metric's rows, each with the memory behind it."""
    states = metric._kept.metric_state.values()
    return sum(tensor.untyped_storage().nbytes() for state in states for tensor in state)


@pytest.mark.parametrize(("metric", "rows_of", "most"), CASES)
def test_few_bytes_are_kept_of_an_image(metric, rows_of, most):
    filled(metric, rows_of(len(metric.columns)))
    assert 0 < kept_bytes(metric) <= most * IMAGES


@pytest.mark.parametrize(("metric", "rows_of", "most"), CASES)
def test_rows_and_scores_are_those_of_float64(metric, rows_of, most):
    rows = filled(metric, rows_of(len(metric.columns)))
    table = metric.table()
    torch.testing.assert_close(table.rows, rows, rtol=0, atol=0, equal_nan=True)
    whole = ImageRows(table.image_ids, rows)
    for resamples in (0, 200):
        bootstrap = Bootstrap(resamples)
        found, expected = (repr(metric.scores_of(one, bootstrap)) for one in (table, whole))
        assert found == expected


def test_only_the_latest_rows_are_the_forward_value():
    metric = MaxBoxAcc()
    rows = filled(metric, torch.ones(IMAGES, len(metric.columns), dtype=torch.float64))
    before = len(metric._kept.rows)
    metric.add_rows(["x", "y"], torch.zeros_like(rows[:2]))
    assert metric._kept.since(before).image_ids == ("x", "y")
    assert not metric._kept.since(before).rows.any()
    curve = PerturbationCurve("deletion", baseline=ImageMean())
    rows = filled(curve, curves(len(curve.columns)))
    assert curve._kept.since(9).rows.shape == (4, rows.shape[1])
