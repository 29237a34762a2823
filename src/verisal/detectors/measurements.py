"""Measurements: what detectors read of an image, computed once and shared."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.views import DEFAULT_VIEWS, View, check_names
from verisal.errors import ConfigError
from verisal.fingerprint import Configured, canonical
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.filters import shift_one_pixel
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.scopes import frozen, gradient_scope
from verisal.saliency import Saliency
from verisal.saliency.gates.differentiable import GateFunction
from verisal.types import StagedClassifier, check_images

Measured = Mapping[str, Tensor]
"""Measurements of images: name to ``(B, ...)``."""


class Measurement(Configured, ABC):
    """Measurement of an image that detectors read: computed once per image, kept in a store, shared.

    Concrete ones are frozen dataclasses of plain settings.

    Attributes:
        needs_stages: False for one that asks the classifier for logits and their gradient alone.
    """

    # Without annotation, as that of a class attribute hides the settings of sub-classes.
    needs_stages = True

    @abstractmethod
    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Named tensors ``(B, ...)`` of images ``(B, C, H, W)`` in [0, 1], each row of its image alone."""

    @property
    def words(self) -> str:
        """What is measured, in words: those of the class's name unless overridden."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", type(self).__name__).lower()

    def differentiable(
        self, classifier: StagedClassifier, images: Tensor, *, gates: GateFunction | None = None
    ) -> dict[str, Tensor]:
        """What detectors read, with a graph to the images, for attacks on a detector.

        Tensors that no detector with a slope reads may be missing.

        Args:
            classifier: as for the measurement itself.
            images: ``(B, C, H, W)`` in [0, 1].
            gates: how gradients pass through masks, where there are any.

        Raises:
            ConfigError: a measurement that no gradient passes through, or masks without ``gates``.
        """
        raise ConfigError(
            f"no gradient passes through {type(self).__name__}; adaptive attacks know rows that read"
            " DetectorFeatures, Logits, ShiftedLogits, ViewLogits, Pixels, PooledActivations or several of"
            " them"
        )

    @property
    def parts(self) -> tuple[Measurement, ...]:
        """Measurements that it is made of, which a store keeps one by one; itself unless overridden."""
        return (self,)

    def joined(self, measured: Sequence[Measured]) -> dict[str, Tensor]:
        """What it gives, from what each of its :attr:`parts` gave for the same images."""
        return dict(measured[0])


class TracedMeasurement(Measurement):
    """A measurement that is made alike with a graph to the images and without."""

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Named tensors of images ``(B, C, H, W)`` in [0, 1], without a graph."""
        return self._measured(classifier, images, graph=False)

    def differentiable(
        self, classifier: StagedClassifier, images: Tensor, *, gates: GateFunction | None = None
    ) -> dict[str, Tensor]:
        """The same with a graph to the images."""
        # Views are part of the graph, whatever surrounds the call.
        with gradient_scope(images.device.type):
            return self._measured(classifier, images, graph=True)

    @abstractmethod
    def _measured(self, classifier: StagedClassifier, images: Tensor, *, graph: bool) -> dict[str, Tensor]:
        """The tensors, with a graph or without."""


def measured_logits(classifier: StagedClassifier, images: Tensor, *, graph: bool = False) -> Tensor:
    """Logits ``(B, K)`` in float32, the classifier in eval mode and left as it was.

    Args:
        classifier: that is asked.
        images: ``(B, C, H, W)`` in [0, 1].
        graph: whether the logits have a graph to the images.
    """
    check_images(images.detach())
    require_softmax(classifier, "a detector of adversarial images")
    with frozen(classifier), gradient_scope(images.device.type), torch.set_grad_enabled(graph):
        return ask(classifier, images)


@final
@dataclass(frozen=True)
class Logits(TracedMeasurement):
    """``logits (B, K)`` of the image as it is."""

    needs_stages = False

    def _measured(self, classifier: StagedClassifier, images: Tensor, *, graph: bool) -> dict[str, Tensor]:
        return {"logits": measured_logits(classifier, images, graph=graph)}


@final
@dataclass(frozen=True)
class ShiftedLogits(TracedMeasurement):
    """``logits (B, K)`` of the image, and ``shifted/logits (B, K)`` of the image moved by one pixel."""

    needs_stages = False

    def _measured(self, classifier: StagedClassifier, images: Tensor, *, graph: bool) -> dict[str, Tensor]:
        seen = {"logits": images, "shifted/logits": shift_one_pixel(images)}
        return {name: measured_logits(classifier, view, graph=graph) for name, view in seen.items()}


@final
@dataclass(frozen=True)
class ViewLogits(TracedMeasurement):
    """``logits (B, K)`` of the image, and ``<view>/logits (B, K)`` of each of its views.

    Costs one forward pass per view and one more, and no backward pass. Views by JPEG are left out of the
    default: on clean images that were JPEG files they find the file format; see :class:`.ReEncoded`.

    Args:
        views: changes of the image, named differently; None for three moves, the flip, mean and median over
            3 x 3, and three quarters and half of the size.

    Raises:
        ConfigError: no view, or two of one name.
    """

    needs_stages = False

    views: tuple[View, ...] | None = None

    def __post_init__(self) -> None:
        as_tuples(self)
        check_names([view.name for view in self.seen], least=1)

    @property
    def seen(self) -> tuple[View, ...]:
        """The views, the default ones where none were given."""
        # Not the default of the field: objects in a tuple cannot be written to files of settings.
        return DEFAULT_VIEWS if self.views is None else self.views

    def _decisive(self) -> dict[str, Any]:
        return {"views": self.seen}

    def _measured(self, classifier: StagedClassifier, images: Tensor, *, graph: bool) -> dict[str, Tensor]:
        measured = {"logits": measured_logits(classifier, images, graph=graph)}
        return measured | {
            f"{view.name}/logits": measured_logits(classifier, view(images), graph=graph)
            for view in self.seen
        }


