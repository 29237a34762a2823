"""Noise controls, 8-bit rounding and the verdict after it."""

import math

import pytest
import torch
from torch import Tensor, nn

from verisal.attacks import CarliniWagnerL2, GaussianNoise, SignNoise
from verisal.errors import ConfigError, DataError
from verisal.functional.adversarial import gaussian_noise, judge_8bit, noise_norm, round_to_8bit, scale_to_l2


def brightness(images: Tensor) -> Tensor:
    """Class 1 if the mean value exceeds one half."""
    height = 255 * (images.mean(dim=(1, 2, 3)) - 0.5)
    return torch.stack([-height, height], dim=1)


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(*levels: float) -> Tensor:
    """One flat image of 2 x 2 px per 8-bit level."""
    return (torch.tensor(levels).view(-1, 1, 1, 1) / 255).expand(-1, 3, 2, 2).clone()


def eight_bit(count: int, *, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=seeded()).float() / 255


def test_scale_to_l2_by_hand() -> None:
    image = torch.full((1, 3, 1, 1), 100 / 255)
    direction = torch.tensor([3.0, -4.0, 0.0]).view(1, 3, 1, 1)
    moved = scale_to_l2(image, direction, torch.tensor([5 / 255 + 1e-6]))
    assert (moved * 255).round().flatten().tolist() == [103, 96, 100]
    # Just below, one of the two values must give way by one step.
    moved = (scale_to_l2(image, direction, torch.tensor([4.99 / 255])) * 255).round().flatten() - 100
    assert float(moved.square().sum()) < 25
    assert moved.tolist() in ([2, -4, 0], [3, -3, 0], [2, -3, 0])


def test_scale_to_l2_makes_up_for_clamped_values() -> None:
    image = torch.tensor([1.0, 0.5, 0.5]).view(1, 3, 1, 1)
    moved = scale_to_l2(image, torch.ones(1, 3, 1, 1), torch.tensor([20 / 255 * math.sqrt(2) + 1e-6]))
    assert ((moved - image) * 255).round().flatten().tolist() == [0, 20, 20]


def test_gaussian_noise_copies_each_norm_and_survives_rounding() -> None:
    images = eight_bit(4)
    wanted = torch.tensor([0.0, 0.15, 0.6, 2.0])
    noisy = gaussian_noise(images, wanted, seed=1, sample_ids=list("abcd"))
    stored = round_to_8bit(noisy)
    torch.testing.assert_close(stored.float() / 255, noisy, rtol=0, atol=1e-6)
    reached = noise_norm(stored.float() / 255 - images, "l2")
    assert (reached <= wanted + 1e-6).all()
    assert (reached >= wanted - 1 / 255).all()
    values = (noisy - images)[3] * 255
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(values.numel())


def test_gaussian_noise_class_and_function_agree() -> None:
    images = eight_bit(3)
    result = GaussianNoise(0.5)(brightness, images, [0] * 3, generator=seeded(), sample_ids=range(3))
    same = gaussian_noise(images, torch.full((3,), 0.5), seed=5, sample_ids=range(3))
    assert result.images.equal(same)


def test_gaussian_noise_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="one entry per image"):
        gaussian_noise(eight_bit(2), torch.ones(1), seed=0, sample_ids="ab")
    with pytest.raises(ConfigError, match="one entry per image"):
        gaussian_noise(eight_bit(2), torch.ones(2), seed=0, sample_ids="a")
    with pytest.raises(ConfigError, match=">= 0"):
        gaussian_noise(eight_bit(1), torch.tensor([math.nan]), seed=0, sample_ids="a")
    assert gaussian_noise(eight_bit(0), torch.ones(0), seed=0, sample_ids=[]).shape == (0, 3, 16, 16)
    with pytest.raises(ConfigError, match=r"GaussianNoise\.l2"):
        GaussianNoise(-1.0)
    with pytest.raises(ConfigError, match=r"SignNoise\.eps"):
        SignNoise(8.0)


