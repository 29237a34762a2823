import copy
import math

import pytest
import torch
from torch import nn

from helpers.normalizations import CENTRED
from verisal.detectors import DetectorFeatures
from verisal.errors import ConfigError, DataError
from verisal.functional.filters import shift_one_pixel
from verisal.models import Classifier, SmallResNet
from verisal.saliency import HierarchicalMasks
from verisal.saliency.gates.masks import channel_statistics

NAMES = tuple("abcde")
SIDES = (16, 8, 4, 2)
STATED = {
    "gradient": ((3, 32, 32), torch.float16),
    "logits": ((5,), torch.float32),
    "confidence": ((), torch.float32),
    "prediction": ((), torch.int64),
    **{f"activations/{n}": ((3, side, side), torch.float16) for n, side in enumerate(SIDES, start=1)},
    **{
        f"masks/{query}/{n}": ((3, side, side), torch.float16)
        for query in ("prediction", "runner_up")
        for n, side in enumerate(SIDES, start=1)
    },
}


def toy(seed=1):
    torch.manual_seed(seed)
    network = SmallResNet(5, widths=(4, 6, 8, 10)).eval()
    nn.init.normal_(network.head.weight, std=3.0)
    classifier = Classifier(
        network.fold(), network.stage_names, class_names=NAMES, image_size=32, normalization=CENTRED
    ).eval()
    with torch.no_grad():
        # Centred, so that different images are given different classes.
        classifier.network.head.bias -= classifier(images_of(12)).mean(dim=0)
    return classifier


def images_of(count):
    rng = torch.Generator().manual_seed(4)
    coarse = torch.rand(12, 3, 4, 4, generator=rng).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (0.8 * coarse + 0.2 * torch.rand(12, 3, 32, 32, generator=rng))[:count]


def make(**settings):
    saliency = HierarchicalMasks(objective="class", reg_weight=0.05, steps=5, learning_rate=0.2)
    return DetectorFeatures(**{"saliency": saliency} | settings)


def test_names_shapes_and_types_are_those_stated():
    found = make()(toy(), images_of(3))
    assert {name: (tuple(value.shape[1:]), value.dtype) for name, value in found.items()} == STATED
    assert all(len(value) == 3 and bool(value.isfinite().all()) for value in found.values())
    assert not any(value.requires_grad for value in found.values())


def test_one_query_and_gated_activations_change_the_names_as_stated():
    one = make(queries=("runner_up",), gated_activation=True)(toy(), images_of(2))
    gated = {f"gated/runner_up/{n}": (2, 1, side, side) for n, side in enumerate(SIDES, start=1)}
    assert set(one) == {name for name in STATED if "masks/prediction" not in name} | set(gated)
    assert {name: tuple(one[name].shape) for name in gated} == gated


