"""Names of metrics, as the reference lists them."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

_SCRIPT = Path(__file__).parents[2] / "scripts" / "reference_pages.py"
# What stands on the page for a name that a run gives.
_ANY = re.compile(r"(?<=/)(row|method|attack|attack_failed|noise|clean|goal|group|black|family)(?=/|$)")
_INSIDE = re.compile(r"(?<=auroc_fitted_on_)fit|head_minus_row")


@functools.cache
def reference() -> ModuleType:
    """The script that makes the page."""
    spec = importlib.util.spec_from_file_location("reference_pages", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unlisted(names: Iterable[str]) -> list[str]:
    """Those of some names in ``metrics.csv`` that the reference does not have."""
    callbacks = reference().callbacks_that_log().values()
    known = [*reference().names_of_tasks().values(), *(callback.names() for callback in callbacks)]
    shown = {re.sub("^test/", "val/", name) for own in known for name in own}
    patterns = {_INSIDE.sub(r"[^/]+", _ANY.sub(r"[^/]+", name)) for name in shown}
    whole = re.compile("|".join(sorted(patterns)))
    return [name for name in names if "/" in name and not whole.fullmatch(re.sub("^test/", "val/", name))]
