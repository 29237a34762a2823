"""Neutrality of baselines over an epoch: the numbers of functional.neutrality on all images at once."""

import math

import pytest
import torch

from helpers.explaining_toys import CLASSES, Samples, Task, loader, trainer
from verisal.callbacks import BaselineNeutrality
from verisal.callbacks.baseline_neutrality import verdict
from verisal.errors import ConfigError
from verisal.functional.baselines import (
    Blur,
    Constant,
    DatasetMean,
    LinearImputation,
    OtherImage,
    bound,
    neutrality,
)
from verisal.functional.statistics import Bootstrap
from verisal.reporting import CsvSink
from verisal.types import Batch


def run(callback, **settings):
    trainer(callback, **settings).validate(Task(), loader(7, batch_size=3), verbose=False)
    return callback.evaluation


def test_scores_are_those_of_all_images_at_once():
    samples = Samples(7)
    network = Task().classifier.eval().requires_grad_(False)
    batch = Batch.collate([samples[index] for index in range(7)])
    query = network(batch.images).argmax(dim=1)
    pool = OtherImage(images=batch.images, labels=batch.labels)
    baselines = [Constant(), DatasetMean(), Blur(), LinearImputation(), pool]
    found = run(BaselineNeutrality(baselines, resamples=50))
    for baseline in baselines:
        expected = neutrality(network, batch.images, bound(baseline, network), query)
        prefix = f"val/{baseline.name}/neutrality"
        for name in ("query_probability", "max_probability", "entropy", "change"):
            values = getattr(expected, name)
            score = found.scores[f"{prefix}/{name}"]
            if values is None:
                assert math.isnan(score.value)
                assert (score.n, score.undefined) == (0, 7)
            else:
                mean = Bootstrap(50).mean(values).score()
                assert (score.value, score.low, score.high) == pytest.approx(
                    (mean.value, mean.low, mean.high), abs=1e-6
                )
        assert found.scores[f"{prefix}/limit"].value == 1 / CLASSES == expected.limit
        neutral = found.scores[f"{prefix}/neutral"].value
        assert neutral == expected.neutral if expected.neutral is not None else math.isnan(neutral)
    assert set(found.samples["row"]) == {baseline.name for baseline in baselines}
    assert len(found.samples["value"]) == 7 * 4 * len(baselines)


def test_rows_of_a_stopped_run_are_found(tmp_path):
    files = []
    for seed in (0, 0, 1):
        run(BaselineNeutrality([DatasetMean()], resamples=10, seed=seed), logger=CsvSink(tmp_path))
        files.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")})
    assert len(files[0]) == 3  # a file per batch
    assert files[0] == files[1]
    assert files[0].items() < files[2].items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baselines": []}, "at least one"),
        ({"baselines": [Blur(), Blur()]}, "different names"),
        ({"baselines": [Blur()], "area": 1.5}, "area must be from 0 to 1"),
        ({"baselines": [Blur()], "chunk_size": 0}, "at least 1"),
        ({"baselines": [Blur()], "max_images": 0}, "max_images"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        BaselineNeutrality(**settings)


def test_the_limit_needs_one_in_k():
    found = run(BaselineNeutrality([Constant()], resamples=0))
    assert found.scores["val/black/neutrality/limit"].value == 1 / CLASSES
    assert torch.tensor(found.scores["val/black/neutrality/query_probability"].low).isnan()


class Brightness(torch.nn.Module):
    """Class 0 for what is bright: sure of white, and of black that it is another."""

    def forward(self, images):
        bright = 20 * (images.mean(dim=(1, 2, 3)) - 0.3)
        return torch.stack([bright, *[torch.zeros_like(bright)] * (CLASSES - 1)], dim=1)


def test_a_baseline_is_neutral_by_the_mean_of_its_own_probabilities():
    task = Task()
    task.classifier = Brightness()
    callback = BaselineNeutrality([Constant(level=level) for level in (0.0, 0.3, 1.0)], resamples=0)
    trainer(callback).validate(task, loader(6, batch_size=4), verbose=False)
    found = {name.removeprefix("val/"): score for name, score in callback.evaluation.scores.items()}
    names = [Constant(level=level).name for level in (0.0, 0.3, 1.0)]
    # At .3 all classes are equally likely: 1 / K is the limit itself.
    assert [found[f"{name}/neutrality/neutral"].value for name in names] == [1.0, 1.0, 0.0]
    assert [found[f"{name}/neutrality/query_probability"].value for name in names] == [
        pytest.approx(math.exp(-6) / (math.exp(-6) + 3), abs=1e-6),
        pytest.approx(1 / CLASSES, abs=1e-6),
        pytest.approx(math.exp(14) / (math.exp(14) + 3), abs=1e-6),
    ]
    assert all(found[f"{name}/neutrality/limit"].value == 1 / CLASSES for name in names)


def test_a_verdict_leaves_out_images_without_a_probability():
    rows = torch.zeros(3, 5, dtype=torch.float64)
    rows[:, 0], rows[:, -1] = torch.tensor([0.1, math.nan, 0.3]), 0.25
    neutral = verdict(rows)["neutral"]
    assert (neutral.value, neutral.n, neutral.undefined) == (1.0, 2, 1)
    rows[:, 0] = torch.tensor([0.1, math.nan, 0.5])  # neither the least nor the greatest decides
    assert verdict(rows)["neutral"].value == 0.0
    rows[:, 0] = torch.tensor([0.1, math.nan, 0.3])
    assert verdict(rows)["neutral"].value == 1.0
    rows[:, 0] = math.nan
    unknown = verdict(rows)["neutral"]
    assert math.isnan(unknown.value)
    assert (unknown.n, unknown.undefined) == (0, 3)
