"""All public classes of the framework, whatever room and file they are in."""

import importlib
import inspect
import pkgutil
from functools import cache

import verisal


@cache
def public_classes() -> tuple[type, ...]:
    """Of modules without an underscore before their name, each class once, where it is defined."""
    found = set()
    for module in pkgutil.walk_packages(verisal.__path__, "verisal."):
        if module.name.rpartition(".")[2].startswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and not name.startswith("_") and value.__module__ == module.name:
                found.add(value)
    return tuple(sorted(found, key=lambda kind: (kind.__module__, kind.__name__)))
