"""Attacks on saliency maps: noise that nobody sees, that keeps the prediction and moves the map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor, nn

from verisal.attacks._base import check_ball, joined
from verisal.attacks.on_maps.search import (
    Explain,
    MapAttackKind,
    MapAttackResult,
    MapObjective,
    Problem,
    best_on_path,
    map_objective,
)
from verisal.attacks.on_maps.surrogates import (
    GradientSurrogate,
    Part,
    Surrogate,
    ascent_gradient,
    softplus_relu,
)
from verisal.errors import ConfigError, DataError
from verisal.functional.comparison.similarity import attribution_of
from verisal.functional.networks import check_hookable
from verisal.functional.outputs import require_softmax
from verisal.functional.scopes import differentiated, images_at_once
from verisal.functional.seeding import series
from verisal.types import Labels, check_images, check_range, query_classes

Classifier = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class MapAttack:
    r"""Signed steps up the dissimilarity D of a map, in an Linf ball, with the predicted label kept.

    .. math:: x_{t+1} = \mathrm{clip}_{\epsilon, [0, 1]}(x_t + \alpha\,\mathrm{sign}(\partial D / \partial x))

    The direction comes from a surrogate attribution of a twin of the network, in which every ReLU is a
    softplus. Which iterate is kept is decided by the network and the method themselves: iterates are
    rounded to 8 bits, those that lose the predicted label do not count, and of the others the one of largest
    D is returned. The path is cut into stretches of ``judge_every`` steps; of each the last iterate that
    keeps the label is explained by the method.

    For a method that is none of the surrogates it is a transfer attack: the direction is that of another
    method's map.

    Args:
        kind: D, see :func:`.map_objective`.
        surrogate: the attribution that is differentiated; None stands for :class:`GradientSurrogate`.
        eps: Linf budget, in [0, 1] pixel units.
        step: length of a step.
        steps: number of steps.
        beta: sharpness of the twin, see :func:`.softplus_relu`.
        judge_every: steps per explained iterate; 1 explains all.
        top_share: k of ``top_k`` as a share of the pixels.
        seed: of what the surrogate or the control draws.
        chunk_size: network inputs differentiated at once, fewer above 128 x 128 pixels; never changes the
            result beyond float rounding. Sign steps can turn a rounding difference of a gradient near 0 into
            one of a step.

    Raises:
        ConfigError: settings out of range.

    References:
        ghorbani2019fragile

    Differs from:
        - Iterates are judged in 8 bits.
        - The control chooses among as many draws as the attack among iterates, by the same D.
    """

    kind: MapAttackKind
    surrogate: Surrogate | None = None
    eps: float = 8 / 255
    step: float = 1 / 255
    steps: int = 100
    beta: float = 10.0
    judge_every: int = 10
    top_share: float = 0.1
    seed: int = 0
    chunk_size: int = 64

    def __post_init__(self) -> None:
        if self.kind not in ("top_k", "mass_centre", "target"):
            raise ConfigError(f"kind must be top_k, mass_centre or target, found {self.kind!r}")
        check_ball(self, self.eps)
        check_range(0, above=True, step=self.step, beta=self.beta)
        check_range(1, steps=self.steps, judge_every=self.judge_every, chunk_size=self.chunk_size)
        if not 0 < self.top_share < 1:
            raise ConfigError(f"top_share must lie in (0, 1), found {self.top_share}; 10 % is 0.1")

    @property
    def _direction(self) -> Surrogate:
        return GradientSurrogate() if self.surrogate is None else self.surrogate

    @property
    def name(self) -> str:
        """Every setting that changes the result; those of rarer use only where not the default."""
        main = [self.kind, self._direction.name, f"{255 * self.eps:g}/255", str(self.steps)]
        others = [
            f"{item.name}={getattr(self, item.name):g}"
            for item in fields(self)
            if item.name in ("step", "beta", "judge_every", "top_share", "seed")
            and getattr(self, item.name) != item.default
        ]
        return ",".join(main + others)

    def __call__(
        self,
        classifier: Classifier,
        explain: Explain,
        images: Tensor,
        *,
        query_class: Labels,
        attribution: Tensor | None = None,
    ) -> MapAttackResult:
        """Attack the maps of some images.

        Args:
            classifier: maps images to logits; left as it was found.
            explain: the method: images and query class to maps.
            images: ``(B, C, H, W)`` in [0, 1], B at least 1.
            query_class: ``(B,)`` whole numbers, a tensor or a list, or an int for all images: the class
                that is explained before and after.
            attribution: ``(B, C, H, W)``, what ``explain`` gave for the images, or its map where it has none;
                without it ``explain`` is asked, and the pass is not counted.

        Raises:
            DataError: images that are none, or an attribution that does not fit them.
            ConfigError: a query class or a classifier that does not fit.
        """
        size = max(1, images_at_once(self.chunk_size, images) // self._direction.points)
        with _asking(classifier, explain, images, query_class, attribution) as inputs:
            return joined(
                self._attacked(self._problem(classifier, explain, *some)) for some in _chunks(inputs, size)
            )

    def control(
        self,
        classifier: Classifier,
        explain: Explain,
        images: Tensor,
        *,
        query_class: Labels,
        attribution: Tensor | None = None,
    ) -> MapAttackResult:
        """The same choice among random signs of the full budget, as many as iterates are explained.

        Arguments and errors are those of the attack.
        """
        with _asking(classifier, explain, images, query_class, attribution) as inputs:
            return joined(
                best_on_path(
                    self._problem(classifier, explain, *some), self._draws(some[0]), eps=self.eps, every=1
                )
                for some in _chunks(inputs, images_at_once(self.chunk_size, images))
            )

    def _problem(
        self, classifier: Classifier, explain: Explain, images: Tensor, query: Tensor, attribution: Tensor
    ) -> Problem:
        maps = attribution.abs().amax(dim=1, keepdim=True)
        objective = map_objective(self.kind, maps, top_share=self.top_share)
        return Problem(classifier, explain, images, query, maps, objective)

    def _attacked(self, problem: Problem) -> MapAttackResult:
        parts = self._direction.parts(
            self._twin(problem.classifier),
            problem.images,
            problem.query_class,
            seed=self.seed,
            chunk_size=images_at_once(self.chunk_size, problem.images),
        )
        path = self._path(problem.images, parts, problem.objective.nudged())
        result = best_on_path(problem, path, eps=self.eps, every=self.judge_every)
        # Several parts are computed twice: once for the whole map, once to be differentiated.
        once = self.steps * self._direction.points
        again = once if len(parts) > 1 else 0
        return replace(result, n_fwd=result.n_fwd + once + again, n_bwd=result.n_bwd + 2 * once + again)

    def _twin(self, classifier: Classifier) -> Classifier:
        def twin(images: Tensor) -> Tensor:
            with softplus_relu(self.beta):
                return classifier(images)

        return twin

    def _path(self, images: Tensor, parts: Sequence[Part], objective: MapObjective) -> Iterator[Tensor]:
        changed = images
        for _ in range(self.steps):
            changed = changed + self.step * ascent_gradient(parts, changed, objective).nan_to_num(0.0).sign()
            changed = (images + (changed - images).clamp(-self.eps, self.eps)).clamp(0, 1)
            yield changed

    def _draws(self, images: Tensor) -> Iterator[Tensor]:
        def draw(rng: torch.Generator) -> Tensor:
            return torch.randint(0, 2, images.shape[1:], generator=rng) * 2 - 1

        count = math.ceil(self.steps / self.judge_every)
        for signs in series(draw, images, samples=count, seed=self.seed, stream="random sign"):
            yield (images + self.eps * signs).clamp(0, 1)


@contextmanager
def _asking(
    classifier: Classifier, explain: Explain, images: Tensor, query_class: Labels, attribution: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The scope in which the network may be differentiated, and copies that may enter a graph."""
    check_images(images)
    query_class = query_classes(query_class, len(images), images.device)
    if attribution is None and len(images):
        attribution = attribution_of(explain(images, query_class))
    if (
        attribution is None
        or len(images) == 0
        or attribution.shape[:1] + attribution.shape[2:] != images.shape[:1] + images.shape[2:]
    ):
        raise DataError(
            f"there must be at least one image, and an attribution (B, C, H, W) of each;"
            f" found {tuple(images.shape)} and {'none' if attribution is None else tuple(attribution.shape)}"
        )
    require_softmax(classifier, "an attack on maps")
    if isinstance(classifier, nn.Module):
        check_hookable(classifier, "an attack on maps, which changes ReLU and")
    with differentiated(classifier, device=images.device):
        yield images.detach().clone(), query_class.clone(), attribution.detach().clone()


def _chunks(inputs: tuple[Tensor, ...], size: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(part, size) for part in inputs), strict=True)
