"""Scores other than the logit of a class: what a map explains instead, by a name or by any function."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal._brief import brief
from verisal.errors import ConfigError
from verisal.fingerprint import fingerprint
from verisal.functional.networks import plain_network
from verisal.functional.outputs import logits_of, output_of, probabilities
from verisal.functional.per_image import PerImage
from verisal.models.classifier import Classifier
from verisal.models.function_network import PREFIX, Wrapper
from verisal.types import AnyClassifier, OutputKind, check_range

Target = Callable[[Any], Tensor]
"""What the network returned for B images to one score each, ``(B,)``."""


@runtime_checkable
class _PerRow(Protocol):
    """A target that may be another one for each image."""

    @property
    def rows(self) -> int | None: ...

    def of_row(self, index: int) -> Target: ...


@final
@dataclass(frozen=True)
class ClassLogit:
    """The logit of one class whatever is predicted, or one of the numbers of a regression network.

    Attributes:
        index: of the logit.
    """

    index: int

    def __post_init__(self) -> None:
        check_range(0, index=self.index)

    def __call__(self, outputs: object) -> Tensor:
        """``(B,)`` of what holds logits ``(B, K)``."""
        return _column(logits_of(outputs), self.index, "ClassLogit")


@final
@dataclass(frozen=True)
class Probability:
    """The probability of one class, in [0, 1].

    Attributes:
        index: of the class.
        output: how logits become probabilities; None for what the network says, a softmax as a rule.
    """

    index: int
    output: OutputKind | None = None

    def __post_init__(self) -> None:
        check_range(0, index=self.index)

    def __call__(self, outputs: object) -> Tensor:
        """``(B,)`` of what holds logits ``(B, K)``."""
        logits = logits_of(outputs)
        _column(logits, self.index, "Probability")
        return probabilities(logits, self.output or "softmax")[:, self.index]


@final
@dataclass(frozen=True)
class Contrast:
    """The logit of one class minus that of another: why the one rather than the other.

    Attributes:
        index: of the class that the score speaks for.
        other: of the class that it speaks against.
    """

    index: int
    other: int

    def __post_init__(self) -> None:
        check_range(0, index=self.index, other=self.other)

    def __call__(self, outputs: object) -> Tensor:
        """``(B,)`` of what holds logits ``(B, K)``."""
        logits = logits_of(outputs)
        return _column(logits, self.index, "Contrast") - _column(logits, self.other, "Contrast")


@final
@dataclass(frozen=True, eq=False)
class Similarity:
    """The cosine of the angle between the network's embedding of the image and a given one, in [-1, 1].

    Attributes:
        embedding: ``(D,)``, or ``(B, D)`` with one for each image.
    """

    embedding: Tensor

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.embedding.ndim not in (1, 2):
            raise ConfigError(f"an embedding must be (D,) or (B, D), found {tuple(self.embedding.shape)}")

    @property
    def rows(self) -> int | None:
        """Number of embeddings, None for one."""
        return len(self.embedding) if self.embedding.ndim == 2 and len(self.embedding) > 1 else None

    def of_row(self, index: int) -> Similarity:
        """That to one of several embeddings."""
        return Similarity(self.embedding[index])

    def __call__(self, outputs: object) -> Tensor:
        """``(B,)`` of what holds embeddings ``(B, D)``."""
        found, asked = logits_of(outputs), self.embedding.reshape(-1)
        if found.shape[1] != len(asked):
            raise ConfigError(
                f"the network gives embeddings of {found.shape[1]} numbers, the one given has {len(asked)}"
            )
        return F.cosine_similarity(found, asked.to(found)[None], dim=1)


@final
@dataclass(frozen=True, eq=False)
class Region:
    """The mean logit of one class of a segmentation network inside a region.

    Attributes:
        mask: ``(H, W)`` bool, or weights from 0 to 1, True inside; or ``(B, H, W)`` with one for each image.
            Logits of another size are resized to it bilinearly.
        index: of the class.
    """

    mask: Tensor
    index: int

    __repr__ = brief

    def __post_init__(self) -> None:
        check_range(0, index=self.index)
        if self.mask.ndim not in (2, 3):
            raise ConfigError(f"a region must be (H, W) or (B, H, W), found {tuple(self.mask.shape)}")
        if not bool((self.mask > 0).flatten(-2).any(dim=-1).all()):
            raise ConfigError("a region has no pixel; give masks with at least one")

    @property
    def rows(self) -> int | None:
        """Number of regions, None for one."""
        return len(self.mask) if self.mask.ndim == 3 and len(self.mask) > 1 else None

    def of_row(self, index: int) -> Region:
        """That of one of several regions."""
        return Region(self.mask[index], self.index)

    def __call__(self, outputs: object) -> Tensor:
        """``(B,)`` of logits ``(B, K, h, w)``, alone, under the name ``out`` or ``logits``, or first."""
        maps = _maps_of(outputs)
        if self.index >= maps.shape[1]:
            raise ConfigError(f"Region asks for class {self.index}, and the network gives {maps.shape[1]}")
        weights = self.mask.reshape(self.mask.shape[-2:]).to(maps)
        of_class = maps[:, self.index, None]
        if of_class.shape[2:] != weights.shape:
            of_class = F.interpolate(of_class, size=weights.shape, mode="bilinear", align_corners=False)
        return (of_class[:, 0] * weights).sum(dim=(1, 2)) / weights.sum()


@final
class Targeted(Wrapper):
    """A network that is asked for one score, as a network with one logit.

    Its ``output`` is ``score``: the logit is a number in the target's own units, and where a method or a
    metric asks for a probability it gets this number.

    Args:
        network: any.
        target: what it returns to one score for each image; a named one or any function.
        output: what the network's logits are, for targets that ask; None for what it says.
    """

    output: OutputKind = "score"

    def __init__(self, network: nn.Module, target: Target, *, output: OutputKind | None = None) -> None:
        super().__init__(network)
        self.score = _Score(target, output or output_of(network))

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``(B,)``."""
        scores: Tensor = self.score(self.module(images))
        return scores


