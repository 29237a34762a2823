"""Every method, baseline, attack, metric and detector on images of other channels than three.

A network on C channels that sees what a network on RGB images sees must be explained, attacked and scored as
that one is, wherever the published rule is about places or activations; rules about channels are compared
with what they say. Those with draws per channel are held to their own references in the tests of their rooms.
"""

from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from test_metric_contracts import CASES as METRICS
from test_saliency_contracts import CASES as METHODS
from torch import nn

from helpers import attack_cases, detector_cases, metric_cases, saliency_cases
from helpers.attack_cases import CASES as ATTACKS
from helpers.baseline_cases import CASES as BASELINES
from helpers.baseline_cases import toy_masks
from helpers.channels import COUNTS, as_rgb, classifier_on, images_of, merged, on_channels
from helpers.detector_cases import CASES as DETECTORS
from verisal.attacks import JPEG
from verisal.errors import ConfigError, DataError
from verisal.functional.adversarial import noise_norm
from verisal.functional.baselines import DatasetMean, OtherImage, bound
from verisal.metrics import CascadingRandomisation
from verisal.models import Classifier

QUERY = torch.tensor([0, 3])
EVERY = pytest.mark.parametrize("channels", COUNTS)
# Bound to the classifier that they were made for.
OTHER_NETWORK = {name for name in METHODS if "Adapter" in name or name.startswith("LearnedMask")}
# Noise per channel, or losses that are means over channels.
DRAWN = {
    "SmoothGrad", "SmoothGrad of integrated gradients", "VarGrad", "GradientSHAP", "Decoy",
    "Decoy single mean", "Decoy of SmoothGrad", "Decoy of IntegratedGradients", "Decoy of Occlusion",
    "RandomMap", "BlurredLike",
}  # fmt: skip
# What reads the gradient by channel, of which grey images have one in place of three.
BY_CHANNEL = {
    "Gradient", "InputXGradient", "IntegratedGradients", "IntegratedGradients from the mean",
    "GuidedBackpropagation", "DeepLift", "DeepLift from grey", "OfProbability", "Tiled",
}  # fmt: skip
# Ask for the score with one channel changed, of which grey images have one in place of three.
ONE_AT_A_TIME = {"Occlusion per channel", "RISE per channel", "RISE sobol until per channel"}
# Of three bands that have names.
OF_THREE_BANDS = {"BandRemoval"}
# Luminance has weights for red, green and blue only.
BY_LUMINANCE = {"EdgeDetector"}
# Reads pixels and no network, so that channels that the network leaves out count, too.
OF_ALL_CHANNELS = {"PixelResidual"}


@cache
def pair(channels):
    rgb = saliency_cases.toy_classifier()
    return classifier_on(rgb, channels), rgb


@EVERY
def test_the_two_networks_see_the_same(channels):
    images = images_of(channels, 5, saliency_cases.SIZE)
    one, rgb = pair(channels)
    torch.testing.assert_close(one(images), rgb(as_rgb(images)))
    assert one.channels == channels


@EVERY
@pytest.mark.parametrize("name", sorted(METHODS.keys() - OTHER_NETWORK))
def test_methods(name, channels):
    images, make = images_of(channels, 2, saliency_cases.SIZE), METHODS[name].make
    one, rgb = pair(channels)
    found = make()(one, images, QUERY)
    assert found.saliency.shape == (2, 1, *saliency_cases.SIZE)
    assert found.saliency.isfinite().all()
    if METHODS[name].channels == 3:
        assert found.attribution.shape == images.shape
    alone = make()(one, images[1:], QUERY[1:])
    torch.testing.assert_close(alone.saliency, found.saliency[1:], rtol=1e-3, atol=1e-4)
    if name in DRAWN or (name in BY_LUMINANCE and channels != 1):
        return
    if (name in ONE_AT_A_TIME and channels < 3) or (name in OF_ALL_CHANNELS and channels > 3):
        return
    expected = make()(rgb, as_rgb(images), QUERY)
    if name in BY_CHANNEL:
        attribution = merged(expected.attribution, channels)
        torch.testing.assert_close(found.attribution, attribution, rtol=1e-3, atol=1e-5)
    else:
        torch.testing.assert_close(found.saliency, expected.saliency, rtol=1e-3, atol=1e-4)


# Follow the gradient alone, which is 0 in channels that are not read.
UNREAD_LEFT = {"FGSM", "BIM", "BIM l2", "PGD bim", "DeepFoolL2"}
# Draw per channel, also weights.
DRAWS = (
    "Infidelity", "AttackedSensitivity", "SensitivityMax", "ROAD", "MapSimilarity", "CascadingRandomisation",
)  # fmt: skip
READS_PIXELS = {
    "CNNDetector", "CNNDetector of residuals", "AttackCost", "FeatureSqueezing", "Forest of Spectrum",
    "Forest of GradientScalars",
}  # fmt: skip


@EVERY
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name, channels):
    case, rgb = ATTACKS[name], attack_cases.ToyNet()
    images, model = images_of(channels, 3, (16, 12)), on_channels(rgb, channels).double().eval()
    labels = model(images).argmax(dim=1)
    attack = case.make(case.budgets[1])
    found = attack(model, images, labels)
    assert found.images.shape == images.shape
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert found.success.equal(model(found.images).argmax(dim=1) != labels)
    if case.bounded:
        assert (noise_norm(found.images - images, attack.norm) <= case.budgets[1] + 1e-5).all()
    alone = attack(model, images[2:], labels[2:])
    torch.testing.assert_close(alone.images, found.images[2:], rtol=0, atol=1e-5)
    if channels > 3 and name in UNREAD_LEFT:
        expected = attack(rgb, as_rgb(images), labels).images
        torch.testing.assert_close(found.images[:, :3], expected, rtol=0, atol=1e-5)
        assert found.images[:, 3:].equal(images[:, 3:])


