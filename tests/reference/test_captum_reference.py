"""The shells against captum itself on the same network, and the sampled methods against literal loops."""

import warnings

import pytest
import torch
from captum import attr
from captum.attr._core.gradient_shap import InputBaselineXGradient
from torch import nn

from helpers.normalizations import CENTRED
from helpers.replicates import replicates
from verisal.functional.baselines import Constant
from verisal.functional.seeding import content_ids, per_sample
from verisal.models import Classifier, SmallResNet
from verisal.saliency import (
    CaptumAdapter,
    DeepLift,
    GradCAM,
    Gradient,
    GradientSHAP,
    GuidedBackpropagation,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    VarGrad,
)

QUERY = torch.tensor([2, 0, 3])


def classifier():
    torch.manual_seed(3)
    network = SmallResNet(4, widths=(3, 4, 5, 6)).eval()
    nn.init.normal_(network.head.weight)
    return Classifier(
        network, network.stage_names, class_names=tuple("abcd"), image_size=24, normalization=CENTRED
    ).eval()


def images(count=3):
    return torch.rand(count, 3, 24, 20, generator=torch.Generator().manual_seed(7))


def draws(draw, stream, index, seed=0):
    ids = content_ids(images())
    return per_sample(draw, seed=seed, sample_ids=ids, stream=(stream, index), device=torch.device("cpu"))


DIRECT = {
    "Gradient": (Gradient(), lambda net: attr.Saliency(net), {"abs": False}),
    "InputXGradient": (InputXGradient(), lambda net: attr.InputXGradient(net), {}),
    "IntegratedGradients": (
        IntegratedGradients(baseline=Constant(level=0.5), steps=12, chunk_size=7),
        lambda net: attr.IntegratedGradients(net),
        {"baselines": 0.5, "n_steps": 12, "method": "riemann_middle"},
    ),
    "GuidedBackpropagation": (GuidedBackpropagation(), lambda net: attr.GuidedBackprop(net), {}),
    "DeepLift": (DeepLift(), lambda net: attr.DeepLift(net), {"baselines": 0.0}),
}


@pytest.mark.parametrize("name", DIRECT)
def test_shell_gives_what_captum_gives(name):
    method, make, arguments = DIRECT[name]
    network = classifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = make(network).attribute(images(), target=QUERY, **arguments).detach()
    found = method(network, images(), QUERY).attribution
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float(expected.abs().max()) > 1e-3


def test_adapter_of_captum_s_object_gives_what_the_shell_gives():
    network = classifier()
    peer = CaptumAdapter(method=attr.IntegratedGradients(network))(network, images(), QUERY)
    shell = IntegratedGradients(steps=200)(network, images(), QUERY)
    assert float((peer.saliency - shell.saliency).abs().max()) < 0.05 * float(shell.saliency.max())


@pytest.mark.parametrize("stage", ["stage1", "stage3", "stage4"])
def test_gradcam_gives_what_captum_gives(stage):
    network = classifier()
    layer = attr.LayerGradCam(network, network.network.get_submodule(stage))
    cam = layer.attribute(images(), target=QUERY).detach()
    found = GradCAM(stage=stage)(network, images(), QUERY)
    resized = attr.LayerAttribution.interpolate(cam, (24, 20), interpolate_mode="bilinear")
    torch.testing.assert_close(found.attribution, resized, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "kind"), [(SmoothGrad, "smoothgrad"), (VarGrad, "vargrad")])
def test_noisy_copies_give_what_captum_s_noise_tunnel_gives_of_the_same_noise(method, kind, monkeypatch):
    # Captum has one deviation for all images and draws from the global state: one image, given noise.
    network, image = classifier(), images()[:1]
    noise = torch.stack([draws(normal, "noisy copy", index)[0] for index in range(9)])
    sigma = 0.4 * float(image.max() - image.min())
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise * std)
    tunnel = attr.NoiseTunnel(attr.Saliency(network))
    expected = tunnel.attribute(
        image, nt_type=kind, nt_samples=9, stdevs=sigma, target=QUERY[:1], abs=False
    ).detach()
    monkeypatch.undo()
    found = method(samples=9, noise=0.4, chunk_size=4)(network, image, QUERY[:1]).attribution
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def normal(generator):
    return torch.randn(3, 24, 20, generator=generator)


