import pytest
import torch
from torch import nn

from helpers.normalizations import CENTRED
from verisal.detectors import DetectorFeatures
from verisal.errors import ConfigError
from verisal.models import Classifier, SmallResNet
from verisal.saliency import (
    FrozenGates,
    HierarchicalMasks,
    LearnedMask,
    MaskNetwork,
    PredictedGates,
    UnrolledGates,
)
from verisal.saliency.gates.learned import classifier_fingerprint, save_mask_network

METHOD = HierarchicalMasks(objective="class", reg_weight=0.05, steps=6, learning_rate=0.2)


class Smooth(nn.Module):
    """Two stages without a kink."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Softplus())
        self.second = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Softplus())
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.second(self.first(images)).mean(dim=(2, 3)))


def smooth(seed=0):
    torch.manual_seed(seed)
    network = Smooth().eval()
    nn.init.normal_(network.head.weight, std=3.0)
    return Classifier(
        network, ["first", "second"], class_names="abc", image_size=6, normalization=CENTRED
    ).eval()


def toy(seed=1):
    torch.manual_seed(seed)
    network = SmallResNet(5, widths=(4, 6, 8, 10)).eval()
    nn.init.normal_(network.head.weight, std=3.0)
    return Classifier(
        network.fold(), network.stage_names, class_names=tuple("abcde"), image_size=32, normalization=CENTRED
    ).eval()


def images_of(count, size=32, seed=4):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=rng).contiguous(memory_format=torch.channels_last)


def asked(gates, classifier, images, query=None):
    outputs = classifier.stage_outputs(images)
    return gates(classifier, images, outputs, outputs.logits.argmax(dim=1) if query is None else query)


@pytest.mark.parametrize("objective", ["class", "output", "evidence", "mixed"])
@pytest.mark.parametrize("keep", ["best", "fidelity", "last"])
@pytest.mark.parametrize("last_steps", [None, 2])
def test_unrolled_gates_are_those_of_the_method(objective, keep, last_steps):
    classifier, images = toy(), images_of(3)
    method = HierarchicalMasks(
        objective=objective, keep=keep, reg_weight=0.05, steps=10, learning_rate=0.1, gate_max=1.1
    )
    found = asked(UnrolledGates(method=method, last_steps=last_steps), classifier, images)
    expected = method.gates(classifier, images, classifier(images).argmax(dim=1))
    for gate, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gate.detach(), other, rtol=0, atol=1e-5)
        assert gate.stride() == other.stride()


@pytest.mark.parametrize("objective", ["class", "output", "evidence"])
def test_unrolled_gradient_is_that_of_finite_differences(objective):
    classifier = smooth().double()
    images = images_of(2, 6).double()
    # A few gates reach 0 and stay there, the others are inside.
    method = HierarchicalMasks(objective=objective, reg_weight=0.02, steps=6, learning_rate=0.2, keep="last")
    query = classifier(images).argmax(dim=1)
    gates = UnrolledGates(method=method)
    weights = [
        torch.randn(2, *shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        for shape in ((3, 6, 6), (4, 3, 3))
    ]

    def value(at):
        found = asked(gates, classifier, at, query)
        return sum((weight * gate).sum() for weight, gate in zip(weights, found, strict=True))

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    h = 1e-6
    for position in [(0, 0, 0, 0), (0, 2, 3, 4), (1, 1, 5, 5), (1, 0, 2, 1)]:
        step = torch.zeros_like(images)
        step[position] = h
        slope = (value(images + step) - value(images - step)).item() / (2 * h)
        assert gradient[position].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)
        assert abs(slope) > 1e-4


@pytest.mark.parametrize("gated_activation", [False, True])
@pytest.mark.parametrize("gates", [FrozenGates(method=METHOD), UnrolledGates(method=METHOD)])
def test_differentiable_features_have_the_values_of_the_measured_ones(gates, gated_activation):
    classifier, images = toy(), images_of(3)
    made = DetectorFeatures(saliency=METHOD, views=("original", "shifted"), gated_activation=gated_activation)
    plain = made(classifier, images)
    found = made.differentiable(classifier, images.clone().requires_grad_(), gates=gates, gradient=True)
    assert list(found) == list(plain)
    for name, value in found.items():
        assert value.requires_grad == (
            name != "prediction" and not (gates.way == "frozen" and "mask" in name)
        )
        torch.testing.assert_close(value.to(plain[name].dtype), plain[name], rtol=1e-3, atol=1e-3, msg=name)
    without = made.differentiable(classifier, images.clone().requires_grad_(), gates=gates)
    assert set(plain) - set(without) == {"gradient", "shifted/gradient"}


@pytest.mark.parametrize("gates", [FrozenGates(method=METHOD), UnrolledGates(method=METHOD)])
def test_images_without_a_gradient_give_the_same_features_without_a_graph(gates):
    classifier, images = toy(), images_of(2)
    made = DetectorFeatures(saliency=METHOD, views=("original", "shifted"), gated_activation=True)
    graph = made.differentiable(classifier, images.clone().requires_grad_(), gates=gates)
    with torch.no_grad():
        found = made.differentiable(classifier, images, gates=gates)
    assert list(found) == list(graph)
    for name, value in found.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, graph[name].detach(), rtol=1e-3, atol=1e-3, msg=name)


def test_predicted_gates_are_those_of_the_mask_network_and_carry_its_gradient(tmp_path):
    classifier, images = toy(), images_of(3)
    channels = tuple(part.shape[1] for part in classifier.stage_outputs(images).activations)
    torch.manual_seed(3)
    network = MaskNetwork(channels, 5)
    for level in network.levels:
        nn.init.normal_(level.head.weight, std=0.3)
    card = {
        "channels": list(channels), "num_classes": 5, "width_ratio": 1.0, "reg_weight": 1.0,
        "classifier": classifier_fingerprint(classifier), "objective": "class", "penalty": "per_layer",
        "origin": "a test",
    }  # fmt: skip
    path = tmp_path / "masks.safetensors"
    save_mask_network(path, network, card)
    gates = PredictedGates(checkpoint=str(path))
    leaf = images.clone().requires_grad_()
    found = asked(gates, classifier, leaf)
    query = classifier(images).argmax(dim=1)
    for gate, other in zip(
        found, LearnedMask(checkpoint=str(path)).gates(classifier, images, query), strict=True
    ):
        torch.testing.assert_close(gate.detach(), other, rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(sum(gate.sum() for gate in found), leaf)
    assert all(float(row.abs().max()) > 0 for row in gradient)
    with pytest.raises(ConfigError, match="other weights"):
        asked(gates, toy(seed=2), leaf)


def test_frozen_gates_carry_no_gradient():
    classifier, images = toy(), images_of(2).requires_grad_()
    found = asked(FrozenGates(method=METHOD), classifier, images)
    expected = METHOD.gates(classifier, images.detach(), classifier(images).argmax(dim=1))
    assert all(gate.equal(other) for gate, other in zip(found, expected, strict=True))
    assert not any(gate.requires_grad for gate in found)


@pytest.mark.parametrize("last_steps", [None, 2])
def test_unrolled_gradient_of_an_image_does_not_depend_on_its_batch_mates(last_steps):
    classifier, images = toy(), images_of(4)
    method = HierarchicalMasks(objective="class", reg_weight=0.01, steps=6, learning_rate=0.5)
    gates = UnrolledGates(method=method, last_steps=last_steps)
    leaf = images.clone().requires_grad_()
    (whole,) = torch.autograd.grad(sum(gate.square().sum() for gate in asked(gates, classifier, leaf)), leaf)
    kept = method.learn(classifier, images, classifier(images).argmax(dim=1)).kept_step
    assert len(kept.unique()) > 1
    for row in range(4):
        alone = images[row : row + 1].clone().requires_grad_()
        value = sum(gate.square().sum() for gate in asked(gates, classifier, alone))
        (gradient,) = torch.autograd.grad(value, alone)
        torch.testing.assert_close(
            gradient[0], whole[row], rtol=1e-2, atol=1e-4 * float(whole[row].abs().max())
        )


def test_repeating_fewer_steps_changes_the_gradient_and_not_the_gates():
    classifier, images = toy(), images_of(2)
    gradients, values = [], []
    for last_steps in (1, METHOD.steps, None):
        leaf = images.clone().requires_grad_()
        found = asked(UnrolledGates(method=METHOD, last_steps=last_steps), classifier, leaf)
        values.append(found[0].detach())
        gradients.append(torch.autograd.grad(sum(gate.sum() for gate in found), leaf)[0])
    assert values[0].equal(values[2])
    assert gradients[1].equal(gradients[2])
    assert not torch.allclose(gradients[0], gradients[2], rtol=0.1)


@pytest.mark.parametrize(
    ("gates", "way"),
    [
        (FrozenGates(method=METHOD), "frozen"),
        (PredictedGates(checkpoint="any"), "predicted"),
        (UnrolledGates(method=METHOD), "unrolled"),
        (UnrolledGates(method=METHOD, last_steps=6), "unrolled"),
        (UnrolledGates(method=METHOD, last_steps=3), "unrolled_last3"),
    ],
)
def test_the_way_is_named_with_the_steps_that_are_repeated(gates, way):
    assert gates.way == way


def test_no_repeated_step_is_refused():
    with pytest.raises(ConfigError, match="last_steps must be at least 1, or null for all steps, found 0"):
        UnrolledGates(method=METHOD, last_steps=0)
