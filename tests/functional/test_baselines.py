import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import (
    Blur,
    Constant,
    DatasetMean,
    GaussianNoise,
    ImageMean,
    Inpaint,
    LinearImputation,
    OtherImage,
    Shuffle,
    UniformNoise,
    bound,
    compose,
)
from verisal.functional.baselines.filling import linear_imputation
from verisal.functional.seeding import content_ids
from verisal.models import load_classifier

IMAGES = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_mask_of_one_keeps_and_zero_replaces():
    mask = torch.zeros(2, 1, 4, 5)
    mask[:, :, :2] = 1
    blended = compose(IMAGES, Constant(level=0.25)(IMAGES), mask)
    assert blended[:, :, :2].equal(IMAGES[:, :, :2])
    assert blended[:, :, 2:].eq(0.25).all()


@pytest.mark.parametrize(
    ("level", "name"), [(0.0, "black"), (0.5, "grey"), (1.0, "white"), (0.3, "level0.3")]
)
def test_constant_is_named_by_its_level(level, name):
    assert Constant(level=level).name == name
    assert Constant(level=level)(IMAGES).eq(level).all()


def test_constant_outside_the_pixel_range_is_refused():
    with pytest.raises(ConfigError, match="level must be from 0 to 1, found 2"):
        Constant(level=2)


def test_dataset_mean_is_zero_once_normalised_and_not_black():
    classifier = load_classifier("emoji_scenes_64")
    baseline = bound(DatasetMean(), classifier)
    filled = baseline(IMAGES)
    assert ((filled - classifier.mean) / classifier.std).abs().max() == 0
    assert filled.min() > 0


def test_dataset_mean_needs_statistics_from_somewhere():
    with pytest.raises(ConfigError, match="function has none; give mean"):
        bound(DatasetMean(), lambda images: images)
    with pytest.raises(ConfigError, match="give mean"):
        DatasetMean()(IMAGES)
    assert bound(DatasetMean(mean=(0.1, 0.2, 0.3)), print)(IMAGES)[1, :, 3, 4].tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )


def test_content_id_is_of_the_image_alone_and_survives_float_noise():
    alone = content_ids(IMAGES[1:])
    assert content_ids(IMAGES)[1:] == alone
    assert content_ids(IMAGES[1:] + 1e-7) == alone
    assert content_ids(IMAGES[:1]) != alone


def test_zero_in_normalised_space_is_the_data_set_mean_and_never_black():
    classifier = load_classifier("emoji_scenes_64")
    normalised = [
        ((bound(baseline, classifier)(IMAGES) - classifier.mean) / classifier.std).abs().max()
        for baseline in (DatasetMean(), Constant())
    ]
    assert normalised[0] == 0
    assert normalised[1] > 0.5


def test_image_mean_is_each_images_own_mean_per_channel():
    images = torch.tensor([[0.0, 1.0], [0.5, 0.5]]).expand(1, 3, 2, 2) * torch.tensor([1.0, 0.5, 0.2]).view(
        3, 1, 1
    )
    assert ImageMean()(images)[0, :, 1, 0].tolist() == pytest.approx([0.5, 0.25, 0.1])


@pytest.mark.parametrize(
    ("blur", "size", "resolved"),
    [
        (Blur(), (224, 300), (5.0, 11)),
        (Blur(sigma=10), (500, 224), (10.0, 61)),
        (Blur(), (64, 64), (5 * 64 / 224, 3)),
        (Blur(sigma=10), (64, 80), (10 * 64 / 224, 17)),
        (Blur(sigma=10), (448, 448), (20.0, 121)),
        (Blur(), (3, 9), (5 * 3 / 224, 3)),
        (Blur(sigma=2), (224, 224), (2.0, 13)),
    ],
)
def test_blur_scales_with_the_shorter_side(blur, size, resolved):
    sigma, kernel = blur.resolved(*size)
    assert (sigma, kernel) == (pytest.approx(resolved[0]), resolved[1])


@pytest.mark.parametrize("size", [(40, 30), (6, 50), (2, 3), (1, 4)])
@pytest.mark.parametrize("settings", [{"sigma": 60.0, "kernel": 301}, {"sigma": 20.0}])
def test_blur_is_a_gaussian_reflected_at_the_border_even_where_the_kernel_is_wider_than_the_image(
    size, settings
):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    blur = Blur(**settings)
    sigma, kernel = blur.resolved(*size)
    offsets = np.arange(kernel) - kernel // 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = image[0].double().numpy()
    for axis in (1, 2):
        expected = correlate1d(expected, weights, axis=axis, mode="mirror")
    np.testing.assert_allclose(blur(image)[0].numpy(), expected, rtol=0, atol=1e-6)


