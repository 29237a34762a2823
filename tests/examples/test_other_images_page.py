"""The page on other images than RGB photographs names everything that there is."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torchmetrics import Metric

from helpers import (
    saliency_cases,
    saliency_rows_captum,
    saliency_rows_decoy,
    saliency_rows_derived,
    saliency_rows_learned,
    saliency_rows_masks,
    saliency_rows_optimised,
    saliency_rows_perturbation,
)
from helpers.attack_cases import CASES as ATTACKS
from verisal.attacks import Attack
from verisal.detectors import Detector
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline
from verisal.saliency import BlurredLike, OneLayer, Saliency

METHODS = {
    **saliency_rows_captum.CASES,
    **saliency_rows_decoy.CASES,
    **saliency_rows_derived.CASES,
    **saliency_rows_learned.CASES,
    **saliency_rows_masks.CASES,
    **saliency_rows_optimised.CASES,
    **saliency_rows_perturbation.CASES,
}
PAGE = (Path(__file__).parents[2] / "docs" / "other_images.md").read_text()
ROOMS = {
    "saliency": Saliency,
    "functional.baselines": Baseline,
    "attacks": Attack,
    "metrics": Metric,
    "callbacks": Callback,
    "detectors": Detector,
}


@pytest.mark.parametrize("room", ROOMS)
def test_the_table_has_every_class(room):
    module = import_module(f"verisal.{room}")
    found = {
        name
        for name in module.__all__
        if inspect.isclass(kind := getattr(module, name))
        and issubclass(kind, ROOMS[room])
        and not inspect.isabstract(kind)
    }
    table = PAGE[PAGE.index("## What takes which images") :]
    assert found - set(re.findall(r"`(\w+)`", table)) == set()


def softmax_alone(kind):
    """Classes in the last column of a kind's row."""
    (row,) = re.findall(rf"^\| {kind} \|.*$", PAGE, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row.split("|")[3]))


def labels():
    """The toy classifier of the contracts, whose labels are decided one by one."""
    classifier = saliency_cases.toy_classifier()
    classifier.output = "sigmoid"
    return classifier


def refuses(call):
    try:
        call()
    except ConfigError as error:
        return "sigmoid" in str(error)
    return False


def test_methods_that_ask_for_a_softmax_are_those_of_the_table():
    images, query = torch.rand(1, 3, *saliency_cases.SIZE), torch.tensor([1])
    refused = set()
    for name, case in METHODS.items():
        method = case.make()
        # Wrapped, these do as what they wrap; adapters are bound to a classifier of their own.
        wrapped = "Adapter" in name or "Decoy " in name or isinstance(method, BlurredLike | OneLayer)
        if not wrapped and refuses(lambda: method(labels(), images, query)):  # noqa: B023 - called at once
            refused.add(type(method).__name__)
    assert refused == softmax_alone("methods")


def test_attacks_in_the_second_column_take_several_labels():
    images, query = torch.rand(1, 3, *saliency_cases.SIZE), torch.tensor([1])
    for name, case in ATTACKS.items():
        attack = case.make(case.budgets[1])
        assert refuses(lambda: attack(labels(), images, query)) == (  # noqa: B023 - called at once
            type(attack).__name__ in softmax_alone("attacks")
        ), name
