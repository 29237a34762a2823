"""The page on other images than RGB photographs names everything that there is."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from torchmetrics import Metric

from verisal.attacks import Attack
from verisal.detectors import Detector
from verisal.functional.baselines import Baseline
from verisal.saliency import Saliency

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
