"""What is explained: a part of somebody's module, found, and proven on what the module itself computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from verisal.callbacks.formats.batches import Read, Reader, as_batch, read
from verisal.callbacks.subject.choosing import called_part, name_of, obvious_part
from verisal.callbacks.subject.classes import classes_in
from verisal.callbacks.subject.normalising import NONE, combined, found_in, measured, of_loader, shown
from verisal.callbacks.subject.parts import FORWARD, Answer, Explains, part_of
from verisal.callbacks.subject.watching import Call
from verisal.errors import ConfigError
from verisal.functional.networks import plain_network
from verisal.functional.outputs import ask
from verisal.functional.scopes import scoring
from verisal.models import Bounds, Classifier, Normalization, Target, targeted
from verisal.types import AnyClassifier, Batch, HasClassifier, OutputKind, StagedClassifier

_PROVEN = 4
OWN = "classifier"
"""The task's own classifier, which takes images in [0, 1]."""


@dataclass(frozen=True)
class Told:
    """What a project says about what is explained; None where nothing is said.

    Attributes:
        explains: path of the part that gives logits, ``forward``, or a function of module and images.
        normalization: that the loader has applied, as :meth:`.Normalization.of` takes it.
        bounds: least and greatest value of the loader's images before that.
        stages: names of the stages in the part.
        class_names: in the order of the logits.
        output: what the logits are.
        target: the score that is explained in the place of classes.
        batch: reads a batch of the loader.
    """

    explains: str | Explains | None = None
    normalization: Any = None
    bounds: tuple[float, float] | None = None
    stages: Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    output: OutputKind | None = None
    target: Target | None = None
    batch: Reader | None = None

    def read(self, raw: object) -> Read:
        """A batch of the loader as it is; its labels need not be classes where a target is asked about."""
        several, labelled = self.output == "sigmoid", self.target is None
        names = self.class_names
        return read(raw, self.batch, class_names=names, several=several, labelled=labelled)


def told_by(owners: Sequence[object]) -> Told:
    """What several callbacks say together.

    Raises:
        ConfigError: two say something else.
    """
    said: dict[str, object] = {}
    by: dict[str, str] = {}
    for owner in owners:
        for item in fields(Told):
            value = getattr(owner, item.name)
            if value is None:
                continue
            who = type(owner).__name__
            if item.name in said and not _equal(said[item.name], value):
                raise ConfigError(
                    f"{by[item.name]} says {item.name}={said[item.name]!r} and {who} says"
                    f" {item.name}={value!r}; say it once, it holds for all callbacks of the trainer"
                )
            said.setdefault(item.name, value)
            by.setdefault(item.name, who)
    return Told(**said)  # type: ignore[arg-type]  # of the same fields


@dataclass(frozen=True)
class Finding:
    """What was found out about a module and its loader, the same on all processes.

    Attributes:
        explains: what one types for the part; empty for a function of the user's.
        loader: what the loader has applied to images in [0, 1].
        network: what is applied to images in [0, 1] before the part gets them.
        logits: per image, as they were seen; 0 where nothing was seen.
        class_names: as told or as the loader's data sets say; None where nobody does.
    """

    explains: str
    loader: Normalization
    network: Normalization
    logits: int = 0
    class_names: tuple[str, ...] | None = None

    def told(self, module: LightningModule) -> str:
        """What is explained in a sentence; empty for a task's own classifier."""
        if self.explains == OWN and isinstance(module, HasClassifier):
            return ""
        what = f"{self.explains!r} of {type(module).__name__}" if self.explains else "the function explains="
        count = f" by its {self.logits} logits" if self.logits else ""
        given = f"normalised by {shown(self.loader)}" if self.loader != NONE else "not normalised"
        return f"maps are those of {what}{count}; the loader's images are taken as {given}"


