import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from helpers.saliency_cases import toy_classifier, toy_images
from helpers.saliency_rows_learned import toy_masks
from verisal.checkpoint import CARD_KEY, save_checkpoint
from verisal.errors import CheckpointError, ConfigError
from verisal.saliency import LearnedMask
from verisal.saliency.gates.learned import load_mask_network

QUERY = torch.tensor([0, 3, 1])


def objective_of(gates, query=QUERY):
    """J of gates for the toy classifier, computed from its parts."""
    classifier, images = toy_classifier(), toy_images(3)
    outputs = classifier.stage_outputs(images)
    nothing = [torch.zeros_like(activation) for activation in outputs.activations]
    rows = torch.arange(3)
    floor = classifier.gated(outputs.activations[0], nothing)[rows, query]
    kept = classifier.gated(outputs.activations[0], gates)[rows, query]
    evidence = (outputs.logits[rows, query] - floor).clamp_min(0)
    distance = ((kept - floor).clamp_min(0) - evidence) ** 2
    penalty = sum(gate.flatten(1).sum(dim=1) / gate[0].numel() ** 0.5 for gate in gates)
    return (distance + 0.02 * penalty).detach()


def test_steps_after_the_prediction_never_raise_the_objective():
    masks = toy_masks("evidence")
    values = [
        objective_of(LearnedMask(checkpoint=masks, steps=steps).gates(toy_classifier(), toy_images(3), QUERY))
        for steps in (0, 1, 5, 20)
    ]
    for before, after in pairwise(values):
        assert (after <= before + 1e-5).all()
    assert (values[-1] < values[0]).all()


def test_checkpoint_of_a_run_and_its_export_are_the_same_network(tmp_path):
    exported = Path(toy_masks("evidence"))
    network, _ = load_mask_network(str(exported))
    card = json.loads(exported.with_suffix(".json").read_text())
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    save_checkpoint({CARD_KEY: card, "state_dict": state}, tmp_path / "best.ckpt")
    first, second = LearnedMask(checkpoint=str(tmp_path / "best.ckpt")), LearnedMask(checkpoint=str(exported))
    assert first.settings() == second.settings()
    for one, two in zip(
        *(method.gates(toy_classifier(), toy_images(3), QUERY) for method in (first, second)), strict=True
    ):
        assert one.equal(two)


def test_unknown_name_lists_what_is_known():
    with pytest.raises(ConfigError, match=r"unknown mask network 'nothing'; known: emoji_scenes_64_masks"):
        LearnedMask(checkpoint="nothing").settings()


def test_classifier_export_is_no_mask_network():
    weights = Path(__file__).parents[2] / "src" / "verisal" / "weights" / "emoji_scenes_64.safetensors"
    with pytest.raises(CheckpointError, match="holds no mask network: its card names 'SmallResNet'"):
        load_mask_network(str(weights))


def test_another_classifier_is_refused():
    classifier = toy_classifier()
    with torch.no_grad():
        classifier.network.head.weight.add_(0.1)
    with pytest.raises(ConfigError, match="trained for a classifier with other weights"):
        LearnedMask(checkpoint=toy_masks("evidence"))(classifier, toy_images(3), QUERY)
    taken = LearnedMask(checkpoint=toy_masks("evidence"), same_weights=False)
    # The head is behind all activations, so the gates are those of the classifier of training.
    for one, two in zip(
        taken.gates(classifier, toy_images(3), QUERY),
        taken.gates(toy_classifier(), toy_images(3), QUERY),
        strict=True,
    ):
        assert one.equal(two)


@pytest.mark.parametrize("settings", [{"steps": -1}, {"learning_rate": 0.0}, {"chunk_size": 0}])
def test_settings_out_of_range_name_what_was_found(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"{name} must be .*, found {value}"):
        LearnedMask(checkpoint="x", **settings)