def test_sign_noise_moves_every_value_by_eps_and_both_ways_alike() -> None:
    images = flat(100, 120, 140)
    result = SignNoise(4 / 255)(brightness, images, torch.zeros(3, dtype=torch.int64), generator=seeded())
    steps = ((result.images - images) * 255).round().abs()
    assert steps.eq(4).all()
    large = eight_bit(1, size=64) * 0.8 + 0.1
    moved = SignNoise(0.05)(brightness, large, torch.zeros(1, dtype=torch.int64), generator=seeded()).images
    up = (moved > large).float().mean()
    assert abs(float(up) - 0.5) < 4 * math.sqrt(0.25 / large.numel())


def test_verdict_by_hand() -> None:
    # Border between levels 127 and 128. Columns: turned for good; turned until rounding; not turned;
    # already wrong.
    clean = flat(130, 128, 130, 120)
    attacked = flat(125, 127.49, 129, 140)
    attacked[1] = 127.4999 / 255  # below one half: turned
    attacked[1, 0, 0, 0] = 127.6 / 255  # rounds up to 128; the other eleven stay at 127
    attacked[1] = attacked[1].clamp_min(127.4998 / 255)
    labels = torch.ones(4, dtype=torch.int64)
    verdict = judge_8bit(brightness, clean, attacked, labels)
    assert verdict.clean_prediction.tolist() == [1, 1, 1, 0]
    assert verdict.clean_correct.tolist() == [True, True, True, False]
    assert verdict.prediction.tolist() == [0, 0, 1, 1]
    assert verdict.success.tolist() == [True, True, False, False]
    assert verdict.images.dtype == torch.uint8
    assert verdict.images[:, 0, 1, 1].tolist() == [125, 127, 129, 140]
    assert verdict.success_rate == pytest.approx(2 / 3)
    torch.testing.assert_close(verdict.linf, torch.tensor([5, 1, 1, 20]) / 255)
    torch.testing.assert_close(verdict.l2[0], torch.tensor(5 * math.sqrt(12) / 255))


def test_success_lost_by_rounding_is_seen() -> None:
    clean, labels = flat(128), torch.ones(1, dtype=torch.int64)
    attacked = torch.full_like(clean, 127.497 / 255)
    attacked.view(-1)[:6] = 127.502 / 255  # mean 127.4995: class 0; rounded: half 127, half 128
    verdict = judge_8bit(lambda x: brightness(x + 0.1 / 255), clean, attacked - 0.1 / 255, labels)
    assert verdict.success_unrounded.tolist() == [True]
    rounded_mean = verdict.images.float().mean()
    assert verdict.success.tolist() == [bool(rounded_mean + 0.1 < 127.5)]
    assert verdict.success_rate_unrounded == 1.0


def test_verdict_leaves_the_network_alone_and_refuses_nonsense() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return self.norm(images).mean(dim=(2, 3))

    net, images = Net(), flat(3, 200)
    labels = torch.zeros(2, dtype=torch.int64)
    judge_8bit(net, images, images, labels, chunk_size=1)
    assert net.training
    assert int(net.norm.num_batches_tracked) == 0
    with pytest.raises(DataError, match="fit each other"):
        judge_8bit(net, images, images[:1], labels)
    with pytest.raises(DataError, match="NaN"):
        judge_8bit(net, images, images * float("nan"), labels)
    empty = judge_8bit(net, images[:0], images[:0], labels[:0])
    assert math.isnan(empty.success_rate)
    assert empty.success.shape == (0,)


def test_confidence_keeps_success_after_rounding() -> None:
    rng = seeded()
    weights = torch.randn(3 * 256, 4, generator=rng) / 2
    images = eight_bit(24)

    def model(batch: Tensor) -> Tensor:
        return (batch.flatten(1) - 0.5) @ weights

    labels = model(images).argmax(dim=1)
    rates = {}
    for kappa in (0.0, 2.0):
        result = CarliniWagnerL2(kappa, rounds=3, steps=40)(model, images, labels, generator=seeded())
        verdict = judge_8bit(model, images, result.images, labels)
        assert verdict.success_rate_unrounded == 1.0
        rates[kappa] = verdict.success_rate
    assert rates[2.0] == 1.0
    assert rates[0.0] < 1.0
