"""Several detectors of different measurements, weighed by a regression that learns what each is worth."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from verisal.detectors.base import Detector, require_rows
from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.statistical import LogisticDetector
from verisal.errors import ConfigError, NumericError
from verisal.fingerprint import canonical
from verisal.functional.seeding import derive_seed
from verisal.saliency.gates.differentiable import GateFunction
from verisal.types import StagedClassifier, check_range


@final
@dataclass(frozen=True, kw_only=True)
class Combined(Measurement):
    """Several measurements of one image: ``<n>/<name>`` for what the n-th gives as ``<name>``, from 0.

    Args:
        sources: different measurements.

    Raises:
        ConfigError: fewer than two, or two that are equal.
    """

    sources: tuple[Measurement, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        if len(self.sources) < 2 or len(set(map(canonical, self.sources))) < len(self.sources):
            raise ConfigError(
                "Combined needs at least two sources, all different; found"
                f" {', '.join(type(source).__name__ for source in self.sources) or 'none'}"
            )
        object.__setattr__(self, "needs_stages", any(source.needs_stages for source in self.sources))

    @property
    def parts(self) -> tuple[Measurement, ...]:
        """The sources."""
        return self.sources

    def joined(self, measured: Sequence[Measured]) -> dict[str, Tensor]:
        """Tensors of all sources under their numbers."""
        numbered = enumerate(measured)
        return {f"{number}/{name}": tensor for number, part in numbered for name, tensor in part.items()}

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """What every source measures of images ``(B, C, H, W)`` in [0, 1]."""
        return self.joined([source(classifier, images) for source in self.sources])

    def differentiable(
        self, classifier: StagedClassifier, images: Tensor, *, gates: GateFunction | None = None
    ) -> dict[str, Tensor]:
        """The same with a graph to the images, through every source."""
        return self.joined([one.differentiable(classifier, images, gates=gates) for one in self.sources])


@final
@dataclass(kw_only=True)
class Stack(LogisticDetector):
    """A logistic regression on the scores of several detectors; the score is the log odds.

    Unlike :class:`Vote`, its parts may read different measurements, and weigh as much as they are worth. What
    they are worth is learned on scores out of fold: the fit images are divided, and each part scores the
    images of a division after a fit on the others. Then every part is fitted on all.

    All versions of an image are in one division, if :meth:`fit` is told which they are. Else it divides rows:
    an attacked image is then scored by parts that have seen its clean or noisy version, which flatters those
    that memorise.

    Args:
        parts: detectors; equal measurements among theirs are made once.
        folds: divisions of the fit images; every part is fitted so often, and once more.
        penalty: strength of the L2 penalty on the weights of the standardised scores.

    Raises:
        ConfigError: fewer than two parts, or settings out of range.

    References:
        wolpert1992
    """

    source: Measurement = field(init=False, repr=False, compare=False)
    parts: tuple[Detector, ...]
    folds: int = 5
    penalty: float = 1.0

    def __post_init__(self) -> None:
        self.parts = tuple(self.parts)
        check_range(2, folds=self.folds)
        check_range(0, above=True, penalty=self.penalty)
        if len(self.parts) < 2:
            raise ConfigError(f"a stack needs at least two parts, found {len(self.parts)}")
        sources = {canonical(part.measurement): part.measurement for part in self.parts}
        self._places = [list(sources).index(canonical(part.measurement)) for part in self.parts]
        several = len(sources) > 1
        self.source = Combined(sources=tuple(sources.values())) if several else self.parts[0].measurement

    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Fit all parts, and weigh them on divisions of the images."""
        require_rows(self, adversarial, clean)
        device, kinds = adversarial.device, 2 * adversarial.long() + clean.long()
        of = torch.arange(len(adversarial), device=device) if images is None else images.to(device)
        fold_of = divisions(of, kinds, self.folds, seed=seed)
        scores = torch.empty(len(kinds), len(self.parts), dtype=torch.float64, device=device)
        for place, part in enumerate(self.parts):
            read = self._read(measured, place)
            for fold in torch.unique(fold_of).tolist():
                held = fold_of == fold
                rest = {name: tensor[~held] for name, tensor in read.items()}
                apart = copy.deepcopy(part)
                apart.fit(
                    rest, adversarial[~held], clean[~held], images=None if images is None else of[~held],
                    seed=derive_seed(seed, "out of fold", place, fold),
                )  # fmt: skip
                scores[held, place] = apart.judge({n: tensor[held] for n, tensor in read.items()}).double()
            part.fit(read, adversarial, clean, images=images, seed=derive_seed(seed, "part", place))
        if lacking := int((~scores.isfinite()).any(dim=1).sum()):
            raise NumericError(
                f"Stack: {lacking} of {len(scores)} fit rows have no finite score by some part; check what"
                " the parts read, or leave the part out"
            )
        self._learned = {}
        self._weigh(scores, adversarial, images)

    def _numbers(self, measured: Measured) -> Tensor:
        """Scores of the parts, ``(B, parts)`` float64."""
        judged = [part.judge(self._read(measured, place)) for place, part in enumerate(self.parts)]
        return torch.stack([scores.double() for scores in judged], dim=1)

    def _read(self, measured: Measured, place: int) -> Measured:
        """What a part reads, under the names that it knows."""
        if not isinstance(self.source, Combined):
            return measured
        start = f"{self._places[place]}/"
        return {name.removeprefix(start): t for name, t in measured.items() if name.startswith(start)}

    def state_settings(self) -> dict[str, Any]:
        """Those of the parts, and its own."""
        return self.settings() | {"parts": [part.state_settings() for part in self.parts]}

    def state(self) -> dict[str, Tensor]:
        """What was learned, and the states of all parts under their numbers."""
        return super().state() | {
            f"Stack.{number}.{name}": tensor
            for number, part in enumerate(self.parts)
            for name, tensor in part.state().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights, and give every part its own."""
        own = self._own(state)
        numbers = {name.partition(".")[0] for name in own if "." in name}
        if strange := numbers - set(map(str, range(len(self.parts)))):
            raise ConfigError(f"this is the state of a stack of {max(map(int, strange)) + 1} parts or more")
        for number, part in enumerate(self.parts):
            start = f"{number}."
            part.restore({n.removeprefix(start): t for n, t in own.items() if n.startswith(start)})
        self._learned = {name: tensor for name, tensor in own.items() if "." not in name}


def divisions(images: Tensor, kinds: Tensor, folds: int, *, seed: int) -> Tensor:
    """``(N,)`` int64, the division of each row: rows of one image in one, kinds spread over all of them.

    Args:
        images: ``(N,)``, equal for rows of one image.
        kinds: ``(N,)`` int64 at least 0; an image is of the largest kind among its rows.
        folds: divisions, as equal as can be.
        seed: of the order.
    """
    names, image = torch.unique(images, return_inverse=True)
    largest = kinds.new_zeros(len(names)).scatter_reduce(0, image, kinds, "amax")
    rng = torch.Generator().manual_seed(derive_seed(seed, "divisions"))
    drawn = torch.randperm(len(names), generator=rng).to(images.device)
    order = drawn[largest[drawn].argsort(stable=True)]
    fold_of = torch.empty_like(order)
    fold_of[order] = torch.arange(len(names), device=images.device) % folds
    return fold_of[image]