@final
class Subject:
    """A module's part as a classifier of images in [0, 1], and the loader's batches in [0, 1].

    Args:
        module: holds the part.
        told: by the user.
        finding: about both.
    """

    def __init__(self, module: LightningModule, told: Told, finding: Finding) -> None:
        self._module, self._told, self.finding = module, told, finding
        self._classifier: Classifier | None = None
        self._target: tuple[AnyClassifier, AnyClassifier] | None = None

    @property
    def classifier(self) -> Callable[[Tensor], Tensor]:
        """Maps images in [0, 1] to logits; made anew when the module has replaced the part."""
        if self.finding.explains == OWN and isinstance(self._module, HasClassifier):
            return self._aimed(_built(self._module.classifier, self._module))
        return self._aimed(self._of_part())

    def _aimed(self, classifier: AnyClassifier) -> AnyClassifier:
        """The classifier as it is asked for a target, made once."""
        if self._told.target is None:
            return classifier
        if self._target is None or self._target[0] is not classifier:
            self._target = classifier, targeted(classifier, self._told.target)
        return self._target[1]

    def _of_part(self) -> Classifier:
        told = self._told.explains
        explains = told if told is not None and not isinstance(told, str) else self.finding.explains
        kept = self._classifier.network if self._classifier is not None else None
        if isinstance(kept, Answer) and kept.is_of(self._module):
            return self._classifier  # type: ignore[return-value]  # there is one
        part = part_of(self._module, explains)
        if self._classifier is None or kept is not plain_network(part):
            with torch.inference_mode(mode=False):
                self._classifier = self._made(part)
        return self._classifier

    def _made(self, part: nn.Module) -> Classifier:
        told = self._told
        classifier = Classifier(
            part,
            told.stages,
            bounds=told.bounds,
            normalization=_in_units(self.finding.network, told),
            class_names=self.finding.class_names,
            output=told.output or "softmax",
        )
        # Alone: the network is where its trainer wants it.
        classifier.mean, classifier.std = (
            values.to(self._module.device) for values in (classifier.mean, classifier.std)
        )
        return classifier

    def read(self, raw: object) -> Read:
        """A batch of the loader as it is."""
        return self._told.read(raw)

    def batch(self, given: Read) -> Batch:
        """A batch in [0, 1]."""
        return as_batch(given, self.finding.loader, bounds=_bounds(self._told))

    def batch_of(self, raw: object) -> Batch:
        """A batch of the loader in [0, 1]."""
        return self.batch(self.read(raw))


def find(
    module: LightningModule,
    told: Told,
    raw: object,
    *,
    calls: Sequence[Call],
    datasets: Sequence[object],
    tolerance: float,
) -> Finding:
    """What is explained, from one batch and what the module did with it.

    Args:
        module: of the user.
        told: by the user.
        raw: the loader's batch.
        calls: of the module's parts in its step on this batch.
        datasets: of the loaders.
        tolerance: largest difference of logits that is rounding, as a share of their spread.

    Raises:
        ConfigError: nothing was found, or more than one answer, or what was found does not hold.
        DataError: a batch that cannot be read.
    """
    given = told.read(raw)
    if told.explains is None and _has_own(module, given):
        return Finding(OWN, NONE, NONE)
    explains, call = _part(module, told, given, calls)
    applied: Normalization | None = NONE
    if call is not None:
        applied = measured(given.pixels, call.given)
    if applied is None:
        raise ConfigError(_changed(module, explains, given, call))
    bounds, said = _bounds(told), None
    if bounds is not None or told.normalization is not None:
        said = Normalization.of(told.normalization, bounds=bounds)
    found = None if given.batch is not None or told.batch is not None else found_in(datasets)
    loader = of_loader(given, said, found, applied, bounded=bounds is not None)
    width = 0 if call is None else call.logits.shape[1]
    network = combined(loader, applied, given.images.shape[1])
    finding = Finding(explains, loader, network, width, _class_names(told, width, datasets))
    if call is not None:
        # A target's score is not what the module's step has computed; what that has may be of any kind.
        plain = told if told.target is None else replace(told, target=None, output="score")
        _prove(Subject(module, plain, finding), given, call, tolerance)
    return finding


