"""What tasks report of ratios, and of logits and scores that are not numbers."""

import math
from types import SimpleNamespace

import pytest
import torch

from helpers.tiny_detector import SIZE, data
from verisal.detectors import Logits, MaxSoftmax
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ImageRows
from verisal.tasks import DetectorTask, FrozenClassifierTask
from verisal.tasks.masker.evaluation import COLUMNS, build_evaluation
from verisal.types import Batch

NAN = math.nan


def rows_of(**columns):
    """A table in which every other column is 1."""
    count = len(next(iter(columns.values())))
    values = torch.ones(count, len(COLUMNS), dtype=torch.float64)
    for name, column in columns.items():
        values[:, COLUMNS.index(name)] = torch.tensor(column, dtype=torch.float64)
    return ImageRows(tuple(f"{index:03d}" for index in range(count)), values)


def report(resamples=200, **tables):
    return build_evaluation("test", tables, timings={}, bootstrap=Bootstrap(resamples)).scores


def test_kept_is_the_share_of_the_way_from_the_control_to_the_goal():
    # Means over the four images that all three rows have: .5 on the way from .2 to .6, hence 3 of 4.
    found = report(
        masker=rows_of(energy_inside=[0.4, 0.6, 0.5, 0.5, NAN, 0.9]),
        optimised_20=rows_of(energy_inside=[0.5, 0.7, 0.6, 0.6, 0.6, 0.6]),
        random=rows_of(energy_inside=[0.1, 0.3, 0.2, 0.2, 0.2, NAN]),
    )
    kept = found["test/masker/kept_energy_inside/optimised_20"]
    assert kept.value == pytest.approx(0.75)
    assert (kept.n, kept.undefined) == (4, 2)
    # Each image is three quarters of the way, so every resample is.
    assert (kept.low, kept.high) == (pytest.approx(0.75), pytest.approx(0.75))
    assert found["test/masker/energy_inside"].value == pytest.approx(2.9 / 5)


def test_kept_varies_as_the_images_do():
    kept = report(
        masker=rows_of(energy_inside=[0.6, 0.2, 0.6, 0.2]),
        optimised_20=rows_of(energy_inside=[0.6, 0.6, 0.6, 0.6]),
        random=rows_of(energy_inside=[0.2, 0.2, 0.2, 0.2]),
    )["test/masker/kept_energy_inside/optimised_20"]
    assert (kept.value, kept.low, kept.high) == (pytest.approx(0.5), pytest.approx(0.0), pytest.approx(1.0))


@pytest.mark.parametrize("random", [[0.5, 0.7, 0.6, 0.6], [0.4, 0.8, 0.5, 0.9]])
def test_nothing_is_kept_of_a_way_that_may_have_no_length(random):
    kept = report(
        masker=rows_of(energy_inside=[0.4, 0.6, 0.5, 0.5]),
        optimised_20=rows_of(energy_inside=[0.5, 0.7, 0.6, 0.6]),
        random=rows_of(energy_inside=random),
    )["test/masker/kept_energy_inside/optimised_20"]
    assert math.isnan(kept.value)
    assert kept.n == 4


def test_a_row_without_numbers_is_told_and_not_left_out():
    found = report(masker=rows_of(objective=[NAN, NAN], deletion=[NAN, NAN]))
    objective = found["test/masker/objective"]
    assert math.isnan(objective.value)
    assert (objective.n, objective.undefined) == (0, 2)
    assert "test/masker/deletion" not in found  # as at every epoch that does not ask for it


def test_a_classifier_without_logits_is_neither_right_nor_wrong():
    task = FrozenClassifierTask()
    with torch.no_grad():
        list(task.parameters())[-1].fill_(NAN)
    empty = tuple(torch.zeros(0) for _ in range(2))
    # The largest of what is not a number is the first: label 0 would have been a hit.
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([0, 3]), ("a", "b"), empty, empty, empty)
    with torch.no_grad():
        task.test_step(batch, 0)
    assert task._table.compute().rows.isnan().all()


def test_an_image_without_a_score_has_no_verdict(tmp_path):
    task = DetectorTask(detectors={"masks": MaxSoftmax()}, head="masks")
    task.detectors["masks"] = SimpleNamespace(
        measurement=Logits(), judge=lambda measured: torch.tensor([0.9, NAN, 0.1])
    )
    task.thresholds.fill_(0.5)
    task.supported.fill_(True)
    task.trainer = SimpleNamespace(datamodule=data(tmp_path))
    nothing = tuple(torch.zeros(0) for _ in range(3))
    images = torch.rand(3, 3, SIZE, SIZE)
    batch = Batch(images, torch.zeros(3).long(), ("a", "b", "c"), nothing, nothing, nothing)
    found = task.predict_step(batch, 0)
    assert found["alarm"] == [True, None, False]