def targeted(classifier: AnyClassifier, target: Target) -> AnyClassifier:
    """The classifier as one with a single logit, the score of a target; for methods, metrics and curves.

    Args:
        classifier: a :class:`.Classifier`, whose stages and normalisation stay; a network; or a function of
            images.
        target: what the network returns for B images to scores ``(B,)``: :class:`ClassLogit`,
            :class:`Probability`, :class:`Contrast`, :class:`Similarity`, :class:`Region`, or any function.

    Returns:
        The same kind of thing; its query class is 0.

    Raises:
        ConfigError: a target that is no function.

    >>> classifier = targeted(lambda images: images.mean(dim=(2, 3)), Contrast(0, 2))
    >>> classifier(torch.tensor([0.75, 0.5, 0.25]).view(1, 3, 1, 1))
    tensor([0.5000])
    """
    if not callable(target):
        raise ConfigError(
            "a target must be a function of the network's outputs to (B,), such as Contrast(3, 5), found"
            f" {type(target).__name__}"
        )
    if isinstance(classifier, nn.Module):
        classifier = plain_network(classifier)
    if isinstance(classifier, Classifier):
        network = Targeted(classifier.network, target, output=classifier.output)
        return classifier.around(network, tuple(PREFIX + name for name in classifier.told_stages or ()))
    if isinstance(classifier, nn.Module):
        return Targeted(classifier, target)
    score = _Score(target, output_of(classifier))
    if score.rows is not None:
        raise ConfigError("a target for each image needs a network (nn.Module), found a function")
    return _TargetedFunction(classifier, score)


def target_of(classifier: object) -> Target | None:
    """The target that a classifier of :func:`targeted` is asked for; None for any other."""
    if isinstance(classifier, _TargetedFunction):
        return classifier.score.target
    modules = classifier.modules() if isinstance(classifier, nn.Module) else ()
    return next((module.target for module in modules if isinstance(module, _Score)), None)


@final
@dataclass(frozen=True)
class _TargetedFunction:
    classifier: AnyClassifier
    score: _Score
    output: OutputKind = "score"

    def __call__(self, images: Tensor) -> Tensor:
        scores: Tensor = self.score(self.classifier(images))
        return scores


@final
class _Score(PerImage):
    """The target as a module, which a tracer leaves whole, with its identity among the state."""

    def __init__(self, target: Target, output: OutputKind) -> None:
        super().__init__()
        if isinstance(target, Probability) and target.output is None:
            target = replace(target, output=output)
        self.target = target
        try:
            name = bytes.fromhex(fingerprint(target))
        except ConfigError:
            # What a function does cannot be named: nothing that it made is found again.
            name = secrets.token_bytes(32)
        self.register_buffer("identity", torch.tensor(list(name), dtype=torch.uint8))

    @property
    def rows(self) -> int | None:
        """Number of images that the target differs for."""
        return self.target.rows if isinstance(self.target, _PerRow) else None

    def forward(self, outputs: Any) -> Tensor:  # noqa: ANN401 - whatever a network returns
        """Scores ``(B,)``."""
        row = self.chosen
        target = (
            self.target if row is None or not isinstance(self.target, _PerRow) else self.target.of_row(row)
        )
        scores = target(outputs)
        if not isinstance(scores, Tensor) or not scores.is_floating_point() or scores.shape[1:].numel() != 1:
            shape = f"{tuple(scores.shape)} {scores.dtype}" if isinstance(scores, Tensor) else type(scores)
            raise ConfigError(
                f"a target must give one floating-point score for each image, (B,), found {shape}; reduce"
                " it, e.g. outputs.mean(dim=(1, 2, 3))"
            )
        return scores.flatten()


def _column(logits: Tensor, index: int, who: str) -> Tensor:
    if index >= logits.shape[1]:
        raise ConfigError(f"{who} asks for logit {index}, and the network gives {logits.shape[1]}, from 0 on")
    return logits[:, index]


def _maps_of(outputs: object) -> Tensor:
    """Logits ``(B, K, h, w)`` of a segmentation network."""
    found = outputs
    if isinstance(outputs, Mapping):
        found = next((outputs[name] for name in ("out", "logits") if name in outputs), None)
    elif isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    elif not isinstance(outputs, Tensor):
        found = getattr(outputs, "logits", None)
    if not isinstance(found, Tensor) or found.ndim != 4:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(outputs).__name__
        raise ConfigError(
            f"Region needs logits (B, K, h, w) of a segmentation network, found {shape}; for another answer"
            " give a function of it as the target"
        )
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found
