"""Saliency maps and adversarial-input alarms that can be trusted.

Rooms are imported when they are first asked for: ``import verisal`` alone takes no time, and
``verisal.saliency.GradCAM()`` works after it.
"""

import importlib
import os
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # What editors and type checkers know of the rooms.
    from verisal import attacks as attacks
    from verisal import callbacks as callbacks
    from verisal import checkpoint as checkpoint
    from verisal import cli as cli
    from verisal import data as data
    from verisal import detection as detection
    from verisal import detectors as detectors
    from verisal import errors as errors
    from verisal import fingerprint as fingerprint
    from verisal import functional as functional
    from verisal import metrics as metrics
    from verisal import models as models
    from verisal import pictures as pictures
    from verisal import progress as progress
    from verisal import reporting as reporting
    from verisal import results as results
    from verisal import saliency as saliency
    from verisal import store as store
    from verisal import tasks as tasks
    from verisal import types as types

# albumentations asks the network for its newest version at import; jsonargparse offers shell completion and a
# JSON schema only when told before the parser is built.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT", "true")

__version__ = "0.1.0"

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a room
    """Import a room now."""
    # Asked for by the thousand, of every module that there is; no room has such a name.
    rooms = [] if name.startswith("_") else _rooms()
    if name in rooms:
        return importlib.import_module(f"verisal.{name}")
    advice = ""
    if rooms:
        import difflib  # Only a misspelt name needs it.

        near = next(iter(difflib.get_close_matches(name, rooms, n=1)), "")
        advice = f"; did you mean verisal.{near}?" if near else f"; its parts are {', '.join(rooms)}"
    raise AttributeError(f"module 'verisal' has no attribute {name!r}{advice}", name=name)


def __dir__() -> list[str]:
    """Names of all rooms, imported or not, and the module's own."""
    return sorted([*_rooms(), *(name for name in globals() if name.startswith("__"))])


def _rooms() -> list[str]:
    return [room.name for room in pkgutil.iter_modules(__path__) if not room.name.startswith("_")]
