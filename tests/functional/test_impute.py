import pytest
import torch

from verisal.errors import ConfigError, DataError, NumericError
from verisal.functional.baselines.filling import linear_imputation

IMAGES = torch.rand(4, 3, 20, 25, generator=torch.Generator().manual_seed(0))


def masks(*shares):
    draws = torch.rand(len(shares), 1, 20, 25, generator=torch.Generator().manual_seed(1))
    return (draws >= torch.tensor(shares).view(-1, 1, 1, 1)).float()


def test_one_removed_pixel_is_the_weighted_mean_of_its_neighbours():
    values = torch.tensor([[0.0, 0.6, 0.0], [0.0, 0.9, 0.0], [0.0, 0.0, 0.12]])
    keep = torch.ones(1, 1, 3, 3)
    keep[..., 1, 1] = 0
    filled = linear_imputation(values.expand(1, 3, 3, 3), keep)
    # One direct neighbour of 0.6 and one diagonal neighbour of 0.12; the pixel's own value is gone.
    torch.testing.assert_close(filled[0, :, 1, 1], torch.full((3,), 0.6 / 6 + 0.12 / 12))


def test_weights_are_renormalised_at_the_border():
    values = torch.tensor([[0.9, 0.6, 0.0], [0.3, 0.9, 0.0], [0.0, 0.0, 0.0]])
    keep = torch.ones(1, 1, 3, 3)
    keep[..., 0, 0] = 0
    filled = linear_imputation(values.expand(1, 3, 3, 3), keep)
    expected = (0.6 / 6 + 0.3 / 6 + 0.9 / 12) / (1 / 6 + 1 / 6 + 1 / 12)
    torch.testing.assert_close(filled[0, :, 0, 0], torch.full((3,), expected))


def test_a_gap_in_a_row_is_filled_linearly():
    """Between two kept ends of a row of pixels, only direct neighbours count."""
    row = torch.linspace(0.2, 0.8, 7).expand(1, 3, 1, 7).clone()
    keep = torch.zeros(1, 1, 1, 7)
    keep[..., 0] = keep[..., -1] = 1
    damaged = torch.where(keep > 0, row, 0.0)
    torch.testing.assert_close(linear_imputation(damaged, keep), row, rtol=0, atol=1e-5)


def test_kept_pixels_stay_and_removed_values_play_no_part():
    keep = masks(0.5, 0.5, 0.5, 0.5)
    filled = linear_imputation(IMAGES, keep, noise=0.1)
    assert filled.where(keep > 0, 0).equal(IMAGES.where(keep > 0, 0))
    plain = linear_imputation(IMAGES, keep)
    assert linear_imputation(torch.where(keep > 0, IMAGES, 0.3), keep).sub(plain).abs().max() < 1e-3
    assert linear_imputation(IMAGES, torch.ones_like(keep)).equal(IMAGES)


def test_masks_below_one_half_remove():
    keep = masks(0.5, 0.5, 0.5, 0.5)
    soft = torch.where(keep > 0, 0.5, 0.49)
    assert linear_imputation(IMAGES, soft).equal(linear_imputation(IMAGES, keep))


def test_image_without_a_kept_pixel_becomes_its_mean():
    filled = linear_imputation(IMAGES, torch.zeros(4, 1, 20, 25))
    torch.testing.assert_close(filled, IMAGES.mean(dim=(2, 3), keepdim=True).expand_as(IMAGES))


def test_an_image_does_not_depend_on_its_batch_mates():
    """Neither on easy nor on undetermined ones, whose iterations end at other times."""
    keep = masks(0.02, 0.95, 1.0, 0.4)
    keep[2] = 0
    whole = linear_imputation(IMAGES, keep, noise=0.02)
    for row in range(4):
        alone = linear_imputation(IMAGES[row : row + 1], keep[row : row + 1], noise=0.02)
        torch.testing.assert_close(whole[row : row + 1], alone, rtol=0, atol=1e-5)


def test_noise_has_its_standard_deviation_and_follows_seed_and_content():
    grey, keep = torch.full((1, 3, 60, 60), 0.5), torch.zeros(1, 1, 60, 60)
    keep[..., 0] = 1
    noisy = linear_imputation(grey, keep, noise=0.05)
    assert float((noisy - 0.5)[..., 1:].std()) == pytest.approx(0.05, rel=0.03)
    assert float((noisy - 0.5)[..., 1:].mean()) == pytest.approx(0, abs=0.002)
    assert linear_imputation(grey, keep, noise=0.05).equal(noisy)
    assert not linear_imputation(grey, keep, noise=0.05, seed=1).equal(noisy)


def test_noise_is_clamped_to_the_pixel_range():
    white, keep = torch.ones(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    keep[..., 0] = 1
    noisy = linear_imputation(white, keep, noise=0.5)
    assert float(noisy.max()) == 1
    assert float(noisy.min()) >= 0
    assert float(noisy[..., 1:].eq(1).float().mean()) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": -0.1}, "noise must be at least 0, found"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        linear_imputation(IMAGES, masks(0.5, 0.5, 0.5, 0.5), **settings)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"\(4, 1, 20, 25\), found \(4, 20, 25\)"):
        linear_imputation(IMAGES, torch.ones(4, 20, 25))


def test_pixels_that_are_not_finite_are_named_and_do_not_loop():
    broken = IMAGES.clone()
    broken[1, 0, 3, 3] = torch.nan
    with pytest.raises(NumericError, match="nan"):
        linear_imputation(broken, masks(0.5, 0.5, 0.5, 0.5).index_fill(2, torch.tensor([3]), 1))


def test_removed_pixels_may_hold_anything():
    keep = masks(0.5, 0.5, 0.5, 0.5)
    broken = torch.where(keep > 0, IMAGES, torch.nan)
    assert linear_imputation(broken, keep).equal(linear_imputation(IMAGES.where(keep > 0, 0.0), keep))


def test_gradients_are_never_tracked():
    images = IMAGES.clone().requires_grad_()
    assert not linear_imputation(images, masks(0.5, 0.5, 0.5, 0.5), noise=0.01).requires_grad
