"""What a newcomer types first, on a network that nobody has told us about."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import verisal


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_rooms_are_found_after_import_verisal():
    code = "import sys, verisal; print('torch' in sys.modules, 'saliency' in dir(verisal))"
    assert python(code) == "False True\n"
    assert python("import verisal; print(verisal.saliency.GradCAM())") == "GradCAM(stage=None)\n"


def test_rooms_are_ordinary_modules():
    rooms = [name for name in dir(verisal) if not name.startswith("_")]
    assert {"saliency", "attacks", "metrics", "callbacks", "types", "errors"} <= set(rooms)
    for name in rooms:
        assert getattr(verisal, name) is sys.modules[f"verisal.{name}"]
    method = verisal.saliency.SmoothGrad(samples=3)
    assert pickle.loads(pickle.dumps(method)) == copy.deepcopy(method) == method  # noqa: S301 - our own
    with pytest.raises(AttributeError, match=r"no attribute 'salency'; did you mean verisal\.saliency"):
        _ = verisal.salency
    with pytest.raises(AttributeError, match="no attribute 'resnet18'; its parts are attacks, "):
        _ = verisal.resnet18
    assert not hasattr(verisal, "__wrapped__")


def test_type_checkers_know_every_room():
    """They do not run ``__getattr__``."""
    source = Path(verisal.__file__).read_text()
    for name in dir(verisal):
        if not name.startswith("_"):
            assert f"from verisal import {name} as {name}\n" in source
