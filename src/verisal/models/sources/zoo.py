"""Classifiers by name or path, and how one is written to a file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from verisal._checks import as_tuples
from verisal.checkpoint import IMAGES_KEY, load_export, save_export, trained_file
from verisal.errors import CheckpointError, ConfigError
from verisal.functional.networks import plain_network
from verisal.functional.outputs import logits_of
from verisal.models._layout import InputShape, both_sides, evaluating
from verisal.models._told import check_network
from verisal.models.bounds import UNIT, Bounds
from verisal.models.classifier import Classifier
from verisal.models.normalization import Normalization
from verisal.models.sources.libraries import (
    Architecture,
    Built,
    from_factory,
    from_timm,
    from_torchvision,
    from_transformers,
    torchvision_name,
)
from verisal.models.sources.shipped import IMAGENET_CLASSIFIERS, SmallResNet, imagenet_classifier
from verisal.models.sources.trained import from_run
from verisal.models.sources.weights import fit_weights, load_named
from verisal.types import OutputKind, check_range


def shipped_classifiers() -> tuple[str, ...]:
    """Names of the classifiers whose weights are inside the package."""
    folder = resources.files("verisal") / "weights"
    names = (Path(str(item)).stem for item in folder.iterdir() if item.name.endswith(".safetensors"))
    return tuple(sorted(name for name in names if not name.endswith("_masks")))


@final
@dataclass(frozen=True, kw_only=True)
class ClassifierSource:
    """Source of a classifier, and settings that replace those of the source.

    Attributes:
        name: a shipped name; ``imagenet_efficientnet_lite0`` (extra ``imagenet``) or
            ``imagenet_efficientnet_lite1`` (extra ``imagenet-lite1``); the folder of an export, or its
            ``.safetensors`` file with the card beside it; the folder of a run that trained a classifier, or
            a checkpoint of it; ``torchvision:NAME``; ``timm:NAME``; ``hf:ORG/NAME`` or ``hf:FOLDER``; or
            ``package.module:function``, which returns an ``nn.Module``.
        weights: ``default`` for those of the library, by its own loader; the path of a state dict
            (safetensors, or a pickle of tensors only); for torchvision also the name of one of its weights;
            None for random ones, the same each time.
        arguments: keyword arguments of the network's constructor, plain data.
        factory: for exports whose network a function of yours built: ``package.module:function``. Files
            name it but never import it.
        stages: modules whose outputs methods read and gate, in running order; found by themselves where
            nothing is given.
        class_names: one per logit, or the path of a text file with one per line. Numbers where nobody
            tells.
        image_size: side, or (height, width), in pixels.
        channels: that the network takes; those of ``mean`` or of its first convolution where nothing is
            given.
        bounds: least and greatest value of what the network takes; [0, 1] where nothing is given. With them,
            ``mean`` and ``std`` are in units of these values, and 0 and 1 where they are not given.
        mean: per channel, or one number for all, subtracted from images in [0, 1].
        std: per channel, or one number for all, by which they are divided.
        output: ``softmax``, or ``sigmoid`` for networks for several labels or with one logit, see
            :class:`Classifier`; what the source says, else ``softmax``, where nothing is given.
    """

    name: str
    weights: str | None = "default"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    factory: str | None = None
    stages: Sequence[str] | None = None
    class_names: Sequence[str] | str | None = None
    image_size: int | tuple[int, int] | None = None
    channels: int | None = None
    bounds: tuple[float, float] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    output: OutputKind | None = None

    def __post_init__(self) -> None:
        as_tuples(self)
        if isinstance(self.class_names, str):
            object.__setattr__(self, "class_names", _read_names(self.class_names))
        for name in ("class_names", "stages"):
            if (value := getattr(self, name)) is not None and not value:
                raise ConfigError(f"{name} is empty; name them, or leave {name} out")
        check_range(1, image_size=self.image_size, channels=self.channels)
        if self.image_size is not None:
            both_sides(self.image_size)
        Bounds.of(self.bounds)
        count = len(self.mean or self.std or (0.0,))
        told = Normalization(tuple(self.mean or (0.0,) * count), tuple(self.std or (1.0,) * count))
        if self.channels is not None:
            told.over(self.channels)

    def load(self) -> Classifier:
        """A frozen classifier in eval mode.

        Raises:
            ConfigError: no such name or file; a library that is not installed; a setting that does not fit.
            CheckpointError: weights that are damaged or do not fit.
        """
        return self._finished(self._built())

    def _built(self) -> Built:
        library, _, name = self.name.partition(":")
        names = None if self.class_names is None else tuple(self.class_names)
        if (file := _own_file(self.name)) is not None:
            self._refuse_weights()
            return from_run(file) if file.suffix == ".ckpt" else _from_export(file, self.factory)
        if self.name in IMAGENET_CLASSIFIERS:
            self._refuse_weights()
            return imagenet_classifier(self.name)
        if not name:
            known = [*shipped_classifiers(), *IMAGENET_CLASSIFIERS]
            near = difflib.get_close_matches(self.name, known, n=1) or torchvision_name(self.name)
            raise ConfigError(
                f"unknown classifier {self.name!r}{f'; did you mean {near[0]!r}?' if near else ''}; known:"
                f" {', '.join(known)}, torchvision:NAME, timm:NAME, hf:ORG/NAME,"
                " package.module:function,"
                " or the path of a run or an export"
            )
        match library:
            case "torchvision":
                return from_torchvision(name, self.weights, self.arguments, names)
            case "timm":
                return from_timm(name, self.weights, self.arguments, names)
            case "hf":
                return from_transformers(name, self.weights, self.arguments, names)
            case _:
                return from_factory(self.name, self.weights, self.arguments, names)

    def _refuse_weights(self) -> None:
        if self.weights != "default" or self.arguments:
            raise ConfigError(
                f"{self.name} has weights and arguments of its own; leave weights and arguments out, or name"
                " the classifier that they are for, such as torchvision:resnet18"
            )

    def _finished(self, built: Built) -> Classifier:
        size = self.image_size or built.image_size
        if size is None:
            raise ConfigError(f"the image size of {self.name} is not known; give image_size, in pixels")
        network = plain_network(built.network).requires_grad_(False)
        bounds = self.bounds or built.bounds
        mean, std = self.mean or built.mean, self.std or built.std
        if self.bounds is not None:
            # What the source says is in other units.
            mean, std = self.mean or (0.0,), self.std or (1.0,)
        if mean is None or std is None:
            raise ConfigError(
                f"it is not known how {self.name} normalises images; give mean and std, one number for all"
                " channels or one for each, in units of [0, 1] (mean [0] and std [1] where the network takes"
                " them as they are)"
            )
        classifier = Classifier(
            network,
            self.stages or built.stages or None,
            normalization=(mean, std),
            class_names=self.class_names or built.class_names,
            image_size=size,
            channels=self.channels or built.channels,
            bounds=bounds,
            output=self.output or built.output,
            architecture=built.architecture,
        )
        classifier.seen_images = built.seen_images
        # One pass: a size that the network does not take, or a single logit, is said at once.
        _ = classifier.num_classes
        return classifier.eval().requires_grad_(False)


def _read_names(path: str) -> list[str]:
    """One name per line of a file."""
    remedy = "give names, or a text file with one per line"
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ConfigError(f"class_names: {path} does not exist; {remedy}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"class_names: {path} cannot be read ({reason}); {remedy}") from None
    return [line.strip() for line in lines if line.strip()]


def load_classifier(
    name: str | Path | ClassifierSource | nn.Module,
    *,
    normalization: object = None,
    **overrides: Any,  # noqa: ANN401 - the attributes of ClassifierSource check them
) -> Classifier:
    """A classifier: from a name frozen and in eval mode, around a network of yours with that as it is.

    Args:
        name: as of :class:`ClassifierSource`, one of these, or a network, which may be in training.
        normalization: between images in [0, 1] and the network: whatever :meth:`.Normalization.of` takes, in
            place of ``mean`` and ``std``. For a network that does not say it, one of the two is needed.
        overrides: the other attributes of :class:`ClassifierSource`; for a network ``stages``,
            ``class_names``, ``image_size``, ``channels``, ``bounds``, ``mean``, ``std`` and ``output``.

    Raises:
        ConfigError: no such name or file; a library that is not installed; a setting that does not fit.
        CheckpointError: weights that are damaged or do not fit.

    >>> classifier = load_classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), normalization="none")
    >>> classifier(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 5])
    """
    if normalization is not None:
        if "mean" in overrides or "std" in overrides:
            raise ConfigError("normalization is mean and std in one; give either")
        # In units of the bounds, where these are given, so that no number is too large.
        told = Normalization.of(normalization, bounds=UNIT if overrides.get("bounds") else None)
        overrides |= {"mean": told.mean, "std": told.std}
    if isinstance(name, (ClassifierSource, Classifier)):
        if overrides:
            raise ConfigError(
                f"a {type(name).__name__} has all settings inside, found also {sorted(overrides)}"
            )
        return name.load() if isinstance(name, ClassifierSource) else name
    if isinstance(name, Path):
        name = str(name)
    if not isinstance(name, str):
        check_network(name)
    known = [item.name for item in fields(ClassifierSource) if item.name != "name"]
    if isinstance(name, nn.Module):
        known = [each for each in known if each not in ("weights", "arguments", "factory")]
    if unknown := sorted(set(overrides) - set(known)):
        raise ConfigError(
            f"a classifier has no settings {unknown}; known: {', '.join(['normalization', *known])}"
        )
    if not isinstance(name, nn.Module):
        return ClassifierSource(name=name, **overrides).load()
    # What a source checks and reads from files, it does so for a network too.
    settings = ClassifierSource(name=type(name).__name__, **overrides)
    if (settings.mean is None) != (settings.std is None):
        raise ConfigError("mean and std belong together; give both, or normalization")
    return Classifier(
        name,
        settings.stages,
        normalization=None if settings.mean is None else (settings.mean, settings.std),
        class_names=settings.class_names,
        image_size=settings.image_size,
        channels=settings.channels,
        bounds=settings.bounds,
        output=settings.output,
    )


def export_classifier(path: Path | str, classifier: Classifier, *, origin: Mapping[str, Any]) -> None:
    """Write a classifier as safetensors and a card, from which :func:`load_classifier` builds it again.

    In a :class:`SmallResNet`, batch normalisation is folded into the convolutions.

    Args:
        path: ends in ``.safetensors``; a JSON card is written beside it.
        classifier: around a :class:`SmallResNet`, or one that :func:`load_classifier` gave.
        origin: where the weights come from (config, accuracy), plain data for the card.

    Raises:
        ConfigError: a network of which nobody knows how it is built again.
    """
    network = classifier.network
    if isinstance(network, SmallResNet):
        network = network if network.folded else network.fold()
        built_by: dict[str, Any] = {"network": "SmallResNet", "widths": list(network.widths)}
        built_by |= {"blocks": network.blocks, "stem_stride": network.stem_stride}
    elif classifier.architecture is not None:
        architecture = classifier.architecture
        _check_rebuilds(classifier, architecture)
        built_by = {"network": architecture.library, "architecture": architecture.name}
        built_by["arguments"] = dict(architecture.arguments)
    else:
        raise ConfigError(
            f"nobody knows how this {type(network).__name__} is built again; load it by load_classifier,"
            " a network of your own as 'package.module:function', or give Classifier its architecture"
        )
    card = {
        **built_by,
        "stages": list(classifier.stages),
        "class_names": list(classifier.class_names),
        "image_size": side_or_both(classifier),
        "bounds": [classifier.bounds.low, classifier.bounds.high],
        "channels": classifier.channels,
        "mean": classifier.mean.flatten().tolist(),
        "std": classifier.std.flatten().tolist(),
        "output": classifier.output,
        "origin": dict(origin),
        IMAGES_KEY: classifier.seen_images,
    }
    save_export(path, _copies(network), card)


def side_or_both(classifier: Classifier) -> int | list[int]:
    """Side of square images in pixels, height and width of others, as cards of files say it."""
    height, width = classifier.height_and_width
    return height if height == width else [height, width]


def _copies(network: nn.Module) -> dict[str, Tensor]:
    """Tensors that share no memory, which safetensors asks for."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def _check_rebuilds(classifier: Classifier, architecture: Architecture) -> None:
    """Raise unless what the card will say gives the same logits, so that no export is found useless later."""
    network = classifier.network
    twin = architecture.build()
    try:
        load_named(twin, _copies(network))
    except RuntimeError as error:
        raise ConfigError(
            f"{architecture.name} with {dict(architecture.arguments)} has other weights than this classifier:"
            f" {error}; name the arguments with which it was built"
        ) from error
    blank = InputShape.of(network, classifier.height_and_width, classifier.channels).blank(network)
    image = torch.rand(blank.shape, generator=torch.Generator().manual_seed(0)).to(blank)
    twin, count = twin.to(blank).eval(), classifier.num_classes
    with torch.no_grad(), evaluating(network):
        ours, theirs = (logits_of(each(image.clone()), 1, classes=count) for each in (twin, network))
        same = torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    if not same:
        raise ConfigError(
            f"{architecture.name} with {dict(architecture.arguments)} gives other logits than this classifier"
            " with the same weights; name the arguments with which it was built"
        )


