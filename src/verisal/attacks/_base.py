"""Base of all attacks: checks, purity, seeding, chunks and the final verdict happen here, once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Self, TypeVar, final

import torch
from torch import Tensor, nn

from verisal.attacks._victim import ImageToLogits, Victim
from verisal.errors import ConfigError, NumericError
from verisal.fingerprint import Configured
from verisal.functional.adversarial import noise_norm
from verisal.functional.label_sets import label_sets
from verisal.functional.outputs import output_of
from verisal.functional.per_image import at_row, rows_waiting
from verisal.functional.scopes import differentiated, images_at_once
from verisal.functional.seeding import content_ids, per_sample
from verisal.models import Bounds, Classifier
from verisal.models.bounds import UNIT
from verisal.models.classifier import as_it_says
from verisal.types import Labels, Norm, check_images, check_range, query_classes

#: Slack of the budget and of the range [0, 1], for other orders of float operations.
SLACK = 1e-6

#: ``draw(one, stream=name)``: one tensor per sample of the chunk, made by ``one(cpu_generator)``.
Draw = Callable[..., Tensor]
#: The chunk's rows of a tensor with one row per image, as copies that may enter a graph.
Pick = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


@final
@dataclass(frozen=True, repr=False)
class AttackResult:
    """Result of an attack, per image, on the device of the input; printed as one line.

    Attributes:
        images: ``(B, C, H, W)`` in [0, 1]; an unsuccessful sample holds its best or last iterate.
        success: ``(B,)`` bool, judged by the classifier on ``images`` as it is (before 8-bit rounding).
        norms: ``(B,)`` size of the change in the attack's own norm.
        n_fwd: ``(B,)`` int64 forward passes spent on each sample.
        n_bwd: ``(B,)`` int64 backward passes spent on each sample.
        bounds: of the classifier's own units, where it says other ones than [0, 1].
        boxes: ``(B, 4)`` int64 xyxy, half-open: the part of each image that a patch covers; None for attacks
            that may change all of it.
    """

    images: Tensor
    success: Tensor
    norms: Tensor
    n_fwd: Tensor
    n_bwd: Tensor
    bounds: Bounds | None = None
    boxes: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """``(B, 1, H, W)`` bool, true where the attack may have changed the image."""
        if self.boxes is None:
            return torch.ones_like(self.images[:, :1], dtype=torch.bool)
        return inside_boxes(self.boxes, self.images)

    def __repr__(self) -> str:
        """Images that fool the classifier, the noise and the passes, without the tensors."""
        count = len(self.images)
        if not count:
            return "AttackResult(no images)"
        own = "" if self.bounds is None else f" ({self._in_units(self.bounds)})"
        return (
            f"AttackResult({int(self.success.sum())} of {count} images fool the classifier,"
            f" {shown_range(self.norms)} noise{own}, {shown_range(self.n_fwd)} forward and"
            f" {shown_range(self.n_bwd)} backward passes an image; images {tuple(self.images.shape)}"
            f" on {self.images.device})"
        )

    def _in_units(self, bounds: Bounds) -> str:
        return f"{shown_range(self.norms * bounds.width)} units of {bounds}"


def inside_boxes(boxes: Tensor, images: Tensor) -> Tensor:
    """``(B, 1, H, W)`` bool, true inside the boxes ``(B, 4)`` xyxy of images ``(B, C, H, W)``."""
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)
    down, across = (torch.arange(length, device=boxes.device) for length in images.shape[2:])
    rows, columns = (top <= down) & (down < bottom), (left <= across) & (across < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def shown_range(values: Tensor) -> str:
    """Least and greatest of some numbers, or the one that all are, for a line of text.

    >>> shown_range(torch.tensor([0.5, 0.25])), shown_range(torch.tensor([11, 11]))
    ('0.25 to 0.5', '11')
    """
    low, high = (f"{float(value):.4g}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


class Attack(Configured, ABC):
    """Changes images so that a classifier errs; concrete attacks are frozen dataclasses of plain settings.

    Attributes:
        norm: norm that bounds or measures the attack's noise.
        targeted: True if the labels are the classes to reach rather than the true ones to leave.
    """

    targeted: bool = False

    def __new__(cls, *given: object, **settings: object) -> Self:
        """Refuse a network among the settings, and settings under other libraries' names.

        Raises:
            ConfigError: either.
        """
        attack = super().__new__(cls)
        known = [each.name for each in fields(cls) if each.init] if is_dataclass(cls) else list(settings)
        if any(isinstance(value, nn.Module) for value in (*given, *settings.values())):
            raise ConfigError(
                f"{cls.__name__} takes its settings ({', '.join(known)}), found a network among them; give"
                f" the network to the call: {cls.__name__}(...)(network, images, labels)"
            )
        if strange := [name for name in settings if name not in known]:
            raise ConfigError(f"{cls.__name__} has no setting {strange[0]!r}; it has {', '.join(known)}")
        return attack

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """Norm in which the attack bounds or minimises its noise."""

    @abstractmethod
    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        """Attacked images ``(B, C, H, W)`` in [0, 1] of one non-empty chunk.

        Called with gradients enabled, autocast off and the classifier frozen. All randomness must come
        from ``draw``, and every sample must be treated as if it were alone.
        """

    def _boxes(self, images: Tensor, *, draw: Draw) -> Tensor | None:
        """Boxes ``(B, 4)`` int64 xyxy that the changes keep to, by the same draws; None for no limit."""
        return None

    @final
    def __call__(
        self,
        classifier: ImageToLogits,
        images: Tensor,
        labels: Labels,
        *,
        generator: torch.Generator | None = None,
        sample_ids: Sequence[object] | None = None,
        chunk_size: int = 64,
    ) -> AttackResult:
        """Attack every image of a batch.

        A sample's result depends on the image, its label, its id and the generator's *initial seed* only:
        not on batch mates, batch size, order, the generator's position or the global random state. The
        classifier is put in eval mode and frozen meanwhile, and left exactly as it was, on errors too.
        Works inside ``no_grad``, ``inference_mode`` and autocast; always computes in float32.

        Args:
            classifier: maps images in [0, 1] to logits ``(B, K)``; any callable, best an ``nn.Module``
                (modes of a network hidden inside another callable are the caller's business). A network
                that was trained on normalised images goes into ``Classifier(network, normalization=...)``,
                unless it says its normalisation itself, as those of timm do.
            images: ``(B, C, H, W)`` float32 in [0, 1].
            labels: ``(B,)`` whole numbers, a tensor or a list, or an int for all images: the true classes;
                the classes to reach where ``targeted``. Images that the classifier already gets wrong are
                attacked like any other and count as successes here; :func:`.judge_8bit` leaves them out. For
                a classifier that says ``output: sigmoid`` the attack is on the decision about the label
                alone, at a probability of 0.5: with several logits the label is the class that is present
                (``targeted``: to be made present); with one logit it is 0 or 1. A tensor ``(B, K)`` of 1, 0,
                and -1 or NaN where a label is not asked, attacks sets of labels: *any* asked label is to be
                decided otherwise (``targeted``: *all* of them as given).
            generator: its initial seed seeds all draws; 0 without one. Numbers are drawn on the CPU, so that
                they are the same on every device.
            sample_ids: one stable name per image; by default made from its content, see
                :func:`.content_ids`.
            chunk_size: images per pass, fewer above 128 x 128 pixels; changes memory and speed, never the
                result (up to float order).

        Returns:
            Attacked images and per-sample bookkeeping, on the device of ``images``. An unsuccessful sample
            holds the attack's last or best iterate and ``success`` False.

        Raises:
            DataError: images of another shape, dtype or range.
            ConfigError: labels, ids or classifier that do not fit the images.
            NumericError: logits or attacked images that are not finite, or attacked images that leave [0, 1]
                or the budget.
        """
        classifier = as_it_says(classifier)
        several = output_of(classifier) == "sigmoid"
        labels, ids = checked_inputs(images, labels, sample_ids, chunk_size, several=several)
        waiting = rows_waiting(classifier, len(images))
        if waiting is not None:
            alone = []
            for row in range(waiting):
                part = slice(row, row + 1)
                with at_row(classifier, row):
                    alone.append(
                        self(
                            classifier, images[part], labels[part], generator=generator, sample_ids=ids[part]
                        )
                    )
            return joined(alone)

        def attack_chunk(pick: Pick, draw: Draw) -> AttackResult:
            clean = pick(images)
            victim = Victim(classifier, pick(labels), targeted=self.targeted, image=clean[:1])
            attacked = self._perturb(victim, clean, draw=draw).detach()
            norms = self._checked_norms(attacked, clean)
            with torch.no_grad():
                success = victim.reached(victim.logits(attacked, victim.rows), victim.rows)
            boxes = self._boxes(clean, draw=draw)
            return AttackResult(attacked, success, norms, victim.n_fwd, victim.n_bwd, boxes=boxes)

        counts = torch.zeros(0, dtype=torch.int64, device=images.device)
        seed = seed_of(generator)
        none = partial(per_sample, seed=seed, sample_ids=(), device=images.device)
        boxes = self._boxes(images[:0], draw=none)
        nothing = AttackResult(
            images[:0].detach(), counts.bool(), counts.float(), counts, counts, boxes=boxes
        )
        parts = by_chunk(attack_chunk, [classifier], images, seed=seed, ids=ids, size=chunk_size)
        bounds = classifier.bounds if isinstance(classifier, Classifier) else UNIT
        return replace(joined([nothing, *parts]), bounds=None if bounds == UNIT else bounds)

    @final
    def bound_to(self, classifier: ImageToLogits, *, generator: torch.Generator | None = None) -> BoundAttack:
        """The attack as a function of images and labels that returns attacked images alone.

        For loops that expect ``attack(images, labels)``. Arguments are those of the call.
        """
        return BoundAttack(self, classifier, generator)

    def _checked_norms(self, attacked: Tensor, images: Tensor) -> Tensor:
        """Size of the noise per image, of images that are finite, in [0, 1] and within the budget ``eps``."""
        name, count = type(self).__name__, len(images)
        if attacked.shape != images.shape:
            raise ConfigError(
                f"{name}: attacked images must be {tuple(images.shape)}, found {tuple(attacked.shape)}"
            )
        values = attacked.flatten(1)
        broken = ~values.isfinite().all(dim=1)
        if bool(broken.any()):
            raise NumericError(
                f"{name}: attacked images are not finite for {int(broken.sum())} of {count} images; check the"
                " classifier's weights and its normalisation"
            )
        outside = (values.amin(dim=1) < -SLACK) | (values.amax(dim=1) > 1 + SLACK)
        if bool(outside.any()):
            raise NumericError(
                f"{name}: attacked images must lie in [0, 1], found values from {float(values.min()):.4g} to"
                f" {float(values.max()):.4g} in {int(outside.sum())} of {count} images"
            )
        norms = noise_norm(attacked - images, self.norm)
        # By its name: every attack with a budget calls it so.
        eps = vars(self).get("eps")
        if eps is not None and bool((norms > eps + SLACK * (1 + 10 * eps)).any()):
            raise NumericError(
                f"{name}: noise of {self.norm} norm {float(norms.max()):.6g} found, eps {eps:.6g} allowed"
            )
        return norms


@final
@dataclass(frozen=True)
class BoundAttack:
    """An attack on one classifier: ``attack.bound_to(classifier)``.

    Attributes:
        attack: what is bound.
        classifier: that it is bound to; as it is at the time of each call.
        generator: of all calls; seed 0 without one.
    """

    attack: Attack
    classifier: ImageToLogits
    generator: torch.Generator | None = None

    def __call__(self, images: Tensor, labels: Labels) -> Tensor:
        """Attacked images ``(B, C, H, W)``; arguments and errors are those of :meth:`Attack.__call__`."""
        return self.attack(self.classifier, images, labels, generator=self.generator).images


def by_chunk(
    attack: Callable[[Pick, Draw], Result],
    networks: Sequence[object],
    images: Tensor,
    *,
    seed: int,
    ids: Sequence[object],
    size: int,
) -> list[Result]:
    """Results of an attack on each chunk of the images, with the networks frozen and gradients enabled."""
    results, at_once = [], images_at_once(size, images)
    with differentiated(*networks, device=images.device):
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            draw = partial(per_sample, seed=seed, sample_ids=ids[part], device=images.device)
            results.append(attack(partial(_picked, part=part, device=images.device), draw))
    return results


def joined(parts: Iterable[Result]) -> Result:
    """Results of several chunks as one: dataclasses of tensors, and of what is the same in all."""
    listed = list(parts)
    columns = zip(*(vars(part).values() for part in listed), strict=True)
    return type(listed[0])(
        *(torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in columns)
    )


def checked_inputs(
    images: Tensor,
    labels: Labels,
    ids: Sequence[object] | None,
    chunk_size: int,
    *,
    several: bool = False,
) -> tuple[Tensor, Sequence[object]]:
    """Labels ``(B,)`` int64 and names of the images, once labels, names and chunks fit the images.

    With ``several`` labels may be sets ``(B, K)``.
    """
    check_images(images)
    classes = _sets(labels, images) if several else None
    if classes is None:
        classes = query_classes(labels, len(images), images.device, what="labels")
        if len(classes) and int(classes.min()) < 0:
            raise ConfigError(f"labels must not be negative, found {int(classes.min())}")
    names = content_ids(images) if ids is None else ids
    if len(names) != len(images):
        raise ConfigError(f"sample_ids must name all {len(images)} images, found {len(names)} names")
    check_range(1, chunk_size=chunk_size)
    return classes, names


def _sets(labels: Labels, images: Tensor) -> Tensor | None:
    """Sets of labels ``(B, K)`` int64; None for what has another number of dimensions."""
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return None
    if given.ndim != 2:
        return None
    if len(given) != len(images):
        raise ConfigError(
            f"labels of {len(images)} images must be one class each, or (B, K) with a row for each, found"
            f" {tuple(given.shape)}"
        )
    sets = label_sets(given).to(images.device)
    if (silent := int((sets < 0).all(dim=1).sum())) and len(sets):
        raise ConfigError(
            f"labels (B, K) ask about no label of {silent} of {len(sets)} images (all are -1 or NaN), and"
            " there is nothing to attack; leave those images out"
        )
    return sets


def seed_of(generator: torch.Generator | None) -> int:
    """Initial seed of a generator, 0 without one."""
    return 0 if generator is None else generator.initial_seed()


def check_settings(
    part: object, *names: str, least: float, most: float = math.inf, above: bool = False
) -> None:
    """:func:`check_range` of settings, named with their class in the error."""
    settings = {f"{type(part).__name__}.{name}": getattr(part, name) for name in names}
    check_range(least, most, above=above, **settings)


def require(condition: bool, key: str, found: object, expected: str) -> None:
    """Raise :class:`ConfigError` about setting ``key`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{key} must be {expected}, found {found!r}")


def check_ball(attack: object, eps: float, norm: Norm = "linf") -> None:
    """Raise unless ``norm`` and the radius ``eps`` of an attack make a ball."""
    name = type(attack).__name__
    require(norm in ("linf", "l2"), f"{name}.norm", norm, "'linf' or 'l2'")
    if norm == "l2":
        require(0 <= eps < math.inf, f"{name}.eps", eps, ">= 0")
    else:
        require(0 <= eps <= 1, f"{name}.eps", eps, "in [0, 1] pixel units, such as 0.0157 for 4/255")


def _picked(rows: Tensor, *, part: slice, device: torch.device) -> Tensor:
    # Clones, since tensors made under inference mode cannot enter a graph.
    return rows[part].detach().clone().to(device)
