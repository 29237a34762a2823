"""Networks by the library that builds them: what a card may name, and how it is built without any weights."""

from __future__ import annotations

import difflib
import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.errors import CheckpointError, ConfigError
from verisal.functional.outputs import logits_of
from verisal.models._stages import usable_stages
from verisal.models.sources.weights import fit_states, read_states
from verisal.progress import at_work, doing
from verisal.types import OutputKind

# Arguments with which a constructor would read files or the network by itself.
_LOADING = ("pretrained", "weights", "checkpoint", "cache", "file", "url", "hf_hub", "progress")
_SEED = 0


_IMAGENET_CLASSES = 1000


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
    """Builder of a network, and its settings.

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
    """A module of a package; ``ConfigError`` names the extra that brings it where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this classifier needs the package {module.partition('.')[0]!r}, which is not installed;"
            " install verisal with the extra 'hub': verisal[hub]"
        ) from error


def known_name(name: str, known: Sequence[str], *, library: str) -> None:
    """Raise ``ConfigError``, with the nearest names, unless a library has a model of this name."""
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


@dataclass(frozen=True)
class Built:
    """A network with its weights, and what is known about it; None where nobody tells.

    Attributes:
        network: normalised images to logits.
        architecture: what builds it again, where that is a library or a function.
        image_size: side, or (height, width), in pixels.
        mean: per channel, in units of [0, 1], or of the bounds.
        std: per channel, in the same units.
        bounds: least and greatest value that the network takes; None for [0, 1].
        channels: that it takes; None to look for them.
        class_names: in the order of the logits.
        stages: in running order; empty to look for them.
        output: how logits become probabilities.
        seen_images: of :class:`Classifier`.
    """

    network: nn.Module
    architecture: Architecture | None = None
    image_size: int | Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    bounds: tuple[float, float] | None = None
    channels: int | None = None
    class_names: Sequence[str] | None = None
    stages: Sequence[str] = ()
    output: OutputKind = "softmax"
    seen_images: Mapping[str, Tensor] = field(default_factory=dict)

    __repr__ = brief


def imagenet_names() -> list[str]:
    """The names of the 1000 classes, one word or phrase each, all different."""
    models = optional("torchvision.models")
    return list(models.ResNet18_Weights.DEFAULT.meta["categories"])


def torchvision_name(name: str) -> list[str]:
    """``torchvision:NAME`` alone, where torchvision has a classifier of that name; else nothing."""
    models = optional("torchvision.models")
    return [f"torchvision:{name}"] if name in models.list_models(module=models) else []


def from_torchvision(
    name: str, weights: str | None, arguments: Mapping[str, Any], class_names: Sequence[str] | None
) -> Built:
    """A model of ``torchvision.models``; ``weights`` may also be the name of one of its weights."""
    models = optional("torchvision.models")
    known_name(name, models.list_models(module=models), library="torchvision")
    choices = models.get_model_weights(name)
    own = choices.DEFAULT if weights == "default" else choices.__members__.get(weights or "")
    architecture = Architecture("torchvision", name, _sized(arguments, class_names, own is not None))
    told = own or choices.DEFAULT
    preset = told.transforms()
    if own is None:
        network = _with_file(architecture, weights, class_names)
    else:

        def load() -> nn.Module:
            # Read as tensors first: torchvision itself would run code in a file that lies in its cache.
            own.get_state_dict(progress=False, check_hash=True, weights_only=True)
            return models.get_model(name, weights=own, progress=False, **architecture.arguments)  # type: ignore[no-any-return]

        network = _fetched(load, name)
    names = told.meta["categories"] if _count(architecture) == len(told.meta["categories"]) else None
    size = architecture.arguments.get("image_size", preset.crop_size[0])
    return Built(network, architecture, size, preset.mean, preset.std, class_names=names)


def from_timm(
    name: str, weights: str | None, arguments: Mapping[str, Any], class_names: Sequence[str] | None
) -> Built:
    """A model of timm; stages are those of its feature information."""
    timm = optional("timm")
    known_name(name.partition(".")[0], timm.list_models(), library="timm")
    own = weights == "default"
    architecture = Architecture("timm", name, _sized(arguments, class_names, own))
    if own:
        network = _fetched(lambda: timm.create_model(name, pretrained=True, **architecture.arguments), name)
    else:
        network = _with_file(architecture, weights, class_names)
    made: Any = network
    config, count = made.pretrained_cfg, made.num_classes
    names = config.get("label_descriptions") or config.get("label_names")
    if isinstance(names, Mapping):
        names = [names[key] for key in config.get("label_names") or names]
    if names is None and count == _IMAGENET_CLASSES:
        names = imagenet_names()
    if names is not None and len(names) != count:
        names = None
    size = architecture.arguments.get("img_size", config["input_size"][-1])
    info = made.feature_info
    named = [entry.get("module", "") for entry in (info if isinstance(info, list) else info.info)]
    stages = usable_stages(network, named, size)
    mean, std = config["mean"], config["std"]
    return Built(network, architecture, size, mean, std, class_names=names, stages=stages)


