"""Scores other than a class's logit: what methods, curves and metrics give for a class with that logit."""

import pytest
import torch
from torch import nn

from helpers.saliency_cases import toy_classifier, toy_images
from helpers.targets import CASES, EMBEDDING, MASK, Many, Regressor, Segmenter, images_of
from verisal.attacks import FGSM
from verisal.detectors import MaxSoftmax
from verisal.errors import ConfigError
from verisal.functional.adversarial import judge_8bit
from verisal.functional.baselines import Blur, Constant
from verisal.metrics import (
    ROAD,
    CascadingRandomisation,
    DabkowskiGal,
    Infidelity,
    PerturbationCurve,
    SaliencyFidelity,
    SensitivityMax,
)
from verisal.models import Classifier, ClassLogit, Contrast, Probability, Region, Similarity, targeted
from verisal.saliency import (
    RISE,
    Decoy,
    Explainer,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    HierarchicalMasks,
    IntegratedGradients,
    MeaningfulPerturbation,
    Occlusion,
)

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
METHODS = [
    Gradient(),
    IntegratedGradients(),
    GradCAM(stage="one"),
    Occlusion(window=4, stride=3, baseline=Constant(), score="logit"),
    RISE(masks=30, cells=3, baseline=Constant(), score="logit"),
    HierarchicalMasks(objective="evidence", steps=10, learning_rate=0.1, reg_weight=0.01),
    HierarchicalMasks(objective="class", steps=10, learning_rate=0.1, reg_weight=0.01),
    ExtremalPerturbation(areas=(0.2,), steps=4),
]


@EVERY
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_maps_are_those_of_a_class_with_that_score_for_its_logit(method, case):
    images, asked = images_of(), case.targeted()
    found, expected = method(asked, images), method(case.as_class(), images, 0)
    torch.testing.assert_close(found.saliency, expected.saliency, rtol=1e-3, atol=1e-4)
    assert found.query_class is None
    shown = expected.saliency if expected.attribution is None else expected.attribution
    assert float(shown.std()) > 0
    again = method(
        Classifier(case.network(), ("one", "two"), normalization="none"), images, target=case.target
    )
    assert again.saliency.equal(found.saliency)


@EVERY
def test_gradient_and_occlusion_written_out(case):
    images, network = images_of(), case.network()
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(case.score(network(leaf)).sum(), leaf)
    found = Gradient()(network, images, target=case.target)
    torch.testing.assert_close(found.attribution, slope)
    window = Occlusion(window=(6, 5), stride=5, baseline=Constant(level=0.0))(
        network, images, target=case.target
    )
    with torch.no_grad():
        before = case.score(network(images))
        sums, covered = torch.zeros(3, 12, 10), torch.zeros(12, 10)
        for top in (0, 5, 6):
            for left in (0, 5):
                changed = images.clone()
                changed[:, :, top : top + 6, left : left + 5] = 0
                fall = before - case.score(network(changed))
                sums[:, top : top + 6, left : left + 5] += fall[:, None, None]
                covered[top : top + 6, left : left + 5] += 1
    # The score itself, though a probability is asked for by default.
    torch.testing.assert_close(window.attribution[:, 0], sums / covered, rtol=1e-4, atol=1e-5)


@EVERY
def test_metrics_ask_for_the_score_itself(case):
    images, literal = images_of(), case.as_class()
    method = Gradient()
    explainer = Explainer(
        case.network(), method, normalization="none", stages=("one", "two"), target=case.target
    )
    for make in (
        lambda score: PerturbationCurve("deletion", steps=4, baseline=Constant(), score=score),
        lambda score: PerturbationCurve("insertion", steps=4, baseline=Blur(sigma=2), score=score),
        lambda score: Infidelity(samples=8),
        lambda score: SensitivityMax(samples=2),
    ):
        own, expected = make("probability"), make("logit")
        own.update(explainer(images), images=images, classifier=explainer.classifier, method=explainer)
        expected.update(
            method(literal, images, 0),
            images=images,
            classifier=literal,
            method=lambda images, query: method(literal, images, query),
        )
        torch.testing.assert_close(own.table().rows, expected.table().rows, rtol=1e-4, atol=1e-5)
        assert own.table().rows.isfinite().all()


