import math

import pytest
import torch

from verisal.errors import DataError
from verisal.functional.statistics import (
    Bootstrap,
    kendall_tau_b,
    rank_correlation,
    ranking_agreement,
    ranking_stability,
)
from verisal.functional.statistics.ranking import diagonal_effect, swap_shares


def spread(means, n=9, noise=0.0):
    drawn = torch.randn(len(means), n, generator=torch.Generator().manual_seed(6))
    return torch.tensor(means)[:, None] + noise * drawn


def test_kendall_with_ties_worked_by_hand():
    # Pairs: 12 and 13 agree, 23 disagrees, 14 agrees, 24 is tied in b, 34 agrees; 6 pairs, none tied in a.
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 3.0])
    assert kendall_tau_b(a, b).item() == pytest.approx((4 - 1) / math.sqrt(6 * 5))
    assert kendall_tau_b(a, -a).item() == -1.0
    assert kendall_tau_b(a, torch.ones(4)).isnan()
    assert kendall_tau_b(a, torch.tensor([1.0, math.nan, 2.0, 3.0])).isnan()


def test_spearman_of_rankings_worked_by_hand():
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[10.0, 30.0, 20.0, 40.0], [1.0, 1.0, 1.0, 1.0]])
    found = rank_correlation(a.expand(2, 4), b)
    assert found[0].item() == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found[1].isnan()
    assert rank_correlation(a, torch.tensor([math.nan, 1.0, 2.0, 3.0])).isnan()


def test_rankings_are_made_anew_in_every_resample():
    first, second = spread([1.0, 2.0, 3.0, 4.0], noise=1.0), spread([1.0, 3.0, 2.0, 4.0], noise=0.7)
    found = ranking_agreement(first, second, Bootstrap(60, seed=5))
    resampled = []
    for weight in Bootstrap(60, seed=5).weights(9):
        images = [i for i in range(9) for _ in range(int(weight[i]))]
        resampled.append(kendall_tau_b(first[:, images].mean(dim=1), second[:, images].mean(dim=1)).item())
    low, high = torch.tensor(resampled, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975]).double())
    kendall = found["kendall"]
    assert kendall.value == pytest.approx(kendall_tau_b(first.mean(dim=1), second.mean(dim=1)).item())
    assert (kendall.low, kendall.high) == (pytest.approx(low.item()), pytest.approx(high.item()))
    assert (kendall.n, kendall.undefined) == (9, 0)


def test_a_ranking_agrees_with_itself_on_resampled_images_as_far_as_noise_lets_it():
    scores = spread([1.0, 2.0, 3.0, 4.0], noise=1.0)
    found = ranking_stability(scores, Bootstrap(60, seed=5))
    resampled = []
    for weight in Bootstrap(60, seed=5).weights(9):
        images = [i for i in range(9) for _ in range(int(weight[i]))]
        resampled.append(kendall_tau_b(scores[:, images].mean(dim=1), scores.mean(dim=1)).item())
    expected = torch.tensor(resampled, dtype=torch.float64)
    low, high = expected.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    assert found.value == pytest.approx(expected.mean().item())
    assert (found.low, found.high, found.n) == (pytest.approx(low), pytest.approx(high), 9)
    assert ranking_stability(spread([1.0, 2.0, 3.0, 4.0]), Bootstrap()).low == 1.0
    assert ranking_stability(scores[:3], Bootstrap()).n == 0


def test_image_that_is_undefined_for_one_method_is_left_out_for_all():
    first = spread([1.0, 2.0, 3.0, 4.0])
    second = first.clone()
    second[2, 4] = math.nan
    first[:, 4] = torch.tensor([99.0, 0.0, 0.0, 0.0])  # would turn the ranking
    found = ranking_agreement(first, second, Bootstrap(20))["spearman"]
    assert (found.value, found.n, found.undefined) == (1.0, 8, 1)


def test_fewer_than_four_methods_are_undefined():
    scores = spread([1.0, 2.0, 3.0])
    for found in (
        *ranking_agreement(scores, scores, Bootstrap()).values(),
        *swap_shares(scores, scores, Bootstrap()).values(),
    ):
        assert math.isnan(found.value)
        assert (found.n, found.undefined) == (0, 9)


def test_equal_and_opposite_rankings():
    morf = spread([0.1, 0.2, 0.3, 0.4])
    assert ranking_agreement(-morf, -morf, Bootstrap(10))["kendall"].value == 1.0
    assert ranking_agreement(-morf, morf, Bootstrap(10))["kendall"].value == -1.0


def test_swap_shares_worked_by_hand():
    first = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [5.0] * 4, [6.0] * 4])
    second = first.clone()
    second[0] = torch.tensor([3.0, 0.0, 2.0, math.nan])  # swaps, stays, ties, is undefined
    found = swap_shares(first, second, Bootstrap(10))
    assert list(found) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert (found[0, 1].value, found[0, 1].n, found[0, 1].undefined) == (pytest.approx(1 / 3), 3, 1)
    assert (found[2, 3].value, found[2, 3].n) == (0.0, 4)


def test_diagonal_effect_worked_by_hand():
    scores = torch.zeros(2, 2, 3)
    scores[0, 0], scores[1, 1], scores[0, 1] = 1.0, 0.5, 0.25
    scores[1, 0, 2] = math.nan
    found = diagonal_effect(scores, Bootstrap(10))
    assert (found.value, found.n, found.undefined) == (0.75 - 0.125, 2, 1)
    for shape in ((1, 1, 3), (2, 3, 4), (3, 2, 4), (2, 2)):
        with pytest.raises(DataError, match="at least two baselines"):
            diagonal_effect(torch.zeros(shape), Bootstrap())


def test_diagonal_effect_of_half_precision_is_summed_in_double():
    scores = torch.rand(4, 4, 9, generator=torch.Generator().manual_seed(0)).half()
    assert diagonal_effect(scores, Bootstrap(9)) == diagonal_effect(scores.double(), Bootstrap(9))


def test_scores_of_different_shapes_are_refused():
    for compare in (ranking_agreement, swap_shares):
        with pytest.raises(DataError, match="the same under both settings"):
            compare(torch.zeros(4, 3), torch.zeros(4, 2), Bootstrap())
