import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from verisal.functional.filters import gaussian_matrix


@pytest.mark.parametrize("length", [1, 2, 9])
def test_gaussian_matrix_without_sigma_is_the_identity_and_keeps_constants(length):
    assert gaussian_matrix(length, 0.0).equal(torch.eye(length))
    torch.testing.assert_close(gaussian_matrix(length, 4.0).sum(dim=1), torch.ones(length))


def test_three_taps_by_hand():
    # Weights e^-1/2, 1, e^-1/2 over their sum; pixel 0 sees pixel 1 on both sides.
    side = torch.tensor(-0.5).exp()
    centre, side = 1 / (1 + 2 * side), side / (1 + 2 * side)
    expected = torch.zeros(3, 3)
    expected[0, 0] = expected[1, 1] = expected[2, 2] = centre
    expected[0, 1] = expected[2, 1] = 2 * side
    expected[1, 0] = expected[1, 2] = side
    torch.testing.assert_close(gaussian_matrix(3, 1.0, taps=3), expected)


@pytest.mark.parametrize(("length", "sigma", "radius"), [(9, 1.3, 4), (4, 2.5, 8), (2, 3.0, 9)])
def test_reflected_as_often_as_it_takes(length, sigma, radius):
    expected = gaussian_filter1d(
        torch.eye(length).double().numpy(), sigma, axis=0, mode="mirror", radius=radius
    )
    for taps in (None, 2 * radius + 1):
        found = gaussian_matrix(length, sigma, taps=taps)
        torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)
