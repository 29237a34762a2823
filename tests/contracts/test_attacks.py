"""What every attack promises, generated from ``attack_cases.CASES`` over all exported attacks."""

import copy
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import verisal.attacks
from helpers.attack_cases import CASES, NUM_CLASSES, AttackCase, ToyNet, toy_problem
from verisal.attacks import FGSM, PGD, Attack
from verisal.attacks._base import AttackResult
from verisal.errors import ConfigError, DataError, NumericError
from verisal.functional.adversarial import judge_8bit, noise_norm
from verisal.functional.seeding import content_ids

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
GRADIENT = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.gradient],
    ids=[k for k, c in CASES.items() if c.gradient],
)
BOUNDED = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.bounded], ids=[k for k, c in CASES.items() if c.bounded]
)
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast in inference": ExitStack,
}


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def middle(case: AttackCase) -> Attack:
    return case.make(case.budgets[1])


def assert_same(left: AttackResult, right: AttackResult, *, atol: float = 0.0) -> None:
    torch.testing.assert_close(left.images, right.images, rtol=0, atol=atol)
    torch.testing.assert_close(left.norms, right.norms, rtol=0, atol=max(atol, 1e-6))
    assert left.success.equal(right.success)
    assert left.n_fwd.equal(right.n_fwd)
    assert left.n_bwd.equal(right.n_bwd)


def picked(result: AttackResult, rows: Tensor) -> AttackResult:
    return AttackResult(
        *(getattr(result, name)[rows] for name in ("images", "success", "norms", "n_fwd", "n_bwd"))
    )


def test_every_exported_attack_has_a_row() -> None:
    exported = {getattr(verisal.attacks, name) for name in verisal.attacks.__all__}
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Attack)}
    concrete = kinds - {Attack}
    assert concrete == {type(middle(case)) for case in CASES.values()}


@EVERY
def test_attack_is_final_and_described_by_plain_settings(case: AttackCase) -> None:
    attack = middle(case)
    settings = attack.settings()
    assert type(attack).__final__
    assert settings.pop("class") == type(attack).__name__
    assert settings.pop("rules", 1) == attack.rules
    # An adapter's function is not plain, and stays; its name stands for it.
    assert {name for name, value in vars(attack).items() if not callable(value)} == set(settings)
    assert replace(attack, **settings) == attack
    assert all(isinstance(value, bool | int | float | str | None) for value in settings.values())


@EVERY
@pytest.mark.parametrize("level", [0, 1, 2])
def test_result_is_an_image_with_honest_bookkeeping(case: AttackCase, level: int) -> None:
    model, images, labels = toy_problem(9)
    attack = case.make(case.budgets[level])
    result = attack(model, images, labels, generator=seeded())
    assert result.images.shape == images.shape
    assert result.images.dtype == torch.float32
    assert not result.images.requires_grad
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert result.success.equal(model(result.images).argmax(dim=1) != labels)
    torch.testing.assert_close(result.norms, noise_norm(result.images - images, attack.norm))
    if case.bounded:
        assert float(result.norms.max()) <= case.budgets[level] + 1e-6
    if case.passes is not None:
        assert result.n_fwd.tolist() == [case.passes[0]] * 9
        assert result.n_bwd.tolist() == [case.passes[1]] * 9


@BOUNDED
def test_no_budget_changes_nothing(case: AttackCase) -> None:
    model, images, labels = toy_problem(5)
    result = case.make(0.0)(model, images, labels, generator=seeded())
    assert result.images.equal(images)
    assert not result.success.any()
    assert result.norms.tolist() == [0.0] * 5


@EVERY
def test_independent_of_batch_mates_order_and_chunks(case: AttackCase) -> None:
    model, images, labels = toy_problem(10)
    ids = [f"image {index}" for index in range(10)]
    attack = middle(case)
    full = attack(model, images, labels, generator=seeded(), sample_ids=ids)
    for rows in (torch.tensor([3]), torch.tensor([9, 2, 5]), torch.arange(9, -1, -1)):
        part = attack(
            model, images[rows], labels[rows], generator=seeded(), sample_ids=[ids[row] for row in rows]
        )
        assert_same(part, picked(full, rows), atol=2e-6)
    assert_same(
        attack(model, images, labels, generator=seeded(), sample_ids=ids, chunk_size=3), full, atol=2e-6
    )


