"""Receptive fields of layers whose fields are known, and lattices of patches that no feature sees two of."""

import pytest
import torch
from torch import nn

from verisal.errors import ConfigError
from verisal.saliency.decoy.layer import ReceptiveField, least_period, patch_lattice, receptive_field


def seeded(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()


LAYERS = {
    "one convolution": (seeded(nn.Conv2d(3, 4, 3, padding=1)), 3),
    "strides multiply": (
        seeded(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)), 7
    ),
    "dilation leaves holes that count": (seeded(nn.Conv2d(3, 4, 3, dilation=3, padding=3)), 7),
    "VGG-16 pool1": (
        seeded(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)), 6
    ),
    "ResNet stem pool": (
        seeded(nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)), 11
    ),
    "a branch adds the larger": (
        seeded(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 5, padding=2)), 3
    ),
    "the whole image": (seeded(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4)), 24),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_measured_field_is_the_known_one(name):
    features, expected = LAYERS[name]
    assert receptive_field(features, (3, 24, 20)).size == expected


def test_rows_and_columns_are_told_apart_and_cut_at_the_border():
    features = seeded(nn.Conv2d(3, 2, (5, 1), stride=2, padding=(2, 0)))
    field = receptive_field(features, (3, 6, 4))
    assert field.rows.tolist() == [[0, 2], [0, 4], [2, 5]]
    assert field.columns.tolist() == [[0, 0], [2, 2]]
    assert field.size == 5


def test_weights_that_cancel_in_a_sum_do_not_hide_a_pixel():
    conv = nn.Conv2d(3, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[1] = -conv.weight[0]
    assert receptive_field(conv, (3, 8, 8)).size == 3


def test_features_that_depend_on_nothing_have_no_field():
    dead = seeded(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        dead[0].bias.fill_(-100)
    field = receptive_field(dead, (3, 8, 8))
    assert field.size == 0
    assert bool((field.rows[:, 0] > field.rows[:, 1]).all())


def test_chunks_change_nothing():
    features = LAYERS["ResNet stem pool"][0]
    whole, parts = (
        receptive_field(features, (3, 24, 20)),
        receptive_field(features, (3, 24, 20), chunk_size=3),
    )
    assert whole.rows.equal(parts.rows)
    assert whole.columns.equal(parts.columns)
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, found 0"):
        receptive_field(features, (3, 24, 20), chunk_size=0)


def test_features_without_places_are_refused():
    with pytest.raises(ConfigError, match=r"\(B, C, h, w\), found \(1, 432\)"):
        receptive_field(nn.Flatten(), (3, 12, 12))


@pytest.mark.parametrize(
    ("field", "patch", "stride", "period"), [(11, 3, 3, 15), (6, 3, 3, 9), (1, 1, 1, 1), (2, 3, 4, 4)]
)
def test_period_by_hand(field, patch, stride, period):
    assert least_period(field, patch=patch, stride=stride) == period


def lattice_of(name, size, **settings):
    return patch_lattice(receptive_field(LAYERS[name][0], (3, *size)), size, **settings)


def everything(lattice):
    return lattice.masks(torch.arange(len(lattice)))


def test_masks_together_are_the_tiling():
    lattice = lattice_of("ResNet stem pool", (24, 20), patch=3, stride=3, period=15)
    masks = everything(lattice).mask()
    assert masks.shape == (25, 1, 24, 20)
    assert masks.sum(dim=0).eq(1).all()
    single = lattice_of("ResNet stem pool", (24, 20), patch=3, stride=3, period=24)
    assert len(single) == 8 * 7
    assert everything(single).area.flatten(1).gt(0).sum(dim=1).eq(1).all()
    # The last column of patches is cut to 2 pixels.
    assert sorted(everything(single).area.flatten().unique().tolist()) == [6, 9]


@pytest.mark.parametrize("name", ["VGG-16 pool1", "ResNet stem pool", "strides multiply"])
@pytest.mark.parametrize("patch", [2, 3])
def test_no_feature_sees_two_patches_at_the_least_period_and_one_does_below(name, patch):
    features, field = LAYERS[name]
    size = (40, 40)
    period = patch + field - 1
    some = everything(lattice_of(name, size, patch=patch, stride=1, period=period))
    assert some.feature_rows.sum(dim=2).max() == 1
    shared = everything(lattice_of(name, size, patch=patch, stride=1, period=period - 1))
    assert shared.feature_rows.sum(dim=2).max() == 2
    # Changing one patch of a mask moves no feature of another, whatever the offset.
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for number in (0, period // 2, period * period - 1):
            mask = some[torch.tensor([number])]
            one = torch.zeros_like(mask.area)
            one[0, 1, 1] = 1
            moved = (features(image + mask.to_pixels(one)) - features(image)).abs().sum(dim=1)
            per_patch = mask.sum_features(moved)
            assert per_patch[0, 1, 1] > 0
            assert per_patch.gt(0).sum() == 1
            torch.testing.assert_close(per_patch[0, 1, 1], moved.sum())


def test_sums_and_maxima_of_patches_by_hand():
    field = ReceptiveField(torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3]]), torch.tensor([[0, 0], [1, 1]]))
    some = patch_lattice(field, (4, 2), patch=1, stride=1, period=2).masks(torch.tensor([1, 2]))
    values = torch.arange(8.0).view(1, 4, 2).repeat(2, 1, 1)
    assert some.area.flatten(1).tolist() == [[1, 1], [1, 1]]
    assert some.sum_pixels(values).flatten(1).tolist() == [[1, 5], [2, 6]]
    assert some.sum_features(values).flatten(1).tolist() == [[1, 5], [2, 6]]
    assert some.max_features(values).flatten(1).tolist() == [[1, 5], [2, 6]]
    assert some.to_features(torch.tensor([[[3.0], [4.0]]] * 2))[0, 0].tolist() == [
        [0, 3],
        [0, 0],
        [0, 4],
        [0, 0],
    ]
