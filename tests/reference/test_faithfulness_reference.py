"""Slow, literal definitions and other packages beside the similarity, faithfulness and ranking functions."""

import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max as captum_sensitivity

from helpers.replicates import replicates
from helpers.saliency_cases import toy_classifier, toy_images
from verisal.functional.comparison import (
    pearson,
    postprocess,
    sensitivity_max,
    spearman,
    ssim,
    top_k_intersection,
    uniform_noises,
)
from verisal.functional.removal import (
    dabkowski_gal,
    gaussian_noises,
    infidelity,
    responses,
    saliency_fidelity,
    square_responses,
)
from verisal.functional.removal.faithfulness import crop_to_boxes
from verisal.functional.removal.infidelity import squares_of
from verisal.functional.scopes import frozen, rng_preserved
from verisal.functional.statistics import kendall_tau_b, rank_correlation
from verisal.types import SaliencyResult

QUERY = torch.tensor([0, 3, 1])


def maps_of(levels, size=(13, 9)):
    drawn = torch.rand(2, 4, 1, *size, generator=torch.Generator().manual_seed(8))
    first, second = drawn[0], 0.5 * drawn[0] + 0.5 * drawn[1]
    return (first, second) if levels is None else ((first * levels).round(), (second * levels).round())


LEVELS = pytest.mark.parametrize("levels", [None, 12, 3], ids=["continuous", "ties", "many ties"])


@replicates(spearman)
def slow_spearman(a, b):
    def ranks(values):
        return [
            sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
            for value in values
        ]

    found = []
    for one, two in zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True):
        x, y = ranks(one), ranks(two)
        mean = (len(x) + 1) / 2
        top = sum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
        found.append(top / math.sqrt(sum((p - mean) ** 2 for p in x) * sum((q - mean) ** 2 for q in y)))
    return found


@replicates(ssim)
def slow_ssim(a, b):
    """Window by window, as the paper writes it."""
    weights = [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)]
    total = sum(map(sum, weights))
    found = []
    for one, two in zip(a[:, 0].double(), b[:, 0].double(), strict=True):
        x, y = ((part - part.min()) / (part.max() - part.min()) for part in (one, two))
        values = []
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                cells = [
                    (weights[i][j] / total, float(x[top + i, left + j]), float(y[top + i, left + j]))
                    for i in range(11)
                    for j in range(11)
                ]
                mx, my = sum(w * p for w, p, _ in cells), sum(w * q for w, _, q in cells)
                vx = sum(w * (p - mx) ** 2 for w, p, _ in cells)
                vy = sum(w * (q - my) ** 2 for w, _, q in cells)
                cov = sum(w * (p - mx) * (q - my) for w, p, q in cells)
                value = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
                values.append(value / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
        found.append(sum(values) / len(values))
    return found


@LEVELS
def test_correlations(levels):
    a, b = maps_of(levels)
    assert spearman(a, b).tolist() == pytest.approx(slow_spearman(a, b), abs=1e-12)
    for one, two, rank, linear in zip(a, b, spearman(a, b), pearson(a, b), strict=True):
        x, y = one.flatten().double().numpy(), two.flatten().double().numpy()
        assert rank.item() == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
        assert linear.item() == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)


@LEVELS
def test_ssim(levels):
    a, b = maps_of(levels, size=(14, 12))
    assert ssim(a, b).tolist() == pytest.approx(slow_ssim(a, b), abs=1e-9)


def test_ssim_against_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = maps_of(None, size=(30, 17))
    scaled = [
        (part - part.amin((2, 3), True)) / (part.amax((2, 3), True) - part.amin((2, 3), True))
        for part in (a, b)
    ]
    for value, one, two in zip(ssim(a, b), scaled[0][:, 0], scaled[1][:, 0], strict=True):
        expected = metrics.structural_similarity(
            one.double().numpy(),
            two.double().numpy(),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert value.item() == pytest.approx(expected, abs=1e-6)


@LEVELS
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_top_k(levels, share):
    a, b = maps_of(levels)
    count = round(share * 117)
    for value, one, two in zip(top_k_intersection(a, b, share), a, b, strict=True):
        tops = [
            set(sorted(range(117), key=lambda i: (-part.flatten()[i].item(), i))[:count])
            for part in (one, two)
        ]
        assert value.item() == pytest.approx(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))


