"""Measurements: what detectors read of an image, computed once and shared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from verisal.functional.networks import staged_network
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.scopes import differentiated, frozen, gradient_scope
from verisal.saliency import GateMethod, Saliency
from verisal.saliency.gates.contributions import channel_contributions
from verisal.types import StagedClassifier, StageOutputs, check_images

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
    def parts(self) -> tuple[Measurement, ...]:
        """Measurements that it is made of, which a store keeps one by one; itself unless overridden."""
        return (self,)

    def joined(self, measured: Sequence[Measured]) -> dict[str, Tensor]:
        """What it gives, from what each of its :attr:`parts` gave for the same images."""
        return dict(measured[0])


def measured_logits(classifier: StagedClassifier, images: Tensor) -> Tensor:
    """Logits ``(B, K)`` in float32, the classifier in eval mode and left as it was."""
    check_images(images)
    require_softmax(classifier, "a detector of adversarial images")
    with frozen(classifier), gradient_scope(images.device.type), torch.no_grad():
        return ask(classifier, images)


@final
@dataclass(frozen=True)
class Logits(Measurement):
    """``logits (B, K)`` of the image as it is."""

    needs_stages = False

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits of images ``(B, C, H, W)`` in [0, 1]."""
        return {"logits": measured_logits(classifier, images)}


@final
@dataclass(frozen=True)
class ShiftedLogits(Measurement):
    """``logits (B, K)`` of the image, and ``shifted/logits (B, K)`` of the image moved by one pixel."""

    needs_stages = False

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits of both views of images ``(B, C, H, W)`` in [0, 1]."""
        logits = measured_logits(classifier, images)
        return {"logits": logits, "shifted/logits": measured_logits(classifier, shift_one_pixel(images))}


@final
@dataclass(frozen=True)
class ViewLogits(Measurement):
    """``logits (B, K)`` of the image, and ``<view>/logits (B, K)`` of each of its views.

    Costs one forward pass per view and one more, and no backward pass. Views by JPEG are left out of the
    default: on clean images that were JPEG files they find the file format; see :class:`.ReEncoded`.

    Args:
        views: changes of the image, named differently; None for three moves, the flip, mean and median over
            3 x 3, and half the size.

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

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits of all views of images ``(B, C, H, W)`` in [0, 1]."""
        measured = {"logits": measured_logits(classifier, images)}
        return measured | {
            f"{view.name}/logits": measured_logits(classifier, view(images)) for view in self.seen
        }


@final
@dataclass(frozen=True)
class Pixels(Measurement):
    """``image (B, C, H, W)``, the image itself in 8 bits, and ``logits (B, K)``. One forward pass."""

    needs_stages = False

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Bytes and logits of images ``(B, C, H, W)`` in [0, 1]."""
        return {"image": round_to_8bit(images), "logits": measured_logits(classifier, images)}


