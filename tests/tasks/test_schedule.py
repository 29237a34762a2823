"""The one-cycle schedule of all training tasks: its curve, and how it goes on after a resume."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from verisal.errors import ConfigError
from verisal.tasks._training import OneCycle


def trainer(batches=3, epochs=4, *, max_steps=-1, accumulate=1, done=0, within=0):
    """Stands in for a trainer whose progress has been restored: ``done`` epochs and ``within`` batches."""
    endless = epochs == -1
    steps = math.inf if endless and max_steps == -1 else max_steps
    if not endless:
        steps = math.ceil(batches / accumulate) * epochs
        steps = steps if max_steps == -1 else min(steps, max_steps)
    epoch = SimpleNamespace(processed=done, started=done + bool(within))
    batch = SimpleNamespace(current=SimpleNamespace(completed=within))
    return SimpleNamespace(
        estimated_stepping_batches=steps,
        num_training_batches=batches,
        max_epochs=epochs,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=epoch), epoch_loop=SimpleNamespace(batch_progress=batch)
        ),
    )


def made(planned, pct_start=0.3):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return optimizer, OneCycle(optimizer, planned, max_lr=0.1, pct_start=pct_start)


def walk(optimizer, schedule, steps):
    seen = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"]))
        optimizer.step()
        schedule.step()
    return seen


def resumed(states, planned, pct_start=0.3):
    optimizer, schedule = made(planned, pct_start)
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    return optimizer, schedule


def states(optimizer, schedule):
    return optimizer.state_dict(), schedule.state_dict()


@pytest.mark.parametrize("pct_start", [0.15, 0.2, 0.3])
def test_the_curve_is_torchs_and_a_resume_stays_on_it_bit_for_bit(pct_start):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    torchs = OneCycleLR(optimizer, max_lr=0.1, total_steps=12, pct_start=pct_start)
    expected = walk(optimizer, torchs, 12)
    assert walk(*made(trainer(), pct_start), 12) == expected
    for epochs in range(5):
        pair = made(trainer(), pct_start)
        first = walk(*pair, 3 * epochs)
        pair = resumed(states(*pair), trainer(done=epochs), pct_start)
        assert first + walk(*pair, 12 - 3 * epochs) == expected
    # Inside an epoch, and with accumulated gradients.
    pair = made(trainer(batches=5, accumulate=2), pct_start)
    first = walk(*pair, 4)
    pair = resumed(states(*pair), trainer(batches=5, accumulate=2, done=1, within=2), pct_start)
    assert first + walk(*pair, 8) == expected


def test_a_finished_run_goes_on_along_the_curve_of_the_longer_one():
    longer = walk(*made(trainer(epochs=8)), 24)
    pair = made(trainer())
    walk(*pair, 12)
    assert walk(*resumed(states(*pair), trainer(epochs=8, done=4)), 12) == longer[12:]


@pytest.mark.parametrize(("batches", "total"), [(1, 6 + 2), (3, 12), (6, 6 + 12)])
def test_another_number_of_batches_ends_the_curve_where_the_training_ends(batches, total):
    pair = made(trainer())
    walk(*pair, 6)
    optimizer, schedule = resumed(states(*pair), trainer(batches=batches, done=2))
    assert schedule.total_steps == total
    rates = [rate for rate, _ in walk(optimizer, schedule, total - 6)]
    assert rates[-1] == pytest.approx(0.1 / 25 / 1e4)


def test_an_epoch_that_is_shorter_now_than_what_was_done_of_it_is_over():
    pair = made(trainer(batches=5))
    walk(*pair, 8)
    _, schedule = resumed(states(*pair), trainer(batches=2, done=1, within=3))
    assert schedule.total_steps == 8 + 2 * 2


def test_the_number_of_steps_may_be_given_alone():
    pair = made(trainer(epochs=-1, max_steps=12))
    walk(*pair, 5)
    _, schedule = resumed(states(*pair), trainer(epochs=-1, max_steps=20, done=1, within=2))
    assert schedule.total_steps == 20


@pytest.mark.parametrize(
    ("planned", "found"), [(trainer(batches=0), "without a single step"), (trainer(epochs=-1), "endless")]
)
def test_no_step_and_no_end_are_refused(planned, found):
    with pytest.raises(ConfigError, match=f"{found}.*set trainer.max_epochs or trainer.max_steps"):
        made(planned)


@pytest.mark.parametrize("total", range(1, 12))
@pytest.mark.parametrize("pct_start", [0.15, 0.2, 0.25, 0.3, 0.5])
def test_every_short_training_has_a_rate(total, pct_start):
    rates = [rate for rate, _ in walk(*made(trainer(batches=1, epochs=total), pct_start), total)]
    assert all(0 < rate <= 0.1 for rate in rates)