def test_jpeg_encodes_each_of_other_channels_as_a_grey_picture():
    images, model = images_of(13, 2, (16, 12)), on_channels(attack_cases.ToyNet(), 13).double().eval()
    found = JPEG(30)(model, images, [0, 1]).images
    for image, seen in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
        file = BytesIO()
        Image.fromarray((image * 255).round().to(torch.uint8).numpy()).save(file, "JPEG", quality=30)
        decoded = torch.from_numpy(np.array(Image.open(file))) / 255
        torch.testing.assert_close(seen, decoded)


@EVERY
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_treat_every_channel_by_the_same_rule(name, channels):
    size = (16, 12)
    images, masks = images_of(channels, 5, size), toy_masks(5)
    baseline = BASELINES[name].make(size)
    if isinstance(baseline, OtherImage):
        baseline = OtherImage(images=images_of(channels, 12, size, seed=6), labels=torch.arange(12) % 4)
    # One mean and one deviation for all channels.
    baseline = bound(baseline, pair(1)[0])
    found = baseline(images, masks, query_class=torch.tensor([0, 3, 1, 2, 1]))
    assert found.shape == images.shape
    if BASELINES[name].seeded is None:
        by_channel = [baseline(images[:, [number]], masks) for number in range(channels)]
        torch.testing.assert_close(found, torch.cat(by_channel, dim=1), rtol=0, atol=1e-5)


@EVERY
@pytest.mark.parametrize("name", sorted(METRICS.keys() - OF_THREE_BANDS))
def test_metrics(name, channels):
    found, expected = (computed(name, channels, own) for own in (True, False))
    for score, value in expected.items():
        if not name.startswith(DRAWS):
            assert found[score] == pytest.approx(value, abs=1e-4, nan_ok=True)
    assert found.keys() == expected.keys()


def computed(name, channels, own):
    """Scores of the same maps by the network on other channels, and by the one on RGB images."""
    toy, one, rgb = metric_cases.toy_explained(4), *pair(channels)
    images = images_of(channels, 4, saliency_cases.SIZE)

    def explain(given, query):
        made = metric_cases.toy_map(as_rgb(given) if own else given, query)
        return replace(made, attribution=None)

    def asked(classifier, given, query):
        return explain(given, query)

    seen = images if own else as_rgb(images)
    given = replace(
        toy,
        classifier=one if own else rgb,
        images=seen,
        explain=explain,
        result=explain(seen, toy.query_class),
    )
    metric = METRICS[name].make()
    if isinstance(metric, CascadingRandomisation):
        statistics = images_of(channels, 8, saliency_cases.SIZE, seed=6)
        metric = CascadingRandomisation(asked, statistics if own else as_rgb(statistics), steps=2)
    metric.update(given)
    return {score: value.value for score, value in metric.scores().items()}


@EVERY
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors(name, channels):
    rgb = detector_cases.toy_classifier()
    one, images = classifier_on(rgb, channels), images_of(channels, 6, (12, 12))
    adversarial = torch.arange(60) >= 36
    fit = images_of(channels, 60, (12, 12), seed=7)
    detector = DETECTORS[name].make()
    detector.fit(detector.measurement(one, fit), adversarial, ~adversarial, seed=0)
    found = detector.score(one, images)
    assert found.shape == (6,)
    assert found.isfinite().all()
    if name not in READS_PIXELS:
        other = DETECTORS[name].make()
        other.fit(other.measurement(rgb, as_rgb(fit)), adversarial, ~adversarial, seed=0)
        torch.testing.assert_close(found, other.score(rgb, as_rgb(images)), rtol=1e-3, atol=1e-3)


def test_what_is_said_about_other_channels():
    one = pair(1)[0]
    with pytest.raises(DataError, match=r"takes images of 1 channel\(s\), found 3: .* make them grey"):
        one(images_of(3, 2, (16, 12)))
    with pytest.raises(
        DataError, match=r"takes images of 3 channel\(s\), found 1: .* repeat the grey channel"
    ):
        pair(1)[1](images_of(1, 2, (16, 12)))
    with pytest.raises(DataError, match=r"found \(2, 16, 12, 3\) .*; channels come first: images\.permute"):
        METHODS["Gradient"].make()(one, torch.rand(2, 16, 12, 3), QUERY)
    with pytest.raises(ConfigError, match=r"DatasetMean has a mean for 3 channels, and the images have 4"):
        DatasetMean(mean=(0.1, 0.2, 0.3))(images_of(4, 2, (16, 12)))


def test_channels_of_a_network_without_a_convolution_are_those_of_its_first_images():
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 12, 3))
    classifier = Classifier(network, normalization="none")
    with pytest.raises(ConfigError, match="not known before its first images; give channels, such as 1"):
        _ = classifier.channels
    assert classifier(torch.rand(4, 2, 4, 3)).shape == (4, 3)
    assert classifier.channels == 2
    assert Classifier(network, normalization="none", channels=2).channels == 2
    with pytest.raises(ConfigError, match=r"the normalisation has 3 numbers, .* 2 channels, as said"):
        Classifier(network, normalization=((0.1, 0.2, 0.3), (1, 1, 1)), channels=2)
