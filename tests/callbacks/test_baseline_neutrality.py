"""Neutrality of baselines over an epoch: the numbers of functional.neutrality on all images at once."""

import math

import pytest
import torch
from explaining_toys import CLASSES, Samples, Task, loader, trainer

from verisal.callbacks import BaselineNeutrality
from verisal.errors import ConfigError
from verisal.functional import (
    Blur,
    Constant,
    DatasetMean,
    LinearImputation,
    OtherImage,
    bootstrap_mean,
    bound,
    neutrality,
)
from verisal.reporting import csv_logger
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
                mean = bootstrap_mean(values, resamples=50)
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
        run(BaselineNeutrality([DatasetMean()], resamples=10, seed=seed), logger=csv_logger(tmp_path))
        files.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")})
    assert len(files[0]) == 3  # a file per batch
    assert files[0] == files[1]
    assert files[0].items() < files[2].items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baselines": []}, "at least one"),
        ({"baselines": [Blur(), Blur()]}, "different names"),
        ({"baselines": [Blur()], "area": 1.5}, "area lie in"),
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
