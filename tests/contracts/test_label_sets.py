"""What every attack does with sets of labels ``(B, K)`` of a network for several, judged label by label."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.attack_cases import CASES, AttackCase, ToyNet, toy_problem
from verisal.attacks import APGD
from verisal.errors import ConfigError
from verisal.functional.adversarial import judge_8bit

EVERY = pytest.mark.parametrize(
    "case",
    [case for name, case in CASES.items() if "dlr" not in name],
    ids=[n for n in CASES if "dlr" not in n],
)
AIMED = pytest.mark.parametrize(
    "name", ["FGSM", "PGD", "CarliniWagnerL2", "DDN", "DeepFoolL2", "APGD", "AdversarialPatch"]
)


def tagger_problem(count: int) -> tuple[ToyNet, Tensor, Tensor]:
    """A network for four labels, images, and its decisions, of which every image lacks another one."""
    model, images, _ = toy_problem(count)
    model.output = "sigmoid"
    sets = (model(images) > 0).long()
    sets[torch.arange(count), torch.arange(count) % 4] = -1
    return model, images, sets


def flips(model: ToyNet, images: Tensor, sets: Tensor) -> list[int]:
    """Number of asked labels that are decided otherwise, image by image."""
    found = []
    for image, labels in zip(images, sets.tolist(), strict=True):
        there = [logit > 0 for logit in model(image[None])[0].tolist()]
        found.append(sum(label != -1 and there[k] != bool(label) for k, label in enumerate(labels)))
    return found


@EVERY
def test_success_is_that_any_asked_label_flips(case: AttackCase) -> None:
    model, images, sets = tagger_problem(8)
    assert flips(model, images, sets) == [0] * 8
    result = case.make(case.budgets[2])(model, images, sets)
    assert result.success.tolist() == [count > 0 for count in flips(model, result.images, sets)]
    assert result.n_fwd.shape == (8,)
    if case.gradient:
        assert result.success.float().mean() > 0.85
    # Judged after rounding, image by image as well.
    verdict = judge_8bit(model, images, result.images, sets)
    stored = verdict.images.float() / 255
    assert verdict.clean_correct.all()
    assert verdict.success.tolist() == [count > 0 for count in flips(model, stored, sets)]


@EVERY
def test_a_set_of_one_label_is_that_label(case: AttackCase) -> None:
    model, images, _ = tagger_problem(8)
    logits = model(images)
    images, labels = images[logits.amax(dim=1) > 0], logits.argmax(dim=1)[logits.amax(dim=1) > 0]
    one = torch.full((len(images), 4), math.nan)
    one[torch.arange(len(images)), labels] = 1
    attack = case.make(case.budgets[1])
    ids = list(range(len(images)))
    found, alone = attack(model, images, one, sample_ids=ids), attack(model, images, labels, sample_ids=ids)
    assert found.success.equal(alone.success)
    if "AdaptedAttack" not in type(attack).__name__:
        torch.testing.assert_close(found.images, alone.images, rtol=0, atol=1e-4)


@AIMED
def test_targeted_success_is_that_all_asked_labels_are_reached(name: str) -> None:
    model, images, sets = tagger_problem(8)
    # One label is to flip, the others are to stay.
    goals = sets.clone()
    for row in range(8):
        asked = int((sets[row] >= 0).nonzero()[0])
        goals[row, asked] = 1 - goals[row, asked]
    attack = replace(CASES[name].make(CASES[name].budgets[2]), targeted=True)
    result = attack(model, images, goals)
    assert result.success.tolist() == [count == 0 for count in flips(model, result.images, goals)]
    if name not in ("FGSM", "DeepFoolL2"):
        assert result.success.float().mean() > 0.7


def test_independent_of_batch_mates() -> None:
    model, images, sets = tagger_problem(6)
    for name in ("CarliniWagnerL2", "DeepFoolL2", "DDN", "APGD", "SquareAttack", "AdversarialPatch"):
        attack = CASES[name].make(CASES[name].budgets[1])
        full, part = attack(model, images, sets, chunk_size=4), attack(model, images[2:3], sets[2:3])
        torch.testing.assert_close(part.images, full.images[2:3], rtol=0, atol=2e-6)
        assert part.n_bwd.equal(full.n_bwd[2:3])


def test_a_logit_of_exactly_0_is_an_absent_label() -> None:
    def zero(images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 2)

    zero.output = "sigmoid"
    images = torch.rand(3, 3, 8, 8)
    sets = torch.tensor([[0, 0], [0, -1], [1, 0]])
    assert CASES["Brightness"].make(0.0)(zero, images, sets).success.tolist() == [False, False, True]


def test_what_cannot_work_is_refused_in_one_sentence() -> None:
    model, images, sets = tagger_problem(3)
    attack = CASES["FGSM"].make(0.01)
    with pytest.raises(ConfigError, match=r"dlr .* exclude each other.* use loss: margin"):
        APGD(0.1, loss="dlr")(model, images, sets)
    with pytest.raises(ConfigError, match=r"set calls: per_image"):
        replace(CASES["AdaptedAttack"].make(0.1), calls="per_chunk")(model, images, sets)
    with pytest.raises(ConfigError, match=r"must be 1, 0, or -1 or NaN .* found \[1.0, 2.0, 3.0\]"):
        attack(model, images, sets + 2)
    with pytest.raises(ConfigError, match=r"no label of 1 of 3 images"):
        attack(model, images, sets.masked_fill(torch.tensor([[True], [False], [False]]), -1))
    with pytest.raises(ConfigError, match=r"labels \(3, 3\) must have one column for each .* 4 labels"):
        attack(model, images, sets[:, :3])
    with pytest.raises(ConfigError, match=r"labels of 3 images .* found \(2, 4\)"):
        attack(model, images, sets[:2])
    with pytest.raises(ConfigError, match=r"which a softmax does not decide"):
        judge_8bit(lambda batch: model(batch), images, images, sets)
    with pytest.raises(ConfigError, match=r"take the class: .argmax"):
        attack(lambda batch: model(batch), images, sets)