@final
@dataclass(frozen=True)
class Pixels(Measurement):
    """``image (B, C, H, W)``, the image itself in 8 bits, and ``logits (B, K)``. One forward pass."""

    needs_stages = False

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Bytes and logits of images ``(B, C, H, W)`` in [0, 1]."""
        return {"image": round_to_8bit(images), "logits": measured_logits(classifier, images)}

    def differentiable(
        self, classifier: StagedClassifier, images: Tensor, *, gates: GateFunction | None = None
    ) -> dict[str, Tensor]:
        """``image`` in float32, which detectors take for the bytes of it, and no logits."""
        return {"image": images}


@final
@dataclass(frozen=True, kw_only=True)
class SalientPixels(Measurement):
    """``salient/image (B, C, H, W)``: the image times its saliency map for the predicted class.

    In half precision. One forward pass, and what the saliency takes.

    Args:
        saliency: what makes the map.
    """

    saliency: Saliency

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Weighted images ``(B, C, H, W)`` for the class that is predicted on each."""
        check_images(images)
        if len(images) == 0:
            return {"salient/image": images.half()}
        with frozen(classifier), gradient_scope(images.device.type), torch.no_grad():
            predicted = ask(classifier, images).argmax(dim=1)
        result = self.saliency(classifier, images, predicted)
        return {"salient/image": (images * result.saliency).half()}


@final
@dataclass(frozen=True, kw_only=True)
class StepsToFlip(Measurement):
    r"""``steps (B,)``: gradient-sign steps until the prediction changes, with a fraction.

    From the image, without a random start,

    .. math:: x_{t+1} = \mathrm{clip}_{[0,1]}(x_t - \alpha\,\mathrm{sign}\,\nabla m(x_t)), \qquad
              m = f_c - \max_{k \ne c} f_k

    with *c* the class predicted on the image itself. The crossing is interpolated between the last margin
    above 0 and the first that is not. Where none of ``max_steps`` steps changes the prediction, the value is
    ``max_steps`` and what is left of the margin as ``m / (1 + m)``, so that no two images tie.

    Costs at most ``max_steps + 1`` forward and ``max_steps`` backward passes; images that are done take part
    in no further pass.

    Args:
        step: length of a step, in [0, 1] pixel units.
        max_steps: most steps.

    Raises:
        ConfigError: settings out of range.
    """

    needs_stages = False

    step: float = 0.25 / 255
    max_steps: int = 40

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1 or self.max_steps < 1:
            raise ConfigError(
                "StepsToFlip needs a step in (0, 1], such as 0.001 for a quarter of a grey level, and"
                f" max_steps of at least 1; found step={self.step}, max_steps={self.max_steps}"
            )

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Steps for images ``(B, C, H, W)`` in [0, 1]."""
        check_images(images)
        with frozen(classifier), gradient_scope(images.device.type):
            current = images.detach().clone()
            with torch.no_grad():
                logits = ask(classifier, current)
            own = logits.argmax(dim=1)
            before = _margin(logits, own)
            steps = self.max_steps + before / (1 + before)
            rows = torch.arange(len(images), device=images.device)
            for step in range(self.max_steps):
                if len(rows) == 0:
                    break
                current, after = self._stepped(classifier, current, own)
                crossed = after <= 0
                # A margin that was 0 from the start is a tie, and costs nothing.
                share = before / (before - after).clamp_min(torch.finfo(before.dtype).tiny)
                steps[rows] = torch.where(crossed, step + share, self.max_steps + after / (1 + after))
                rows, current, own, before = (part[~crossed] for part in (rows, current, own, after))
        return {"steps": steps}

    def _stepped(self, classifier: StagedClassifier, images: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.requires_grad_()
        (gradient,) = torch.autograd.grad(_margin(ask(classifier, leaf), own).sum(), leaf)
        with torch.no_grad():
            moved = (images - self.step * gradient.sign()).clamp(0, 1)
            return moved, _margin(ask(classifier, moved), own)


def _margin(logits: Tensor, own: Tensor) -> Tensor:
    """Logit of each image's own class minus the largest other one."""
    others = logits.scatter(1, own[:, None], -torch.inf).amax(dim=1)
    return logits.gather(1, own[:, None])[:, 0] - others


def distinct_parts(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """All parts of some measurements by their settings, equal ones once."""
    return {canonical(part): part for measurement in measurements for part in measurement.parts}


def measure_each(
    measurements: Iterable[Measurement], classifier: StagedClassifier, images: Tensor
) -> dict[str, dict[str, Tensor]]:
    """What several measurements give for images ``(B, C, H, W)``, by their settings; equal parts once."""
    wanted = {canonical(measurement): measurement for measurement in measurements}
    measured = {key: part(classifier, images) for key, part in distinct_parts(wanted.values()).items()}
    return {
        key: measurement.joined([measured[canonical(part)] for part in measurement.parts])
        for key, measurement in wanted.items()
    }
