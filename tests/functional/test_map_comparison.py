import math

import pytest
import torch

from verisal.errors import DataError
from verisal.functional.comparison import map_agreement, spearman
from verisal.functional.comparison.similarity import diverges, map_similarities, random_maps
from verisal.functional.statistics import Bootstrap

IDS = tuple("abcdefgh")


def run(seed, noise):
    """Maps of 8 images that agree up to noise."""
    shared = torch.rand(8, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    return shared + noise * torch.rand(8, 1, 9, 7, generator=torch.Generator().manual_seed(seed))


class Compared:
    """Means over the images, and whether the settings differ by more than the method's own noise."""

    def __init__(self, settings, repeats=()):
        alike = map_agreement(settings, image_ids=IDS, repeats=repeats)
        for name in ("similarity", "floor", "control"):
            setattr(self, name, Bootstrap().mean(getattr(alike, name), kind="measure").score())
        self.diverges = diverges(self.similarity, self.floor)


def test_every_similarity_is_there_and_one_for_the_map_itself():
    found = map_similarities(run(1, 1.0), run(1, 1.0))
    assert list(found) == ["spearman", "pearson", "ssim", "top_5", "top_10", "top_20"]
    assert all(values.tolist() == pytest.approx([1.0] * 8) for values in found.values())


def test_settings_as_alike_as_two_runs_do_not_diverge_and_others_do():
    noisy = [(run(1, 0.3), run(2, 0.3)), (run(3, 0.3), run(4, 0.3))]
    same = Compared([run(5, 0.3), run(6, 0.3), run(7, 0.3)], repeats=noisy)
    assert same.diverges is False
    other = Compared([run(5, 0.3), 1 - run(6, 0.3), run(7, 0.3)], repeats=noisy)
    assert other.diverges is True
    assert other.similarity.high < other.floor.low
    assert abs(other.control.value) < 0.2


def test_median_over_pairs_then_mean_over_images():
    maps = [run(5, 0.3), run(6, 2.0), run(7, 9.0)]
    pairs = [spearman(maps[i], maps[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = torch.stack(pairs).median(dim=0).values.mean().item()
    assert Compared(maps).similarity.value == pytest.approx(expected)


def test_deterministic_method_has_floor_one():
    found = Compared([run(1, 0.3), run(2, 0.3)])
    assert (found.floor.value, found.floor.low, found.floor.n) == (1.0, 1.0, 8)
    assert found.diverges is True


def test_undefined_maps_are_counted_and_without_any_there_is_no_verdict():
    first = run(1, 0.3)
    first[0], first[1, 0, 0, 0] = 0.0, math.nan
    found = Compared([first, run(2, 0.3)])
    assert (found.similarity.n, found.similarity.undefined) == (6, 2)
    assert Compared([0 * first, run(2, 0.3)]).diverges is None


def test_random_maps_depend_on_seed_and_id_only():
    like = torch.zeros(2, 1, 3, 4)
    found = random_maps(like, image_ids=("a", "b"))
    assert torch.equal(random_maps(like[:1], image_ids=("b",))[0], found[1])
    assert not torch.equal(random_maps(like, image_ids=("a", "b"), seed=1), found)


def test_one_setting_is_refused():
    with pytest.raises(DataError, match="at least two"):
        Compared([run(1, 0.3)])
