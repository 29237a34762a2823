"""Steps in which images are attacked and measured, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from verisal.attacks import Attack
from verisal.attacks.names import attack_words
from verisal.detectors import Measurement

_USES = {"fit": "to fit on", "val": "for the threshold", "test": "to test on"}


@final
@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        doing: what is done, in words.
        kind: steps of one kind take as long an item.
        parts: variant of the images to what it is in words, all different.
        measurement: what is measured; None where images are made.
    """

    doing: str
    kind: str
    parts: Mapping[str, str]
    measurement: Measurement | None = None


def words_of(
    attacks: Mapping[str, Attack],
    noise: Mapping[str, Attack],
    near: Mapping[str, tuple[str, int]],
    copied: Mapping[str, str],
) -> tuple[dict[str, str], dict[str, str]]:
    """Variants in words: those of attacks with images near the border, and those of noise.

    Args:
        attacks: by name.
        noise: by name.
        near: name of images near the border to the attack that they are of, and to their number.
        copied: name of noise to the attack that it is as large as.
    """
    named = {name: attack_words(attack, name) for name, attack in attacks.items()}
    border = {
        name: f"{named[attack]}, near the border" + (f" ({copy + 1})" if copy else "")
        for name, (attack, copy) in near.items()
    }
    noisy = {name: attack_words(attack, name) for name, attack in noise.items()}
    return named | border, noisy | {name: f"as large as {named[attack]}" for name, attack in copied.items()}


def stage_of(
    kind: str, what: str, split: str, parts: Mapping[str, str], measurement: Measurement | None = None
) -> Stage:
    """A step of what is done to the images of a split.

    Args:
        kind: what is done.
        what: it is done to; may be empty.
        split: of the images.
        parts: variant to words, of which equal ones get the variant's name.
        measurement: what is measured.
    """
    of = split.removeprefix("det_")
    words = [kind, what, _USES.get(of, f"of {of}")]
    often = Counter(parts.values())
    told = {name: f"{said} ({name})" if often[said] > 1 else said for name, said in parts.items()}
    return Stage(" ".join(filter(None, words)), kind, told, measurement)
