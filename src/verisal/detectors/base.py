"""Detectors of adversarial images: what all have in common, and checks of what they are given."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any, final

import torch
from torch import Tensor, nn

from verisal.detectors.measurements import Measured, Measurement
from verisal.detectors.views import View
from verisal.errors import ConfigError, DataError, NumericError
from verisal.fingerprint import Configured
from verisal.functional.baselines import Baseline
from verisal.functional.outputs import require_softmax
from verisal.functional.scopes import gradient_scope
from verisal.functional.seeding import derive_seed
from verisal.saliency import Saliency
from verisal.types import StagedClassifier


@dataclass(kw_only=True)
class Detector(Configured, ABC):
    """Scores images; a higher score means more adversarial.

    A detector works in two halves. Its *measurement* asks the classifier about images: the expensive half,
    which a store keeps and detectors with equal measurements share. :meth:`fit` and :meth:`judge` read what
    was measured. The score is continuous, so that thresholds can be chosen on clean validation images
    afterwards.

    Sub-classes are dataclasses whose fields are settings; what was learned lies in ``_learned``.

    Args:
        source: what is measured of an image.
    """

    source: Measurement
    _learned: dict[str, Tensor] = field(init=False, default_factory=dict, repr=False, compare=False)

    @property
    def measurement(self) -> Measurement:
        """The source: measurement of an image that the detector reads."""
        return self.source

    @abstractmethod
    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Learn from measured images, forgetting what was learned before.

        Args:
            measured: name to ``(N, ...)``, of clean, noisy and attacked images.
            adversarial: ``(N,)`` bool, successful attacks; a detector without labels does not look at it.
            clean: ``(N,)`` bool, unchanged images that the classifier gets right. The others are noisy.
            images: ``(N,)`` int64, equal for rows that were made from one image: those that weigh rows do it
                by :func:`row_weights`, and those that divide rows keep an image together. None if unknown.
            seed: of everything random.

        Raises:
            DataError: too few images of a kind.
            ConfigError: a tensor that the measurement does not give, or of another shape than is read.
        """

    @abstractmethod
    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` scores of measured images; the score of one does not depend on the others.

        Networks and regressions give scores in the graph of what was measured, where it has one: attacks
        that know the detector need that.

        Raises:
            ConfigError: it needs fitting and was not fitted.
        """

    def member_scores(self, measured: Measured) -> Tensor:
        """``(B, members)``, of which :meth:`judge` is the mean; a detector without members has one."""
        return self.judge(measured)[:, None]

    def state(self) -> dict[str, Tensor]:
        """Everything that was learned, under names that begin with the class; empty where nothing was."""
        return {f"{type(self).__name__}.{name}": tensor for name, tensor in self._learned.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over the :meth:`state` of a detector with equal settings; scores are then the same bits.

        Raises:
            ConfigError: the state of another detector, or of one that has learned nothing.
        """
        self._learned = self._own(state)

    def _own(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state without the name of the class."""
        prefix = f"{type(self).__name__}."
        if strange := sorted({name.partition(".")[0] for name in state if not name.startswith(prefix)}):
            raise ConfigError(f"this is the state of {', '.join(strange)}, not of {prefix[:-1]}")
        if not state:
            raise ConfigError(f"this is the state of a {prefix[:-1]} that has learned nothing; fit it first")
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}

    def state_settings(self) -> dict[str, Any]:
        """The settings that a :meth:`state` must agree with: all but those of a training."""
        return self.settings()

    @final
    def recipe(self) -> dict[str, Any]:
        """Class and arguments of it and of everything nested, as plain data; :meth:`from_recipe` reads it.

        Unlike :meth:`settings` it has paths and what decides no score, such as a chunk size.
        """
        recipe: dict[str, Any] = _recipe(self)
        return recipe

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any]) -> Detector:
        """The detector that gave this :meth:`recipe`, not fitted.

        Only imported classes are made: detectors, measurements, views, saliency methods and baselines.

        Raises:
            ConfigError: another class, or arguments that the class does not have or refuses.
        """
        kinds = {
            kind.__name__: kind
            for root in (Detector, Measurement, View, Saliency, Baseline)
            for kind in _concrete(root)
        }
        try:
            made = _made(recipe, kinds)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"no detector can be made of {recipe} ({error})") from None
        if not isinstance(made, Detector):
            raise ConfigError(f"a detector was expected, found {recipe}")
        return made

    @final
    def score(self, classifier: StagedClassifier, images: Tensor) -> Tensor:
        """``(B,)`` scores of images ``(B, C, H, W)`` in [0, 1].

        Raises:
            ConfigError: it needs fitting and was not fitted, or the classifier says ``output: sigmoid``.
            NumericError: a score that is not a number.
        """
        require_softmax(classifier, f"{type(self).__name__}, a detector of adversarial images,")
        scores = self.judge(self.measurement(classifier, images))
        if bool(torch.isnan(scores).any()):
            raise NumericError(
                f"{type(self).__name__}: {int(scores.isnan().sum())} of {len(scores)} scores are not"
                " a number; check the classifier's weights and its normalisation"
            )
        return scores


@dataclass(kw_only=True)
class TrainedDetector(Detector):
    """Networks that are trained in a loop: that of :meth:`fit`, or another around its three parts.

    Equal rows and seeds give equal networks in every loop that repeats the one of :meth:`fit`: AdamW, one
    cycle of the rate, rows in :func:`epoch_order` without a short last batch. All random numbers depend on
    the seed, the member and the step alone. The last step is kept: nothing is chosen by images that were not
    fitted. The three parts take what was measured, or what :meth:`prepare` makes of it, with equal results.
    """

    members: int = 3
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.004
    weight_decay: float = 0.02
    _networks: nn.ModuleList | None = field(init=False, default=None, repr=False, compare=False)

    @abstractmethod
    def prepare(self, measured: Measured) -> Mapping[str, Tensor]:
        """Inputs of the networks, made of everything measured once for all epochs."""

    @abstractmethod
    def build(self, clean: Measured, *, seed: int) -> nn.ModuleList:
        """Networks with their first weights, one a member.

        Args:
            clean: what was measured of the clean fit images, which inputs are standardised by.
            seed: of the weights.
        """

    @abstractmethod
    def loss(
        self,
        networks: nn.ModuleList,
        measured: Measured,
        adversarial: Tensor,
        *,
        weights: Tensor,
        seed: int,
        step: int,
    ) -> Tensor:
        """Sum over members of the weighted mean loss of a batch, a scalar with a graph to the networks.

        Args:
            networks: in training mode.
            measured: name to ``(B, ...)``.
            adversarial: ``(B,)`` bool.
            weights: ``(B,)`` float32 of the rows, of :func:`row_weights` of all fit rows.
            seed: of dropout and flips.
            step: number of the step in the whole training, from 0.
        """

    @abstractmethod
    def votes(self, networks: nn.ModuleList, measured: Measured) -> Tensor:
        """Scores ``(B, members)`` by networks in eval mode; in the graph of what was measured."""

    @final
    def state_settings(self) -> dict[str, Any]:
        """The settings but for epochs, rows per step, rate and decay."""
        left_out = {item.name for item in fields(TrainedDetector)} - {"source", "members"}
        return {name: value for name, value in self.settings().items() if name not in left_out}

    @final
    def finish(self, networks: nn.ModuleList) -> None:
        """Judge by a copy of these networks from now on."""
        self._networks = copy.deepcopy(networks).eval().requires_grad_(False)

    @final
    def fit(
        self,
        measured: Measured,
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Train the networks from new weights, on at least 4 clean and 4 adversarial images."""
        require_rows(self, adversarial, clean)
        count, device = len(adversarial), adversarial.device
        with gradient_scope(device.type):
            inputs = self.prepare(measured)
            networks = self.build({name: tensor[clean] for name, tensor in inputs.items()}, seed=seed)
            weights = row_weights(adversarial, images).float()
            # A short last batch would have poor batch statistics; below one batch it is all there is.
            batches = max(count // self.batch_size, 1)
            optimizer = torch.optim.AdamW(
                networks.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=self.learning_rate, total_steps=self.epochs * batches
            )
            networks.train()
            for epoch in range(self.epochs):
                order = epoch_order(count, seed=seed, epoch=epoch).to(device)[: batches * self.batch_size]
                for batch, rows in enumerate(torch.split(order, self.batch_size)):
                    part = {name: tensor[rows] for name, tensor in inputs.items()}
                    flags, step = adversarial[rows], epoch * batches + batch
                    loss = self.loss(networks, part, flags, weights=weights[rows], seed=seed, step=step)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]  # torch says nothing of it
                    optimizer.step()
                    schedule.step()
        self.finish(networks)

    @final
    def member_scores(self, measured: Measured) -> Tensor:
        """``(B, members)``, the :meth:`votes` of the kept networks."""
        if self._networks is None:
            raise unfitted(self)
        with gradient_scope(next(iter(measured.values())).device.type):
            return self.votes(self._networks, measured)

    @final
    def judge(self, measured: Measured) -> Tensor:
        """``(B,)`` mean over the members of their scores."""
        return self.member_scores(measured).mean(dim=1)


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """Order ``(count,)`` int64 of the fit rows in an epoch, the same for all detectors of a seed."""
    rng = torch.Generator().manual_seed(derive_seed(seed, "order of rows", epoch))
    return torch.randperm(count, generator=rng)


def row_weights(adversarial: Tensor, images: Tensor | None) -> Tensor:
    """How much each row counts in a fit: adversarial rows as much as the others, in all.

    Some images are attacked more easily than others and have more adversarial rows. With equal weights for
    all rows a detector can learn which images those are, in place of what an attack does to an image. So
    each image counts as much on one side as on the other: its rows of a side share its weight, and an image
    that no attack succeeded on has none.

    Args:
        adversarial: ``(N,)`` bool.
        images: ``(N,)`` int64, equal for rows that were made from one image; None if that is unknown, or
            every row is of an image of its own: rows of a side then have equal weights.

    Returns:
        ``(N,)`` float64, at least 0, of which each side has a sum of N / 2.
    """
    weights = torch.ones(len(adversarial), dtype=torch.float64, device=adversarial.device)
    if images is not None:
        of = torch.unique(images.to(adversarial.device), return_inverse=True)[1]
        attacked, other = (
            torch.zeros(int(of.max()) + 1, dtype=torch.float64, device=of.device).index_add_(
                0, of, flags.double()
            )
            for flags in (adversarial, ~adversarial)
        )
        both = (attacked > 0) & (other > 0)
        if bool(both.any()):
            weights = torch.where(adversarial, 1 / attacked[of], (attacked > 0)[of] / other[of])
    for flags in (adversarial, ~adversarial):
        weights[flags] *= len(weights) / 2 / weights[flags].sum()
    return weights


def _concrete(kind: type[Any]) -> Iterator[type[Any]]:
    """The class and all its imported sub-classes, as far as they can be made."""
    if not inspect.isabstract(kind):
        yield kind
    for below in kind.__subclasses__():
        yield from _concrete(below)


def _recipe(part: object) -> Any:  # noqa: ANN401 - plain data of any shape
    if is_dataclass(part) and not isinstance(part, type):
        arguments = {item.name: _recipe(getattr(part, item.name)) for item in fields(part) if item.init}
        return {"class": type(part).__name__, **arguments}
    if isinstance(part, list | tuple):
        return [_recipe(item) for item in part]
    return {name: _recipe(item) for name, item in part.items()} if isinstance(part, Mapping) else part


def _made(recipe: Any, kinds: Mapping[str, type]) -> Any:  # noqa: ANN401 - plain data of any shape
    if isinstance(recipe, Mapping):
        parts = {name: _made(item, kinds) for name, item in recipe.items() if name != "class"}
        return kinds[recipe["class"]](**parts) if "class" in recipe else parts
    return tuple(_made(item, kinds) for item in recipe) if isinstance(recipe, list | tuple) else recipe


def unfitted(detector: Detector) -> ConfigError:
    """The error of a detector that is asked before it has learned."""
    name = type(detector).__name__
    return ConfigError(f"{name} has learned nothing yet; call fit with measured images before judge or score")


def require_rows(
    detector: Detector,
    adversarial: Tensor,
    clean: Tensor,
    *,
    least_clean: int = 4,
    least_adversarial: int = 4,
) -> None:
    """Check that there are enough images of each kind to learn from.

    Raises:
        DataError: too few of a kind, or flags that contradict each other.
    """
    name = type(detector).__name__
    if both := int((adversarial & clean).sum()):
        raise DataError(f"{name}: {both} images are flagged adversarial and clean")
    for kind, flags, least, hint in (
        ("clean", clean, least_clean, ""),
        ("adversarial", adversarial, least_adversarial, " or on attacks that succeed"),
    ):
        if int(flags.sum()) < least:
            raise DataError(
                f"{name} needs at least {least} {kind} images to fit, found {int(flags.sum())} of"
                f" {len(flags)}; fit on more images{hint}"
            )


def matching(measured: Measured, patterns: Sequence[str]) -> dict[str, Tensor]:
    """Measured tensors whose names match the patterns, pattern by pattern, each once.

    Raises:
        ConfigError: a pattern that no name matches.
    """
    chosen: dict[str, Tensor] = {}
    for pattern in patterns:
        names = sorted(name for name in measured if fnmatchcase(name, pattern))
        if not names:
            raise ConfigError(
                f"no measured tensor is named like {pattern!r}; measured are {', '.join(sorted(measured))}"
            )
        chosen |= {name: measured[name] for name in names}
    return chosen
