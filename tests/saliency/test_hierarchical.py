import math

import pytest
import torch
from torch import nn

from helpers.normalizations import CENTRED
from verisal.errors import ConfigError, DataError
from verisal.models import Classifier, SmallResNet
from verisal.saliency import HierarchicalMasks
from verisal.saliency.gates.masks import fuse_layers, gate_penalty_weights


class _Planted(nn.Module):
    """Two classes: the red of the left half is evidence for class 0, that of the right half for class 1."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Identity(), nn.Identity()

    def forward(self, images):
        red = self.two(self.one(images))[:, 0]
        left, right = red.chunk(2, dim=-1)
        return torch.stack([left.mean(dim=(1, 2)), right.mean(dim=(1, 2))], dim=1)


def planted():
    return Classifier(
        _Planted(), ["one", "two"], class_names=("left", "right"), image_size=8, normalization="none"
    ).eval()


def toy():
    torch.manual_seed(1)
    network = SmallResNet(5, widths=(4, 6, 8, 10)).eval().fold()
    return Classifier(
        network, network.stage_names, class_names=tuple("abcde"), image_size=32, normalization=CENTRED
    ).eval()


@pytest.mark.parametrize("query", [0, 1])
def test_the_map_shows_the_half_that_holds_the_evidence(query):
    images = torch.full((1, 3, 8, 8), 0.2)
    images[..., 4 * query : 4 * query + 4] = 0.8
    method = HierarchicalMasks(objective="class", reg_weight=0.001, penalty="per_layer", steps=60)
    saliency = method(planted(), images, torch.tensor([query])).saliency[0, 0]
    left, right = saliency.chunk(2, dim=-1)
    inside, outside = (left, right) if query == 0 else (right, left)
    assert float(inside.mean()) > 5 * float(outside.mean())


def test_evidence_keeps_nothing_of_a_class_that_has_none():
    images = torch.zeros(1, 3, 8, 8)
    images[..., :4] = 0.8
    method = HierarchicalMasks(objective="evidence", reg_weight=0.01, steps=30)
    absent = method(planted(), images, torch.tensor([1]))
    present = method(planted(), images, torch.tensor([0]))
    assert float(absent.raw.sum()) < 0.02 * float(present.raw.sum())


def test_without_a_penalty_the_untouched_gates_are_kept():
    classifier, images = toy(), torch.rand(2, 3, 32, 32)
    method = HierarchicalMasks(objective="class", reg_weight=0.0, steps=20)
    result = method.learn(classifier, images, torch.tensor([0, 1]))
    assert result.kept_step.tolist() == [0, 0]
    assert all(torch.equal(gate, torch.ones_like(gate)) for gate in result.gates)
    assert result.distance.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("objective", ["class", "output", "evidence", "mixed"])
def test_the_kept_iterate_is_better_than_the_start_and_keeps_the_prediction_where_it_must(objective):
    classifier, images = toy(), torch.rand(4, 3, 32, 32)
    query = classifier(images).argmax(dim=1)
    method = HierarchicalMasks(objective=objective, reg_weight=0.01, steps=20)
    result = method.learn(classifier, images, query)
    weights = gate_penalty_weights([gate.shape for gate in result.gates], "per_channel")
    start = 0.01 * sum(weight * gate[0].numel() for weight, gate in zip(weights, result.gates, strict=True))
    assert (result.objective <= start + 1e-6).all()
    assert (result.kept_step > 0).all()
    assert result.unchanged.all()
    # The record describes the gates that are returned.
    gated = classifier.gated(classifier.prefix(images), result.gates)
    change = (gated - classifier(images)).gather(1, query[:, None])[:, 0]
    assert torch.allclose(result.query_change, change, atol=1e-5)
    penalty = sum(
        weight * gate.sum(dim=(1, 2, 3)) for weight, gate in zip(weights, result.gates, strict=True)
    )
    assert torch.allclose(result.penalty, penalty, rtol=1e-5)
    assert torch.allclose(result.objective, result.distance + 0.01 * result.penalty)


def test_output_does_not_depend_on_the_query():
    classifier, images = toy(), torch.rand(2, 3, 32, 32)
    method = HierarchicalMasks(objective="output", reg_weight=0.01, steps=20)
    first = method.learn(classifier, images, torch.tensor([0, 1])).gates
    second = method.learn(classifier, images, torch.tensor([3, 2])).gates
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not method.uses_query


def test_maximise_raises_the_query_logit_above_the_original():
    classifier, images = toy(), torch.rand(3, 3, 32, 32)
    method = HierarchicalMasks(objective="maximise", reg_weight=0.001, steps=20)
    assert (method.learn(classifier, images, torch.tensor([0, 1, 2])).query_change > 0).all()


def test_keep_rules_differ_as_they_are_documented():
    classifier, images = toy(), torch.rand(2, 3, 32, 32)
    query = classifier(images).argmax(dim=1)
    common = {"objective": "class", "reg_weight": 0.05, "steps": 20}
    last = HierarchicalMasks(**common, keep="last").learn(classifier, images, query)
    fidelity = HierarchicalMasks(**common, keep="fidelity").learn(classifier, images, query)
    best = HierarchicalMasks(**common, keep="best").learn(classifier, images, query)
    assert last.kept_step.tolist() == [20, 20]
    assert (fidelity.kept_step >= 10).all()
    assert (fidelity.distance <= last.distance).all()
    assert (best.objective <= last.objective + 1e-6).all()


def test_gate_max_bounds_the_gates():
    classifier, images = toy(), torch.rand(2, 3, 32, 32)
    method = HierarchicalMasks(objective="maximise", reg_weight=0.0, steps=20, gate_max=1.2)
    gates = method.learn(classifier, images, torch.tensor([0, 1])).gates
    assert max(float(gate.max()) for gate in gates) == pytest.approx(1.2)
    assert min(float(gate.min()) for gate in gates) >= 0.0


def test_chunks_do_not_change_the_result():
    classifier, images = toy(), torch.rand(5, 3, 32, 32)
    query = torch.tensor([0, 1, 2, 3, 4])
    whole = HierarchicalMasks(steps=20, reg_weight=0.01)(classifier, images, query)
    parts = HierarchicalMasks(steps=20, reg_weight=0.01, chunk_size=2)(classifier, images, query)
    assert torch.allclose(whole.raw, parts.raw, atol=1e-4)


@pytest.mark.parametrize("shown", ["gate", "gated_activation"])
def test_raw_layers_are_means_over_channels_upsampled_and_never_scaled(shown):
    classifier, images = toy(), torch.rand(1, 3, 32, 32)
    method = HierarchicalMasks(steps=20, reg_weight=0.01, shown=shown)
    learned = method.learn(classifier, images, torch.tensor([0]))
    result = method(classifier, images, torch.tensor([0]))
    for layer, gate, activation in zip(result.raw_layers, learned.gates, learned.activations, strict=True):
        values = gate * activation if shown == "gated_activation" else gate
        expected = nn.functional.interpolate(
            values.mean(dim=1, keepdim=True), size=(32, 32), mode="bilinear", align_corners=False
        )
        assert torch.allclose(layer, expected)
    assert torch.allclose(result.raw, sum(result.raw_layers) / 4)


def test_smoothing_spreads_the_fused_map_and_leaves_the_raw_ones():
    classifier, images = toy(), torch.rand(1, 3, 32, 32)
    sharp, smooth = (
        HierarchicalMasks(steps=20, reg_weight=0.01, smoothing=sigma)(classifier, images, torch.tensor([0]))
        for sigma in (0.0, 14.0)
    )
    assert smooth.raw.equal(sharp.raw)
    # Sigma 14 at side 224 is 2 pixels here: the sum stays but for what leaves at the borders.
    torch.testing.assert_close(smooth.saliency.mean(), sharp.saliency.mean(), rtol=0.1, atol=0)
    steps = [float(result.saliency.diff(dim=-1).abs().sum()) for result in (sharp, smooth)]
    assert steps[1] < 0.7 * steps[0]


def test_too_few_steps_to_reach_zero_are_refused():
    with pytest.raises(ConfigError, match=r"steps \* learning_rate is 0.5"):
        HierarchicalMasks(steps=10, learning_rate=0.05)


def test_a_callable_without_stages_is_refused():
    with pytest.raises(ConfigError, match=r"needs verisal.models.Classifier, found function"):
        HierarchicalMasks()(lambda images: images.mean(dim=(2, 3)), torch.rand(1, 3, 8, 8), torch.tensor([0]))


def test_normalised_images_are_refused():
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], found values from -0.99"):
        HierarchicalMasks()(toy(), torch.rand(1, 3, 32, 32) - 1, torch.tensor([0]))


def test_penalty_forms_by_hand():
    shapes = [torch.Size([4, 2, 2]), torch.Size([9, 1, 1])]
    assert gate_penalty_weights(shapes, "per_layer") == [0.5, 1.0]
    assert gate_penalty_weights(shapes, "per_channel") == [0.25, 1 / 3]
    # R(1) = 4 * 2 + 9 * 1 = 17
    assert gate_penalty_weights(shapes, "relative") == pytest.approx([0.5 / 17, 1 / 17])


def test_fusion_by_hand():
    first = torch.tensor([[[[1.0, 4.0]]]])
    second = torch.tensor([[[[2.0, 0.5]]]])
    assert fuse_layers([first, second], "mean").flatten().tolist() == pytest.approx([0.625, 0.625])
    geometric = fuse_layers([first, second], "geometric").flatten().tolist()
    assert geometric == pytest.approx([math.sqrt(0.25 * 1.0), math.sqrt(1.0 * 0.25)])


def test_a_layer_without_attribution_contributes_zeros():
    empty, full = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 2.0]]]])
    assert fuse_layers([empty, full], "mean").flatten().tolist() == pytest.approx([0.25, 0.5])
    assert fuse_layers([empty, full], "geometric").sum() == 0


def test_rules_are_part_of_the_settings_but_maps_are_not_part_of_the_gates():
    settings = HierarchicalMasks().gate_settings()
    assert settings["rules"] == 2
    assert not {"shown", "fusion", "smoothing", "chunk_size"} & settings.keys()
    assert HierarchicalMasks(shown="gate").settings() != HierarchicalMasks().settings()
