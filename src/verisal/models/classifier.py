"""A classifier as every other room sees it: images in [0, 1] in, logits out, stages by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError, DataError
from verisal.functional.networks import check_hookable, plain_network
from verisal.functional.outputs import check_logits, logits_of, output_of
from verisal.functional.scopes import gradient_scope
from verisal.models._layout import (
    InputShape,
    both_sides,
    check_forward,
    check_stage_names,
    count_classes,
    probe_stages,
)
from verisal.models._stages import stages_of
from verisal.models._told import (
    check_network,
    check_output,
    input_channels,
    normalization_of,
    way_to_channels,
)
from verisal.models.bounds import Bounds
from verisal.models.function_network import names_inside
from verisal.models.normalization import Normalization
from verisal.models.sources.libraries import Architecture
from verisal.models.split import SplitNetwork, gives_same_logits, hooked_network, split_network
from verisal.types import OutputKind, StagedClassifier, StageOutputs, check_range


@final
class Classifier(StagedClassifier):
    r"""Any network, its normalisation, and the names of the stages that methods read or gate.

    Stages give maps, maps with channels last, or the tokens of a vision transformer, of which the patches
    are gated and class and register tokens are not; methods see maps ``(B, C, h, w)`` in each case. The
    network is cut by tracing; one that cannot be traced runs whole, with hooks, on each call.

    The network may be one that somebody trains: its weights, device and precision are those of the moment,
    and its modes and flags stay as they are. Images are moved and cast to what it takes; logits and
    activations come back in float32 from a network of half precision.

    Attributes:
        seen_images: ``fit`` and ``val`` to digests ``(N,)`` int64 of the images that trained it and that
            chose its weights, where its file tells.

    Args:
        network: maps normalised images ``(B, C, H, W)`` to logits ``(B, K)``, alone or inside of what
            :func:`.logits_of` reads. Wrappers of ``torch.compile``, DataParallel and
            DistributedDataParallel are taken off.
        stages: sub-modules whose outputs are the activations ``a_1 .. a_L``, in running order. Where nothing
            is given they are found when they are first needed, by a dozen passes.
        normalization: whatever :meth:`.Normalization.of` takes; None for what the network says of itself,
            as those of timm do.
        class_names: the K names, in the order of the logits; numbers where nothing is given.
        image_size: side, or (height, width), in pixels that the network was trained at; that of the first
            images where nothing is given.
        channels: that the network takes; those of its normalisation, of its first convolution, or of the
            first images where nothing is given.
        bounds: least and greatest value of what the network takes, such as (-1024, 1024), which images of 0
            and 1 stand for; [0, 1] where nothing is given. With bounds, ``normalization`` is in units of
            these values, and where it is not given the network takes them as they are.
        output: ``softmax``: the classes exclude each other. ``sigmoid``: each logit is decided by itself, as
            of networks for several labels or with one logit; the probability of class k is
            :math:`\sigma(z_k)`, and it is predicted from 0.5 on. ``score``: each logit is a number of its
            own, of a regression network or a target (see :func:`.targeted`), and no probability. What the
            network says by an attribute ``output``, else ``softmax``, where nothing is given.
        architecture: what builds the network again, for exports; None where nobody knows.

    Raises:
        ConfigError: no normalisation; stages that cannot be gated (see :func:`split_network`); another
            number of names than of logits; or one logit with ``softmax``, which would be 1 for every image.
            What needs the size of the images is checked when that is known.
    """

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[str] | None = None,
        *,
        normalization: object = None,
        class_names: Sequence[str] | None = None,
        image_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        bounds: Bounds | Sequence[float] | None = None,
        output: OutputKind | None = None,
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        check_range(1, image_size=image_size, channels=channels)
        self.bounds = Bounds.of(bounds)
        check_network(network)
        network = plain_network(network)
        self.output: OutputKind = output or output_of(network)
        self._known_classes = None if class_names is None else len(class_names)
        check_output(self.output, self._known_classes)
        told = normalization_of(network, normalization, None if bounds is None else self.bounds)
        self._channels = input_channels(network, told, channels)
        told = told.over(self._channels or 1)
        if stages is not None:
            stages = names_inside(network, tuple(stages))
            check_hookable(network, "a classifier with stages", stages)
            check_stage_names(network, stages)
        self.network = network
        self.architecture = architecture
        self._told_stages = stages
        self._told_names = None if class_names is None else tuple(class_names)
        self._told_size = None if image_size is None else both_sides(image_size)
        self._seen_size: tuple[int, int] | None = None
        self._views: _Views | None = None
        # No buffers: they are no part of its weights, nor of their hash.
        self.seen_images: Mapping[str, Tensor] = {}
        self.register_buffer("mean", torch.tensor(told.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(told.std).view(1, -1, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        if stages is not None and image_size is not None and self._channels is not None:
            self._cut()

    def around(self, network: nn.Module, stages: tuple[str, ...]) -> Classifier:
        """A classifier of a network around this one's own, with all that was told of the images.

        Args:
            network: takes what this one's network takes; says what its logits are.
            stages: names in it; empty for those that are found.
        """
        made = Classifier(
            network,
            stages or None,
            normalization=self.normalization,
            image_size=self._told_size,
            channels=self._channels,
        )
        # Its own flag alone: the network's modes are its owner's.
        made.training = self.training
        made.bounds, made._seen_size = self.bounds, self._seen_size
        made.mean, made.std = self.mean, self.std
        return made

    @property
    def told_stages(self) -> tuple[str, ...] | None:
        """Names of the stages where somebody has named them."""
        return self._told_stages

    @property
    def normalization(self) -> Normalization:
        """What is applied to images in [0, 1] before the network gets them."""
        # 0.485 in single precision is 0.485 again.
        mean, std = (
            tuple(float(f"{value:.7g}") for value in values.flatten().tolist())
            for values in (self.mean, self.std)
        )
        return Normalization(mean, std)

    @property
    def scales_only(self) -> bool:
        """True for a network that takes values in its bounds as they are, so that no data has its mean."""
        alike = Normalization.of(None, bounds=self.bounds).over(self.mean.numel())
        pairs = ((self.mean, alike.mean), (self.std, alike.std))
        return all(torch.allclose(own.flatten(), own.new_tensor(other)) for own, other in pairs)

    @property
    def image_size(self) -> int:
        """Height and width in pixels, as said, else of the first images; the larger one if they differ.

        Raises:
            ConfigError: neither is known yet.
        """
        if self._told_size is not None:
            return max(self._told_size)
        if self._seen_size is not None:
            return max(self._seen_size)
        raise ConfigError(
            f"the image size of this {type(self.network).__name__} is not known before its first images;"
            " give image_size, in pixels"
        )

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Both sides in pixels, as said, else of the first images; stages and logits are found at them.

        Raises:
            ConfigError: neither is known yet.
        """
        side = self.image_size
        return self._told_size or self._seen_size or (side, side)

    @property
    def channels(self) -> int:
        """Number of channels C of the images, as said or found, else that of the first images.

        Raises:
            ConfigError: it is not known yet.
        """
        return self._shape(1).channels

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in running order; found now where nobody has named them.

        Raises:
            ConfigError: none can be found, or the size of the images is not known yet.
        """
        return self._told_stages or self._cut().stages

    @property
    def num_classes(self) -> int:
        """Number of classes K.

        Raises:
            ConfigError: it is not said, and the size of the images is not known yet.
        """
        if self._known_classes is None:
            count = count_classes(self.network, self._shape(self.height_and_width))
            self._check_classes(count)
            return count
        return self._known_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K names, in the order of the logits; numbers where nobody has named them."""
        return self._told_names or tuple(map(str, range(self.num_classes)))

    @property
    def given_names(self) -> tuple[str, ...]:
        """The names of the classes as they were given; empty where nobody has named them."""
        return self._told_names or ()

    def note_size(self, images: Tensor, *, shown: tuple[int, int] | None = None) -> None:
        """Take the size and channels of these images for those of the classifier, where none are known yet.

        Raises:
            DataError: images with other channels than the network takes.
        """
        if self._channels is None:
            self._channels = images.shape[1]
        if images.shape[1] != self._channels:
            found, taken = images.shape[1], self._channels
            raise DataError(
                f"the network {type(self.network).__name__} takes images of {taken} channel(s), found"
                f" {found}: {tuple(images.shape)}; {way_to_channels(found, taken)}"
            )
        if self._seen_size is None:
            self._seen_size = shown or (images.shape[-2], images.shape[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)`` in [0, 1].

        Raises:
            DataError: images in 8 bits, or with other channels than the network takes.
        """
        self.note_size(images)
        try:
            answer = self.network(self._normalise(images))
        except NotImplementedError as error:
            check_forward(self.network, error)
            raise
        name = type(self.network).__name__
        logits = logits_of(answer, len(images), classes=self._known_classes, source=name)
        self._check_classes(logits.shape[1])
        return logits

    def prefix(self, images: Tensor) -> Tensor:
        """Activation of the first stage ``(B, C_1, H_1, W_1)``."""
        self.note_size(images)
        return _full(self._cut().split.prefix(self._normalise(images)))

    def gated(self, first: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Logits with every stage's activation multiplied by its gate.

        Args:
            first: ungated activation of the first stage, from :meth:`prefix`.
            gates: one tensor per stage, broadcastable to its activation.
        """
        views = self._cut()
        if len(gates) != len(views.stages):
            raise ConfigError(
                f"expected {len(views.stages)} gates, one per stage {views.stages}, found {len(gates)}"
            )
        dtype = _taken(self.network, first).dtype
        return _full(views.split.gated(first.to(dtype), tuple(gate.to(dtype) for gate in gates)))

    def stage_outputs(self, images: Tensor) -> StageOutputs:
        """Logits and the ungated activation of every stage, in one pass.

        Raises:
            NumericError: logits that are no numbers, of which the largest is no prediction.
        """
        self.note_size(images)
        split = self._cut().split
        first = split.prefix(self._normalise(images))
        logits, later = split.observed(first)
        check_logits(logits, f"the network {type(self.network).__name__}")
        return StageOutputs(_full(logits), tuple(map(_full, (first, *later))))

    def _normalise(self, images: Tensor) -> Tensor:
        if not images.is_floating_point():
            raise DataError(
                f"images must be float in [0, 1], found {images.dtype}; divide 8-bit images by 255:"
                " images / 255"
            )
        taken = _taken(self.network, images)
        images = images.to(taken.device)
        mean, std = (values.to(images.device) for values in (self.mean, self.std))
        return ((images - mean) / std).to(taken.dtype)

    def _shape(self, size: int | tuple[int, int]) -> InputShape:
        return InputShape.of(self.network, size, self._channels)

    def _cut(self) -> _Views:
        """The views of the network that methods with stages call; made once."""
        if self._views is None:
            device = _taken(self.network, self.mean).device
            with gradient_scope(device.type):
                shape = self._shape(self.height_and_width)
                views = _views_of(self.network, self._told_stages, self._known_classes, shape)
            self._check_classes(views.num_classes)
            self._views = views
        return self._views

    def _check_classes(self, found: int) -> None:
        """Keep the number of logits that the network gives, unless names or output do not fit it."""
        names = self._told_names
        if names is not None and len(names) != found:
            raise ConfigError(
                f"{type(self.network).__name__} gives {found} logits, but there are {len(names)} class names"
                f" ({', '.join(names[:5])} ...); give one name per logit"
            )
        check_output(self.output, found)
        self._known_classes = found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts; the normalisation stays in float32, as two bytes would round it."""
        exact = {name: getattr(self, name) for name in ("mean", "std")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch has no types there
        for name, values in exact.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, values.to(moved.device))
        return self


@dataclass(frozen=True)
class _Views:
    """Stages, the network cut at them, and the number of its logits."""

    stages: tuple[str, ...]
    split: SplitNetwork
    num_classes: int


def as_it_says(classifier: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """A bare network that says how its input is normalised, as those of timm do, with that normalisation."""
    if isinstance(classifier, nn.Module):
        network = plain_network(classifier)
        if not isinstance(network, StagedClassifier) and Normalization.found_in(network) is not None:
            return Classifier(network)
    return classifier


def _taken(network: nn.Module, otherwise: Tensor) -> Tensor:
    """A parameter of the device and dtype that the network's input has; another tensor if there is none."""
    return next((each for each in network.parameters() if each.is_floating_point()), otherwise)


def _full(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _views_of(
    network: nn.Module, told: Sequence[str] | None, classes: int | None, shape: InputShape
) -> _Views:
    stages = tuple(told or stages_of(network, shape))
    probe = probe_stages(network, stages, shape, classes=classes)
    try:
        split = split_network(network, stages, probe)
    except ConfigError:
        split = None
    # A tracer loses what a network does in place, such as normalising its input.
    if split is None or not gives_same_logits(network, split, probe):
        # Hooks do with less; what they cannot do either, they say themselves.
        split = hooked_network(network, stages, probe)
    return _Views(stages, split, probe.num_classes)
