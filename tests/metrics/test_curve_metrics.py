import math

import pytest
import torch

from helpers.metric_cases import part_of, toy_explained, with_saliency
from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Blur, Constant, DatasetMean, GaussianNoise, LinearImputation
from verisal.functional.removal import (
    aopc,
    curve_area,
    normalised_curve_area,
    perturbation_curve,
    removal_scores,
)
from verisal.metrics import ROAD, PerturbationCurve, RelevanceGap
from verisal.types import Explained, SaliencyResult

KINDS = {
    "insertion": ("most_relevant_first", "insert", Blur(sigma=5)),
    "deletion": ("most_relevant_first", "remove", DatasetMean()),
    "morf": ("most_relevant_first", "remove", DatasetMean()),
    "lerf": ("least_relevant_first", "remove", DatasetMean()),
}


def rows(metric, *parts):
    for part in parts:
        metric.update(part)
    return metric.table().rows


def column(metric, name):
    return metric.table().rows[:, metric.columns.index(name)]


def planted(saliency):
    """Two grey 8 x 8 images; the classifier looks only at the bright square in the upper left corner."""
    images = torch.full((2, 3, 8, 8), 0.5)
    images[..., :4, :4] = 1.0
    maps = saliency.expand(2, 1, 8, 8).clone()
    return Explained(
        classifier=lambda images: torch.stack(
            [images[..., :4, :4].mean(dim=(1, 2, 3)) * 8 - 6, torch.zeros(len(images))], dim=1
        ),
        images=images,
        query_class=torch.zeros(2, dtype=torch.int64),
        result=SaliencyResult(saliency=maps, raw=maps),
        image_ids=("a", "b"),
        explain=lambda images, query: SaliencyResult(saliency=maps, raw=maps),
    )


def square_map():
    saliency = torch.zeros(8, 8)
    saliency[:4, :4] = 1.0
    return saliency


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (PerturbationCurve("insertion"), "insertion[blur5]"),
        (PerturbationCurve(), "deletion[dataset_mean]"),
        (PerturbationCurve("morf", baseline=Constant()), "morf[black]"),
        (PerturbationCurve("lerf", baseline=GaussianNoise(seed=3)), "lerf[gauss_seed3]"),
        (
            PerturbationCurve("deletion", steps=224, block_size=8, score="logit"),
            "deletion[dataset_mean]_steps224_block8_logit",
        ),
        # What changes memory, speed and intervals only is no part of the name.
        (PerturbationCurve(chunk_size=3, normalised=True), "deletion[dataset_mean]"),
        (RelevanceGap(), "relevance_gap[dataset_mean]"),
        (RelevanceGap(baseline=Blur(), steps=32), "relevance_gap[blur5]_steps32"),
        (ROAD(), "road_morf[linear]"),
        (ROAD("lerf", shares=[0.25, 0.5]), "road_lerf[linear]_shares25-50"),
        (ROAD(baseline=LinearImputation(noise=0)), "road_morf[linear_noise0]"),
    ],
)
def test_name_says_baseline_and_whatever_is_unusual(metric, name):
    assert metric.name == name


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_function(kind):
    explained = toy_explained()
    order, direction, baseline = KINDS[kind]
    fractions, scores = perturbation_curve(
        explained.classifier,
        explained.images,
        explained.result.saliency,
        explained.query_class,
        baseline=baseline,
        order=order,
        direction=direction,
        steps=9,
    )
    clean, removed = scores[:, 0], scores[:, -1]
    if kind == "insertion":
        clean, removed = removed, clean
    metric = PerturbationCurve(kind, steps=9, normalised=True)
    found = rows(metric, explained)
    expected = {
        "auc": curve_area(fractions, scores),
        "normalised_auc": normalised_curve_area(fractions, scores, clean=clean, removed=removed),
        "clean_score": clean,
        "ties": torch.zeros(6),
    }
    if kind in ("deletion", "morf"):
        expected["aopc"] = aopc(scores)
    for name, values in expected.items():
        torch.testing.assert_close(column(metric, name), values.double(), equal_nan=True)
    torch.testing.assert_close(found[:, -10:], scores.double())
    probability = explained.classifier(explained.images).softmax(dim=1)
    torch.testing.assert_close(clean, probability.gather(1, explained.query_class[:, None])[:, 0].detach())


def test_scores_per_image_average_to_the_total():
    metric = PerturbationCurve(steps=6)
    rows(metric, toy_explained())
    for name, score in metric.scores().items():
        assert score.value == pytest.approx(column(metric, name).mean().item())
        assert score.n == 6


def test_an_uneven_last_batch_changes_nothing():
    whole = toy_explained(5)
    parts = [part_of(whole, [0, 1]), part_of(whole, [2, 3]), part_of(whole, [4])]
    for make in (lambda: PerturbationCurve(steps=5), lambda: RelevanceGap(steps=5), ROAD):
        torch.testing.assert_close(rows(make(), *parts), rows(make(), whole), rtol=0, atol=1e-6)


def test_insertion_and_deletion_have_separate_baselines():
    explained = toy_explained()
    for kind, baseline in (("insertion", Constant(level=1.0)), ("deletion", Constant())):
        metric = PerturbationCurve(kind, baseline=baseline, steps=3)
        found = rows(metric, explained)
        probability = explained.classifier(baseline(explained.images)).softmax(dim=1)
        expected = probability.gather(1, explained.query_class[:, None])[:, 0].detach().double()
        end = found[:, metric.columns.index(f"{kind}_{0 if kind == 'insertion' else 3}")]
        torch.testing.assert_close(end, expected, rtol=0, atol=1e-6)