def test_rankings_against_scipy():
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        a, b = torch.randint(0, 6, (2, 7), generator=generator).double()
        assert kendall_tau_b(a, b).item() == pytest.approx(
            scipy.stats.kendalltau(a.numpy(), b.numpy()).statistic, abs=1e-12
        )
        assert rank_correlation(a, b).item() == pytest.approx(
            scipy.stats.spearmanr(a.numpy(), b.numpy()).statistic, abs=1e-12
        )


def test_winsorising_against_torch_quantile():
    attribution = torch.randn(3, 3, 11, 8, generator=torch.Generator().manual_seed(3))
    for found, one in zip(postprocess(attribution), attribution, strict=True):
        expected = one.abs().amax(dim=0)
        expected = expected.clamp_max(float(expected.flatten().quantile(0.95)))
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        assert torch.allclose(found[0], expected, atol=1e-6)


def fixed(samples):
    """Perturbations as captum asks for them: those of an image next to each other."""
    return torch.stack(samples, dim=1).flatten(0, 1)


def attribution_of(classifier, images):
    return InputXGradient(classifier).attribute(images.clone().requires_grad_(), target=QUERY).detach()


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "squares"])
def test_infidelity_against_captum_with_the_same_perturbations(kind, normalised):
    """Scale and sign of the perturbation: I is taken away from the image, and both normalisations agree."""
    classifier, images = toy_classifier(), toy_images(3)
    with rng_preserved(), frozen(classifier):
        attribution = attribution_of(classifier, images)
        if kind == "gaussian":
            samples = list(gaussian_noises(images, deviation=0.2, samples=20, seed=1))
            found = responses(
                classifier, images, attribution=attribution, query_class=QUERY, perturbations=samples
            )
        else:
            samples = []
            for x0, y0, x1, y1 in squares_of(16, 12).tolist():
                samples.append(torch.zeros_like(images))
                samples[-1][:, :, y0:y1, x0:x1] = images[:, :, y0:y1, x0:x1]
            found = square_responses(
                classifier, images, attribution=attribution, query_class=QUERY, samples=None
            )
        expected = captum_infidelity(
            classifier,
            lambda inputs: (fixed(samples), inputs - fixed(samples)),
            images,
            attribution,
            target=QUERY,
            n_perturb_samples=len(samples),
            normalize=normalised,
        )
    assert torch.allclose(infidelity(found, normalised=normalised), expected.double(), rtol=1e-4, atol=1e-5)


@replicates(square_responses)
def slow_square_responses(classifier, images, attribution, query_class):
    foretold, observed = [], []
    for image, phi, query in zip(images, attribution, query_class.tolist(), strict=True):
        for x0, y0, x1, y1 in squares_of(*image.shape[1:]).tolist():
            changed = image.clone()
            changed[:, y0:y1, x0:x1] = 0
            foretold.append(((image - changed) * phi).sum())
            observed.append((classifier(image[None]) - classifier(changed[None]))[0, query])
    return (torch.stack(part).view(len(images), -1).detach().double() for part in (foretold, observed))


def test_squares_one_by_one():
    classifier, images = toy_classifier(), toy_images(2)[..., :6, :5]
    with rng_preserved(), frozen(classifier):
        attribution = attribution_of(classifier, images[[0, 1, 0]])[:2]
        foretold, observed = slow_square_responses(classifier, images, attribution, QUERY[:2])
    found = square_responses(
        classifier, images, attribution=attribution, query_class=QUERY[:2], samples=None, chunk_size=5
    )
    assert torch.allclose(found.foretold, foretold, atol=1e-5)
    assert torch.allclose(found.observed, observed, atol=1e-5)


