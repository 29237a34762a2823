"""What is done to images before detectors see them: in words, step by step, and as parts of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from verisal.attacks import Attack
from verisal.attacks.names import attack_words
from verisal.detection.table import Role
from verisal.detectors import Measurement

NOISE_L2 = "noise_l2"
_USES = {"val": "validation"}


class Part(NamedTuple):
    """A group among the rows of a variant: ``mask`` chooses its rows of ``tensors``."""

    name: str
    role: Role
    mask: Tensor
    tensors: Mapping[str, Tensor]


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
    kind: str,
    count: int | None,
    split: str,
    parts: Mapping[str, str],
    measurement: Measurement | None = None,
) -> Stage:
    """A step of what is done to the images of a split.

    Args:
        kind: what is done, in words.
        count: number of the images; None to leave it out.
        split: of the images.
        parts: variant to words, of which equal ones get the variant's name.
        measurement: what is measured.
    """
    of = split.removeprefix("det_")
    words = [kind, "" if count is None else str(count), _USES.get(of, of), "images"]
    often = Counter(parts.values())
    told = {name: f"{said} ({name})" if often[said] > 1 else said for name, said in parts.items()}
    return Stage(" ".join(filter(None, words)), kind, told, measurement)


def copied_noise(noise_like: str | Sequence[str] | None) -> dict[str, str]:
    """Variant of Gaussian noise to the attack whose norms it copies."""
    if noise_like is None or isinstance(noise_like, str):
        return {} if noise_like is None else {NOISE_L2: noise_like}
    return {f"{NOISE_L2}_{attack}": attack for attack in noise_like}


def rates(images: Mapping[str, Tensor]) -> tuple[float, float]:
    """Success rates before and after rounding, of images that were classified right; images as stored."""
    correct = images["clean_correct"]
    before = float(images["success_unrounded"][correct].float().mean())
    return before, float(images["success"][correct].float().mean())


def joined_parts(parts: Sequence[Part]) -> dict[str, Tensor]:
    """Tensors of all groups, one after the other."""
    return {name: torch.cat([part.tensors[name][part.mask] for part in parts]) for name in parts[0].tensors}
