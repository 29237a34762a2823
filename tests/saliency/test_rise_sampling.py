import sys
from itertools import combinations, islice

import pytest
import torch

from verisal.errors import ConfigError
from verisal.fingerprint import settings_of
from verisal.functional.baselines import Constant, GaussianNoise
from verisal.saliency import RISE
from verisal.saliency.perturbation.designs import mask_blocks, orthogonal_array
from verisal.saliency.perturbation.halves import split_half_noise

SAMPLINGS = ("plain", "sobol", "orthogonal")


def blocks(sampling, *, cells=3, keep_probability=0.5, seed=0, count=4):
    found = mask_blocks(sampling, cells=cells, keep_probability=keep_probability, seed=seed, steps=(5, 9))
    return list(islice(found, count))


@pytest.mark.parametrize("cells", [1, 2, 3, 7])
def test_an_orthogonal_array_keeps_cells_and_pairs_equally_often(cells):
    grids = orthogonal_array(cells, torch.Generator().manual_seed(0)).flatten(1)
    assert len(grids) > cells**2
    assert grids.sum(dim=0).eq(len(grids) // 2).all()
    for one, other in combinations(range(cells**2), 2):
        assert int((grids[:, one] & grids[:, other]).sum()) == len(grids) // 4


def test_one_grid_of_an_array_is_any_grid_equally_often():
    grids = [orthogonal_array(2, torch.Generator().manual_seed(seed))[0] for seed in range(3200)]
    numbers = torch.stack(grids).flatten(1).long() @ torch.tensor([1, 2, 4, 8])
    counts = torch.bincount(numbers, minlength=16)
    # 200 of each, with a deviation of 13.7; five of it.
    assert int((counts - 200).abs().max()) < 69


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_blocks_depend_on_the_seed_alone_and_shifts_stay_below_a_cell(sampling):
    first, again, other = blocks(sampling), blocks(sampling), blocks(sampling, seed=1)
    for (cells, shifts), (same_cells, same_shifts), (other_cells, _) in zip(first, again, other, strict=True):
        assert cells.equal(same_cells)
        assert shifts.equal(same_shifts)
        assert not cells.equal(other_cells)
        assert len(cells) % 2 == 0
        assert shifts.amin(dim=0).ge(0).all()
        assert shifts.lt(torch.tensor([5, 9])).all()


@pytest.mark.parametrize("sampling", ["sobol", "orthogonal"])
def test_both_halves_are_even_over_cells_and_shifts_and_differ(sampling):
    keep_probability = {"sobol": 0.3, "orthogonal": 0.5}[sampling]
    found = blocks(sampling, keep_probability=keep_probability, count=32)
    cells, shifts = (torch.cat(part) for part in zip(*found, strict=True))
    halves = [cells[half::2] for half in range(2)]
    for half, kept in enumerate(halves):
        # Independent draws of 512 would be off by 0.02 as a rule.
        assert float((kept.float().mean(dim=0) - keep_probability).abs().max()) < 0.005
        mean = shifts[half::2].float().mean(dim=0)
        torch.testing.assert_close(mean, torch.tensor([2.0, 4.0]), rtol=0, atol=0.2)
    assert not halves[0].equal(halves[1])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_sampling_estimates_the_same_map(sampling):
    """For a score that is the light of one pixel: p + (1 - p) times the likeness of both pixels' weights."""

    def classify(images):
        return torch.stack([images[:, 0, 5, 6], torch.zeros(len(images))], dim=1)

    method = RISE(cells=3, masks=16384, baseline=Constant(), score="logit", sampling=sampling)
    found = method(classify, torch.ones(1, 3, 12, 16), 0).attribution[0, 0]
    eye = torch.eye(3)[None]
    likeness = []
    for length, place in ((12, 5), (16, 6)):
        cell = -(-length // 3)
        rows = torch.nn.functional.interpolate(eye, size=4 * cell, mode="linear")[0]
        weights = rows.unfold(1, length, 1)[:, :cell]
        likeness.append((weights * weights[..., place, None]).sum(dim=0).mean(dim=0))
    expected = 0.5 + 0.5 * likeness[0][:, None] * likeness[1]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03 if sampling == "plain" else 0.01)


def curved(images):
    light = images[:, 0, 2:5, 3:7].mean(dim=(1, 2)) + images[:, 1, 8:11, 9:14].mean(dim=(1, 2)).square()
    return torch.stack([4 * light, torch.full_like(light, 2.0)], dim=1)


def test_other_designs_have_less_noise_than_plain_masks_and_their_halves_say_so():
    image = torch.rand(1, 3, 12, 16)
    settings = {"cells": 4, "baseline": Constant()}
    exact = RISE(**settings, masks=32768, sampling="orthogonal")(curved, image, 0).attribution

    def error(seed, sampling):
        result = RISE(**settings, masks=512, sampling=sampling, seed=seed)(curved, image, 0)
        apart = result.attribution - exact
        centred = exact - exact.mean()
        return float((apart - apart.mean()).norm() / centred.norm()), float(result.diagnostics["noise"])

    found = {name: torch.tensor([error(seed, name) for seed in range(5)]).mean(dim=0) for name in SAMPLINGS}
    for name in ("sobol", "orthogonal"):
        assert found[name][0] < 0.5 * found["plain"][0]
    for true, said in found.values():
        assert float(said) == pytest.approx(float(true), rel=0.35)


def test_noise_of_equal_halves_is_none_and_of_unrelated_ones_is_all():
    maps = torch.randn(3, 2, 40, 40)
    assert split_half_noise(maps, maps + 5, (8, 8)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert split_half_noise(maps, torch.randn(3, 2, 40, 40), (8, 8)).sub(1).abs().max() < 0.1
    assert split_half_noise(maps, maps, (1, 0)).isnan().all()


@pytest.mark.parametrize("sampling", ["sobol", "orthogonal"])
def test_an_image_stops_where_it_stops_alone(sampling):
    images = torch.rand(4, 3, 12, 16) * torch.tensor([0.2, 0.5, 0.8, 1.0]).view(4, 1, 1, 1)
    settings = {"cells": 4, "masks": 2000, "until": 0.15, "sampling": sampling}
    method = RISE(**settings, baseline=GaussianNoise(mean=(0.5,) * 3, std=(0.2,) * 3), chunk_size=50)
    together = method(curved, images, 0)
    for index in range(4):
        alone = method(curved, images[index : index + 1], 0)
        for name in ("masks", "noise"):
            torch.testing.assert_close(together.diagnostics[name][index], alone.diagnostics[name][0])
        torch.testing.assert_close(together.attribution[index], alone.attribution[0])
        fewer = RISE(**settings | {"until": None, "masks": int(alone.n_forward)}, baseline=method.baseline)
        torch.testing.assert_close(alone.attribution, fewer(curved, images[index : index + 1], 0).attribution)
    assert together.diagnostics["noise"].le(0.15).all()
    assert together.n_forward == float(together.diagnostics["masks"].double().mean())


def test_all_masks_are_taken_where_the_noise_is_never_reached():
    result = RISE(cells=4, masks=300, baseline=Constant(), until=1e-6)(curved, torch.rand(2, 3, 12, 16), 0)
    assert result.diagnostics["masks"].tolist() == [300, 300]
    assert result.diagnostics["noise"].gt(1e-6).all()
    assert (
        RISE(masks=1, baseline=Constant())(curved, torch.rand(1, 3, 12, 16), 0).diagnostics["noise"].isnan()
    )


def test_no_more_images_are_asked_about_than_are_not_done():
    counts = []

    def counting(images):
        counts.append(len(images))
        return curved(images)

    images = torch.rand(3, 3, 12, 16)
    method = RISE(cells=4, masks=4000, baseline=Constant(), sampling="orthogonal", until=0.1, chunk_size=12)
    result = method(counting, images, torch.zeros(3, dtype=torch.int64))
    assert sum(counts) == int(result.diagnostics["masks"].sum())
    assert max(counts) <= 12


@pytest.mark.parametrize("terminal", [False, True])
def test_the_noise_of_the_current_maps_is_shown_where_it_is_asked_for(terminal, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now.__setitem__(0, now[0] + 61) or now[0])
    if terminal:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm")
    settings = {"cells": 4, "masks": 4000, "baseline": Constant(), "sampling": "orthogonal", "until": 0.1}
    RISE(**settings)(curved, torch.rand(2, 3, 12, 16), 0)
    assert capsys.readouterr().err == ""
    result = RISE(**settings, progress=True)(curved, torch.rand(2, 3, 12, 16), 0)
    said = capsys.readouterr().err
    assert "8000/8000" in said
    assert f"noise {float(result.diagnostics['noise'].max()):.3f}" in said


def test_settings_of_maps_made_before_are_as_they_were_and_a_bar_is_no_setting():
    assert "sampling" not in settings_of(RISE())
    assert settings_of(RISE(progress=True)) == settings_of(RISE())
    assert RISE(progress=True) == RISE()
    assert settings_of(RISE(until=0.1, sampling="sobol")) == settings_of(RISE()) | {
        "until": 0.1,
        "sampling": "sobol",
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampling": "halton"}, "'plain', 'sobol', 'orthogonal'.*found 'halton'"),
        ({"until": 0.0}, r"until must be above 0 and at most 1, found 0\.0"),
        ({"until": 1.5}, r"until must be above 0 and at most 1, found 1\.5"),
        (
            {"sampling": "orthogonal", "keep_probability": 0.3},
            r"keep_probability=0\.3; set it to 0\.5.*sobol",
        ),
        ({"sampling": "orthogonal", "masks": 127}, "cells=7 come in blocks of 128, found masks=127"),
        ({"sampling": "sobol", "cells": 146}, "at most 145 cells .* found cells=146"),
    ],
)
def test_designs_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        RISE(**settings)
