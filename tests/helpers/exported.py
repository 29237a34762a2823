"""All classes of the framework that others may hold: those of public files, and what rooms export."""

import importlib
import inspect
import pkgutil
from functools import cache

import verisal


@cache
def public_classes() -> tuple[type, ...]:
    """Each class once, by where it is defined; a file or class with an underscore is public if exported."""
    found = set()
    for module in pkgutil.walk_packages(verisal.__path__, "verisal."):
        if module.name == "verisal.__main__":
            continue
        loaded = importlib.import_module(module.name)
        own = "._" not in module.name
        for name, value in vars(loaded).items():
            exported = name in getattr(loaded, "__all__", ())
            if inspect.isclass(value) and (exported or (own and value.__module__ == module.name)):
                found.add(value)
    ours = {
        kind for kind in found if kind.__module__.startswith("verisal.") and not kind.__name__.startswith("_")
    }
    return tuple(sorted(ours, key=lambda kind: (kind.__module__, kind.__name__)))