def test_curves_are_means_over_the_images_that_count():
    explained = toy_explained()
    maps = explained.result.saliency.clone()
    maps[1], maps[4, 0, 0, 0] = 0.5, math.nan
    metric = RelevanceGap(steps=4)
    found = rows(metric, with_saliency(explained, maps))
    curves = metric.curves()
    assert list(curves) == ["morf", "lerf"]
    for index, curve in enumerate(curves.values()):
        assert curve.n == 4
        assert curve.fractions.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
        lines = found[[0, 2, 3, 5], 6 + 5 * index : 11 + 5 * index]
        torch.testing.assert_close(curve.mean, lines.mean(dim=0))
    for score in metric.scores().values():
        assert (score.n, score.undefined) == (4, 2)
    # Still there after compute().
    torch.testing.assert_close(metric.curves()["morf"].mean, curves["morf"].mean)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_curves_without_an_image_are_an_error():
    with pytest.raises(DataError, match=r"road_morf\[linear\]: no image was added before curves\(\)"):
        ROAD().curves()


def test_share_of_ties_is_recorded():
    explained = toy_explained()
    maps = explained.result.saliency.clone()
    maps[0, 0, :4] = 5.0
    metric = RelevanceGap(steps=2)
    rows(metric, with_saliency(explained, maps))
    torch.testing.assert_close(column(metric, "ties"), torch.tensor([0.25, 0, 0, 0, 0, 0]).double())


def test_gap_is_the_area_between_both_orders():
    metric = RelevanceGap(steps=5)
    rows(metric, toy_explained())
    other = {kind: PerturbationCurve(kind, steps=5) for kind in ("morf", "lerf")}
    for kind, one in other.items():
        rows(one, toy_explained())
        torch.testing.assert_close(column(metric, f"{kind}_auc"), column(one, "auc"))
    gap = column(other["lerf"], "auc") - column(other["morf"], "auc")
    torch.testing.assert_close(column(metric, "gap"), gap)
    torch.testing.assert_close(column(metric, "aopc"), column(other["morf"], "aopc"))


def test_planted_answer_is_worth_what_it_must():
    """The square is a quarter of the image; removing it alone takes everything, removing the rest nothing."""
    right, wrong = planted(square_map()), planted(1 - square_map())
    clean, gone = (torch.tensor(value).sigmoid().item() for value in (2.0, -6.0))
    # Four steps: the square goes in the first or in the last one.
    early, late = (clean + 7 * gone) / 8, (7 * clean + gone) / 8
    expected = {"morf_auc": early, "lerf_auc": late, "gap": late - early, "aopc": (clean - gone) * 4 / 5}
    for explained, sign in ((right, 1), (wrong, -1)):
        metric = RelevanceGap(baseline=Constant(), steps=4)
        rows(metric, explained)
        assert column(metric, "gap").tolist() == pytest.approx([sign * expected["gap"]] * 2)
        if sign > 0:
            for name, value in expected.items():
                assert column(metric, name).tolist() == pytest.approx([value] * 2)


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_road_is_the_mean_over_its_shares(order):
    explained = toy_explained()
    probability, correct = removal_scores(
        explained.classifier,
        explained.images,
        explained.result.saliency,
        explained.query_class,
        baseline=LinearImputation(),
        shares=(0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9),
        order="most_relevant_first" if order == "morf" else "least_relevant_first",
    )
    metric = ROAD(order)
    rows(metric, explained)
    torch.testing.assert_close(column(metric, "probability"), probability.double().mean(dim=1))
    torch.testing.assert_close(column(metric, "accuracy"), correct.double().mean(dim=1))
    curves = metric.curves()
    assert curves["accuracy"].fractions.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9]
    torch.testing.assert_close(curves["probability"].mean, probability.double().mean(dim=0))


def test_road_is_not_constant_over_maps():
    """A planted map loses the bright square to its grey surroundings; the inverted map keeps it."""
    found = {}
    for name, saliency in (("right", square_map()), ("wrong", 1 - square_map())):
        metric = ROAD(baseline=LinearImputation(noise=0), shares=[0.25])
        rows(metric, planted(saliency))
        found[name] = column(metric, "probability")
    grey, bright = (torch.tensor(value).sigmoid().item() for value in (-2.0, 2.0))
    assert found["right"].tolist() == pytest.approx([grey] * 2, abs=1e-3)
    assert found["wrong"].tolist() == pytest.approx([bright] * 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PerturbationCurve("removal"),
            "kind must be insertion, deletion, morf or lerf, found 'removal'",
        ),
        (lambda: PerturbationCurve(steps=0), "steps must be at least 1, found 0"),
        (lambda: RelevanceGap(block_size=0), "block_size must be at least 1, found 0"),
        (lambda: RelevanceGap(chunk_size=0), "chunk_size must be at least 1, found 0"),
        (lambda: RelevanceGap(score="margin"), "score must be 'probability' or 'logit', found 'margin'"),
        (lambda: ROAD("deletion"), "order must be morf or lerf, found 'deletion'"),
        (lambda: ROAD(shares=[]), r"shares must rise within \(0, 1\), found \[\]"),
        (lambda: ROAD(shares=[0.5, 0.2]), r"shares must rise within \(0, 1\), found \[0.5, 0.2\]"),
        (lambda: ROAD(shares=[0.5, 1.0]), r"shares must rise within \(0, 1\)"),
        (lambda: ROAD(chunk_size=0), "chunk_size must be at least 1, found 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
