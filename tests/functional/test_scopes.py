import pytest
import torch
from torch import nn

from verisal.functional.scopes import frozen, gradient_scope, rng_preserved


def network():
    module = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))
    )
    module.train()
    module[1].eval()
    module[2][1].weight.requires_grad_(False)
    return module


def fail():
    torch.rand(3)
    raise ZeroDivisionError


def state(module):
    return (
        [child.training for child in module.modules()],
        [parameter.requires_grad for parameter in module.parameters()],
    )


def test_frozen_evaluates_inside_and_restores_every_module_and_flag():
    module = network()
    before = state(module)
    with frozen(module):
        assert state(module) == ([False] * 6, [False] * 6)
    assert state(module) == before
    assert before == ([True, True, False, True, True, True], [True, True, True, True, False, True])


def test_frozen_restores_when_the_body_raises_and_when_nested():
    module = network()
    before = state(module)
    with pytest.raises(ZeroDivisionError), frozen(module), frozen(module):
        fail()
    assert state(module) == before


def test_frozen_leaves_no_trace_in_buffers_and_gradients():
    module = network()
    module[1].train()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    with frozen(module):
        points = torch.randn(4, 2, requires_grad=True)
        torch.autograd.grad(module(points).sum(), points)
    assert all(value.equal(kept[name]) for name, value in module.state_dict().items())
    assert module[0].weight.grad.eq(1).all()
    assert module[0].bias.grad is None


MODES = {
    "plain": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
def test_gradient_scope_gives_float32_gradients_whatever_surrounds_it(mode):
    weight = torch.randn(4, 4)
    with MODES[mode]():
        inputs = torch.arange(4.0)  # made inside, as a loader's batch is
        with gradient_scope():
            leaf = inputs.clone().requires_grad_()
            output = leaf @ weight
            (gradient,) = torch.autograd.grad(output.sum(), leaf)
    assert output.dtype == torch.float32
    assert output.detach().equal(torch.arange(4.0) @ weight)
    torch.testing.assert_close(gradient, weight.sum(dim=1))


@pytest.mark.parametrize("mode", MODES)
def test_gradient_scope_ends_where_it_ends(mode):
    with MODES[mode]():
        around = (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )
        with pytest.raises(ZeroDivisionError), gradient_scope():
            fail()
        assert around == (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        )


def test_random_state_is_kept_on_errors_too():
    before = torch.get_rng_state()
    with rng_preserved():
        torch.rand(3)
        torch.manual_seed(5)
    with pytest.raises(ZeroDivisionError), rng_preserved(torch.device("cpu")):
        fail()
    assert torch.get_rng_state().equal(before)
