"""The part of somebody's module that is explained: chosen among those that answered images with logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from verisal.callbacks.subject.parts import FORWARD, part_of
from verisal.callbacks.subject.watching import Call
from verisal.errors import ConfigError, VerisalError
from verisal.functional.outputs import logits_of
from verisal.functional.scopes import scoring

_EXAMPLES = 2
_LOOSE = 1e-2
_SAY_EXPLAINS = (
    "give explains=: the path of the part that maps images to logits, 'forward' for the module's own, or a"
    " function f(module, images) -> logits that takes the loader's images"
)


def name_of(path: str) -> str:
    """What one types for a path."""
    return path or FORWARD


def obvious_part(
    calls: Sequence[Call], labels: Tensor, module: LightningModule, fits: Callable[[Call], bool]
) -> Call | None:
    """The call of the one part that is explained, or None where nothing answered with logits.

    It is the outermost part that answered. Where the module's own forward only hands the images on to one of
    its parts, it is this part.

    Args:
        calls: of one step, those that got images and those that got features.
        labels: ``(B,)`` of its images, -1 where unknown.
        module: that made them.
        fits: True for a call whose images are the loader's, normalised at most.

    Raises:
        ConfigError: two answers are possible, or the answer is probabilities, or features that go on.
    """
    calls, further = (
        [call for call in calls if call.of_images],
        [call for call in calls if not call.of_images],
    )
    most = int(labels.max()) if len(labels) else -1
    answers = [call for call in calls if call.logits.shape[1] > (most if call.logits.shape[1] > 1 else -1)]
    if not answers:
        if calls:
            widest = max(calls, key=_width)
            raise ConfigError(
                f"{name_of(widest.path)} answers images with {_width(widest)} values, and the loader's"
                f" labels go up to {most}; {_SAY_EXPLAINS}"
            )
        return None
    paths = {call.path for call in answers}
    inner = {path for call in answers for path in call.inside if path in paths}
    # A part that was called inside of another one somewhere is that one's own.
    owned = {call.path for call in answers if any(path in paths for path in call.inside)}
    outer = [call for call in answers if call.path not in owned]
    outer = list({call.path: call for call in reversed(outer)}.values())[::-1]
    if len(outer) > 1:
        names = " and ".join(repr(name_of(call.path)) for call in outer)
        raise ConfigError(
            f"{names} of {type(module).__name__} both answer images with logits, and which is explained is"
            f" not said; give explains={name_of(outer[0].path)!r} or explains={name_of(outer[-1].path)!r}"
        )
    chosen = outer[0]
    _refuse_features(chosen, further)
    nested = [call for call in answers if chosen.path in call.inside]
    nearest = [call for call in nested if not set(call.inside) & inner - {chosen.path}]
    _refuse_probabilities(chosen, nearest)
    # The part itself says more about its stages than the module around it.
    same = {call.path: call for call in nearest if _same(call, chosen) and fits(call)}
    return next(iter(same.values())) if not chosen.path and len(same) == 1 else chosen


def called_part(module: LightningModule, images: Tensor, labels: Tensor) -> str:
    """What one types for the part that answers images with logits when it is called; for unwatched steps.

    Raises:
        ConfigError: none does, or several do.
    """
    most, few = int(labels.max()) if len(labels) else -1, images[:_EXAMPLES]
    answers: dict[str, Tensor] = {}
    if is_overridden("forward", module):
        answers |= _answer(module, FORWARD, few, most)
    for name, _ in module.named_children():
        answers |= _answer(module, name, few, most)
    parts = [name for name in answers if name != FORWARD]
    for name in parts if FORWARD not in answers else ():
        for other, _ in module.named_children():
            if other != name and _takes_on(module, other, answers[name]):
                raise ConfigError(_features(name, _width_of(answers[name]), other))
    if FORWARD in answers:
        same = [name for name in parts if torch.equal(answers[name], answers[FORWARD])]
        return same[0] if len(same) == 1 else FORWARD
    if len(parts) == 1:
        return parts[0]
    what = type(module).__name__
    if parts:
        raise ConfigError(
            f"{' and '.join(map(repr, parts))} of {what} answer images with logits, and which is explained is"
            f" not said; give explains={parts[0]!r} or explains={parts[1]!r}"
        )
    known = [name for name, _ in module.named_children()]
    raise ConfigError(
        f"no part of {what} was seen to answer images {tuple(images.shape)} with logits, among its forward"
        f" and {known}; {_SAY_EXPLAINS}"
    )


def gives_probabilities(logits: Tensor) -> bool:
    """True for rows that are not negative and sum to 1."""
    sums = logits.double().sum(dim=1)
    return logits.shape[1] > 1 and bool((logits >= 0).all()) and bool(((sums - 1).abs() < _LOOSE).all())


def _answer(module: LightningModule, name: str, images: Tensor, most: int) -> dict[str, Tensor]:
    part = part_of(module, name)
    try:
        with torch.inference_mode(mode=False), scoring(part, images.device):
            logits = logits_of(part(images.clone()), len(images))
    except VerisalError:
        return {}
    except Exception:  # anybody's module, called with what it may not take
        return {}
    enough = logits.shape[1] > most or logits.shape[1] == 1
    return {name: logits} if enough else {}


def _takes_on(module: LightningModule, name: str, features: Tensor) -> bool:
    """True if a part makes another number of values of the features."""
    made = _answer(module, name, features, -1)
    return any(_width_of(values) != _width_of(features) for values in made.values())


def _refuse_features(chosen: Call, further: Sequence[Call]) -> None:
    """Raise where the step hands the answer on to a part that makes another number of values of it."""
    width = _width(chosen)
    for call in further:
        if chosen.path not in call.inside and call.given.shape[1] == width != _width(call):
            raise ConfigError(_features(name_of(chosen.path), width, call.path))


def _features(name: str, width: int, other: str) -> str:
    return (
        f"{name!r} answers images with {width} values that {other!r} makes others of; give explains= a"
        f" function of both, such as lambda module, images: module.{other}(module.{name}(images))"
    )


def _refuse_probabilities(chosen: Call, nested: Sequence[Call]) -> None:
    """Raise for the softmax or the sigmoids of a part's logits, or what looks like a softmax."""
    name = name_of(chosen.path)
    for call in nested:
        if call.logits.shape != chosen.logits.shape or torch.equal(call.logits, chosen.logits):
            continue
        logits = call.logits.float()
        for made in (logits.softmax(dim=1), logits.sigmoid()):
            if torch.allclose(made, chosen.logits.float(), atol=_LOOSE):
                raise ConfigError(
                    f"{name!r} gives probabilities of the logits that {name_of(call.path)!r} gives;"
                    f" explain the logits: explains={name_of(call.path)!r}"
                )
    if gives_probabilities(chosen.logits):
        raise ConfigError(
            f"{name!r} gives probabilities (not negative, each row sums to 1), and what is explained must"
            " give logits; move the softmax out of it, or give explains= a function f(module, images) ->"
            " logits"
        )


def _same(call: Call, outer: Call) -> bool:
    return call.logits.shape == outer.logits.shape and torch.equal(call.logits, outer.logits)


def _width(call: Call) -> int:
    return _width_of(call.logits)


def _width_of(logits: Tensor) -> int:
    return logits.shape[1]
