"""Bands by their evidence in a run: scores, figures with the names of the bands, and the ranked table."""

import pytest
import torch
from torch.utils.data import TensorDataset

from helpers.channels import images_of
from helpers.strangers import SIDE, Stranger, loader, trainer
from verisal.callbacks import ReportRun, SaliencyMetrics
from verisal.functional.baselines import Constant
from verisal.metrics import BandRemoval
from verisal.saliency import RISE, InputXGradient, Occlusion

BANDS = ("coastal", "blue", "green", "red", "red edge", "near infrared", "swir")
DECISIVE = "near infrared"


class Field(torch.nn.Module):
    """Class 1 of two by the level of one band; the others count for a hundredth of it."""

    def __init__(self):
        super().__init__()
        weight = torch.full((1, len(BANDS), 1, 1), 0.1)
        weight[0, BANDS.index(DECISIVE)] = 10
        self.layer = torch.nn.Conv2d(len(BANDS), 1, 1, bias=False)
        self.layer.weight = torch.nn.Parameter(weight)

    def forward(self, images):
        total = self.layer(images).mean(dim=(2, 3)) - 2
        return torch.cat([torch.zeros_like(total), total], dim=1)


def evaluated(tmp_path, *methods, report=True):
    data = TensorDataset(images_of(len(BANDS), 6, (SIDE, SIDE)), torch.ones(6, dtype=torch.int64))
    found = SaliencyMetrics(list(methods), [BandRemoval(BANDS, baseline=Constant())], resamples=10)
    run = trainer(found, *([ReportRun(tmp_path)] if report else []))
    run.validate(Stranger(Field()), loader(data), verbose=False)
    return found.evaluation


def test_report_has_the_ranked_bands_and_figures_with_their_names(tmp_path):
    methods = (
        InputXGradient(),
        Occlusion(window=8, stride=8, baseline=Constant(), per_channel=True),
        RISE(cells=2, masks=20, baseline=Constant(), per_channel=True),
    )
    evaluation = evaluated(tmp_path, *methods)
    name = "band_removal[black]"
    labels = [curve.label for curve in evaluation.curves if curve.figure == name]
    assert labels == ["input_x_gradient", "occlusion", "rise", "random order", "largest fall alone first"]
    shares = [curve for curve in evaluation.curves if curve.figure == f"{name} evidence"]
    assert all(curve.ticks == BANDS and curve.n == 6 for curve in shares)
    assert len(evaluation.tables) == 3
    for title, table in evaluation.tables.items():
        assert title.endswith(f", {name}")
        assert table.columns == ("rank", "band", "evidence", "fall alone", "first in")
        rank, band, evidence, fall, first = table.rows[0]
        assert (rank, band, first) == (1, DECISIVE, 1)
        assert evidence > 0.8
        assert fall > 0.5
        assert [row[0] for row in table.rows] == list(range(1, 8))
        assert sum(row[2] for row in table.rows) == pytest.approx(1)
    report = (tmp_path / "report.val.md").read_text()
    assert f"## Bands of input_x_gradient, {name}" in report
    assert "| rank | band | evidence | fall alone | first in |\n|---|---|---|---|---|\n| 1 | near" in report
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "val_band_removal_black.png",
        "val_band_removal_black_evidence.png",
    }


def test_a_method_without_an_attribution_for_each_band_is_said_and_left_out(tmp_path):
    evaluation = evaluated(tmp_path, Occlusion(window=8, stride=8, baseline=Constant()), report=False)
    assert not evaluation.tables
    assert not evaluation.curves
    # The controls are not missed: random orders are the metric's own.
    said = [note for note in evaluation.notes if "per_channel=True" in note]
    assert [note.partition(": none")[0] for note in said] == ["occlusion: BandRemoval"]
