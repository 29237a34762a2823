"""Contributions and evidence masks, image by image and place by place, as they are written down."""

import pytest
import torch

from helpers.normalizations import CENTRED
from helpers.replicates import replicates
from verisal.models import Classifier, SmallResNet
from verisal.saliency import EvidenceMasks, HierarchicalMasks
from verisal.saliency.gates.contributions import contributions
from verisal.saliency.gates.descent import GateProblem
from verisal.saliency.gates.places import ungated


def toy():
    torch.manual_seed(3)
    network = SmallResNet(4, widths=(3, 4, 5, 6)).eval()
    return Classifier(
        network, network.stage_names, class_names=tuple("abcd"), image_size=32, normalization=CENTRED
    ).eval()


def forward(classifier, image, gates):
    """Logits of the whole network with hooks; not through the classifier's own cut."""
    hooks = [
        classifier.network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, gate=gate: output * gate
        )
        for name, gate in zip(classifier.stages, gates, strict=True)
    ]
    try:
        return classifier.network((image - classifier.mean) / classifier.std)[0]
    finally:
        for hook in hooks:
            hook.remove()


@replicates(contributions)
def slow_contributions(classifier, image, gates, query):
    """Per stage ``(h, w)``: gate times slope, channel by channel and place by place."""
    leaves = [gate.clone().requires_grad_() for gate in gates]
    slopes = torch.autograd.grad(forward(classifier, image, leaves)[query], leaves)
    maps = []
    for gate, slope in zip(gates, slopes, strict=True):
        _, channels, height, width = gate.shape
        values = torch.zeros(height, width)
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    values[row, column] += gate[0, channel, row, column] * slope[0, channel, row, column]
        maps.append(values)
    kept = (
        forward(classifier, image, gates)[query]
        - forward(classifier, image, [0 * gate for gate in gates])[query]
    )
    return maps, kept.item()


@replicates(EvidenceMasks.find)
def slow_gates(method, classifier, image, query, start=None):
    """One image: slopes by the whole network, places sorted and added up one by one."""
    shapes = [activation.shape for activation in classifier.stage_outputs(image).activations]
    ones = [torch.ones(1, 1, *shape[-2:]) for shape in shapes]
    gates = ones if start is None else list(start)
    memory = [torch.zeros_like(gate) for gate in gates]
    floor = forward(classifier, image, [0 * gate for gate in gates])[query].item()
    target = max(forward(classifier, image, ones)[query].item() - floor, 0.0)
    for step in range((method.fall if start is None else 0) + method.settle):
        leaves = [gate.clone().requires_grad_() for gate in gates]
        logit = forward(classifier, image, leaves)[query]
        slopes = torch.autograd.grad(logit, leaves)
        missing = target - (logit.item() - floor)
        for stage, slope in enumerate(slopes):
            memory[stage] = method.inertia * memory[stage] + (1 - method.inertia) * slope
            mean = (memory[stage] / (1 - method.inertia ** (step + 1))).flatten()
            gate = gates[stage].flatten().clone()
            wanted = float((gate * mean).sum()) + missing if target else 0.0
            total, chosen = 0.0, set()
            for place in mean.argsort(descending=True).tolist():
                if total >= wanted * (1 - 1e-5) or mean[place] <= 0:
                    break
                total += float(mean[place])
                chosen.add(place)
            for place in range(len(gate)):
                moved = gate[place] + (1 if place in chosen else -1) / method.fall
                gate[place] = min(max(float(moved), method.leak if target else 0.0), 1.0)
            gates[stage] = gate.view(gates[stage].shape)
    return gates


def test_contributions_are_what_the_literal_loop_gives():
    classifier, images = toy(), torch.rand(3, 3, 32, 32)
    query = torch.tensor([0, 2, 1])
    with torch.no_grad():
        outputs = classifier.stage_outputs(images)
    gates = [torch.rand(activation.shape) for activation in outputs.activations]
    fast = contributions(classifier, outputs.activations, gates, query)
    for row in range(3):
        own = [gate[row : row + 1] for gate in gates]
        maps, kept = slow_contributions(classifier, images[row : row + 1], own, int(query[row]))
        assert float(fast.kept[row]) == pytest.approx(kept, abs=1e-4)
        for stage, expected in zip(fast.stages, maps, strict=True):
            torch.testing.assert_close(stage[row, 0], expected, rtol=1e-3, atol=1e-5)
        totals = [float(values.sum()) for values in maps]
        assert float(fast.completeness()[row]) == pytest.approx(sum(totals) / len(totals) / kept, rel=1e-3)


