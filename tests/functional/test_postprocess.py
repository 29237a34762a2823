import math

import pytest
import torch

from verisal.errors import ConfigError
from verisal.functional.comparison import postprocess
from verisal.functional.comparison.similarity import attribution_of
from verisal.types import SaliencyResult


def test_worked_by_hand():
    # Absolute values 0 .. 20 in one row, the largest value in another channel: the 95th percentile is 19.
    attribution = torch.zeros(1, 2, 3, 7)
    attribution[0, 0].view(-1)[:] = torch.arange(21.0)
    attribution[0, 0, 2, 6] = 3
    attribution[0, 1, 2, 6] = -20
    expected = torch.arange(21.0).clamp_max(19) / 19
    assert torch.allclose(postprocess(attribution).view(-1), expected)


def test_percentile_lies_between_order_statistics():
    attribution = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]]]])
    # Place 0.5 * 3 = 1.5 between 2 and 3.
    found = postprocess(attribution, percentile=50.0)
    assert found.view(-1).tolist() == pytest.approx([0.0, 1 / 1.5, 1.0, 1.0])
    assert postprocess(attribution, percentile=100.0).view(-1).tolist() == pytest.approx([0, 1 / 9, 2 / 9, 1])


def test_minimum_becomes_zero_and_scale_does_not_count():
    attribution = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(0)) - 0.3
    found = postprocess(attribution)
    assert found.amin(dim=(1, 2, 3)).tolist() == [0.0] * 3
    assert found.amax(dim=(1, 2, 3)).tolist() == [1.0] * 3
    assert torch.allclose(found, postprocess(-7e-6 * attribution), atol=1e-6)


def test_constant_is_zero_and_not_finite_is_nan_and_others_stay():
    attribution = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = postprocess(attribution)[4]
    attribution[0] = 0.5
    attribution[1] = 0.0
    attribution[1, 0, 0, 0] = 1.0  # all that it has is cut
    attribution[2, 0, 1, 1] = math.nan
    attribution[3, 0, 1, 1] = -math.inf
    found = postprocess(attribution)
    assert not found[:2].any()
    assert found[2:4].isnan().all()
    assert torch.equal(found[4], expected)


def test_percentile_out_of_range_is_refused():
    for percentile in (0.0, 101.0, math.nan):
        with pytest.raises(ConfigError, match="must lie in"):
            postprocess(torch.rand(1, 1, 2, 2), percentile=percentile)


def test_attribution_or_map():
    saliency, attribution = torch.rand(1, 1, 2, 2), torch.rand(1, 3, 2, 2)
    assert attribution_of(SaliencyResult(saliency=saliency, raw=saliency)) is saliency
    result = SaliencyResult(saliency=saliency, raw=saliency, attribution=attribution)
    assert attribution_of(result) is attribution
