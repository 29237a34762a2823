import json
from pathlib import Path

import pytest
import torch

from helpers.saliency_cases import toy_classifier, toy_images
from helpers.saliency_rows_learned import toy_masks, toy_places
from verisal.errors import ConfigError
from verisal.saliency import EvidenceMasks, LearnedMask, PlaceNetwork, PredictedGates
from verisal.saliency.gates.contributions import Contributions, contributions, in_pixels
from verisal.saliency.gates.learned import load_mask_network
from verisal.saliency.gates.places import PlaceCard

SHAPES = ((4, 8, 6), (6, 4, 3), (8, 2, 2))
QUERY = torch.tensor([0, 3, 1])


def inputs(kept=(1.0, 2.0, -1.0)):
    generator = torch.Generator().manual_seed(0)
    activations = [torch.rand(3, *shape, generator=generator) for shape in SHAPES]
    stages = tuple(torch.randn(3, 1, *shape[1:], generator=generator) for shape in SHAPES)
    return activations, Contributions(stages, torch.tensor(kept))


def trained():
    torch.manual_seed(1)
    network = PlaceNetwork((4, 6, 8), width=6)
    for level in network.levels:
        torch.nn.init.normal_(level.head.weight)
    return network


def test_a_gate_for_every_place_and_none_without_evidence():
    gates = trained().gates(*inputs())
    assert [gate.shape for gate in gates] == [(3, 1, *shape[1:]) for shape in SHAPES]
    for gate in gates:
        assert ((gate[:2] > 0) & (gate[:2] < 1)).all()
        assert gate[2].eq(0).all()


def test_training_starts_with_one_gate_near_1_everywhere():
    for gate in PlaceNetwork((4, 6, 8)).gates(*inputs((1.0, 1.0, 1.0))):
        torch.testing.assert_close(gate, torch.full_like(gate, 0.7310586))


def test_scales_of_the_network_do_not_matter():
    activations, ungated = inputs()
    larger = Contributions(tuple(8 * stage for stage in ungated.stages), 8 * ungated.kept)
    once = trained().gates(activations, ungated)
    again = trained().gates([5 * activation for activation in activations], larger)
    for one, two in zip(once, again, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_contributions_of_the_last_stage_reach_the_first_gate():
    activations, ungated = inputs()
    turned = Contributions((*ungated.stages[:2], -ungated.stages[2]), ungated.kept)
    before, after = (trained().gates(activations, given)[0] for given in (ungated, turned))
    assert (before[:2] - after[:2]).abs().max() > 1e-3


def test_shows_contributions_unless_told_otherwise():
    classifier, images = toy_classifier(), toy_images(3)
    own = LearnedMask(checkpoint=toy_places())(classifier, images, QUERY)
    told = LearnedMask(checkpoint=toy_places(), shown="contribution")(classifier, images, QUERY)
    other = LearnedMask(checkpoint=toy_places(), shown="gate")(classifier, images, QUERY)
    assert own.saliency.equal(told.saliency)
    assert not own.saliency.equal(other.saliency)
    assert LearnedMask(checkpoint=toy_masks("evidence")).suited == "gated_activation"


def test_maps_add_up_to_the_evidence_kept():
    result = LearnedMask(checkpoint=toy_places())(toy_classifier(), toy_images(3), QUERY)
    kept = result.diagnostics["evidence_kept"].clamp_min(0)
    torch.testing.assert_close(result.saliency.sum(dim=(1, 2, 3)), kept, rtol=1e-4, atol=1e-5)


def test_a_place_counts_by_its_gate_once_more_in_the_joined_map():
    classifier, images = toy_classifier(), toy_images(3)
    method = LearnedMask(checkpoint=toy_places(), smoothing=0, fusion="sum")
    found = method.find(classifier, images, QUERY)
    size = (images.shape[-2], images.shape[-1])
    made = contributions(classifier, found.activations, found.gates, QUERY)
    pairs = zip(made.stages, found.gates, strict=True)
    joined = sum(in_pixels(stage.clamp_min(0) * gate[:, :1], size) for stage, gate in pairs)
    total = joined.sum(dim=(1, 2, 3), keepdim=True)
    expected = joined * made.kept.clamp_min(0)[:, None, None, None] / total.clamp_min(1e-12)
    torch.testing.assert_close(method(classifier, images, QUERY).saliency, expected, rtol=1e-4, atol=1e-6)


def test_many_steps_from_the_prediction_keep_the_evidence_as_the_evidence_masks_do():
    classifier, images = toy_classifier(), toy_images(3)
    query = classifier(images).argmax(dim=1)
    kept = [
        method(classifier, images, query).diagnostics["evidence_kept"]
        for method in (
            EvidenceMasks(fall=7, settle=20),
            LearnedMask(checkpoint=toy_places()),
            LearnedMask(checkpoint=toy_places(), steps=20),
        )
    ]
    assert (kept[2] - kept[0]).abs().mean() < (kept[1] - kept[0]).abs().mean()


def test_another_classifier_is_refused():
    classifier = toy_classifier()
    with torch.no_grad():
        classifier.network.head.weight.add_(0.1)
    with pytest.raises(ConfigError, match="trained for a classifier with other weights"):
        LearnedMask(checkpoint=toy_places())(classifier, toy_images(3), QUERY)
    LearnedMask(checkpoint=toy_places(), same_weights=False)(classifier, toy_images(3), QUERY)


def test_gates_that_need_a_gradient_are_not_predicted_in_a_graph():
    classifier, images = toy_classifier(), toy_images(3)
    gates = PredictedGates(checkpoint=toy_places())
    with pytest.raises(ConfigError, match="has gates of places"):
        gates(classifier, images, classifier.stage_outputs(images), QUERY)


def test_an_export_says_what_it_is_for():
    network, card = load_mask_network(toy_places())
    written = json.loads(Path(toy_places()).with_suffix(".json").read_text())
    assert isinstance(network, PlaceNetwork)
    assert card == PlaceCard(channels=(4, 6, 8), width=4, classifier=written["classifier"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"channels": ()}, "at least one stage"), ({"width": 1}, "width must be at least 2, found 1")],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        PlaceNetwork(**{"channels": (4,)} | settings)