def _own_file(name: str) -> Path | None:
    """The checkpoint or export behind a name; None for the name of something else."""
    if name in shipped_classifiers():
        return Path(str(resources.files("verisal") / "weights" / f"{name}.safetensors"))
    path = Path(name)
    if path.suffix == ".safetensors":
        return path
    return trained_file(path) if path.suffix == ".ckpt" or path.is_dir() else None


def _from_export(path: Path, factory: str | None) -> Built:
    tensors, card = load_export(path)
    try:
        names, size = card["class_names"], card["image_size"]
        architecture, network = _network_of(path, card, factory)
        bounds = Bounds.of(card.get("bounds"))
        told = {key: card[key] for key in ("mean", "std", "stages")}
        if bounds != UNIT:
            # The card has them in units of [0, 1].
            units = Normalization(tuple(told["mean"]), tuple(told["std"])).outside(bounds)
            told["mean"], told["std"] = units.mean, units.std
            told["bounds"] = (bounds.low, bounds.high)
    except KeyError as error:
        raise CheckpointError(f"{path} is no classifier export: its card has no {error}") from None
    fit_weights(network, tensors, source=path, class_names=names)
    told |= {"output": card.get("output", "softmax"), "seen_images": card.get(IMAGES_KEY, {})}
    told["channels"] = card.get("channels")
    return Built(network, architecture, size, class_names=names, **told)


def _network_of(
    path: Path, card: Mapping[str, Any], factory: str | None
) -> tuple[Architecture | None, nn.Module]:
    """The network of a card; a function that it names is imported only if the user names one too."""
    kind = card.get("network")
    if kind == "SmallResNet":
        count = len(card["class_names"])
        # What older cards do not say is that of RGB images of many pixels.
        given = {"channels": card.get("channels") or 3, "stem_stride": card.get("stem_stride", 2)}
        return None, SmallResNet(count, widths=card["widths"], blocks=card["blocks"], folded=True, **given)
    if kind not in ("torchvision", "timm", "transformers", "factory"):
        raise CheckpointError(f"{path} is no classifier export: its card names {kind!r}")
    arguments = card["arguments"]
    if kind == "factory" and factory is None:
        raise ConfigError(
            f"this export's network was built by {card['architecture']!r}, and files never decide what is"
            f" imported; name the function yourself: factory={card['architecture']!r}, if you trust it"
        )
    architecture = Architecture(kind, str(factory if kind == "factory" else card["architecture"]), arguments)
    return architecture, architecture.build()
