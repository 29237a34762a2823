"""A classifier as every other room sees it: images in [0, 1] in, logits out, stages by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.networks import plain_network
from verisal.functional.outputs import check_logits, logits_of
from verisal.models._layout import probe_stages
from verisal.models.sources.libraries import Architecture
from verisal.models.split import SplitNetwork, gives_same_logits, hooked_network, split_network
from verisal.types import OutputKind, StageOutputs, check_range


@final
class Classifier(nn.Module):
    r"""Any network, its normalisation, and the names of the stages that methods read or gate.

    Stages give maps, maps with channels last, or the tokens of a vision transformer, of which the patches
    are gated and class and register tokens are not; methods see maps ``(B, C, h, w)`` in each case. The
    network is cut by tracing; one that cannot be traced runs whole, with hooks, on each call.

    Attributes:
        seen_images: ``fit`` and ``val`` to digests ``(N,)`` int64 of the images that trained it and that
            chose its weights, where its file tells.

    Args:
        network: maps normalised images ``(B, 3, H, W)`` to logits ``(B, K)``, alone or inside of what
            :func:`.logits_of` reads. Wrappers of ``torch.compile``, DataParallel and
            DistributedDataParallel are taken off.
        stages: sub-modules whose outputs are the activations ``a_1 .. a_L``, in running order, at least two.
        class_names: the K names, in the order of the logits.
        image_size: height and width in pixels that the network was trained at.
        mean: per-channel mean that is subtracted from images in [0, 1].
        std: per-channel deviation that they are divided by.
        output: ``softmax``: the classes exclude each other. ``sigmoid``: each logit is decided by itself, as
            of networks for several labels or with one logit; the probability of class k is
            :math:`\sigma(z_k)`, and it is predicted from 0.5 on.
        architecture: what builds the network again, for exports; None where nobody knows.

    Raises:
        ConfigError: stages that cannot be gated (see :func:`split_network`), a normalisation that is not
            three numbers with positive deviations, another number of names than of logits, or one logit with
            ``softmax``, which would be 1 for every image.
    """

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[str],
        *,
        class_names: Sequence[str],
        image_size: int,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        output: OutputKind = "softmax",
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__()
        check_statistics(mean, std)
        check_range(1, image_size=image_size)
        if len(stages) < 2:
            raise ConfigError(f"a classifier needs at least two stages, found {list(stages)}")
        check_output(output, len(class_names))
        network = plain_network(network)
        self.network = network
        self.output: OutputKind = output
        self.stages = tuple(stages)
        self.class_names = tuple(class_names)
        self.image_size = image_size
        self.architecture = architecture
        # No buffers: they are no part of its weights, nor of their hash.
        self.seen_images: Mapping[str, Tensor] = {}
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        # The three views share the network's modules; registering them would list each parameter four times.
        split = _split(network, tuple(stages), self.class_names, image_size)
        object.__setattr__(self, "_split", split)
        self._split: SplitNetwork

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, 3, H, W)`` in [0, 1]."""
        answer = self.network(self._normalise(images))
        return logits_of(answer, len(images), classes=self.num_classes, source=type(self.network).__name__)

    def prefix(self, images: Tensor) -> Tensor:
        """Activation of the first stage ``(B, C_1, H_1, W_1)``."""
        activation: Tensor = self._split.prefix(self._normalise(images))
        return activation

    def gated(self, first: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Logits with every stage's activation multiplied by its gate.

        Args:
            first: ungated activation of the first stage, from :meth:`prefix`.
            gates: one tensor per stage, broadcastable to its activation.
        """
        if len(gates) != len(self.stages):
            raise ConfigError(
                f"expected {len(self.stages)} gates, one per stage {self.stages}, found {len(gates)}"
            )
        logits: Tensor = self._split.gated(first, tuple(gates))
        return logits

    def stage_outputs(self, images: Tensor) -> StageOutputs:
        """Logits and the ungated activation of every stage, in one pass.

        Raises:
            NumericError: logits that are no numbers, of which the largest is no prediction.
        """
        first = self.prefix(images)
        logits, later = self._split.observed(first)
        check_logits(logits, f"the network {type(self.network).__name__}")
        return StageOutputs(logits, (first, *later))

    def _normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def check_output(output: str, num_classes: int) -> None:
    """Raise ``ConfigError`` for another word than the two, or one logit with ``softmax``."""
    if output not in ("softmax", "sigmoid"):
        raise ConfigError(f"output must be 'softmax' or 'sigmoid', found {output!r}")
    if output == "softmax" and num_classes == 1:
        raise ConfigError(
            "output: softmax needs at least two classes, as the softmax over one is 1 whatever the image; say"
            " output: sigmoid (verisal explain: --classifier_output=sigmoid) for a network with one logit"
        )


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ``ConfigError`` unless they are three finite numbers each, with positive deviations."""
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
        raise ConfigError(f"mean and std must be three finite numbers, std positive; found {mean} and {std}")


def _split(
    network: nn.Module, stages: tuple[str, ...], class_names: tuple[str, ...], image_size: int
) -> SplitNetwork:
    probe = probe_stages(network, stages, image_size, classes=len(class_names))
    if probe.num_classes != len(class_names):
        raise ConfigError(
            f"{type(network).__name__} gives {probe.num_classes} logits, but there are {len(class_names)}"
            f" class names ({', '.join(class_names[:5])} ...); give one name per logit"
        )
    try:
        split = split_network(network, stages, probe)
    except ConfigError:
        split = None
    # A tracer loses what a network does in place, such as normalising its input.
    if split is not None and gives_same_logits(network, split, probe):
        return split
    # Hooks do with less; what they cannot do either, they say themselves.
    return hooked_network(network, stages, probe)
