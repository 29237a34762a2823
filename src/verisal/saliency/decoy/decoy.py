r"""Decoys: images that differ in small patches and have the same features at a chosen layer.

A map of a base method *E* is taken of every decoy, and the range of what it says about a pixel,

.. math:: Z_i = \max_j E(\tilde x^j)_i - \min_j E(\tilde x^j)_i

is the saliency: what changes although the network's early layers saw no difference comes from interactions of
pixels, not from the noise that the image's own map holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal, final

import torch
from torch import Tensor, nn

from verisal._brief import brief
from verisal.errors import ConfigError
from verisal.functional.comparison.similarity import attribution_of
from verisal.functional.networks import stopped_at
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.scopes import images_at_once
from verisal.functional.seeding import named_after
from verisal.functional.shared_work import shared, work_key
from verisal.saliency._base import ONE_SCORE, Saliency, explaining, query_score
from verisal.saliency.decoy.descent import DecoyDescent
from verisal.saliency.decoy.layer import (
    Features,
    PatchLattice,
    ReceptiveField,
    check_not_linear,
    find_layer,
    least_period,
    patch_lattice,
    receptive_field,
)
from verisal.saliency.decoy.problem import (
    DecoyReport,
    Rows,
    constant_change,
    measured,
    noise_change,
    of_all_decoys,
    of_all_images,
    rows_of,
    small_start,
)
from verisal.saliency.gradients.gradient import Gradient, network_of, sample_groups
from verisal.types import AnyClassifier, SaliencyResult, check_range


@dataclass(frozen=True)
class Decoys:
    """Some decoys of some images.

    Attributes:
        rows: ``(b,)`` int64, which images of the batch.
        masks: ``(g, 1, H, W)`` bool, the patches.
        signs: ``(g,)``, in which direction the patches were pushed.
        images: ``(g, b, C, H, W)`` in [0, 1].
        report: of these decoys only.
    """

    rows: Tensor
    masks: Tensor
    signs: Tensor
    images: Tensor
    report: DecoyReport

    __repr__ = brief


@dataclass(frozen=True)
class _Plan:
    """The parts that all decoys of a batch share."""

    layer: nn.Module
    lattice: PatchLattice
    top: Tensor


@dataclass(frozen=True)
class _Part:
    """Maps of E over some decoys: memory does not grow with their number.

    ``passes`` and ``baseline`` are those of the base, forward and backward.
    """

    high: Tensor
    low: Tensor
    total: Tensor
    reports: tuple[DecoyReport, ...]
    passes: tuple[float, float]
    baseline: str

    def joined(self, other: _Part) -> _Part:
        return _Part(
            torch.maximum(self.high, other.high),
            torch.minimum(self.low, other.low),
            self.total + other.total,
            (*self.reports, *other.reports),
            other.passes,
            other.baseline,
        )


@final
@dataclass(frozen=True, kw_only=True)
class Decoy(Saliency):
    """Range of a base method's attribution over decoys.

    Args:
        base: method E. Its signed attribution is aggregated, or its map where it has none.
        masks: ``lattice``: patches far enough apart that no feature depends on two of them share a decoy.
            ``single``: one patch a decoy, the literal form.
        layer: name of the stage or module whose output decoys keep; the end of a dotted name will do. None:
            the first max-pooling layer that runs, or the first stage where there is none.
        patch: side of a patch in pixels.
        stride: distance of neighbouring patches in pixels.
        period: distance in pixels of patches that share a decoy. None: the smallest that the receptive field
            of the layer, which is measured, allows.
        epsilon: largest change of a feature, relative to the deviation of the image's features.
        max_deviation: bound on the change of a pixel, in [0, 1] units, or None.
        perturbation: ``decoy``, or a control of equal size: ``constant`` replaces the patches by the image's
            mean colour (one image per mask: there is no direction), ``noise`` by uniform noise with the
            decoys' own mean deviation in every patch and no regard for the features.
        aggregate: ``range``: largest minus smallest attribution per pixel and channel. ``mean`` is a control.
        steps: of one round of the optimisation.
        rounds: at most.
        learning_rate: of the first step, in pixel units; it falls from step to step.
        multiplier: first weight of a patch's penalty, the mean over its features of what exceeds epsilon, in
            deviations of the image's features.
        factor: by which the weight rises after a round that ends infeasible, and falls after a feasible one.
        seed: of start and noise, which depend on it and on the image's content only.
        chunk_size: decoys at once, fewer above 128 x 128 pixels; bounds memory, never changes the result
            beyond float rounding.

    Raises:
        ConfigError: settings out of range; when called, a linear network, a layer that is unknown or above
            the head, a period too small for the layer, or an epsilon below the rounding of the features.

    References:
        lu2021decoys

    Differs from:
        - The paper's stride, number of masks, epsilon, layer and solver settings are not known to us; all are
          ours. The solver also draws every iterate towards the image until it is feasible, and keeps that if
          it is better; the paper's extra bound by an attacked image's map is left out.
        - ``lattice`` is ours: many patches change at once before E is asked.
        - A patch without a feasible iterate stays as in the image, and is counted.
        - All decoys of an image are explained with the same random numbers, where E draws any.
    """

    base: Saliency = field(default_factory=Gradient)
    masks: Literal["lattice", "single"] = "lattice"
    layer: str | None = None
    patch: int = 3
    stride: int = 3
    period: int | None = None
    epsilon: float = 0.02
    max_deviation: float | None = None
    perturbation: Literal["decoy", "constant", "noise"] = "decoy"
    aggregate: Literal["range", "mean"] = "range"
    steps: int = 60
    rounds: int = 5
    learning_rate: float = 0.02
    multiplier: float = 16.0
    factor: float = 2.0
    seed: int = 0
    chunk_size: int = 128

    needs_module = True

    def __post_init__(self) -> None:
        check_range(1, patch=self.patch, stride=self.stride, chunk_size=self.chunk_size)
        check_range(1, steps=self.steps, rounds=self.rounds, factor=self.factor)
        check_range(0, above=True, epsilon=self.epsilon, learning_rate=self.learning_rate)
        check_range(0, above=True, multiplier=self.multiplier)
        if self.max_deviation is not None and not 0 < self.max_deviation <= 1:
            raise ConfigError(
                f"max_deviation is in [0, 1] pixel units and must lie in (0, 1], found {self.max_deviation};"
                " None sets no bound"
            )
        if self.period is not None and (
            self.masks == "single" or self.period % self.stride or self.period < 1
        ):
            raise ConfigError(
                f"period is for lattice masks and must be a positive multiple of the stride {self.stride},"
                f" found period={self.period} with masks={self.masks!r}; None chooses the smallest that works"
            )

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Range per channel in ``attribution``, its largest absolute value over the channels in ``saliency``.

        ``diagnostics`` holds the fields of :class:`DecoyReport` that are tensors.
        """
        network = network_of(classifier, type(self).__name__)
        with explaining(network, images, query_class) as (copies, query):
            plan = self._plan(network, copies, query)
            parts = [
                self._whole(plan, network, copies[some], query[some], plan.top[some])
                for some in self._chunks(copies)
            ]
            attribution = torch.cat([self._aggregated(part) for part in parts])
            report = of_all_images([of_all_decoys(part.reports) for part in parts])
            saliency = attribution.abs().amax(dim=1, keepdim=True)
        return SaliencyResult(
            saliency,
            saliency,
            attribution,
            n_forward=report.n_decoys * (parts[0].passes[0] + 1) + 1,
            n_backward=report.n_decoys * parts[0].passes[1],
            baseline=parts[0].baseline,
            diagnostics=report.tensors(),
        )

    def decoys(self, classifier: AnyClassifier, images: Tensor) -> Iterator[Decoys]:
        """All decoys of ``images (B, C, H, W)``, at most ``chunk_size`` images at a time.

        Between two groups the classifier is as it was found.

        Raises:
            DataError: no image, or images that are none.
            ConfigError: as of the call.
        """
        network = network_of(classifier, type(self).__name__)
        any_class = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        with explaining(network, images, any_class) as (copies, query):
            plan = self._plan(network, copies, query)
        for some in self._chunks(images):
            for numbers in self._groups(plan, images[some]):
                with explaining(network, images[some], any_class[some]) as (copies, _):
                    group = self._group(plan, network, copies, plan.top[some], numbers)
                yield replace(group, rows=some)

    @property
    def _signs(self) -> int:
        return 1 if self.perturbation == "constant" else 2

    def _groups(self, plan: _Plan, images: Tensor) -> Iterator[range]:
        """Numbers of masks whose decoys of some images are made at once."""
        at_once = images_at_once(self.chunk_size, images)
        return sample_groups(len(plan.lattice), self._signs * len(images), at_once)

    def _chunks(self, images: Tensor) -> tuple[Tensor, ...]:
        rows = torch.arange(len(images), device=images.device)
        return torch.split(rows, max(1, images_at_once(self.chunk_size, images) // self._signs))

    def _plan(self, network: nn.Module, images: Tensor, query_class: Tensor) -> _Plan:
        require_softmax(network, type(self).__name__, instead=ONE_SCORE)
        shape, size, device = tuple(images.shape[1:]), (images.shape[-2], images.shape[-1]), images.device
        with torch.no_grad():
            logits = torch.cat([ask(network, some) for some in torch.split(images, self.chunk_size)])
        query_score(logits, query_class, "logit")  # refuses a query that does not fit

        def measured_layer() -> tuple[nn.Module, ReceptiveField]:
            check_not_linear(network, shape, device)
            layer = find_layer(network, self.layer, images[:1])
            with stopped_at(network, layer) as features:
                return layer, receptive_field(features, shape, device=device, chunk_size=self.chunk_size)

        layer, field = shared(
            lambda: work_key("layer", [self.layer, shape, str(device)], network), measured_layer
        )
        lattice = patch_lattice(
            field, size, patch=self.patch, stride=self.stride, period=self._period(field.size, max(size))
        )
        return _Plan(layer, lattice, logits.argmax(dim=1))

    def _period(self, field: int, side: int) -> int:
        """Distance of patches that share a decoy; not below the image's side where each has its own."""
        least = least_period(field, self.patch, self.stride)
        apart = -(-side // self.stride) * self.stride
        if self.masks == "single":
            return apart
        if self.period is None:
            return min(least, apart)
        if self.period < min(least, apart):
            raise ConfigError(
                f"period {self.period} is too small: features depend on {field} pixels, so that patches of"
                f" {self.patch} pixels {self.period} apart would share some; the least that works is"
                f" {min(least, apart)}"
            )
        return self.period

    def _whole(
        self, plan: _Plan, network: nn.Module, images: Tensor, query_class: Tensor, top: Tensor
    ) -> _Part:
        """Maps of E over all decoys: the same for every aggregate, and made once for all of them."""
        asked = replace(self, aggregate="range")
        return shared(
            lambda: work_key("maps", [asked], network, [images, query_class]),
            lambda: reduce(_Part.joined, self._parts(plan, network, images, query_class, top)),
        )

    def _parts(
        self, plan: _Plan, network: nn.Module, images: Tensor, query_class: Tensor, top: Tensor
    ) -> Iterator[_Part]:
        """Maps of E over the decoys, a group at a time."""
        for numbers in self._groups(plan, images):
            group = self._group(plan, network, images, top, numbers)
            copies = len(group.images)
            # What a base method draws is the image's, so that it adds nothing to the range over decoys.
            with named_after(images, group.images):
                result = self.base(network, group.images.flatten(0, 1), query_class.repeat(copies))
            values = attribution_of(result)
            values = values.view(copies, len(images), *values.shape[1:])
            ends, passes = (values.amax(dim=0), values.amin(dim=0)), (result.n_forward, result.n_backward)
            yield _Part(*ends, values.sum(dim=0), (group.report,), passes, result.baseline)

    def _aggregated(self, part: _Part) -> Tensor:
        if self.aggregate == "mean":
            return part.total / sum(report.n_decoys for report in part.reports)
        return part.high - part.low

    def _group(self, plan: _Plan, network: nn.Module, images: Tensor, top: Tensor, numbers: range) -> Decoys:
        """The decoys of some masks, both signs, in order (mask, sign, image)."""
        batch, device = len(images), images.device
        copies = len(numbers) * self._signs
        mask = torch.tensor(list(numbers), device=device).repeat_interleave(self._signs)
        signs = torch.tensor([1.0, -1.0][: self._signs], device=device).repeat(len(numbers))
        with stopped_at(network, plan.layer) as features:
            patches = plan.lattice.masks(mask)
            rows = rows_of(
                features, images, patches, signs, epsilon=self.epsilon, max_deviation=self.max_deviation
            )
            change, missing, passes = self._change(features, rows, images, network, numbers)
            decoys = (rows.images + change).clamp(0, 1)
            with torch.no_grad():
                kept = features(decoys)
        if missing is None:
            missing = ~rows.feasible(rows.moved(kept - rows.features))
        with torch.no_grad():
            agrees = ask(network, decoys).argmax(dim=1) == top.repeat(copies)
        report = measured(rows, change, kept, missing=missing, agrees=agrees, passes=passes + 1, batch=batch)
        decoys = decoys.view(copies, *images.shape)
        return Decoys(torch.arange(batch, device=device), patches.mask() > 0, signs, decoys, report)

    def _change(
        self, features: Features, rows: Rows, images: Tensor, network: nn.Module, numbers: range
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Change of every row, patches without a feasible one (None for controls), passes.

        The decoys are the same for all base methods, and their size is that of the noise.
        """
        if self.perturbation == "constant":
            return constant_change(rows), None, torch.zeros(len(rows.images), device=images.device)
        descent = DecoyDescent(
            steps=self.steps,
            rounds=self.rounds,
            learning_rate=self.learning_rate,
            multiplier=self.multiplier,
            factor=self.factor,
        )
        solved = replace(self, base=Gradient(), aggregate="range", perturbation="decoy")
        solution = shared(
            lambda: work_key("decoys", [solved, numbers.start, numbers.stop], network, [images]),
            lambda: descent.run(features, rows, small_start(rows, images, seed=self.seed)),
        )
        if self.perturbation == "noise":
            return noise_change(rows, solution.change, images, seed=self.seed), None, solution.passes
        return solution.change, ~solution.found, solution.passes
