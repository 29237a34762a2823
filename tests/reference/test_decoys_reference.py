"""One patch at a time: the constrained problem as it is written down, by a generic solver."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from helpers.replicates import replicates
from verisal.saliency import Decoy


class Tiny(nn.Module):
    """Features of stride 2 that have fewer values than a patch has pixels around it."""

    def __init__(self, rectifier: nn.Module) -> None:
        super().__init__()
        self.conv, self.rectifier = nn.Conv2d(3, 2, 3, stride=2, padding=1), rectifier
        self.head = nn.Linear(2, 3)

    def forward(self, images):
        return self.head(self.rectifier(self.conv(images)).square().mean(dim=(2, 3)))


def tiny(rectifier):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Tiny(rectifier).double().eval()


@replicates(Decoy.decoys)
def slow_gain(network, image, mask, sign, epsilon):
    """Best mean of the positive part of ``sign * (decoy - image)`` over the patch, from several starts.

    ``image (3, H, W)`` double, ``mask (H, W)`` bool with one patch, ``epsilon`` in units of the features.
    """
    index = mask.expand_as(image).flatten().nonzero()[:, 0]
    pixels = image.flatten()[index]

    def difference(change):
        decoy = image.flatten().index_add(0, index, change).view_as(image)
        moved = network.rectifier(network.conv(decoy[None])) - network.rectifier(network.conv(image[None]))
        return moved.flatten()

    def slack(change):
        moved = difference(torch.from_numpy(change)).detach().numpy()
        return np.concatenate([epsilon - moved, epsilon + moved])

    def slack_slopes(change):
        slopes = torch.autograd.functional.jacobian(difference, torch.from_numpy(change)).numpy()
        return np.concatenate([-slopes, slopes])

    best = 0.0
    for start in range(6):
        first = np.random.default_rng(start).uniform(0, 0.02, len(index)) * sign
        first = np.clip(first, (-pixels).numpy(), (1 - pixels).numpy())
        found = minimize(
            lambda change: -np.clip(sign * change, 0, None).mean(),
            first,
            jac=lambda change: -sign * (sign * change > 0) / len(index),
            method="SLSQP",
            bounds=list(zip((-pixels).tolist(), (1 - pixels).tolist(), strict=True)),
            constraints=[{"type": "ineq", "fun": slack, "jac": slack_slopes}],
            options={"maxiter": 200},
        )
        if slack(found.x).min() >= -1e-6:
            best = max(best, -found.fun)
    return best


@pytest.mark.parametrize("rectifier", [nn.Softplus(), nn.ReLU()], ids=["smooth", "kinked"])
def test_objective_of_the_decoys_is_nearly_that_of_the_generic_solver(rectifier):
    """Given steps enough; the patch in the middle, whose lattice holds no other."""
    exact, network = tiny(rectifier).requires_grad_(False), tiny(rectifier).float()
    image = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    epsilon = 0.05 * float(exact.rectifier(exact.conv(image.double())).std())
    patch = torch.zeros(9, 9, dtype=torch.bool)
    patch[3:5, 3:5] = True
    settings = {"steps": 600, "rounds": 6, "learning_rate": 0.01, "multiplier": 2.0, "epsilon": 0.05}
    method = Decoy(layer="rectifier", masks="single", patch=2, stride=3, **settings)
    (group,) = method.decoys(network, image)
    chosen = group.masks[:, 0, 3, 3]
    assert group.masks[chosen, 0].eq(patch).all()
    gains = (group.signs.view(-1, 1, 1, 1) * (group.images[:, 0] - image)).clamp_min(0)
    fast = [float(gain[:, patch].mean()) for gain in gains[chosen]]
    slow = [slow_gain(exact, image[0].double(), patch, sign, epsilon) for sign in (1.0, -1.0)]
    assert fast == pytest.approx(slow, rel=0.02)
