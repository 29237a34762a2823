"""Names of attacks, as logs and reports use them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from verisal.attacks._base import Attack
from verisal.errors import ConfigError

Attacks = Mapping[str, Attack] | Sequence[Attack]
"""Attacks with names of one's own, or without; see :func:`named_attacks`."""


def named_attacks(attacks: Attacks) -> dict[str, Attack]:
    """Attacks by name: the names given, else the classes' in lower case.

    Attacks of one class are told apart by the settings that differ; the ``eps`` of Linf in 255ths.

    Raises:
        ConfigError: something that is no attack, two equal attacks, or a name that is no plain word.

    >>> from verisal.attacks import FGSM, PGD
    >>> list(named_attacks([FGSM(4 / 255), FGSM(8 / 255), PGD(8 / 255)]))
    ['fgsm_eps_4', 'fgsm_eps_8', 'pgd']
    """
    for part in attacks.values() if isinstance(attacks, Mapping) else attacks:
        if not isinstance(part, Attack):
            raise ConfigError(f"an attack such as PGD(eps=8 / 255) was expected, found {type(part).__name__}")
    named = dict(attacks) if isinstance(attacks, Mapping) else _by_class(attacks)
    if wrong := [name for name in named if not re.fullmatch(r"\w+", name)]:
        raise ConfigError(f"names of attacks must be letters, digits and '_', found {wrong}")
    return named


def attack_words(attack: Attack, name: str) -> str:
    """An attack in words: its class and its budget, that of Linf in 255ths; its name where it has none.

    >>> from verisal.attacks import CarliniWagnerL2, PGD
    >>> attack_words(PGD(2 / 255), "mine"), attack_words(PGD(0.5, norm="l2"), "pgd")
    ('PGD 2/255', 'PGD L2 0.5')
    >>> attack_words(CarliniWagnerL2(), "cw_l2")
    'cw l2'
    """
    eps = vars(attack).get("eps")
    if not isinstance(eps, int | float):
        return name.replace("_", " ")
    of = type(attack).__name__
    return f"{of} {255 * eps:.3g}/255" if attack.norm == "linf" else f"{of} {attack.norm.upper()} {eps:.3g}"


def _by_class(attacks: Sequence[Attack]) -> dict[str, Attack]:
    alike: dict[str, list[Attack]] = {}
    for attack in attacks:
        alike.setdefault(_snake(type(attack).__name__), []).append(attack)
    full = {id(one): word + _differing(one, same) for word, same in alike.items() for one in same}
    named = {full[id(attack)]: attack for attack in attacks}
    if len(named) < len(attacks):
        raise ConfigError(f"two of the attacks {sorted(named)} are equal; leave one out, or name them")
    return named


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _differing(attack: Attack, alike: Sequence[Attack]) -> str:
    """The settings that tell an attack from others of its class, as the end of its name."""
    own, others = attack.settings(), [other.settings() for other in alike]
    names = [name for name, value in own.items() if any(other[name] != value for other in others)]
    # An L2 length is no number of grey levels.
    unit = 255 if attack.norm == "linf" else 1
    return "".join(f"_{name}_{_shown(own[name], unit if name == 'eps' else 1)}" for name in names)


def _shown(value: object, unit: int) -> str:
    text = f"{unit * value:.4g}" if isinstance(value, float) else str(value)
    return re.sub(r"\W", "_", text).lower()