@final
@dataclass(frozen=True)
class PooledActivations(Measurement):
    """``logits (B, K)``, and per stage ``pooled/<l> (B, C_l)``: the activation's mean over positions.

    Stages are numbered from 1. A view adds ``<view>/logits``, ``<view>/pooled/<l>`` and
    ``<view>/change/pooled/<l>``, the vector of the view minus that of the image. One forward pass, and one
    more per view.

    Args:
        views: changes of the image that are measured, too.

    Raises:
        ConfigError: two views of one name.
    """

    views: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        as_tuples(self)
        check_names([view.name for view in self.views])

    def _decisive(self) -> dict[str, Any]:
        return _without_unused(super()._decisive(), "views")

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits and vectors of images ``(B, C, H, W)`` in [0, 1]."""

        def pooled(seen: Tensor) -> dict[str, Tensor]:
            _, outputs = stage_outputs(classifier, seen, "PooledActivations")
            stages = enumerate(outputs.activations, start=1)
            vectors = {f"pooled/{number}": activation.mean(dim=(2, 3)) for number, activation in stages}
            return {"logits": outputs.logits} | vectors

        return _with_changes(pooled, images, self.views)


@final
@dataclass(frozen=True, kw_only=True)
class ChannelGates(Measurement):
    """``gates/<l> (B, C_l)``: the mean over positions of the gates that explain the predicted class.

    Stages are numbered from 1. One forward pass, and what the saliency takes. A view adds the same **for the
    class that is predicted on the image itself**, ``<view>/gates/<l>``, and what is different there,
    ``<view>/change/gates/<l>``, at the same cost again.

    Args:
        saliency: how the gates are found.
        contributions: also make ``contributions/<l> (B, C_l)``: what each gated channel adds to the logit of
            the class, gate times slope summed over positions, in logits. One pass more, forward and back.
        views: changes of the image that are measured, too.

    Raises:
        ConfigError: two views of one name.
    """

    saliency: GateMethod
    contributions: bool = False
    views: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        as_tuples(self)
        check_names([view.name for view in self.views])

    def _decisive(self) -> dict[str, Any]:
        decisive = super()._decisive() | {"saliency": self.saliency.gate_settings()}
        return _without_unused(decisive, "contributions", "views")

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Vectors of images ``(B, C, H, W)`` in [0, 1] for the class that is predicted on each."""
        network, outputs = stage_outputs(classifier, images, "ChannelGates")
        with gradient_scope(images.device.type):
            query = outputs.logits.argmax(dim=1)

        def vectors(seen: Tensor) -> dict[str, Tensor]:
            if len(seen) == 0:
                # Nothing to explain; the activations have the channels of the gates.
                empty = [activation.mean(dim=(2, 3)) for activation in outputs.activations]
                return self._named(empty, empty)
            found = self.saliency.find(network, seen, query)
            gates = [gate.mean(dim=(2, 3)) for gate in found.gates]
            if not self.contributions:
                return self._named(gates, ())
            with differentiated(network, device=seen.device):
                added = channel_contributions(network, found.activations, found.gates, query)
            return self._named(gates, added)

        # Around all of it: what comes from inference mode can never be asked for a gradient.
        with gradient_scope(images.device.type), torch.no_grad():
            return _with_changes(vectors, images, self.views)

    def _named(self, gates: Sequence[Tensor], added: Sequence[Tensor]) -> dict[str, Tensor]:
        kinds = {"gates": gates} | ({"contributions": added} if self.contributions else {})
        return {
            f"{kind}/{number}": vector
            for kind, vectors in kinds.items()
            for number, vector in enumerate(vectors, start=1)
        }


def _with_changes(
    measure: Callable[[Tensor], dict[str, Tensor]], images: Tensor, views: Sequence[View]
) -> dict[str, Tensor]:
    """Vectors of images, of their views, and what is different in each view; logits have no such change."""
    own = measure(images)
    measured = dict(own)
    for view in views:
        seen = measure(view(images))
        measured |= {f"{view.name}/{name}": tensor for name, tensor in seen.items()}
        measured |= {
            f"{view.name}/change/{name}": tensor - own[name]
            for name, tensor in seen.items()
            if name != "logits"
        }
    return measured


def _without_unused(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """Settings without those that are not used, so that stores from before there were any stay valid."""
    return {name: value for name, value in settings.items() if value or name not in names}


def stage_outputs(
    classifier: StagedClassifier, images: Tensor, measurement: str
) -> tuple[StagedClassifier, StageOutputs]:
    """The classifier without wrappers, and what its stages give for images ``(B, C, H, W)``."""
    check_images(images)
    network = staged_network(classifier, f"the measurement {measurement}")
    with frozen(network), gradient_scope(images.device.type), torch.no_grad():
        return network, network.stage_outputs(images.clone())


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


def measure_each(
    measurements: Iterable[Measurement], classifier: StagedClassifier, images: Tensor
) -> dict[str, dict[str, Tensor]]:
    """What several measurements give for images ``(B, C, H, W)``, by their settings; equal parts once."""
    wanted = {canonical(measurement): measurement for measurement in measurements}
    parts = {canonical(part): part for measurement in wanted.values() for part in measurement.parts}
    measured = {key: part(classifier, images) for key, part in parts.items()}
    return {
        key: measurement.joined([measured[canonical(part)] for part in measurement.parts])
        for key, measurement in wanted.items()
    }
