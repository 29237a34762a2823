"""The metric of bands: values of the function, names, and refusals."""

import pytest
import torch

from helpers.metric_cases import toy_explained
from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Constant
from verisal.functional.removal import band_removal, curve_area
from verisal.metrics import BandRemoval
from verisal.types import SaliencyResult


def test_scores_are_means_of_the_function_s():
    explained = toy_explained()
    metric = BandRemoval(("red", "green", "blue"), baseline=Constant(), random_orders=2, seed=5)
    metric.update(explained)
    found = band_removal(
        explained.classifier,
        explained.images,
        explained.result.attribution,
        explained.query_class,
        baseline=Constant(),
        random_orders=2,
        seed=5,
    )
    scores = {name: score.value for name, score in metric.scores().items()}
    area = curve_area(found.fractions, found.scores).mean().item()
    random = curve_area(found.fractions, found.random_scores).mean().item()
    assert scores["auc"] == pytest.approx(area)
    assert metric.compute().item() == pytest.approx(area)
    assert scores["gain"] == pytest.approx(random - area)
    assert scores["fall_auc"] == pytest.approx(curve_area(found.fractions, found.fall_scores).mean().item())
    assert scores["clean_score"] == pytest.approx(found.scores[:, 0].mean().item())
    for place, name in enumerate(metric.band_names):
        assert scores[f"evidence_{name}"] == pytest.approx(found.evidence[:, place].mean().item())
        assert scores[f"fall_{name}"] == pytest.approx(found.falls[:, place].mean().item(), abs=1e-6)
    torch.testing.assert_close(metric.curves()["random"].mean, found.random_scores.double().mean(dim=0))
    ranked = metric.ranking()
    assert [row[1] for row in ranked.rows] == sorted(
        metric.band_names, key=lambda name: -scores[f"evidence_{name}"]
    )
    assert sum(row[4] for row in ranked.rows) == pytest.approx(1)
    shares = metric.lines("toy")[-1]
    assert shares.ticks == metric.band_names
    assert shares.y.tolist() == pytest.approx([scores[f"evidence_{name}"] for name in metric.band_names])


def test_names_say_what_changes_values_and_bands_without_names_are_numbered():
    assert BandRemoval(4).name == "band_removal[dataset_mean]"
    assert BandRemoval(4, random_orders=9, score="logit").name == "band_removal[dataset_mean]_orders9_logit"
    assert BandRemoval(2).band_names == ("band0", "band1")


def test_a_result_without_bands_is_undefined_with_the_way_out():
    explained = toy_explained()
    maps = explained.result.saliency
    metric = BandRemoval(3, baseline=Constant())
    metric.update(SaliencyResult(maps, maps), images=explained.images, classifier=explained.classifier)
    with pytest.warns(UserWarning, match="none of 6 images can be scored.*per_channel=True"):
        assert metric.compute().isnan()
    assert metric.lines("toy") == []


def test_refusals():
    with pytest.raises(DataError, match="is of 4 bands, found images of 3"):
        BandRemoval(4).update(toy_explained())
    for bands in (1, "rgb", ["red", "red"], ["red", "near/far"], ["red"]):
        with pytest.raises(ConfigError, match="two or more, each once and without a slash"):
            BandRemoval(bands)
    with pytest.raises(ConfigError, match="'odds'"):
        BandRemoval(3, score="odds")