@EVERY
def test_seeded_by_the_initial_seed_alone(case: AttackCase) -> None:
    model, images, labels = toy_problem(6)
    attack = middle(case)
    first = attack(model, images, labels, generator=seeded())
    used = seeded()
    torch.rand(5, generator=used)
    torch.manual_seed(99)
    assert_same(attack(model, images, labels, generator=used), first)
    # Names made of the images stand in for missing ids.
    assert_same(attack(model, images, labels, generator=seeded(), sample_ids=content_ids(images)), first)


@EVERY
def test_seed_0_unless_a_generator_is_given(case: AttackCase) -> None:
    model, images, labels = toy_problem(6)
    attack = middle(case)
    assert_same(attack(model, images, labels), attack(model, images, labels, generator=seeded(0)))


@EVERY
def test_without_ids_an_image_is_attacked_alike_in_every_batch(case: AttackCase) -> None:
    model, images, labels = toy_problem(6)
    rows = torch.tensor([4, 1])
    attack = middle(case)
    assert_same(
        attack(model, images[rows], labels[rows]), picked(attack(model, images, labels), rows), atol=2e-6
    )


@EVERY
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, list, tuple])
def test_labels_of_any_whole_numbers(case: AttackCase, dtype: object) -> None:
    model, images, labels = toy_problem(3)
    attack = middle(case)
    given = labels.to(dtype) if isinstance(dtype, torch.dtype) else dtype(labels.tolist())
    assert_same(attack(model, images, given), attack(model, images, labels))
    assert_same(attack(model, images, 1), attack(model, images, torch.ones(3, dtype=torch.int64)))


@EVERY
def test_bound_attack_is_a_function_of_images_and_labels(case: AttackCase) -> None:
    model, images, labels = toy_problem(3)
    bound = middle(case).bound_to(model)
    assert bound(images, labels).equal(middle(case)(model, images, labels).images)
    other = middle(case).bound_to(model, generator=seeded(8))
    assert other(images, labels).equal(middle(case)(model, images, labels, generator=seeded(8)).images)


def test_result_is_printed_as_one_line_of_numbers() -> None:
    model, images, labels = toy_problem(5)
    result = FGSM(0.25)(model, images, labels)
    count = int(result.success.sum())
    assert repr(result) == (
        f"AttackResult({count} of 5 images fool the classifier, 0.25 noise, 2 forward and 1 backward passes"
        " an image; images (5, 3, 16, 12) on cpu)"
    )
    assert repr(FGSM(0.25)(model, images[:0], labels[:0])) == "AttackResult(no images)"


@pytest.mark.parametrize("name", ["PGD", "PGD l2", "GaussianNoise", "SignNoise"])
def test_draws_follow_seed_and_sample_id(name: str) -> None:
    model, images, labels = toy_problem(4)
    attack = middle(CASES[name])
    twins = images[:1].expand(4, -1, -1, -1)
    result = attack(model, twins, labels[:1].expand(4), generator=seeded(), sample_ids=["a", "b", "a", "c"])
    assert result.images[0].equal(result.images[2])
    assert not result.images[0].equal(result.images[1])
    other = attack(model, twins, labels[:1].expand(4), generator=seeded(8), sample_ids=["a", "b", "a", "c"])
    assert not other.images[0].equal(result.images[0])


@EVERY
@pytest.mark.parametrize("mode", MODES)
def test_same_result_whatever_surrounds_the_call(case: AttackCase, mode: str) -> None:
    model, images, labels = toy_problem(5)
    plain = middle(case)(model, images, labels, generator=seeded())
    with MODES[mode]() as scope:
        if mode == "autocast in inference":
            scope.enter_context(torch.inference_mode())
            scope.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        # Made inside, as a loader's batch is in a test loop.
        inside = middle(case)(model, images + 0.0, labels + 0, generator=seeded())
    assert_same(inside, plain)