def test_sensitivity_against_captum_with_the_same_noise():
    """Several copies at once and the query of each image: batched equals captum's own loop."""
    classifier, images = toy_classifier(), toy_images(3) * 0.9 + 0.05
    samples = list(uniform_noises(images, radius=0.02, samples=6, seed=2))

    def explain(inputs, query_class):
        attribution = InputXGradient(classifier).attribute(
            inputs.clone().requires_grad_(), target=query_class
        )
        saliency = attribution.abs().amax(dim=1, keepdim=True).detach()
        return SaliencyResult(saliency=saliency, raw=saliency, attribution=attribution.detach())

    def as_captum(inputs, target):
        # It gives the images themselves as a tuple and their noisy copies as a tensor.
        return (
            (explain(inputs[0], target).attribution,)
            if isinstance(inputs, tuple)
            else explain(inputs, target).attribution
        )

    with rng_preserved(), frozen(classifier):
        expected = captum_sensitivity(
            as_captum,
            images,
            perturb_func=lambda inputs: inputs + fixed(samples),
            n_perturb_samples=6,
            target=QUERY,
        )
        found = sensitivity_max(
            explain,
            images,
            query_class=QUERY,
            attribution=explain(images, QUERY).attribution,
            noises=samples,
            chunk_size=7,
        )
    assert torch.allclose(found, expected.double(), atol=1e-5)


@replicates(crop_to_boxes)
def slow_crops(images, boxes):
    return torch.cat(
        [
            F.interpolate(
                image[None, :, y0:y1, x0:x1], size=image.shape[1:], mode="bilinear", align_corners=False
            )
            for image, (x0, y0, x1, y1) in zip(images, boxes.tolist(), strict=True)
        ]
    )


@replicates(dabkowski_gal)
def slow_dabkowski_gal(classifier, images, maps, query_class, threshold):
    found = []
    for image, saliency, query in zip(images, maps[:, 0], query_class.tolist(), strict=True):
        on = [
            (y, x)
            for y in range(saliency.shape[0])
            for x in range(saliency.shape[1])
            if saliency[y, x] >= threshold * saliency.max()
        ]
        y0, y1 = min(y for y, _ in on), max(y for y, _ in on) + 1
        x0, x1 = min(x for _, x in on), max(x for _, x in on) + 1
        crop = slow_crops(image[None], torch.tensor([[x0, y0, x1, y1]]))
        area = (x1 - x0) * (y1 - y0) / saliency.numel()
        probability = classifier(crop).softmax(dim=1)[0, query].item()
        found.append(math.log(max(area, 0.05)) - math.log(probability))
    return found


@replicates(saliency_fidelity)
def slow_fidelity(classifier, images, maps, query_class):
    found = []
    for image, saliency, query in zip(images, maps, query_class.tolist(), strict=True):
        probabilities = [
            max(classifier((mask * image)[None]).softmax(dim=1)[0, query].item(), 1e-7)
            for mask in (saliency, torch.full_like(saliency, float(saliency.mean())))
        ]
        found.append(-math.log(probabilities[0] / probabilities[1]))
    return found


@pytest.mark.parametrize("threshold", [0.2, 0.8, 0.99])
def test_crops_one_by_one(threshold):
    classifier, images = toy_classifier(), toy_images(3)
    maps = torch.rand(3, 1, 16, 12, generator=torch.Generator().manual_seed(9)) ** 4
    with rng_preserved(), frozen(classifier):
        expected = slow_dabkowski_gal(classifier, images, maps, QUERY, threshold)
    found = dabkowski_gal(classifier, images, maps=maps, query_class=QUERY, threshold=threshold, chunk_size=2)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_fidelity_one_by_one():
    classifier, images = toy_classifier(), toy_images(3)
    maps = postprocess(attribution_of(classifier, images))
    with rng_preserved(), frozen(classifier):
        expected = slow_fidelity(classifier, images, maps, QUERY)
    found = saliency_fidelity(classifier, images, maps=maps, query_class=QUERY, chunk_size=4)
    assert found.values.tolist() == pytest.approx(expected, abs=1e-5)