def from_factory(
    name: str, weights: str | None, arguments: Mapping[str, Any], class_names: Sequence[str] | None
) -> Built:
    """The network that a user's function builds, which may bring its own weights."""
    architecture = Architecture("factory", name, dict(arguments))
    if weights in ("default", None):
        return Built(architecture.build(), architecture)
    return Built(_with_file(architecture, weights, class_names), architecture)


def from_transformers(
    name: str, weights: str | None, arguments: Mapping[str, Any], class_names: Sequence[str] | None
) -> Built:
    """An image classifier in the format of the transformers package, from a folder or its hub."""
    transformers = optional("transformers")
    folder = _folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **arguments)
        made = Architecture("transformers", config.model_type, _plain_config(config.to_json_string()))
        if weights == "default":
            model = transformers.AutoModelForImageClassification.from_pretrained(
                folder, config=config, trust_remote_code=False, use_safetensors=True
            )
            network: nn.Module = LogitsOnly(model)
        else:
            network = _with_file(made, weights, class_names)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} holds no image classifier that transformers can load: {error}"
        ) from error
    names = [config.id2label[index] for index in range(config.num_labels)]
    size = getattr(config, "image_size", None)
    several = config.problem_type == "multi_label_classification"
    built = Built(
        network,
        made,
        size if isinstance(size, int) else None,
        class_names=names,
        output="sigmoid" if several else "softmax",
    )
    return _with_preprocessor(built, folder / "preprocessor_config.json")


def _with_preprocessor(built: Built, path: Path) -> Built:
    if not path.is_file():
        return built
    settings = json.loads(path.read_text(encoding="utf-8"))
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    if settings.get("do_normalize", True):
        mean, std = settings.get("image_mean"), settings.get("image_std")
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    return replace(built, image_size=size or built.image_size, mean=mean, std=std)


def _folder(name: str) -> Path:
    """A local folder, or a copy of a repository's cards and safetensors; nothing that could hold code."""
    if Path(name).is_dir():
        return Path(name)
    hub = optional("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    # The hub's errors have no common base but this one and those of the connection below it.
    except Exception as error:
        raise ConfigError(
            f"hf:{name} is no local folder and could not be fetched from the hub ({error});"
            " check the name and the connection, or give the path of a downloaded folder"
        ) from error


def _plain_config(text: str) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(text)
    for name in ("model_type", "auto_map", "architectures", "transformers_version"):
        plain.pop(name, None)
    return plain


def _fetched(load: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        # Each attempt to reach a hub would be a line of its own, before the error that says it once.
        told = doing(f"loading the weights of {name}", shown=at_work(), lines=False)
        with _saying_errors_alone("huggingface_hub", "timm"), told:
            return load()
    # Each library has its own errors for a network that is not there.
    except Exception as error:
        raise ConfigError(
            f"the weights of {name} could not be loaded by its library ({type(error).__name__}: {error});"
            " check the connection, or give the path of a downloaded file as weights"
        ) from error


@contextmanager
def _saying_errors_alone(*libraries: str) -> Iterator[None]:
    loggers = [logging.getLogger(library) for library in libraries]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _with_file(
    architecture: Architecture, weights: str | None, class_names: Sequence[str] | None
) -> nn.Module:
    """A network with the weights of a local file, or with random ones where there is no file."""
    states = read_states(weights) if weights is not None else None
    network = architecture.build()
    if states is not None:
        # Who saves a network of transformers does not know of the shell around it here.
        inner = network.model if isinstance(network, LogitsOnly) else network
        names = class_names or _names(architecture)
        fit_states(inner, states, source=weights, class_names=names)
    return network


def _sized(
    arguments: Mapping[str, Any], class_names: Sequence[str] | None, own_weights: bool
) -> dict[str, Any]:
    """Constructor arguments with the number of classes, where the weights do not decide it."""
    count = {} if class_names is None or own_weights else {"num_classes": len(class_names)}
    return {**count, **arguments}


def _count(architecture: Architecture) -> int:
    return int(architecture.arguments.get("num_classes", _IMAGENET_CLASSES))


def _names(architecture: Architecture) -> list[str]:
    """Names of the classes as far as they are known before the network is asked."""
    labels = architecture.arguments.get("id2label")
    if isinstance(labels, Mapping):
        return [str(label) for label in labels.values()]
    if architecture.library not in ("torchvision", "timm"):
        return []
    count = _count(architecture)
    return imagenet_names() if count == _IMAGENET_CLASSES else [str(index) for index in range(count)]