class Failing(torch.nn.Module):
    """Raises at its third call, in the middle of a gradient attack."""

    def __init__(self, inner: ToyNet, calls: int) -> None:
        super().__init__()
        self.inner = inner
        self.calls_left = calls

    def forward(self, images: Tensor) -> Tensor:
        torch.rand(3)  # a network with draws of its own
        self.calls_left -= 1
        if self.calls_left == 0:
            raise RuntimeError("out of order")
        return self.inner(images)


@EVERY
@pytest.mark.parametrize("calls", [-1, 1, 2], ids=["returns", "raises first", "raises second"])
def test_classifier_and_random_state_stay_untouched(case: AttackCase, calls: int) -> None:
    inner, images, labels = toy_problem(4)
    model = Failing(inner, calls)
    model.train()
    inner.norm.eval()
    inner.first.weight.requires_grad_(False)
    inner.head.weight.grad = torch.full_like(inner.head.weight, 2.0)
    state, modes = copy.deepcopy(model.state_dict()), [child.training for child in model.modules()]
    flags, before = [p.requires_grad for p in model.parameters()], torch.get_rng_state()
    kept, kept_labels = images.clone(), labels.clone()
    fails = calls == 1 or (calls == 2 and case.passes != (1, 0))
    with pytest.raises(RuntimeError, match="out of order") if fails else nullcontext():
        middle(case)(model, images, labels, generator=seeded())
    assert torch.get_rng_state().equal(before)
    assert [child.training for child in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    for parameter in model.parameters():
        if parameter is inner.head.weight:
            assert parameter.grad.eq(2.0).all()
        else:
            assert parameter.grad is None
    assert images.equal(kept)
    assert labels.equal(kept_labels)
    assert not images.requires_grad
    assert torch.is_grad_enabled()


@EVERY
def test_network_in_train_mode_is_attacked_in_eval_mode(case: AttackCase) -> None:
    model, images, labels = toy_problem(4)
    expected = middle(case)(model, images, labels, generator=seeded())
    model.train()
    assert_same(middle(case)(model, images, labels, generator=seeded()), expected)


@EVERY
def test_any_callable_will_do(case: AttackCase) -> None:
    model, images, labels = toy_problem(4)
    expected = middle(case)(model, images, labels, generator=seeded())
    assert_same(middle(case)(lambda batch: model(batch), images, labels, generator=seeded()), expected)


@EVERY
def test_empty_batch(case: AttackCase) -> None:
    model, images, labels = toy_problem(1)
    result = middle(case)(model, images[:0], labels[:0], generator=seeded())
    assert result.images.shape == (0, 3, 16, 12)
    assert [len(part) for part in (result.success, result.norms, result.n_fwd, result.n_bwd)] == [0] * 4
    assert result.success.dtype == torch.bool
    assert result.n_fwd.dtype == torch.int64


@EVERY
def test_half_precision_logits_are_accepted(case: AttackCase) -> None:
    model, images, labels = toy_problem(4)
    result = middle(case)(lambda batch: model(batch).bfloat16(), images, labels, generator=seeded())
    assert result.images.dtype == torch.float32
    assert result.norms.dtype == torch.float32


@EVERY
def test_refuses_what_cannot_work(case: AttackCase) -> None:
    model, images, labels = toy_problem(3)
    attack = middle(case)

    def call(x: Tensor = images, y: Tensor = labels, f=model, **more) -> AttackResult:
        return attack(f, x, y, generator=seeded(), **more)

    with pytest.raises(DataError, match=r"\[0, 1\]"):
        call(images * 255)
    with pytest.raises(DataError, match="float32"):
        call(images.double())
    with pytest.raises(DataError, match=r"normalised: .*Classifier\(network, normalization=...\)"):
        call((images - 0.5) / 0.25)
    with pytest.raises(ConfigError, match=r"labels must be an int or \(3,\) whole .* found \(2,\) int64"):
        call(y=labels[:2])
    with pytest.raises(ConfigError, match=r"whole numbers.* found \(3,\) float32; convert them: .long"):
        call(y=labels.float())
    with pytest.raises(ConfigError, match=r"whole numbers.* found \(3,\) bool"):
        call(y=labels > 0)
    with pytest.raises(ConfigError, match="not be negative"):
        call(y=labels - NUM_CLASSES)
    with pytest.raises(ConfigError, match=r"labels must lie in 0\.\.3"):
        call(y=labels + NUM_CLASSES)
    with pytest.raises(ConfigError, match="sample_ids must name all 3"):
        call(sample_ids=["a"])
    with pytest.raises(ConfigError, match="chunk_size"):
        call(chunk_size=0)
    with pytest.raises(ConfigError, match="output: sigmoid"):
        call(f=lambda batch: model(batch)[:, :1], y=labels * 0)
    with pytest.raises(NumericError, match="not finite"):
        call(f=lambda batch: model(batch) * float("nan"))


@GRADIENT
def test_classifier_without_gradient_is_named(case: AttackCase) -> None:
    model, images, labels = toy_problem(2)
    with pytest.raises(ConfigError, match="no gradient to the image"):
        middle(case)(lambda batch: model(batch).detach(), images, labels, generator=seeded())


@GRADIENT
def test_at_least_as_strong_as_fgsm_and_overwhelming_in_the_end(case: AttackCase) -> None:
    model, images, labels = toy_problem(64)
    if not case.bounded:
        rate = middle(case)(model, images, labels, generator=seeded()).success.float().mean()
        assert rate == 1.0
        return
    rates = [
        float(case.make(b)(model, images, labels, generator=seeded()).success.float().mean())
        for b in case.budgets
    ]
    assert rates == sorted(rates)
    assert rates[2] >= 0.98
    if middle(case).norm == "linf":
        for budget, rate in zip(case.budgets, rates, strict=True):
            fgsm = FGSM(budget)(model, images, labels, generator=seeded()).success.float().mean()
            assert rate >= fgsm


@GRADIENT
def test_targeted_form_reaches_its_goal(case: AttackCase) -> None:
    model, images, labels = toy_problem(16)
    attack = middle(case)
    goals = (labels + 1) % NUM_CLASSES
    aimed = replace(attack, targeted=True)
    result = aimed(model, images, goals, generator=seeded())
    assert result.success.equal(model(result.images).argmax(dim=1) == goals)
    untargeted = (model(attack(model, images, labels, generator=seeded()).images).argmax(1) == goals).sum()
    assert result.success.sum() > untargeted


def test_success_rate_never_falls_with_eps() -> None:
    model, images, labels = toy_problem(64)
    for norm, grid in (("linf", (0, 0.005, 0.01, 0.02, 0.04, 0.5)), ("l2", (0, 0.1, 0.2, 0.5, 1.0, 12.0))):
        rates = []
        for eps in grid:
            result = PGD(eps, norm)(model, images, labels, generator=seeded())
            rates.append(judge_8bit(model, images, result.images, labels).success_rate_unrounded)
        assert rates == sorted(rates)
        assert rates[0] == 0
        assert rates[-1] == 1


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("l2", 0.2)])
def test_doubled_steps_move_the_success_rate_by_less_than_a_point(norm: str, eps: float) -> None:
    model, images, labels = toy_problem(200)
    rates = [
        float(PGD(eps, norm, steps=steps)(model, images, labels, generator=seeded()).success.float().mean())
        for steps in (15, 30)
    ]
    assert 0.1 < rates[0] < 0.9
    assert abs(rates[1] - rates[0]) < 0.01


def test_misclassified_images_are_attacked_alike_and_left_out_by_the_judge() -> None:
    model, images, labels = toy_problem(8)
    wrong = labels.clone()
    wrong[:3] = (wrong[:3] + 1) % NUM_CLASSES
    result = FGSM(0.01)(model, images, wrong, generator=seeded())
    assert (result.norms > 0).all()
    assert result.success[:3].all()
    assert not judge_8bit(model, images, result.images, wrong).success[:3].any()
