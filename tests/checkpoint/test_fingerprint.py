from dataclasses import dataclass, field
from importlib import metadata

import pytest
import torch

from verisal.attacks import PGD, AdaptedAttack, SquareAttack
from verisal.errors import ConfigError
from verisal.fingerprint import Configured, canonical, fingerprint, row_digests, settings_of
from verisal.functional.baselines import Blur, OtherImage
from verisal.saliency import HierarchicalMasks, SmoothGrad


@dataclass(frozen=True)
class Blurred(Configured):
    sigma: float = 2.0
    base: object = None
    learned: int = field(init=False, default=0)


@dataclass(frozen=True)
class Changed(Configured):
    sigma: float = 2.0
    base: object = None

    rules = 2


class Plain(Configured):
    def __init__(self, level: float) -> None:
        self.level, self._cache = level, object()


def test_equal_settings_have_one_fingerprint_and_others_another():
    assert fingerprint(Blurred(base=Plain(0.5))) == fingerprint(Blurred(base=Plain(0.5)))
    assert fingerprint({"a": 1, "b": (2, 3)}) == fingerprint({"b": [2, 3], "a": 1})
    different = [
        Blurred(),
        Blurred(sigma=3.0),
        Blurred(base=Plain(0.5)),
        Blurred(base=Plain(0.25)),
        Plain(0.5),
    ]
    assert len({fingerprint(part) for part in different}) == len(different)
    assert fingerprint(1, 2) != fingerprint([1, 2])


def test_rules_that_changed_make_another_fingerprint_of_equal_settings_also_inside_of_others():
    assert Blurred().settings() == {"class": "Blurred", "sigma": 2.0, "base": None}
    assert Changed().settings() == {"class": "Changed", "rules": 2, "sigma": 2.0, "base": None}
    before = fingerprint(Blurred(base=Changed()))
    Changed.rules = 3
    try:
        assert fingerprint(Blurred(base=Changed())) != before
        assert settings_of({"of": [Changed()]})["of"][0]["rules"] == 3
    finally:
        Changed.rules = 2
    assert SquareAttack(8 / 255).settings()["rules"] == SquareAttack.rules == 2


def test_another_release_of_the_package_changes_no_fingerprint(monkeypatch):
    parts = (PGD(8 / 255), SmoothGrad(), Blur(), HierarchicalMasks())
    before = fingerprint(*parts)
    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    monkeypatch.setattr("verisal.__version__", "99.0")
    assert fingerprint(*parts) == before


def test_tensors_count_by_their_values():
    def other(level: float) -> OtherImage:
        return OtherImage(images=torch.full((2, 3, 4, 4), level), labels=torch.tensor([0, 1]))

    assert fingerprint(other(0.5)) == fingerprint(other(0.5)) != fingerprint(other(0.25))


def test_what_is_called_has_no_fingerprint_unless_a_name_stands_for_it():
    with pytest.raises(ConfigError, match=r"setting \[0\]\.base: expected plain data, found function"):
        fingerprint(Blurred(base=lambda images: images))
    with pytest.raises(ConfigError, match="not plain data"):
        canonical({"eps": float("inf")})
    first, second = (AdaptedAttack(lambda model, x, y: x, name=name) for name in ("one 0.1", "one 0.2"))
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first) == fingerprint(AdaptedAttack(lambda model, x, y: x, name="one 0.1"))


def test_gates_do_not_depend_on_what_only_their_maps_read():
    plain, shown = HierarchicalMasks(), HierarchicalMasks(fusion="mean", smoothing=0.0, chunk_size=3)
    assert plain.gate_settings() == shown.gate_settings()
    assert plain.settings() != shown.settings()
    assert plain.gate_settings() != HierarchicalMasks(reg_weight=2.0).gate_settings()
    assert plain.gate_settings()["rules"] == 2


def test_digests_of_rows_are_of_their_values_alone():
    rows = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    assert row_digests(rows, 8) == row_digests(rows.T.contiguous().T, 8)
    assert [len(digest) for digest in row_digests(rows, 8)] == [8, 8]
    assert row_digests(rows, 8)[1] == row_digests(rows[1:], 8)[0] != row_digests(rows, 8)[0]