def test_a_deletion_curve_written_out():
    images, case = images_of(2), CASES["regression"]
    network, maps = case.network(), torch.arange(120.0).view(1, 1, 12, 10).expand(2, -1, -1, -1)
    metric = PerturbationCurve("deletion", steps=2, baseline=Constant(level=0.0))
    metric.update(maps, images=images, classifier=targeted(network, case.target), query_class=0)
    half = images.clone().flatten(2)
    half[:, :, 60:] = 0
    with torch.no_grad():
        points = [case.score(network(each)) for each in (images, half.view_as(images), 0 * images)]
    area = (points[0] + 2 * points[1] + points[2]) / 4
    torch.testing.assert_close(metric.compute(), area.mean())


def test_a_number_far_from_0_is_no_sure_probability():
    """What removal leaves of an age says nothing about the baseline, and is no warning."""
    images, network = images_of(2), CASES["contrast"].network()
    classifier = targeted(network, lambda outputs: 60 + outputs[:, 1])
    metric = PerturbationCurve("deletion", steps=2, baseline=Constant(level=0.0))
    metric.update(Gradient()(classifier, images), images=images, classifier=classifier)
    assert float(metric.compute()) > 50


def test_randomisation_of_a_targeted_network():
    images, case = images_of(4), CASES["contrast"]
    explainer = Explainer(case.network(), Gradient(), normalization="none", target=case.target)
    metric = CascadingRandomisation(Gradient(), images, steps=3)
    metric.update(explainer(images), images=images, classifier=explainer.classifier)
    assert abs(metric.scores()["spearman_3"].value) < 0.5


def test_road_has_no_accuracy_of_a_score():
    images, case = images_of(), CASES["regression"]
    classifier = case.targeted()
    metric = ROAD()
    metric.update(Gradient()(classifier, images), images=images, classifier=classifier)
    scores = metric.scores()
    assert scores["accuracy"].undefined == 3
    assert scores["probability"].undefined == 0


def test_the_region_of_each_image_and_the_embedding_of_each():
    """Copies, chunks and noisy versions of an image keep its own target."""
    images, network = images_of(), CASES["segmentation"].network()
    masks = torch.stack([MASK, ~MASK, MASK.roll(2, 0)])
    alone = [Region(mask, 2) for mask in masks]
    for method in (
        Gradient(),
        RISE(masks=20, cells=3, chunk_size=7),
        HierarchicalMasks(steps=10, learning_rate=0.1, reg_weight=0.01),
    ):
        found = Explainer(network, method, normalization="none", target=Region(masks, 2))
        for row, target in enumerate(alone):
            one = Explainer(network, method, normalization="none", target=target)(images[row : row + 1])
            torch.testing.assert_close(found(images).saliency[row], one.saliency[0], rtol=1e-4, atol=1e-6)
    explainer = Explainer(network, Gradient(), normalization="none", target=Region(masks, 2))
    metric = SensitivityMax(samples=2)
    metric.update(explainer(images), images=images, classifier=explainer.classifier, method=explainer)
    for row, target in enumerate(alone):
        one = Explainer(network, Gradient(), normalization="none", target=target)
        single = SensitivityMax(samples=2)
        image = images[row : row + 1]
        single.update(one(image), images=image, classifier=one.classifier, method=one)
        torch.testing.assert_close(metric.table().rows[row], single.table().rows[0])
    with pytest.raises(ConfigError, match="each of 3 images, found 2 images"):
        explainer(images[:2])
    with pytest.raises(ConfigError, match="of which of them these are copies is not known"):
        explainer.classifier(images)
    several = torch.stack([EMBEDDING, EMBEDDING.flip(0)])
    embedder = CASES["embedding"].network()
    found = Gradient()(embedder, images[:2], target=Similarity(several))
    for row in range(2):
        one = Gradient()(embedder, images[row : row + 1], target=Similarity(several[row]))
        torch.testing.assert_close(found.attribution[row], one.attribution[0])


def test_region_of_a_network_with_smaller_maps_and_of_torchvision():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    images, mask = torch.rand(1, 3, 32, 32), torch.zeros(32, 32)
    mask[8:20, 8:20] = 1
    found = targeted(network, Region(mask, 1))(images)
    torch.testing.assert_close(found, network(images)["out"][:, 1, 8:20, 8:20].mean(dim=(1, 2)))
    small = targeted(lambda given: nn.functional.avg_pool2d(given, 2), Region(torch.ones(32, 32), 0))(images)
    torch.testing.assert_close(small, images[:, 0].mean(dim=(1, 2)), atol=0.02, rtol=0)


