"""The shared measurement: masks of several queries and views, activations, gradient, confidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.detectors.measurements import Measurement
from verisal.detectors.views import View, check_names
from verisal.errors import ConfigError
from verisal.functional.filters import shift_one_pixel
from verisal.functional.networks import staged_network
from verisal.functional.outputs import ask, log_odds, softmax_distance
from verisal.functional.scopes import frozen, gradient_scope, images_at_once
from verisal.saliency import GateMethod, HierarchicalMasks
from verisal.saliency.gates.differentiable import GateFunction
from verisal.saliency.gates.masks import channel_statistics, gate_map
from verisal.types import StagedClassifier, StageOutputs, check_images

Query = Literal["prediction", "runner_up"]
NamedView = Literal["original", "shifted"]
# Images at once: a store asks for the features of as many as a shard holds.
_CHUNK = 64
_RANK: dict[Query, int] = {"prediction": 0, "runner_up": 1}


@final
@dataclass(frozen=True, kw_only=True)
class DetectorFeatures(Measurement):
    """Masks, activations and gradient of an image as named tensors, which detectors share.

    The class that is explained is always the one predicted **on that very input** (or its runner-up), never
    the label. Per stage l (numbered from 1) the statistics over channels are mean, deviation and maximum:

    ===================== ================== =============================================================
    name                  shape              what
    ===================== ================== =============================================================
    ``masks/<query>/<l>`` ``(B, 3, h, w)``   statistics of the learned gates
    ``gated/<query>/<l>`` ``(B, 1, h, w)``   channel mean of gate times activation, if ``gated_activation``
    ``activations/<l>``   ``(B, 3, h, w)``   statistics of the ungated activations, the control
    ``gradient``          ``(B, C, H, W)``   gradient of the predicted logit by the image
    ``logits``            ``(B, K)``         the classifier's output, float32
    ``confidence``        ``(B,)``           log odds of the predicted class, float32
    ``prediction``        ``(B,)``           predicted class, int64
    ``shift_distance``    ``(B,)``           L1 distance of the softmax outputs of both views, float32
    ===================== ================== =============================================================

    The view ``shifted`` is the image moved by one pixel to the right and down. It repeats masks, gated,
    activations, gradient and logits, **for the same classes**, under names that begin with ``shifted/``,
    and adds ``shift_distance``. Adversarial noise hardly survives the move while evidence does, so a mask
    that was learned for the predicted class then has nothing left to keep. Any other :class:`.View` repeats
    the same under its own name, ``<view>/...``; the cheaper ``logits_views`` give ``<view>/logits`` alone.

    Maps are half precision: a detector standardises them, and a store is half as large.

    Args:
        saliency: how the gates are learned.
        queries: which classes are explained; one entry is enough for the ``output`` objective.
        views: ``original``, and after it ``shifted`` and other changes of the image, each with masks.
        gated_activation: also make ``gated/...``.
        logits_views: changes of the image that only the classifier's output is asked for, at one forward
            pass each.

    Raises:
        ConfigError: no query, a second query that the saliency does not read, views that do not begin with
            the original, or two of one name.
    """

    saliency: GateMethod = field(default_factory=HierarchicalMasks)
    queries: tuple[Query, ...] = ("prediction", "runner_up")
    views: tuple[NamedView | View, ...] = ("original",)
    gated_activation: bool = False
    logits_views: tuple[View, ...] = ()

    rules = 2

    def __post_init__(self) -> None:
        as_tuples(self)
        if not self.queries or len(set(self.queries)) != len(self.queries):
            raise ConfigError(f"queries must name prediction, runner_up or both, found {list(self.queries)}")
        named = [view for view in self.views if not isinstance(view, View)]
        if self.views[:1] != ("original",) or not set(named) <= {"original", "shifted"}:
            raise ConfigError(
                "views must be [original], and after it shifted or changes such as Moved(-1, 0), found"
                f" {list(self.views)}"
            )
        check_names([_name(view) for view in (*self.views, *self.logits_views)])
        if not self.saliency.uses_query and len(self.queries) > 1:
            raise ConfigError(
                "this saliency does not read the query, so a second one repeats the same masks;"
                " set queries: [prediction]"
            )

    @property
    def words(self) -> str:
        """Masks first, which take the longest."""
        return "masks and activations"

    def _decisive(self) -> dict[str, Any]:
        decisive = super()._decisive() | {"saliency": self.saliency.gate_settings()}
        # Left out where there are none, so that stores without them stay valid.
        if not self.logits_views:
            del decisive["logits_views"]
        return decisive

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Features of one batch of images ``(B, C, H, W)`` in [0, 1]."""
        check_images(images)
        parts = []
        classifier = staged_network(classifier, type(self).__name__)
        with frozen(classifier), gradient_scope(images.device.type):
            for some in torch.split(images, images_at_once(_CHUNK, images)):
                leaf = some.detach().clone(memory_format=torch.channels_last).requires_grad_()
                features = self._of_images(classifier, leaf, self._learned, gradient=True, graph=False)
                parts.append({name: t.half() if t.ndim == 4 else t for name, t in features.items()})
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def differentiable(
        self,
        classifier: StagedClassifier,
        images: Tensor,
        *,
        gates: GateFunction | None = None,
        gradient: bool = False,
    ) -> dict[str, Tensor]:
        """The same features with a graph to the images, for attacks on a detector.

        Maps are float32 tensors that hold the values rounded to half precision, and let gradients pass
        through the rounding. ``prediction`` and the choice of the classes that are explained have no
        gradient.

        Args:
            classifier: with stages.
            images: ``(B, C, H, W)`` in [0, 1]; where they carry no gradient no graph is made, which is
                cheaper and gives the same values.
            gates: takes the place of ``saliency``, and says how gradients pass through the gates.
            gradient: also make ``gradient``, which costs a backward pass and one through it.

        Raises:
            ConfigError: no gates.
        """
        check_images(images.detach())
        if gates is None:
            raise ConfigError(
                "DetectorFeatures has masks, and a gradient needs to know how it passes through them; give"
                " gates, such as FrozenGates(method=...) or PredictedGates(checkpoint=...)"
            )
        graph = images.requires_grad
        classifier = staged_network(classifier, type(self).__name__)
        with frozen(classifier), gradient_scope(images.device.type):
            # A copy, so that gradients by the image are taken in the layout that the classifier is fast in.
            seen = images.clone(memory_format=torch.channels_last).requires_grad_()
            features = self._of_images(classifier, seen, gates, gradient=gradient, graph=graph)
        return {name: _rounded_through(t) if t.ndim == 4 else t for name, t in features.items()}

    def _of_images(
        self, network: StagedClassifier, images: Tensor, gates: GateFunction, *, gradient: bool, graph: bool
    ) -> dict[str, Tensor]:
        """Features in single precision of images that carry a gradient, with a graph to them or without."""
        features: dict[str, Tensor] = {}
        logits = ranked = None
        for view in self.views:
            seen = _changed(images, view)
            outputs = network.stage_outputs(seen)
            if logits is None or ranked is None:
                ranked = outputs.logits.topk(2, dim=1).indices
            of_view: dict[str, Tensor] = {"logits": outputs.logits}
            if gradient:
                predicted = outputs.logits.gather(1, ranked[:, :1]).sum()
                (of_view["gradient"],) = torch.autograd.grad(predicted, seen, create_graph=graph)
            if not graph:
                activations = tuple(activation.detach() for activation in outputs.activations)
                seen, outputs = seen.detach(), StageOutputs(outputs.logits.detach(), activations)
                of_view["logits"] = outputs.logits
            for number, activation in enumerate(outputs.activations, start=1):
                of_view[f"activations/{number}"] = channel_statistics(activation)
            for query in self.queries:
                learned = gates(network, seen, outputs, ranked[:, _RANK[query]].contiguous())
                stages = enumerate(zip(learned, outputs.activations, strict=True), start=1)
                for number, (gate, activation) in stages:
                    of_view[f"masks/{query}/{number}"] = channel_statistics(gate)
                    if self.gated_activation:
                        of_view[f"gated/{query}/{number}"] = gate_map(gate * activation)
            features |= {f"{_prefix(view)}{name}": tensor for name, tensor in of_view.items()}
            if logits is None:
                logits = outputs.logits
                features |= {"confidence": log_odds(logits), "prediction": ranked[:, 0].clone()}
            elif view == "shifted":
                features["shift_distance"] = softmax_distance(logits, outputs.logits)
        with torch.set_grad_enabled(graph):
            for change in self.logits_views:
                features[f"{change.name}/logits"] = ask(network, change(images if graph else images.detach()))
        return features

    def _learned(
        self, classifier: StagedClassifier, images: Tensor, outputs: StageOutputs, query: Tensor
    ) -> tuple[Tensor, ...]:
        return self.saliency.gates(classifier, images, query)


def _rounded_through(values: Tensor) -> Tensor:
    """Float32 values as half precision has them, with the gradient of the unrounded ones."""
    return values + (values.half().float() - values).detach()


def _name(view: NamedView | View) -> str:
    return view.name if isinstance(view, View) else view


def _changed(images: Tensor, view: NamedView | View) -> Tensor:
    if isinstance(view, View):
        return view(images)
    return images if view == "original" else shift_one_pixel(images)


def _prefix(view: NamedView | View) -> str:
    return "" if view == "original" else f"{_name(view)}/"
