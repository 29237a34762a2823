"""Which iterate of a descent on gates is returned."""

import math
from types import SimpleNamespace

import pytest
import torch

from verisal.models import Classifier
from verisal.saliency.gates.descent import GateProblem, Kept


def kept_of(rule, values, admissible=None):
    """The rule's choice for one image; gates and record of step t are t."""
    steps = len(values) - 1
    kept = Kept(rule, steps, torch.full((1, 2), -1.0))
    for step, value in enumerate(values):
        fine = True if admissible is None else admissible[step]
        problem = SimpleNamespace(
            admissible=lambda logits, fine=fine: torch.tensor([fine]),
            unchanged=lambda logits, fine=fine: torch.tensor([fine]),
        )
        gates, record = torch.full((1, 2), float(step)), torch.full((1, 3), float(step))
        kept.offer(step, gates, problem, torch.zeros(1, 2), record, torch.tensor([value]))
    return kept


@pytest.mark.parametrize(
    ("values", "admissible", "step"),
    [
        ([1.0, 5.0, 3.0, 0.5], [False, True, True, False], 2),  # the start's J is no bar
        ([math.nan, 5.0, 6.0], [True, True, True], 1),
        ([1.0, 5.0, 3.0], [True, True, True], 0),
        ([9.0, 5.0, 3.0], [False, False, False], 0),  # nothing may be kept: the start, and its record
        ([4.0, math.nan, math.inf, 3.0], [True, True, True, True], 3),
    ],
)
def test_best_is_the_lowest_objective_among_admissible_iterates_whatever_the_start(values, admissible, step):
    kept = kept_of("best", values, admissible)
    assert kept.step.tolist() == [step]
    assert kept.values.tolist() == [[float(step)] * 2]
    assert kept.records.tolist() == [[float(step)] * 3]
    assert kept.unchanged.tolist() == [admissible[step]]


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.0, 0.0, 0.0, 3.0, 4.0, 5.0], 3),  # T = 5: from step 2.5 on, hence 3
        ([0.0, 0.0, 2.0, 3.0, 4.0], 2),  # T = 4: step 2 counts
        ([0.0, 7.0], 1),
        ([0.0, 0.0, 5.0, 4.0], 3),
    ],
)
def test_fidelity_begins_at_half_of_the_steps(values, step):
    assert kept_of("fidelity", values).step.tolist() == [step]


def test_what_was_never_kept_has_no_record():
    assert kept_of("fidelity", [0.0, math.nan]).records.isnan().all()


class _Sum(torch.nn.Module):
    def forward(self, images):
        red = images[:, 0].mean(dim=(1, 2))
        return torch.stack([red, 1 - red, 0.3 + 0 * red], dim=1)


@pytest.mark.parametrize(
    ("objective", "query", "logits", "expected"),
    [
        ("evidence", 0, [2.0, 1.0, 0.0], True),
        ("evidence", 0, [1.0, 2.0, 0.0], False),  # predicted, asked for, and no longer first
        ("evidence", 2, [1.0, 0.0, 2.0], True),  # absent, and first once the others' evidence is gone
        ("class", 2, [1.0, 0.0, 2.0], True),
        ("class", 0, [0.0, 0.0, 2.0], False),
        ("output", 2, [1.0, 0.0, 2.0], False),  # keeps the prediction, whatever is asked for
        ("mixed", 2, [3.0, 0.0, 2.0], True),
        ("maximise", 0, [0.0, 0.0, 2.0], True),
    ],
)
def test_admissible_iterates_are_those_of_the_documentation(objective, query, logits, expected):
    assert problem_of(objective, query).admissible(torch.tensor([logits])).tolist() == [expected]


def problem_of(objective, query):
    """Of an image with the logits 0.9, 0.1 and 0.3; with nothing left they are 0, 1 and 0.3."""
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity(), _Sum())
    classifier = Classifier(
        network, ["0", "1"], class_names=tuple("abc"), image_size=4, normalization="none"
    ).eval()
    outputs = classifier.stage_outputs(torch.full((1, 3, 4, 4), 0.9))
    return GateProblem(objective, "per_channel", classifier, outputs, torch.tensor([query]))


@pytest.mark.parametrize(
    ("objective", "query", "logits", "expected"),
    [
        ("class", 0, [2.0, 1.0, 0.5], 1.1**2),
        ("class", 1, [2.0, 1.0, 0.5], 0.9**2),
        ("output", 0, [2.0, 1.0, 0.5], (1.1**2 + 0.9**2 + 0.2**2) / 3),
        ("mixed", 0, [2.0, 1.0, 0.5], 1.1**2 + (1.1**2 + 0.9**2 + 0.2**2) / 3),
        ("evidence", 0, [2.0, 1.0, 0.5], (2.0 - 0.9) ** 2),
        ("evidence", 0, [-2.0, 1.0, 0.5], 0.9**2),  # below what is left without evidence
        ("evidence", 1, [2.0, 1.4, 0.5], 0.4**2),  # the image holds evidence against it: none is to be kept
        ("maximise", 0, [2.0, 1.0, 0.5], -2.0),
        ("maximise_log_probability", 0, [2.0, 1.0, 0.5], math.log(1 + math.exp(-1.0) + math.exp(-1.5))),
    ],
)
def test_distance_by_hand(objective, query, logits, expected):
    distance = problem_of(objective, query).distance(torch.tensor([logits]))
    assert distance.tolist() == pytest.approx([expected], abs=1e-6)