@pytest.mark.parametrize("settings", [{}, {"fall": 3, "settle": 1, "inertia": 0.0, "leak": 0.1}])
def test_whole_batches_give_the_gates_of_the_literal_loop(settings):
    classifier, images = toy(), torch.rand(4, 3, 32, 32)
    logits = classifier(images)
    # The predicted class, two others and the least likely one.
    query = torch.tensor([int(logits[0].argmax()), 2, 1, int(logits[3].argmin())])
    method = EvidenceMasks(**settings)
    found = method.find(classifier, images, query)
    for row in range(4):
        expected = slow_gates(method, classifier, images[row : row + 1], int(query[row]))
        for gate, activation, own in zip(found.gates, found.activations, expected, strict=True):
            assert gate.shape == activation.shape
            # All channels of a place have its one gate.
            torch.testing.assert_close(
                gate[row : row + 1], own.expand_as(gate[row : row + 1]), rtol=0, atol=1e-5
            )


@pytest.mark.parametrize(
    "method", [EvidenceMasks(settle=1), HierarchicalMasks(steps=20, shown="contribution")]
)
def test_maps_are_contributions_in_logits_per_pixel(method):
    classifier, images = toy(), torch.rand(2, 3, 32, 32)
    query = classifier(images).argmax(dim=1)
    result, found = method(classifier, images, query), method.find(classifier, images, query)
    for row in range(2):
        own = [gate[row : row + 1] for gate in found.gates]
        maps, kept = slow_contributions(classifier, images[row : row + 1], own, int(query[row]))
        assert float(result.diagnostics["evidence_kept"][row]) == pytest.approx(kept, abs=1e-4)
        signed = torch.zeros(32, 32)
        for layer, stage in zip(result.raw_layers, maps, strict=True):
            spread = torch.nn.functional.interpolate(
                torch.stack([stage, stage.clamp_min(0)])[None],
                size=(32, 32),
                mode="bilinear",
                align_corners=False,
            )[0] * (stage.numel() / 1024)
            torch.testing.assert_close(layer[row, 0], spread[1], rtol=1e-3, atol=1e-6)
            signed += spread[0] / len(maps)
        torch.testing.assert_close(result.attribution[row, 0], signed, rtol=1e-3, atol=1e-6)


def test_the_fused_map_adds_up_to_the_evidence_kept_and_is_empty_where_there_is_none():
    classifier, images = toy(), torch.rand(2, 3, 32, 32).repeat(4, 1, 1, 1)
    logits, query = classifier(images), torch.arange(8) // 2
    result = EvidenceMasks()(classifier, images, query)
    kept = result.diagnostics["evidence_kept"]
    assert kept.gt(0.01).any()
    torch.testing.assert_close(result.saliency.sum(dim=(1, 2, 3)), kept.clamp_min(0), rtol=1e-4, atol=1e-5)
    outputs = classifier.stage_outputs(images)
    floor = classifier.gated(outputs.activations[0], [0 * part for part in outputs.activations])
    without = (logits - floor).gather(1, query[:, None])[:, 0] <= 0
    assert without.any()
    assert not result.saliency[without].any()


def test_one_pass_without_gates_is_what_the_literal_loop_gives_with_gates_of_one():
    classifier, images = toy(), torch.rand(3, 3, 32, 32)
    query = torch.tensor([0, 2, 1])
    found = ungated(classifier, images, query)
    assert found.n_forward == 1
    assert not found.outputs.logits.requires_grad
    for row in range(3):
        ones = [torch.ones_like(activation[:1]) for activation in found.outputs.activations]
        maps, kept = slow_contributions(classifier, images[row : row + 1], ones, int(query[row]))
        assert float(found.contributions.kept[row]) == pytest.approx(kept, abs=1e-4)
        for stage, expected in zip(found.contributions.stages, maps, strict=True):
            torch.testing.assert_close(stage[row, 0], expected, rtol=1e-3, atol=1e-5)


def test_steps_from_other_gates_are_those_of_the_literal_loop_from_there():
    classifier, images = toy(), torch.rand(2, 3, 32, 32)
    query = classifier(images).argmax(dim=1)
    method = EvidenceMasks(settle=3)
    outputs = classifier.stage_outputs(images)
    start = [torch.rand_like(activation[:, :1]) for activation in outputs.activations]
    problem = GateProblem("evidence", "per_channel", classifier, outputs, query)
    found = method.run(problem, start=start)
    assert (found.n_forward, found.n_backward, len(found.earlier)) == (4, 3, 3)
    for row in range(2):
        own = [gate[row : row + 1].detach() for gate in start]
        expected = slow_gates(method, classifier, images[row : row + 1], int(query[row]), start=own)
        for gate, other in zip(found.gates, expected, strict=True):
            # All channels of a place have its one gate.
            torch.testing.assert_close(
                gate[row : row + 1], other.expand_as(gate[row : row + 1]), rtol=0, atol=1e-5
            )