def _class_names(told: Told, logits: int, datasets: Sequence[object]) -> tuple[str, ...] | None:
    if told.class_names is None:
        return classes_in(datasets, logits)
    names = tuple(told.class_names)
    if logits and len(names) != logits:
        raise ConfigError(
            f"class_names= holds {len(names)} names ({', '.join(map(str, names[:5]))}), and what is explained"
            f" gives {logits} logits; give one name per logit"
        )
    return names


def _in_units(network: Normalization, told: Told) -> Normalization:
    """Of images in [0, 1], as a classifier with or without bounds is told."""
    bounds = _bounds(told)
    return network if bounds is None else network.outside(bounds)


def _bounds(told: Told) -> Bounds | None:
    return None if told.bounds is None else Bounds.of(told.bounds)


def _has_own(module: LightningModule, given: Read) -> bool:
    """True for a task of verisal's kind; others may call their last layer ``classifier``."""
    if not isinstance(module, HasClassifier):
        return False
    if isinstance(module.classifier, StagedClassifier):
        return True
    if given.batch is None:
        return False
    classifier = _built(module.classifier, module)
    try:
        with torch.inference_mode(mode=False), scoring(classifier, given.images.device):
            ask(classifier, given.images[:1], allow_nan=True)
    except Exception:  # a head takes no images
        return False
    return True


def _built(
    classifier: Callable[[Tensor], Tensor] | None, module: LightningModule
) -> Callable[[Tensor], Tensor]:
    if classifier is None:
        raise ConfigError(
            f"{type(module).__name__}.classifier is None when an evaluation begins; build it in"
            " __init__ or configure_model"
        )
    return classifier


def _part(module: LightningModule, told: Told, given: Read, calls: Sequence[Call]) -> tuple[str, Call | None]:
    """What one types for the part, and the call of it that was seen."""
    explains = told.explains
    if explains is not None and not isinstance(explains, str):
        return "", None
    if explains is not None:
        part_of(module, explains)
        path = "" if explains == FORWARD else explains
        seen = (call for call in calls if call.path == path and call.of_images)
        return explains, next(seen, None)

    def fits(call: Call) -> bool:
        return measured(given.pixels, call.given) is not None

    call = obvious_part(calls, given.labels, module, fits)
    if call is not None:
        return name_of(call.path), call
    return called_part(module, given.pixels, given.labels), None


def _changed(module: LightningModule, explains: str, given: Read, call: Call | None) -> str:
    got = tuple(call.given.shape) if call is not None else ()
    return (
        f"{type(module).__name__} changes the loader's images {tuple(given.images.shape)} before"
        f" {explains!r} gets them ({got}) by more than a normalisation; give explains= a function"
        " f(module, images) -> logits that takes the loader's images, or batch= a function that gives the"
        " images that the part gets"
    )


def _prove(subject: Subject, given: Read, call: Call, tolerance: float) -> None:
    """Raise unless the classifier gives the logits that the module's step computed."""
    classifier = subject.classifier
    pixels = given.pixels[:_PROVEN]
    images = pixels if given.eight_bit else subject.finding.loader.undo(pixels)
    with torch.inference_mode(mode=False), scoring(classifier, images.device):
        logits = ask(classifier, images, allow_nan=True)
    expected = call.logits[:_PROVEN].to(logits)
    spread = max(1.0, float(expected.abs().max()))
    difference = float((logits - expected).abs().max())
    if not difference <= tolerance * spread:
        raise ConfigError(
            f"{subject.finding.explains!r} gave other logits in the evaluation's step than it gives for"
            f" the same images again, by {difference:.3g} of {spread:.3g}; leave out random parts and"
            " training mode there, or give explains= a function f(module, images) -> logits"
        )


def _equal(one: object, other: object) -> bool:
    if one is other:
        return True
    same = one == other
    return same if isinstance(same, bool) else False