def test_the_probability_is_that_of_the_networks_own_output():
    images, network = images_of(), CASES["probability"].network()
    labels = Classifier(network, normalization="none", output="sigmoid")
    torch.testing.assert_close(
        targeted(labels, Probability(2))(images)[:, 0], network(images)[:, 2].sigmoid()
    )
    told = targeted(network, Probability(2, output="sigmoid"))(images)
    torch.testing.assert_close(told, network(images)[:, 2].sigmoid())


def test_a_target_leaves_the_modes_of_the_network_alone():
    network = CASES["regression"].network()
    network.one.train()
    targeted(Classifier(network, normalization="none"), ClassLogit(1))
    assert [child.training for child in (network, network.one, network.two)] == [False, True, False]


def test_bounds_and_channels_stay():
    network = CASES["regression"].network()
    classifier = Classifier(
        network, bounds=(0, 255), normalization=((10, 20, 30), (50, 50, 50)), image_size=12
    )
    images, found = images_of(), targeted(classifier, ClassLogit(1))
    torch.testing.assert_close(found(images)[:, 0], classifier(images)[:, 1])
    assert (found.bounds, found.channels, found.image_size) == (classifier.bounds, 3, 12)


def test_what_needs_classes_says_so_in_one_sentence():
    images, classifier = images_of(), CASES["contrast"].targeted()
    query = torch.zeros(3, dtype=torch.int64)
    for ask in (
        lambda: FGSM(0.1)(classifier, images, query),
        lambda: judge_8bit(classifier, images, images, query),
        lambda: MaxSoftmax().score(classifier, images),
        lambda: Decoy()(classifier, images),
        lambda: HierarchicalMasks(
            objective="maximise_log_probability", steps=10, learning_rate=0.1, reg_weight=0.01
        )(classifier, images),
    ):
        with pytest.raises(ConfigError, match="needs classes"):
            ask()
    maps = Gradient()(classifier, images)
    for metric in (DabkowskiGal(), SaliencyFidelity()):
        with pytest.raises(ConfigError, match=r"target's score \(output: score\) is none"):
            metric.update(maps, images=images, classifier=classifier)


@pytest.mark.parametrize(
    ("network", "target", "words"),
    [
        (Many, 3, "must be a function of the network's outputs"),
        (Many, ClassLogit(4), "asks for logit 4, and the network gives 4"),
        (Many, lambda outputs: outputs, r"one floating-point score for each image.*\(3, 4\)"),
        (Many, lambda outputs: outputs.argmax(dim=1), "one floating-point score"),
        (Many, Region(MASK, 0), r"Region needs logits \(B, K, h, w\).*found \(3, 4\)"),
        (Segmenter, Region(MASK, 9), "class 9, and the network gives 4"),
        (Regressor, Similarity(EMBEDDING), "embeddings of 2 numbers, the one given has 7"),
    ],
)
def test_targets_that_do_not_fit(network, target, words):
    with pytest.raises(ConfigError, match=words):
        Gradient()(network(), images_of(), target=target)


def test_query_and_target_exclude_each_other():
    with pytest.raises(ConfigError, match="give one of them"):
        Gradient()(Many(), images_of(), 1, target=Contrast(0, 1))
    with pytest.raises(ConfigError, match="has no pixel"):
        Region(0 * MASK, 1)
    with pytest.raises(ConfigError, match=r"must be \(D,\) or \(B, D\)"):
        Similarity(EMBEDDING[None, None])


def test_masks_of_evidence_leave_a_score_below_its_floor_dark():
    """A score below that of a network whose features are all gone has no evidence."""
    images, classifier = toy_images(4), toy_classifier()
    seen = []
    for target in (Contrast(1, 2), Contrast(2, 1)):
        scores = targeted(classifier, target)
        first = scores.prefix(images)
        outputs = scores.stage_outputs(images)
        floor = scores.gated(first, [torch.zeros_like(each) for each in outputs.activations])
        dark = (outputs.logits <= floor)[:, 0]
        maps = HierarchicalMasks(objective="evidence", steps=20, learning_rate=0.1, reg_weight=0.5)(
            scores, images
        ).saliency
        assert float(maps[dark].sum()) == 0
        seen += [*zip(dark.tolist(), (maps.flatten(1).sum(dim=1) > 0).tolist(), strict=True)]
        assert MeaningfulPerturbation(steps=2)(scores, images).saliency.shape == (4, 1, 16, 12)
    assert {(True, False), (False, True)} <= set(seen)
