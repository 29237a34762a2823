import copy
from dataclasses import replace

import pytest
import torch

from helpers.metric_cases import part_of, toy_explained
from helpers.metric_rows_faithfulness import brightness
from helpers.saliency_cases import toy_classifier, toy_images
from verisal.attacks.on_maps.attack import MapAttack
from verisal.errors import ConfigError, DataError
from verisal.functional.comparison import (
    passes_randomisation,
    postprocess,
    randomised_copies,
    sensitivity_max,
    spearman,
    uniform_noises,
)
from verisal.functional.comparison.randomisation import derangement
from verisal.functional.removal import saliency_fidelity
from verisal.metrics import (
    AttackedSensitivity,
    CascadingRandomisation,
    DabkowskiGal,
    Infidelity,
    MapSimilarity,
    SaliencyFidelity,
    SensitivityMax,
)
from verisal.saliency import Gradient
from verisal.types import SaliencyResult


def scores_of(metric, explained):
    metric.update(explained)
    return metric.scores()


def fixed_map(classifier, images, query_class):
    """A method that never looks at the network."""
    saliency = images.mean(dim=1, keepdim=True)
    return SaliencyResult(saliency=saliency, raw=saliency)


def explained_by(method, count=6):
    explained = toy_explained(count)
    result = method(explained.classifier, explained.images, explained.query_class)
    return replace(
        explained, result=result, explain=lambda images, query: method(explained.classifier, images, query)
    )


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (SaliencyFidelity(), "saliency_fidelity[black]"),
        (SaliencyFidelity(percentile=99.0), "saliency_fidelity[black,p99]"),
        (DabkowskiGal(threshold=0.35), "dabkowski_gal[0.35]"),
        (DabkowskiGal(empty_probability=0.001), "dabkowski_gal[0.5,empty=0.001]"),
        (Infidelity(), "infidelity[squares,100]"),
        (Infidelity(samples=None), "infidelity[squares,all]"),
        (Infidelity(perturbation="gaussian", samples=50), "infidelity[gaussian0.2,50]"),
        (SensitivityMax(), "sensitivity_max[0.02,10]"),
        (MapSimilarity(fixed_map, label="fixed"), "map_similarity[fixed]"),
        (CascadingRandomisation(fixed_map, toy_images(2)), "cascading_randomisation[4]"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_every_setting_that_changes_the_score_is_in_its_own_name(metric, name):
    assert metric.name == name


def test_fidelity_reads_the_post_processed_attribution_per_image():
    explained = toy_explained()
    metric = SaliencyFidelity()
    score = scores_of(metric, explained)["value"]
    expected = saliency_fidelity(
        explained.classifier,
        explained.images,
        maps=postprocess(explained.result.attribution),
        query_class=explained.query_class,
    ).values
    assert torch.allclose(metric.table().rows[:, 0], expected, atol=1e-6)
    assert score.value == pytest.approx(expected.mean().item(), abs=1e-6)


def test_scores_of_two_metrics_are_each_their_own():
    """A metric reports its own name and its own values, whatever else was computed."""
    explained = toy_explained()
    found = {
        metric.name: scores_of(metric, explained) for metric in (DabkowskiGal(), SensitivityMax(samples=2))
    }
    values = [scores["value"].value for scores in found.values()]
    assert values[0] != values[1]
    assert list(found) == ["dabkowski_gal[0.5]", "sensitivity_max[0.02,2]"]


def test_negative_only_attribution_is_scored():
    explained = toy_explained()
    result = replace(explained.result, attribution=-explained.result.attribution.abs() - 0.1)
    for metric in (SaliencyFidelity(), Infidelity(samples=5)):
        for score in scores_of(metric, replace(explained, result=result)).values():
            assert (score.n, score.undefined) == (6, 0)


def test_insensitive_map_has_sensitivity_zero():
    explained = toy_explained()
    maps = torch.rand(1, 1, 16, 12, generator=torch.Generator().manual_seed(0))

    def explain(images, query_class):
        saliency = maps.expand(len(images), -1, -1, -1)
        return SaliencyResult(saliency=saliency, raw=saliency)

    whole = replace(explained, explain=explain, result=explain(explained.images, explained.query_class))
    assert scores_of(SensitivityMax(samples=3), whole)["value"].value == 0.0


def test_sensitivity_is_that_of_its_own_noise():
    explained, asked = toy_explained(), []

    def explain(images, query_class):
        asked.append(len(images))
        return explained.explain(images, query_class)

    metric = SensitivityMax(radius=0.1, samples=3, chunk_size=13, seed=7)
    metric.update(replace(explained, explain=explain))
    # Six images, two copies of which fit.
    assert asked == [12, 6]
    expected = sensitivity_max(
        explained.explain,
        explained.images,
        query_class=explained.query_class,
        attribution=explained.result.attribution,
        noises=uniform_noises(explained.images, radius=0.1, samples=3, seed=7),
    )
    assert torch.allclose(metric.table().rows[:, 0], expected)
    assert metric.scores()["value"].value == pytest.approx(expected.mean().item())
    for settings in ({"radius": 0}, {"samples": 0}, {"chunk_size": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be"):
            SensitivityMax(**settings)
    assert SensitivityMax(samples=1, chunk_size=1).samples == 1


def test_infidelity_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="squares or gaussian"):
        Infidelity(perturbation="circles")
    with pytest.raises(ConfigError, match="need a number of samples"):
        Infidelity(perturbation="gaussian", samples=None)


def test_map_similarity_floor_and_control():
    explained = toy_explained()
    found = scores_of(MapSimilarity(brightness, label="brightness"), explained)
    expected = brightness(explained.classifier, explained.images, explained.query_class).saliency
    expected = spearman(explained.result.saliency, expected)
    assert found["spearman"].value == pytest.approx(expected.mean().item())
    assert found["floor"].value == pytest.approx(1.0)
    assert abs(found["control"].value) < 0.1
    repeated = scores_of(MapSimilarity(brightness, label="b", repeat=brightness), explained)
    assert repeated["floor"].value == pytest.approx(expected.mean().item())


def plain(classifier, images, query_class):
    """As people write it who know nothing of ours: an array (B, H, W), gradients needed."""
    logits = classifier(images.requires_grad_())
    chosen = logits.gather(1, query_class[:, None]).sum()
    return torch.autograd.grad(chosen, images)[0].abs().amax(dim=1).numpy()


def test_functions_of_anybody_are_methods_as_ours_are():
    explained = explained_by(Gradient())
    for ours, theirs in (
        (MapSimilarity(Gradient(), label="g"), MapSimilarity(plain, label="g", repeat=plain)),
        (CascadingRandomisation(Gradient(), toy_images(8), steps=2),
         CascadingRandomisation(plain, toy_images(8), steps=2)),
    ):  # fmt: skip
        ours.update(explained)
        with torch.inference_mode():
            theirs.update(explained)
        found, expected = theirs.table().rows, ours.table().rows
        kept = [index for index, name in enumerate(ours.columns) if not name.startswith("attribution")]
        assert torch.allclose(found[:, kept], expected[:, kept], atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda method: MapSimilarity(method, label="g"),
        lambda method: MapSimilarity(Gradient(), label="g", repeat=method),
        lambda method: CascadingRandomisation(method, toy_images(2)),
        lambda method: AttackedSensitivity(MapAttack(kind="top_k"), aim=method),
    ],
)
def test_a_method_of_one_network_cannot_be_asked_about_others(make):
    def bound(images, query_class):
        return images

    with pytest.raises(
        ConfigError,
        match=r"must take \(classifier, images, query_class\).* found bound\(images, query_class\)",
    ):
        make(bound)


# Randomisation


def test_randomisation_rows_are_the_similarities_to_the_randomised_copies():
    explained = explained_by(Gradient())
    metric = CascadingRandomisation(Gradient(), toy_images(8), steps=4)
    scores = scores_of(metric, explained)
    copies = randomised_copies(toy_classifier(), toy_images(8), steps=4)
    for step, randomised in enumerate(copies, start=1):
        found = Gradient()(randomised.classifier, explained.images, explained.query_class)
        for name, part in (("spearman", "saliency"), ("attribution", "attribution")):
            expected = spearman(getattr(explained.result, part), getattr(found, part)).mean().item()
            assert scores[f"{name}_{step}"].value == pytest.approx(expected, abs=1e-6)
    maps = explained.result.saliency
    unrelated = spearman(maps, maps[derangement(6)])
    assert scores["reference_spearman"].value == pytest.approx(unrelated.quantile(0.95).item(), abs=1e-6)


def test_randomisation_asks_for_one_map_a_step_of_copies_that_are_made_once():
    asked = []

    def method(classifier, images, query_class):
        asked.append((id(classifier), len(images)))
        return Gradient()(classifier, images, query_class)

    explained = explained_by(Gradient())
    metric = CascadingRandomisation(method, toy_images(8), steps=3)
    for rows in ([0, 1, 2, 3], [4, 5]):
        metric.update(part_of(explained, rows))
    assert [count for _, count in asked] == [4] * 3 + [2] * 3
    assert [copied for copied, _ in asked[:3]] == [copied for copied, _ in asked[3:]]
    assert id(explained.classifier) not in dict(asked)


def test_map_that_never_looks_at_the_network_fails_and_one_that_does_passes():
    metric = CascadingRandomisation(fixed_map, toy_images(8), steps=2)
    scores = scores_of(metric, explained_by(fixed_map))
    assert scores["spearman_2"].value == pytest.approx(1.0)
    assert passes_randomisation(scores["spearman_2"], scores["reference_spearman"]) is False

    def noise(classifier, images, query_class):
        """Another random map for every network."""
        seed = int(classifier.network.head.weight.abs().sum() * 1e6)
        saliency = torch.rand(len(images), 1, 16, 12, generator=torch.Generator().manual_seed(seed))
        return SaliencyResult(saliency=saliency, raw=saliency)

    scores = scores_of(CascadingRandomisation(noise, toy_images(8), steps=1), explained_by(noise, 24))
    assert passes_randomisation(scores["spearman_1"], scores["reference_spearman"]) is True


def test_copies_follow_the_classifier_when_its_weights_change():
    explained = explained_by(Gradient())
    metric = CascadingRandomisation(Gradient(), toy_images(8), steps=2)
    first = scores_of(metric, explained)
    changed = copy.deepcopy(explained.classifier)
    with torch.no_grad():
        changed.network.one.conv.weight.neg_()
    metric.reset()
    second = scores_of(metric, replace(explained, classifier=changed))
    assert first["spearman_1"].value != second["spearman_1"].value
    metric.reset()
    assert scores_of(metric, explained) == first


def test_randomisation_refuses_what_it_cannot_randomise():
    metric = CascadingRandomisation(Gradient(), toy_images(8))
    explained = explained_by(Gradient(), 2)
    with pytest.raises(ConfigError, match=r"needs an nn\.Module"):
        metric.update(replace(explained, classifier=lambda images: explained.classifier(images)))
    with pytest.raises(DataError, match="must be of one size"):
        metric.update(replace(explained, images=explained.images[..., 1:]))
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        CascadingRandomisation(Gradient(), toy_images(8), steps=0)


def test_one_image_has_no_reference():
    metric = CascadingRandomisation(Gradient(), toy_images(8), steps=1)
    scores = scores_of(metric, part_of(explained_by(Gradient()), [0]))
    assert scores["reference_spearman"].value != scores["reference_spearman"].value
    assert passes_randomisation(scores["spearman_1"], scores["reference_spearman"]) is None
