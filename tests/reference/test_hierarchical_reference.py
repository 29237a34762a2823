"""The gate optimisation, image by image, step by step, as it is written down."""

from dataclasses import replace

import pytest
import torch

from helpers.normalizations import CENTRED
from helpers.replicates import replicates
from verisal.models import Classifier, SmallResNet
from verisal.saliency import HierarchicalMasks


@replicates(HierarchicalMasks.learn)
def slow_gates(method, classifier, image, query, *, stopped=None):
    """One image; hooks on the whole network, textbook Adam, no prefix reuse, no batching."""
    with torch.no_grad():
        original = classifier(image)[0]
        activations = classifier.stage_outputs(image).activations
    gates = [torch.ones_like(activation) for activation in activations]
    first = [torch.zeros_like(gate) for gate in gates]
    second = [torch.zeros_like(gate) for gate in gates]
    areas = [gate.shape[-1] * gate.shape[-2] for gate in gates]
    channels = [gate.shape[1] for gate in gates]
    weights = [1 / (area * count) ** 0.5 for area, count in zip(areas, channels, strict=True)]

    def forward(values):
        hooks = [
            classifier.network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, value=value: output * value
            )
            for name, value in zip(classifier.stages, values, strict=True)
        ]
        try:
            # Not through the classifier's own cut, which is part of what is checked.
            return classifier.network((image - classifier.mean) / classifier.std)[0]
        finally:
            for hook in hooks:
                hook.remove()

    floor = forward([torch.zeros_like(gate) for gate in gates])[query].item()

    def distance(logits):
        if method.objective == "class":
            return (logits[query] - original[query]) ** 2
        if method.objective == "output":
            return ((logits - original) ** 2).mean()
        kept = max(float(original[query]) - floor, 0.0)
        return ((logits[query] - floor).clamp(min=0) - kept) ** 2

    best, best_gates, best_step = float("inf"), None, None
    above = None
    for step in range(method.steps + 1):
        leaves = [gate.clone().requires_grad_() for gate in gates]
        logits = forward(leaves)
        d = distance(logits)
        r = sum(w * gate.abs().sum() for w, gate in zip(weights, leaves, strict=True))
        total = d + method.reg_weight * r
        if method.objective == "output":
            admissible = logits.argmax() == original.argmax()
        else:
            # A class that was not predicted may come out on top.
            admissible = bool(logits.argmax() == query) or bool(original.argmax() != query)
        if method.least_kept is not None:
            left, there = logits[query].item() - floor, original[query].item() - floor
            if there > 0 and left < method.least_kept * there:
                # This image is done.
                stopped.append(True)
                return above
            if admissible or step == 0:
                above = total.item(), [gate.clone() for gate in gates], step
        if admissible and total.item() < best:
            best, best_gates, best_step = total.item(), [gate.clone() for gate in gates], step
        if step == method.steps:
            break
        gradients = torch.autograd.grad(d, leaves)
        for index, gradient in enumerate(gradients):
            # |M| has slope 1 on M >= 0, also at the bound 0.
            slope = gradient + method.reg_weight * weights[index]
            first[index] = 0.9 * first[index] + 0.1 * slope
            second[index] = 0.999 * second[index] + 0.001 * slope**2
            m = first[index] / (1 - 0.9 ** (step + 1))
            v = second[index] / (1 - 0.999 ** (step + 1))
            gates[index] = (gates[index] - method.learning_rate * m / (v.sqrt() + 1e-8)).clamp(min=0)
    return best, best_gates, best_step


@pytest.mark.parametrize("objective", ["class", "output", "evidence"])
def test_whole_batches_give_what_the_literal_loop_gives(objective):
    torch.manual_seed(3)
    network = SmallResNet(4, widths=(3, 4, 5, 6)).eval()
    classifier = Classifier(
        network, network.stage_names, class_names=tuple("abcd"), image_size=32, normalization=CENTRED
    ).eval()
    images = torch.rand(3, 3, 32, 32)
    query = torch.tensor([0, 2, int(classifier(images)[2].argmax())])
    method = HierarchicalMasks(objective=objective, reg_weight=0.02, steps=20)
    fast = method.learn(classifier, images, query)
    for index in range(3):
        best, gates, step = slow_gates(method, classifier, images[index : index + 1], int(query[index]))
        assert float(fast.objective[index]) == pytest.approx(best, rel=2e-3)
        assert int(fast.kept_step[index]) == step
        for gate, expected in zip(fast.gates, gates, strict=True):
            assert torch.allclose(gate[index : index + 1], expected, atol=5e-3)


def decided(images):
    """A classifier whose logits hang on these images."""
    torch.manual_seed(3)
    network = SmallResNet(4, widths=(3, 4, 5, 6))
    with torch.no_grad():
        for _ in range(30):
            network(images)
        network.head.weight.mul_(8)
        network.head.bias.zero_()
    return Classifier(
        network.eval(), network.stage_names, class_names=tuple("abcd"), image_size=32, normalization=CENTRED
    ).eval()


@pytest.mark.parametrize("keep", ["best", "fidelity", "last"])
def test_an_image_whose_evidence_falls_below_the_share_has_the_gates_before_as_in_the_literal_loop(keep):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(6, 3, 8, 8, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    classifier = decided(images)
    query = classifier(images).topk(2, dim=1).indices[[*range(6)], [0, 0, 0, 1, 1, 1]]
    method = HierarchicalMasks(reg_weight=0.2, steps=20, least_kept=0.6, keep=keep)
    fast, plain = (
        each.learn(classifier, images, query) for each in (method, replace(method, least_kept=None))
    )
    number = 0
    for index in range(6):
        one, stopped = slice(index, index + 1), []
        best, gates, step = slow_gates(method, classifier, images[one], int(query[index]), stopped=stopped)
        number += len(stopped)
        if not stopped:
            # It is as without the setting.
            assert fast.kept_step[one].equal(plain.kept_step[one])
            assert all(
                gate[one].equal(other[one]) for gate, other in zip(fast.gates, plain.gates, strict=True)
            )
            continue
        assert int(fast.kept_step[index]) == step
        assert float(fast.objective[index]) == pytest.approx(best, rel=2e-3)
        for gate, expected in zip(fast.gates, gates, strict=True):
            assert torch.allclose(gate[one], expected, atol=5e-3)
        alone = method.learn(classifier, images[one], query[one])
        assert all(
            torch.allclose(gate, other[one], atol=1e-5)
            for gate, other in zip(alone.gates, fast.gates, strict=True)
        )
    assert 2 <= number < 6