def test_blur_of_one_bright_pixel_by_hand():
    image = torch.zeros(1, 3, 3, 3)
    image[..., 1, 1] = 1
    outer = np.exp(-0.5 / (112 * 3 / 224) ** 2)
    row = torch.tensor([outer, 1, outer]) / (1 + 2 * outer)
    # The edge pixel mirrors the bright one on both sides.
    row = torch.stack([2 * row[0], row[1], 2 * row[2]])
    blurred = Blur(sigma=112, kernel=201)(image)
    torch.testing.assert_close(blurred[0, 0], (row[:, None] * row).float())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: DatasetMean(mean=(0.5, 0.5, 127.0)), r"mean must be values in \[0, 1\].*127"),
        (lambda: GaussianNoise(std=()), r"std must be values in \[0, 1\].*\(\)"),
        (lambda: Blur(sigma=0), "sigma must be positive, found 0"),
        (lambda: Blur(kernel=4), "odd and at least 3, found 4"),
        (lambda: Blur(kernel=1), "odd and at least 3, found 1"),
        (lambda: Inpaint(radius=0.5), "radius must be at least 1, found 0.5"),
        (lambda: LinearImputation(noise=-1), "at least 0, found -1"),
        (
            lambda: OtherImage(images=IMAGES, labels=torch.zeros(3)),
            r"labels \(N,\), found \(2, 3, 4, 5\) and \(3,\)",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        wrong()


def test_gaussian_noise_has_the_data_sets_mean_and_deviation_and_is_clamped():
    baseline = GaussianNoise(mean=(0.5, 0.4, 0.9), std=(0.05, 0.1, 0.5))
    noise = baseline(torch.zeros(1, 3, 100, 100))[0].flatten(1)
    assert noise[:2].mean(dim=1).tolist() == pytest.approx([0.5, 0.4], abs=0.005)
    assert noise[:2].std(dim=1).tolist() == pytest.approx([0.05, 0.1], rel=0.03)
    # P(0.9 + 0.5 z > 1) = P(z > 0.2) = 0.421
    assert float(noise[2].eq(1).float().mean()) == pytest.approx(0.421, abs=0.02)


def test_uniform_noise_fills_the_pixel_range_evenly():
    noise = UniformNoise()(torch.zeros(1, 3, 100, 100))[0].flatten(1)
    shares = torch.histc(noise, bins=10, min=0, max=1) / noise.numel()
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.006)


def test_noise_differs_between_images_and_follows_the_image_through_the_batch():
    for baseline in (UniformNoise(), GaussianNoise(mean=(0.5,) * 3, std=(0.2,) * 3), Shuffle()):
        whole = baseline(IMAGES)
        assert not whole[0].equal(whole[1])
        assert baseline(IMAGES.flip(0)).equal(whole.flip(0))


def test_shuffle_moves_whole_pixels_and_loses_none():
    shuffled = Shuffle()(IMAGES)
    assert not shuffled.equal(IMAGES)
    for before, after in zip(IMAGES.flatten(2), shuffled.flatten(2), strict=True):
        assert sorted(after.T.tolist()) == sorted(before.T.tolist())


def test_inpainting_continues_what_is_around_the_hole():
    halves = torch.zeros(1, 3, 12, 20)
    halves[:, 0, :, 10:] = 1
    masks = torch.ones(1, 1, 12, 20)
    masks[..., 4:8, 2:6] = 0
    masks[..., 4:8, 14:18] = 0
    damaged = torch.where(masks > 0, halves, 0.5)
    assert Inpaint()(damaged, masks).equal(halves)


def test_linear_imputation_baseline_is_the_function_with_its_noise():
    masks = (torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.4).float()
    assert LinearImputation(noise=0.02, seed=3)(IMAGES, masks).equal(
        linear_imputation(IMAGES, masks, noise=0.02, seed=3)
    )


def pool(labels):
    images = torch.rand(len(labels), 3, 4, 5, generator=torch.Generator().manual_seed(7))
    return images, torch.tensor(labels)


def test_other_image_is_of_another_class_and_every_one_of_them_is_drawn():
    images, labels = pool([0, 1, 1, 2])
    drawn = set()
    for seed in range(30):
        other = OtherImage(images=images, labels=labels, seed=seed)(IMAGES, query_class=torch.tensor([1, 0]))
        rows = [int((images == one).flatten(1).all(dim=1).nonzero()) for one in other]
        assert labels[rows[0]] != 1
        assert labels[rows[1]] != 0
        drawn.add(rows[0])
    assert drawn == {0, 3}


def test_other_image_is_never_the_image_itself():
    """Not even where another class than its own is queried."""
    images, labels = pool([0, 1])
    other = OtherImage(images=images, labels=labels)
    assert other(images[:1], query_class=torch.tensor([5]))[0].equal(images[1])


def test_other_image_without_another_class_or_query_or_size_is_refused():
    images, labels = pool([1, 1])
    other = OtherImage(images=images, labels=labels)
    with pytest.raises(ConfigError, match=r"no other image than of class 1, found labels \[1\]"):
        other(IMAGES, query_class=torch.tensor([1, 1]))
    with pytest.raises(ConfigError, match=r"give query_class"):
        other(IMAGES)
    with pytest.raises(ConfigError, match=r"images of \(3, 4, 5\), and the images are \(3, 8, 8\); resize"):
        other(torch.zeros(1, 3, 8, 8), query_class=torch.tensor([0]))


def test_pool_of_something_else_than_images_is_refused():
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        OtherImage(images=IMAGES * 255, labels=torch.tensor([0, 1]))


def test_pools_are_compared_by_content():
    images, labels = pool([0, 1])
    assert OtherImage(images=images, labels=labels) == OtherImage(
        images=images.clone(), labels=labels.clone()
    )
    assert OtherImage(images=images, labels=labels) != OtherImage(images=images, labels=1 - labels)
    assert OtherImage(images=images, labels=labels) != OtherImage(images=images.flip(0), labels=labels)
