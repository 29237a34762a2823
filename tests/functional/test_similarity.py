import math

import pytest
import torch

from verisal.errors import ConfigError, DataError
from verisal.functional.comparison import pearson, spearman, ssim, top_k_intersection
from verisal.functional.comparison.similarity import average_ranks, defined_maps, spearman_of_pairs

SIMILARITIES = (spearman, pearson, ssim, lambda a, b: top_k_intersection(a, b, 0.1))
EVERY = pytest.mark.parametrize("similarity", SIMILARITIES, ids=["spearman", "pearson", "ssim", "top_k"])


def maps(count=3, size=(12, 7), channels=1):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(2))


def test_ties_share_the_average_rank():
    rows = torch.tensor([[5.0, 1.0, 5.0, 5.0], [2.0, 2.0, 1.0, 1.0]])
    assert average_ranks(rows).tolist() == [[3.0, 1.0, 3.0, 3.0], [3.5, 3.5, 1.5, 1.5]]


def test_worked_by_hand_with_a_tie():
    # Ranks 1, 2, 3, 4 against 1.5, 1.5, 4, 3: products of the deviations sum to 3.5, squares to 5 and 4.5.
    a = torch.tensor([[[[0.0, 1.0], [2.0, 30.0]]]])
    b = torch.tensor([[[[0.5, 0.5], [9.0, 0.7]]]])
    assert spearman(a, b).tolist() == pytest.approx([3.5 / math.sqrt(5 * 4.5)])
    # Deviations from the means 8.25 and 2.675.
    found = sum(
        x * y for x, y in zip((-8.25, -7.25, -6.25, 21.75), (-2.175, -2.175, 6.325, -1.975), strict=True)
    )
    squares = 8.25**2 + 7.25**2 + 6.25**2 + 21.75**2, 2 * 2.175**2 + 6.325**2 + 1.975**2
    assert pearson(a, b).tolist() == pytest.approx([found / math.sqrt(squares[0] * squares[1])])


def test_ssim_of_one_window_worked_by_hand():
    # 1 x 3 px: one window of one row, weights w, 1, w over 1 + 2 w with w = exp(-1 / 4.5).
    w = math.exp(-1 / 4.5)
    side, centre = w / (1 + 2 * w), 1 / (1 + 2 * w)
    a, b = torch.tensor([[[[0.0, 4.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0, 2.0]]]])
    mean_a, mean_b = centre, centre / 2 + side
    covariance = centre / 2 - mean_a * mean_b
    variances = centre - mean_a**2 + centre / 4 + side - mean_b**2
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4)
    assert ssim(a, b).tolist() == pytest.approx([expected])


def test_top_k_is_intersection_over_union():
    a = torch.tensor([[[[5.0, 4.0, 3.0, 0.0]]]])
    b = torch.tensor([[[[5.0, 0.0, 3.0, 4.0]]]])
    assert top_k_intersection(a, b, 0.5).tolist() == pytest.approx([1 / 3])
    assert top_k_intersection(a, b, 0.01).tolist() == [1.0]  # at least one pixel
    assert top_k_intersection(a, b, 0.75).tolist() == [0.5]


def test_of_tied_values_the_first_in_row_major_order_is_on_top():
    a = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    b = torch.tensor([[[[2.0, 1.0], [0.0, 0.0]]]])
    assert top_k_intersection(a, b, 0.25).tolist() == [1.0]


def test_all_pairs_are_the_pairs_one_by_one():
    settings = [maps(4), maps(4).flip(0), maps(4).round(decimals=1)]
    settings[0][0] = 1 + 1e-7 * settings[0][0]  # as good as constant
    settings[1][2] = 0.0
    settings[2][1, 0, 0, 0] = math.nan
    found = spearman_of_pairs([settings[0].requires_grad_(), *settings[1:]])
    assert not found.requires_grad
    expected = [spearman(settings[i], settings[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(found, torch.stack(expected), equal_nan=True)
    assert found.isnan().tolist() == [
        [True, False, True, False],
        [True, True, False, False],
        [False, True, True, False],
    ]


def test_pairs_need_two_maps_of_one_shape():
    for settings in ([maps()], [maps(), maps(2)], [torch.rand(9), torch.rand(9)]):
        with pytest.raises(DataError, match="at least two of one shape"):
            spearman_of_pairs(settings)


@EVERY
def test_map_is_like_itself_at_any_scale(similarity):
    a = maps(channels=3) - 0.4
    assert similarity(a, a).tolist() == pytest.approx([1.0] * 3)
    assert similarity(a, 1e-9 * a).tolist() == pytest.approx([1.0] * 3)


@EVERY
def test_opposite_maps_and_negative_only_attributions(similarity):
    a = -1 - maps()
    assert similarity(a, a).tolist() == pytest.approx([1.0] * 3)
    assert (similarity(a, -a) <= 0.1).all()


@EVERY
def test_constant_and_not_finite_maps_are_undefined_and_others_untouched(similarity):
    a, b = maps(6), maps(6).flip(0)
    expected = similarity(a, b)
    a[0] = 0.0
    a[1] = 0.7
    b[2, 0, 3, 3] = math.nan
    b[3, 0, 0, 0] = -math.inf
    a[4] = math.inf
    found = similarity(a, b)
    assert found.isnan().tolist() == [True, True, True, True, True, False]
    assert found[5] == expected[5]


@EVERY
def test_batch_equals_singles_and_no_image_at_all(similarity):
    a, b = maps(4, channels=2), maps(4, channels=2).flip(3)
    singles = torch.cat([similarity(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    assert torch.allclose(similarity(a, b), singles, atol=1e-12)
    assert similarity(a[:0], b[:0]).shape == (0,)


@EVERY
def test_symmetric(similarity):
    a, b = maps(), maps().flip(2)
    assert torch.allclose(similarity(a, b), similarity(b, a), atol=1e-12)


@EVERY
def test_shapes_that_differ_are_refused(similarity):
    with pytest.raises(DataError, match="one shape"):
        similarity(maps(), maps(size=(7, 12)))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="must lie in"):
        top_k_intersection(maps(), maps(), 10)
    with pytest.raises(DataError, match="add the missing dimensions"):
        ssim(maps()[:, 0], maps()[:, 0])


def test_which_maps_are_constant():
    steps = torch.tensor([0.0, 0.9e-6, 1.1e-6, 0.0])
    rows = 1 + torch.stack([torch.zeros(4, dtype=torch.float64), steps.double(), steps.double() * 0.5])
    rows = torch.cat([rows, -1e-30 * torch.tensor([[1.0, 2.0, 3.0, 4.0]])])
    assert defined_maps(rows).tolist() == [False, True, False, True]


def test_maps_of_one_row_and_half_precision():
    a = maps(size=(1, 9)).half()
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3)
    assert spearman(a, a).dtype == torch.float64