def uniform(generator):
    return torch.rand(2, generator=generator)


def gradient(network, image, query):
    leaf = image.clone().requires_grad_()
    return torch.autograd.grad(network(leaf[None])[0, query], leaf)[0]


@replicates(SmoothGrad.read)
def slow_smoothgrad(method, network):
    """Mean over single noisy copies of single images."""
    return torch.stack([torch.stack(copies).mean(dim=0) for copies in slow_copies(method, network)])


@replicates(VarGrad.read)
def slow_vargrad(method, network):
    """Mean squared distance from the mean."""
    variances = []
    for copies in slow_copies(method, network):
        mean = sum(copies) / len(copies)
        variances.append(sum((copy - mean) ** 2 for copy in copies) / len(copies))
    return torch.stack(variances)


def slow_copies(method, network):
    for row, image in enumerate(images()):
        sigma = method.noise * (image.max() - image.min())
        yield [
            gradient(
                network, image + sigma * draws(normal, "noisy copy", index, method.seed)[row], QUERY[row]
            )
            for index in range(method.samples)
        ]


@replicates(IntegratedGradients.attribute)
def slow_integrated_gradients(method, network):
    """Midpoint by midpoint, image by image, from black."""
    rows = []
    for row, image in enumerate(images()):
        points = [(step + 0.5) / method.steps for step in range(method.steps)]
        slopes = [gradient(network, share * image, QUERY[row]) for share in points]
        rows.append(image * sum(slopes) / method.steps)
    return torch.stack(rows)


@replicates(GradientSHAP.attribute)
def slow_gradient_shap(method, network):
    """Point by point, image by image, from black or white."""
    rows = []
    for row, image in enumerate(images()):
        total = torch.zeros_like(image)
        for index in range(method.samples):
            share, choice = draws(uniform, "point on the way", index, method.seed)[row].tolist()
            start = torch.full_like(image, 0.0 if choice < 0.5 else 1.0)
            total += (image - start) * gradient(network, start + share * (image - start), QUERY[row])
        rows.append(total / method.samples)
    return torch.stack(rows)


LITERAL = [
    (SmoothGrad(samples=5, seed=2, chunk_size=6), slow_smoothgrad),
    (VarGrad(samples=5, noise=0.3, chunk_size=2), slow_vargrad),
    (IntegratedGradients(steps=6, chunk_size=7), slow_integrated_gradients),
    (GradientSHAP(samples=6, seed=1, chunk_size=7), slow_gradient_shap),
]


@pytest.mark.parametrize(("method", "slow"), LITERAL, ids=lambda part: type(part).__name__)
def test_batches_give_what_the_literal_loop_gives(method, slow):
    network = classifier().requires_grad_(False)
    found = method(network, images(), QUERY).attribution
    torch.testing.assert_close(found, slow(method, network), rtol=1e-3, atol=1e-5)


def test_gradient_shap_gives_what_captum_gives_of_the_same_draws(monkeypatch):
    network, method = classifier(), GradientSHAP(samples=4)
    total = torch.zeros_like(images())
    for index in range(4):
        drawn = draws(uniform, "point on the way", index)
        start = (drawn[:, 1] >= 0.5).float().view(-1, 1, 1, 1).expand_as(total)
        monkeypatch.setattr("numpy.random.uniform", lambda low, high, size, drawn=drawn: drawn[:, 0].numpy())
        total += InputBaselineXGradient(network).attribute(images(), start, target=QUERY).detach()
        monkeypatch.undo()
    torch.testing.assert_close(method(network, images(), QUERY).attribution, total / 4, rtol=1e-3, atol=1e-5)
