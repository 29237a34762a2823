import pytest
import torch

from verisal.detectors import FeatureSqueezing, SqueezedLogits
from verisal.detectors.squeezing import non_local_means, reduce_bit_depth
from verisal.errors import ConfigError
from verisal.functional.filters import median_filter


def test_bit_depth_keeps_both_ends_and_the_levels_between():
    images = torch.tensor([0.0, 0.2, 0.34, 0.65, 0.9, 1.0])
    assert reduce_bit_depth(images, 2).tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 2 / 3, 1.0, 1.0])


def test_median_removes_one_odd_pixel_and_keeps_an_edge():
    image = torch.zeros(1, 1, 5, 5)
    image[..., 3:] = 1.0
    spoilt = image.clone()
    spoilt[0, 0, 2, 1] = 0.7
    assert median_filter(spoilt, 3).equal(image)


def test_median_of_even_side_is_the_larger_middle_value_of_the_window_up_and_left():
    image = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]])
    # Windows with edges repeated: [.1 .1 .1 .1], [.1 .2 .1 .2], [.1 .1 .3 .3], [.1 .2 .3 .4].
    assert median_filter(image, 2).flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.3])


def test_non_local_means_leave_flat_regions_and_smooth_faint_noise():
    flat = torch.full((1, 3, 9, 9), 0.3)
    same = non_local_means(flat, search=5, patch=3, strength=0.01)
    torch.testing.assert_close(same, flat)
    noisy = flat + 0.01 * torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert non_local_means(noisy, search=5, patch=3, strength=0.05).std() < 0.4 * noisy.std()
    step = flat.clone()
    step[..., 5:] = 0.9
    torch.testing.assert_close(non_local_means(step, search=5, patch=1, strength=0.01), step)


def test_score_is_the_largest_distance_over_the_copies():
    measured = {
        "logits": torch.tensor([[0.0, 0.0], [50.0, 0.0]]),
        "squeezed/a": torch.tensor([[0.0, 0.0], [0.0, 50.0]]),
        "squeezed/b": torch.tensor([[50.0, 0.0], [50.0, 0.0]]),
    }
    assert FeatureSqueezing().judge(measured).tolist() == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize(("search", "passes"), [(0, 3), (3, 4)])
def test_costs_a_pass_per_squeezer_and_one_more(search, passes):
    seen = []

    def classifier(images):
        seen.append(len(images))
        return images.mean(dim=(2, 3))

    SqueezedLogits(search=search)(classifier, torch.rand(2, 3, 6, 6))
    assert seen == [2] * passes


@pytest.mark.parametrize("wrong", [{"bits": 8}, {"median": 1}, {"search": 4}, {"patch": 2}, {"strength": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"squeezing needs|strength must be positive, found 0"):
        FeatureSqueezing(source=SqueezedLogits(**wrong))
