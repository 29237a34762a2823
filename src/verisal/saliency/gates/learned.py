"""Masks from a trained network: all gates in one pass, with a few steps of a search where wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.checkpoint import CARD_KEY, load_checkpoint, load_export, save_export
from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import state_hash
from verisal.functional.outputs import require_softmax
from verisal.functional.scopes import rng_preserved
from verisal.saliency._base import ONE_SCORE, explaining, staged
from verisal.saliency.gates.descent import GateDescent, GateProblem, Objective
from verisal.saliency.gates.evidence import EvidenceMasks, spread
from verisal.saliency.gates.masks import GatePenalty, Shown
from verisal.saliency.gates.method import FoundGates, GateMethod, Joining
from verisal.saliency.gates.places import PlaceCard, PlaceNetwork, ungated
from verisal.types import StagedClassifier, StageOutputs, check_range

_SHARPNESS = 4.0
_PREFIX = "network."
_WITHOUT = ", or take HierarchicalMasks, which need none (for detectors: --config data/optimised_masks)"
_Network = TypeVar("_Network", bound=nn.Module)


@final
class MaskNetwork(nn.Module):
    """Gates ``M_1 .. M_L`` from the classifier's own stage activations and a query class.

    From the last stage to the first: project the activation, add what came from the stage above, scale and
    shift every channel by the class, look at the neighbours (depthwise 3x3, then 1x1), and predict the gate
    with a 1x1 head. The first stage, the largest, has half the width and looks at no neighbours: it would
    cost more than the classifier otherwise. Training starts at ``M = 1``: the heads have zero weights.

    Gates end in a softplus: unlike a gate of exactly 0, a tiny one still says which of two removed places
    was the less important.

    Args:
        channels: ``C_l`` of every stage.
        num_classes: K; one more row of the class tables, number K, stands for *no class* (``output``).
        width_ratio: channels of each level of the path, as a share of the stage's own.

    Raises:
        ConfigError: no stage, or a ratio that is not positive.

    References:
        wang2020haf

    Differs from:
        - The paper optimises masks per image; a network that predicts them is ours.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, width_ratio: float = 1.0) -> None:
        super().__init__()
        if not channels:
            raise ConfigError("a mask network needs at least one stage, found no channels")
        check_range(1, channels=channels, num_classes=num_classes)
        check_range(0, above=True, width_ratio=width_ratio)
        self.channels, self.num_classes, self.width_ratio = tuple(channels), num_classes, width_ratio
        shares = [width_ratio / 2, *[width_ratio] * (len(channels) - 1)]
        widths = [max(4, round(count * share)) for count, share in zip(channels, shares, strict=True)]
        above = [*widths[1:], 0]
        self.levels = nn.ModuleList(
            _Level(count, width, wider, queries=num_classes + 1, spreads=index > 0)
            for index, (count, width, wider) in enumerate(zip(channels, widths, above, strict=True))
        )

    def forward(self, activations: Sequence[Tensor], query: Tensor) -> list[Tensor]:
        """Gates ``(B, C_l, H_l, W_l)``, non-negative, in the memory layout of the activations.

        Args:
            activations: ``(B, C_l, H_l, W_l)`` of the ungated classifier.
            query: ``(B,)`` int64 in 0..K.
        """
        gates: list[Tensor] = []
        path: Tensor | None = None
        for level, activation in zip(reversed(self.levels), reversed(activations), strict=True):
            path, gate = level(activation, path, query)
            gates.append(gate)
        return gates[::-1]


