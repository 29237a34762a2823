"""Networks by the library that builds them: what a card may name, and how it is built without any weights."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.outputs import logits_of

__all__ = ["Architecture", "LogitsOnly", "known_name", "optional"]

_LIBRARIES = {"timm": "hub", "transformers": "hub"}
# Arguments with which a constructor would read files or the network by itself.
_LOADING = ("pretrained", "weights", "checkpoint", "cache", "file", "url", "hf_hub", "progress")
_SEED = 0


class LogitsOnly(nn.Module):
    """A network of the transformers package that gives logits ``(B, K)`` alone.

    Args:
        model: takes ``pixel_values`` and gives an object with ``logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images."""
        return logits_of(self.model(pixel_values=images), source=type(self.model).__name__)


@dataclass(frozen=True)
class Architecture:
    """Who builds a network, and from what.

    Attributes:
        library: ``torchvision``, ``timm``, ``transformers``, or ``factory`` for a user's own function.
        name: of the model in the library; for transformers the model type; ``package.module:function``.
        arguments: keyword arguments of its constructor, plain data.
    """

    library: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.library not in ("torchvision", "timm", "transformers", "factory"):
            raise ConfigError(
                f"networks are built by torchvision, timm, transformers or a factory, found {self.library!r}"
            )
        loading = [name for name in self.arguments if name.startswith(_LOADING)]
        if loading and self.library in ("torchvision", "timm"):
            raise ConfigError(
                f"arguments {loading} would make {self.library} load files by itself; name them as weights"
            )

    def build(self) -> nn.Module:
        """The network with random weights, the same ones each time; the global random state is kept.

        Raises:
            ConfigError: an unknown name, arguments that do not fit, or a library that is not installed.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(_SEED)
            try:
                network = self._constructed()
            except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
                raise ConfigError(
                    f"{self.library}:{self.name} cannot be built with {dict(self.arguments)}: {error}"
                ) from error
        if not isinstance(network, nn.Module):
            raise ConfigError(f"{self.name} must give an nn.Module, found {type(network).__name__}")
        return network

    def _constructed(self) -> object:
        match self.library:
            case "torchvision":
                models = optional("torchvision.models")
                known_name(self.name, models.list_models(module=models), library="torchvision")
                return models.get_model(self.name, weights=None, **self.arguments)
            case "timm":
                timm = optional("timm")
                known_name(self.name.partition(".")[0], timm.list_models(), library="timm")
                return timm.create_model(self.name, pretrained=False, **self.arguments)
            case "transformers":
                transformers = optional("transformers")
                config = transformers.AutoConfig.for_model(self.name, **self.arguments)
                return LogitsOnly(transformers.AutoModelForImageClassification.from_config(config))
            case _:
                return _function(self.name)(**self.arguments)


def optional(module: str) -> Any:  # noqa: ANN401 - of a package that may be missing
    """A module of a package that may not be installed.

    Raises:
        ConfigError: it is not; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        extra = _LIBRARIES.get(package, "hub")
        raise ConfigError(
            f"this classifier needs the package {package!r}, which is not installed;"
            f" install verisal with the extra {extra!r}: verisal[{extra}]"
        ) from error


def known_name(name: str, known: Sequence[str], *, library: str) -> None:
    """Raise unless a library has a model of this name.

    Raises:
        ConfigError: with the nearest names.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or list(known[:5])
    raise ConfigError(
        f"{library} has no model {name!r}; nearest of its {len(known)} names: {', '.join(near)}"
    )


def _function(name: str) -> Any:  # noqa: ANN401 - whatever a user names
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"factory {name!r} cannot be imported ({error}); write package.module:function, of a package that"
            " is installed or lies in a folder on PYTHONPATH"
        ) from error