def test_shifted_view_repeats_everything_on_the_moved_image_for_the_same_classes():
    classifier, images = toy(), images_of(4)
    found = make(views=("original", "shifted"), gated_activation=True)(classifier, images)
    plain = make(gated_activation=True)(classifier, images)
    again = {name for name in plain if name not in ("confidence", "prediction")}
    assert set(found) == {*plain, *(f"shifted/{name}" for name in again), "shift_distance"}
    for name, values in plain.items():
        torch.testing.assert_close(found[name].float(), values.float(), rtol=0, atol=2e-3, msg=name)
    moved = shift_one_pixel(images)
    ranked = classifier(images).topk(2, dim=1).indices
    for number, activation in enumerate(classifier.stage_outputs(moved).activations, start=1):
        expected = channel_statistics(activation)
        values = found[f"shifted/activations/{number}"].float()
        torch.testing.assert_close(values, expected, rtol=2e-3, atol=2e-3)
    for rank, query in enumerate(("prediction", "runner_up")):
        gates = make().saliency.gates(classifier, moved, ranked[:, rank].contiguous())
        for number, gate in enumerate(gates, start=1):
            values = found[f"shifted/masks/{query}/{number}"].float()
            torch.testing.assert_close(values, channel_statistics(gate), rtol=2e-3, atol=2e-2)
    literal = (classifier(images).softmax(dim=1) - classifier(moved).softmax(dim=1)).abs().sum(dim=1)
    torch.testing.assert_close(found["shift_distance"], literal.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("views", [(), ("shifted",), ("shifted", "original")])
def test_views_must_begin_with_the_original(views):
    with pytest.raises(
        ConfigError, match=r"views must be \[original\], and after it shifted or changes .*, found"
    ):
        make(views=views)


def test_the_classes_explained_are_the_two_most_likely_on_that_very_input():
    class Recorder:
        """The real gates, and the queries that were asked for."""

        uses_query = True
        asked = ()

        def gates(self, classifier, images, query_class):
            self.asked += (query_class,)
            return real.gates(classifier, images, query_class)

    real, recorder, classifier, images = make().saliency, Recorder(), toy(), images_of(6)
    found = make(saliency=recorder)(classifier, images)
    order = classifier(images).argsort(dim=1, descending=True)
    assert len(order[:, 0].unique()) > 1
    assert [query.tolist() for query in recorder.asked] == [order[:, 0].tolist(), order[:, 1].tolist()]
    assert found["prediction"].equal(order[:, 0])


def test_masks_are_the_channel_statistics_of_the_learned_gates():
    classifier, images = toy(), images_of(3)
    found = make(gated_activation=True)(classifier, images)
    ranked = classifier(images).topk(2, dim=1).indices
    activations = classifier.stage_outputs(images).activations
    for rank, query in enumerate(("prediction", "runner_up")):
        gates = make().saliency.gates(classifier, images, ranked[:, rank].contiguous())
        for number, (gate, activation) in enumerate(zip(gates, activations, strict=True), start=1):
            product = (gate * activation).mean(dim=1, keepdim=True)
            for kind, expected in (("masks", channel_statistics(gate)), ("gated", product)):
                values = found[f"{kind}/{query}/{number}"].float()
                torch.testing.assert_close(values, expected, rtol=2e-3, atol=2e-2)


def test_activations_are_ungated_and_gradient_is_that_of_the_predicted_logit():
    classifier, images = toy(), images_of(3)
    found = make()(classifier, images)
    for number, activation in enumerate(classifier.stage_outputs(images).activations, start=1):
        spread, mean = torch.std_mean(activation, dim=1, correction=0)
        expected = torch.stack([mean, spread, activation.max(dim=1).values], dim=1)
        torch.testing.assert_close(found[f"activations/{number}"].float(), expected, rtol=1e-3, atol=1e-3)
    for image, gradient in zip(images, found["gradient"], strict=True):
        # Central differences in double precision along a random direction.
        double, direction = copy.deepcopy(classifier).double(), torch.randn(3, 32, 32, dtype=torch.float64)
        best = int(double(image[None].double()).argmax())
        ends = [double((image.double() + sign * 1e-6 * direction)[None])[0, best] for sign in (1, -1)]
        slope = float((ends[0] - ends[1]).detach()) / 2e-6
        assert float((gradient.double() * direction).sum()) == pytest.approx(slope, rel=0.02, abs=0.02)


def test_confidence_is_the_literal_log_odds_of_the_largest_probability():
    classifier, images = toy(), images_of(5)
    confidence = make()(classifier, images)["confidence"]
    for found, logits in zip(confidence.tolist(), classifier(images).double().tolist(), strict=True):
        weights = [math.exp(value) for value in logits]
        top = max(weights) / sum(weights)
        assert found == pytest.approx(math.log(top / (1 - top)), rel=1e-4, abs=1e-4)


def test_features_of_an_image_do_not_depend_on_its_batch_mates():
    classifier, images = toy(), images_of(6)
    whole = make(gated_activation=True)(classifier, images)
    for rows in ([4], [5, 0], [3, 2, 1]):
        part = make(gated_activation=True)(classifier, images[rows])
        for name, values in part.items():
            torch.testing.assert_close(values, whole[name][rows], rtol=0, atol=2e-3, msg=name)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)]
)
def test_same_features_whatever_surrounds_the_call(mode):
    classifier, plain = toy(), make()(toy(), images_of(3))
    with mode():
        inside = make()(classifier, images_of(3))
    assert all(inside[name].equal(values) for name, values in plain.items())


def test_classifier_images_and_random_state_stay_untouched():
    classifier, images = toy().train(), images_of(2)
    classifier.network.stage2.eval()
    kept, given = copy.deepcopy(classifier.state_dict()), images.clone()
    modes, before = [child.training for child in classifier.modules()], torch.get_rng_state()
    make()(classifier, images)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        make()(classifier, images - 1)
    assert torch.get_rng_state().equal(before)
    assert [child.training for child in classifier.modules()] == modes
    assert all(value.equal(kept[name]) for name, value in classifier.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())
    assert images.equal(given)


@pytest.mark.parametrize("queries", [(), ("prediction", "prediction")])
def test_queries_that_are_none_or_twice_the_same_are_refused(queries):
    with pytest.raises(ConfigError, match="queries must name prediction, runner_up or both, found"):
        make(queries=queries)


def test_a_second_query_of_a_method_that_reads_none_is_refused():
    blind = HierarchicalMasks(objective="output", steps=5, learning_rate=0.2)
    with pytest.raises(ConfigError, match=r"set queries: \[prediction\]"):
        make(saliency=blind)
    assert make(saliency=blind, queries=("prediction",)).settings()["queries"] == ["prediction"]


def test_settings_tell_apart_what_changes_values_and_nothing_else():
    def settings(**changed):
        method = HierarchicalMasks(steps=20, **changed.pop("method", {}))
        return make(saliency=method, **changed).settings()

    assert settings() != settings(method={"reg_weight": 2.0})
    assert settings() != settings(queries=("prediction",))
    assert settings() != settings(gated_activation=True)
    assert settings() != settings(views=("original", "shifted"))
    assert settings() == settings(method={"chunk_size": 3, "fusion": "mean"})