class _Level(nn.Module):
    """One stage's part of the path: ``above`` is the width of the level above, 0 for none."""

    def __init__(self, channels: int, width: int, above: int, *, queries: int, spreads: bool) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, 1)
        self.lift = nn.Conv2d(above, width, 1) if above else None
        self.modulate = nn.Embedding(queries, 2 * width)
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width) if spreads else None
        self.mix = nn.Conv2d(width, width, 1) if spreads else None
        self.head = nn.Conv2d(width, channels, 1)
        nn.init.normal_(self.modulate.weight, std=0.3)
        nn.init.zeros_(self.head.weight)
        # Where the softplus is 1.
        nn.init.constant_(self.head.bias, math.log(math.expm1(_SHARPNESS)) / _SHARPNESS)  # type: ignore[arg-type]

    def forward(self, activation: Tensor, path: Tensor | None, query: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.project(activation)
        if self.lift is not None and path is not None:
            features.add_(F.interpolate(self.lift(path), size=features.shape[-2:], mode="nearest"))
        scale, shift = self.modulate(query)[:, :, None, None].chunk(2, dim=1)
        features = torch.addcmul(shift, features, 1 + scale).relu_()
        if self.spread is not None and self.mix is not None:
            features = features + self.mix(self.spread(features)).relu_()
        return features, F.softplus(self.head(features), beta=_SHARPNESS)


@final
@dataclass(frozen=True, kw_only=True)
class MaskCard:
    """Purpose that a mask network was trained for.

    Attributes:
        channels: ``C_l`` of every stage.
        num_classes: K.
        width_ratio: of :class:`MaskNetwork`.
        classifier: fingerprint of the classifier whose activations it reads.
        objective: what its gates keep.
        penalty: form of the penalty.
        reg_weight: lambda.
    """

    channels: tuple[int, ...]
    num_classes: int
    width_ratio: float
    classifier: str
    objective: Objective
    penalty: GatePenalty
    reg_weight: float

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> MaskCard:
        """The card inside a file's card, which may hold more."""
        own = {item.name: card[item.name] for item in fields(cls)}
        return cls(**own | {"channels": tuple(card["channels"])})


@final
@dataclass(frozen=True, kw_only=True)
class LearnedMask(GateMethod):
    """Hierarchical masks predicted by a :class:`MaskNetwork` or a :class:`PlaceNetwork`.

    The first has a gate for every element and needs a pass of the classifier. The second has one for every
    place, and needs a pass forward and back. Its map of contributions costs one more, forward and back; a
    place counts by its gate once more there, which says how sure the network is that it is to be kept.

    Args:
        checkpoint: name of shipped weights, path of an export, or ``best.ckpt`` of a masker run.
        same_weights: refuse a classifier with other weights than those of training. Off, any with the same
            stages is taken, as randomisation checks need it.
        steps: steps that follow the prediction. Gates of elements: descent on the objective of training, of
            whose iterates the better is kept per image. Gates of places: of :class:`.EvidenceMasks`.
        learning_rate: Adam's rate in the steps of the descent.
        shown: see :class:`HierarchicalMasks`, as are the next two. None: contributions for gates of places,
            gated activations for those of elements.
        fusion: how per-layer maps become one.
        smoothing: of the fused map.
        chunk_size: images at once, fewer above 128 x 128 pixels; bounds memory, never changes the result
            beyond float rounding.

    Raises:
        ConfigError: values out of range, no such weights, or a classifier that they were not trained for.
        CheckpointError: a damaged file, or one that holds no mask network.

    References:
        wang2020haf
    """

    shown: Shown | None = None
    checkpoint: str
    same_weights: bool = True
    steps: int = 0
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(0, steps=self.steps)
        check_range(0, above=True, learning_rate=self.learning_rate)

    @classmethod
    def of(cls, network: PlaceNetwork, card: PlaceCard) -> LearnedMask:
        """The method with a network in memory, as it is when asked."""
        method = cls(checkpoint="a network in memory")
        method.__dict__["_loaded"] = LoadedPlaces(network, card)
        return method

    def with_steps(self, steps: int) -> LearnedMask:
        """The same network with another number of steps after its prediction."""
        method = replace(self, steps=steps)
        method.__dict__["_loaded"] = self._loaded
        return method

    @cached_property
    def _loaded(self) -> LoadedMasks:
        return load_mask_network(self.checkpoint)

    @property
    def suited(self) -> Shown:
        """Contributions for gates of places, else gated activations."""
        return "contribution" if isinstance(self._loaded[1], PlaceCard) else super().suited

    @property
    def uses_query(self) -> bool:
        """False for a network trained on ``output``, which keeps all logits."""
        card = self._loaded[1]
        return isinstance(card, PlaceCard) or card.objective != "output"

    def _decisive(self) -> dict[str, Any]:
        return super()._decisive() | {"checkpoint": state_hash(self._loaded[0])}

    def find(self, classifier: object, images: Tensor, query_class: Tensor) -> FoundGates:
        """The predicted gates, after the steps that follow if there are any."""
        network = staged(classifier, images, type(self).__name__)
        images = images.contiguous(memory_format=torch.channels_last)
        loaded = self._loaded
        if isinstance(loaded, LoadedPlaces):
            with explaining(network, images, query_class) as (images, query):
                return self._places(network, loaded.network, images, query)
        require_softmax(network, type(self).__name__, instead=ONE_SCORE)
        with explaining(network, images, query_class) as (images, query):
            with torch.no_grad():
                outputs = network.stage_outputs(images)
                predicted = self.predicted(network, outputs, query)
            if not self.steps:
                return FoundGates(predicted, outputs.activations, 1, 0)
            card = loaded.card
            problem = GateProblem(card.objective, card.penalty, network, outputs, query)
            descent = GateDescent(
                reg_weight=card.reg_weight, steps=self.steps, learning_rate=self.learning_rate
            )
            learned = descent.run(problem, start=predicted)
            return FoundGates(learned.gates, learned.activations, self.steps + 2, self.steps)

    def _places(
        self, network: StagedClassifier, masks: PlaceNetwork, images: Tensor, query: Tensor
    ) -> FoundGates:
        outputs, contributed, n_forward = ungated(network, images, query)
        self._check(network, outputs)
        with torch.no_grad():
            gates = masks.to(query.device).gates(outputs.activations, contributed)
        if not self.steps:
            whole = tuple(spread(gates, outputs.activations))
            return FoundGates(whole, outputs.activations, n_forward, 1, joining=Joining(tuple(gates)))
        problem = GateProblem("evidence", "per_channel", network, outputs, query)
        found = EvidenceMasks(settle=self.steps).run(problem, start=gates)
        weights = tuple(gate[:, :1] for gate in found.gates)
        steps = self.steps
        return replace(found, n_forward=n_forward + steps, n_backward=1 + steps, joining=Joining(weights))

    def predicted(
        self, classifier: StagedClassifier, outputs: StageOutputs, query: Tensor
    ) -> tuple[Tensor, ...]:
        """Gates that a network of elements predicts from stage outputs, in their graph.

        Raises:
            ConfigError: a classifier that it was not trained for, or a network of places.
        """
        loaded = self._loaded
        if isinstance(loaded, LoadedPlaces):
            raise ConfigError(
                f"mask network {self.checkpoint} has gates of places, which depend on a gradient of the"
                " classifier; give one with gates of elements, such as emoji_scenes_64_masks"
            )
        self._check(classifier, outputs)
        asked = query if self.uses_query else torch.full_like(query, classifier.num_classes)
        masks = loaded.network.to(outputs.logits.device)
        return tuple(masks(outputs.activations, asked))

    def _check(self, classifier: StagedClassifier, outputs: StageOutputs) -> None:
        """Raise ``ConfigError`` unless the classifier is that of the card."""
        card = self._loaded[1]
        channels = tuple(activation.shape[1] for activation in outputs.activations)
        classes = classifier.num_classes if isinstance(card, PlaceCard) else card.num_classes
        if (channels, classifier.num_classes) != (card.channels, classes):
            raise ConfigError(
                f"mask network {self.checkpoint} was trained for stages of {card.channels} channels and"
                f" {classes} classes, the classifier has {channels} and {classifier.num_classes};"
                f" train one for it with configs/masker.yaml{_WITHOUT}"
            )
        if self.same_weights and classifier_fingerprint(classifier) != card.classifier:
            raise ConfigError(
                f"mask network {self.checkpoint} was trained for a classifier with other weights; train one"
                f" for this classifier with configs/masker.yaml{_WITHOUT}"
            )


class LoadedElements(NamedTuple):
    """A network with a gate for every element, and what it was trained for."""

    network: MaskNetwork
    card: MaskCard


class LoadedPlaces(NamedTuple):
    """A network with a gate for every place, and what it was trained for."""

    network: PlaceNetwork
    card: PlaceCard


LoadedMasks = LoadedElements | LoadedPlaces


def save_mask_network(path: Path | str, network: MaskNetwork | PlaceNetwork, card: Mapping[str, Any]) -> None:
    """Write a mask network as a pair of ``.safetensors`` and its card.

    Args:
        path: ends in ``.safetensors``.
        network: trained.
        card: the entries of :class:`MaskCard` or :class:`PlaceCard`, and ``origin``: where the weights come
            from.
    """
    save_export(path, network.state_dict(), {**card, "network": type(network).__name__})


def load_mask_network(source: str) -> LoadedMasks:
    """A frozen mask network in eval mode, and what it was trained for.

    Args:
        source: name of shipped weights, path of an export, or of a checkpoint of a masker run.

    Raises:
        ConfigError: no such name or file.
        CheckpointError: a damaged file, or one that holds no mask network.
    """
    path = Path(source)
    if path.suffix == ".ckpt":
        checkpoint = load_checkpoint(path)
        card = dict(checkpoint.get(CARD_KEY, {}))
        tensors = {
            name.removeprefix(_PREFIX): value
            for name, value in checkpoint.get("state_dict", {}).items()
            if name.startswith(_PREFIX)
        }
    else:
        tensors, card = load_export(path if path.suffix == ".safetensors" else _shipped(source))
    kind = card.get("network")
    if kind not in ("MaskNetwork", "PlaceNetwork"):
        raise CheckpointError(f"{path} holds no mask network: its card names {kind!r}")
    if kind == "PlaceNetwork":
        of_places = PlaceCard.of(card)
        with rng_preserved():
            places = PlaceNetwork(of_places.channels, width=of_places.width)
        return LoadedPlaces(_with(tensors, places, path), of_places)
    made_for = MaskCard.of(card)
    with rng_preserved():
        network = MaskNetwork(made_for.channels, made_for.num_classes, width_ratio=made_for.width_ratio)
    return LoadedElements(_with(tensors, network, path), made_for)


def _with(tensors: Mapping[str, Tensor], network: _Network, path: Path) -> _Network:
    """The network with these weights, frozen and in eval mode."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit its card: {error}") from error
    network.to(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


def _shipped(name: str) -> Path:
    folder = resources.files("verisal") / "weights"
    found = {Path(str(item)).stem: Path(str(item)) for item in folder.iterdir()}
    known = sorted(stem for stem in found if stem.endswith("_masks"))
    if name not in known:
        raise ConfigError(
            f"unknown mask network {name!r}; known: {', '.join(known)}, the path of an exported .safetensors"
            " file, or checkpoints/best.ckpt of a masker run"
        )
    return found[name].with_suffix(".safetensors")


def classifier_fingerprint(classifier: StagedClassifier) -> str:
    """State hash of a classifier's last two parameters, its head as a rule: cheap enough for every call."""
    last = list(classifier.parameters())[-2:]
    return state_hash({str(index): parameter for index, parameter in enumerate(last)})
