"""DDN on a plane: lengths worked by hand, storable iterates, early leavers."""

import math

import pytest
import torch
from torch import Tensor

from verisal.attacks import DDN
from verisal.errors import ConfigError

SHAPE = (1, 3, 2, 2)
NORMAL = torch.tensor([3.0, -4.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 12.0])  # length 13


def plane(images: Tensor) -> Tensor:
    height = (images.flatten(1) - 0.5) @ NORMAL
    return torch.stack([-height / 2, height / 2], dim=1)


def above(height: float) -> Tensor:
    return (0.5 + height * NORMAL / 169).view(SHAPE)


def attack(which: DDN, images: Tensor, label: int = 1, model=plane):
    labels = torch.full((len(images),), label)
    return which(model, images, labels, generator=torch.Generator().manual_seed(0))


def test_finds_the_distance_to_the_plane() -> None:
    result = attack(DDN(), above(1.3))
    assert result.success.tolist() == [True]
    assert 0.1 <= float(result.norms) <= 0.1 * 1.06  # within one change of the length
    assert (result.n_fwd.tolist(), result.n_bwd.tolist()) == ([101], [100])


def test_length_grows_until_the_plane_is_crossed_and_falls_after_it() -> None:
    # Lengths 0.084, 0.1008 (crossed; kept), so that the next, 0.0806, falls short.
    result = attack(DDN(steps=4, gamma=0.2, initial_norm=0.07), above(1.3))
    assert float(result.norms) == pytest.approx(0.1008, abs=1e-6)
    failed = attack(DDN(steps=2, gamma=0.2, initial_norm=0.07), above(1.3))
    assert failed.success.tolist() == [False]
    assert float(failed.norms) == pytest.approx(0.084, abs=1e-6)  # its last iterate, not the clean image


def test_length_falls_by_as_much_as_it_grows() -> None:
    # Lengths 0.156 and 0.1248, both across the plane.
    result = attack(DDN(steps=3, gamma=0.2, initial_norm=0.13), above(1.3))
    assert float(result.norms) == pytest.approx(0.1248, abs=1e-6)


def test_keeps_the_shortest_noise_and_not_the_last() -> None:
    # Lengths 0.084, 0.1008 (crossed), 0.0806, 0.0968, 0.1161 (crossed again, longer).
    result = attack(DDN(steps=6, gamma=0.2, initial_norm=0.07), above(1.3))
    assert float(result.norms) == pytest.approx(0.1008, abs=1e-6)


def test_step_size_falls_along_half_a_cosine() -> None:
    steps = [DDN(steps=100)._step_size(step) for step in (0, 50, 100)]
    assert steps == pytest.approx([1.0, 0.505, 0.01])


def test_length_stays_within_the_box_while_nothing_fools() -> None:
    """40 steps that do not fool would make 0.07 grow to 100; 20 that do bring the length down again."""
    asked = []

    def late(images: Tensor) -> Tensor:
        asked.append(len(images))
        return 1e-3 * plane(images) + (4.0 if len(asked) > 40 else -4.0) * torch.tensor([1.0, -1.0])

    result = attack(DDN(steps=60, gamma=0.2, initial_norm=0.07), above(1.3), model=late)
    assert result.success.tolist() == [True]
    assert float(result.norms) < math.sqrt(12) * 0.8**18


def test_the_logits_scale_changes_nothing() -> None:
    def curved(images: Tensor) -> Tensor:
        values = images.flatten(1) - 0.5
        height = values @ NORMAL + 20 * values[:, 2].square() - 6 * values[:, 3] * values[:, 4]
        return torch.stack([-height / 2, height / 2], dim=1)

    image = above(1.3) + 0.1 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    loud, faint = attack(DDN(), image, model=curved), attack(DDN(), image, model=lambda x: 1e-3 * curved(x))
    assert loud.success.tolist() == [True]
    torch.testing.assert_close(faint.images, loud.images, rtol=0, atol=1e-4)


def test_iterates_end_at_black_and_white() -> None:
    """Along the normal three values move; those at the end of the box cannot, however long the noise is."""
    white = torch.ones(SHAPE)
    result = attack(DDN(steps=3, gamma=0.5, initial_norm=5.0), white, model=lambda x: plane(2 - x))
    assert (float(result.images.min()), float(result.images.max())) == (0.0, 1.0)


def test_limits_stay_with_their_samples_when_others_leave() -> None:
    """Noise in a black image may be twice as long as in a grey one, which is wrong from the start."""

    def ramp(images: Tensor) -> Tensor:
        """Class 1 up to grey and far above it; the way out is up in all values alike."""
        total = images.flatten(1).sum(dim=1)
        held = torch.where((total - 6).abs() < 1e-3, -40.0, 40.0)
        return torch.stack([total, held - total], dim=1)

    images = torch.cat([torch.full(SHAPE, 0.5), torch.zeros(SHAPE)])
    result = attack(DDN(steps=5, initial_norm=10.0), images, model=ramp)
    assert result.success.tolist() == [True, False]
    assert result.n_bwd.tolist() == [1, 5]
    # The box ends twelve values of 1 away, not twelve of a half.
    assert float(result.norms[1]) == pytest.approx(math.sqrt(12), abs=1e-5)


def test_image_wrong_from_the_start_is_returned_and_leaves() -> None:
    images = torch.cat([above(-1.3), above(1.3)])
    result = attack(DDN(steps=10), images)
    assert result.images[0].equal(images[0])
    assert result.n_bwd.tolist() == [1, 10]


def test_levels_make_every_result_storable() -> None:
    image = (above(1.3) * 255).round() / 255
    result = attack(DDN(levels=256), image)
    assert result.success.tolist() == [True]
    assert result.images.equal((result.images * 255).round() / 255)
    # The noise is that of the plane's distance, rounded, and not the end of the box.
    assert 0.1 <= float(result.norms) <= 0.12


def test_targeted_reaches_its_goal() -> None:
    aimed = attack(DDN(targeted=True), above(1.3), label=0)
    torch.testing.assert_close(aimed.images, attack(DDN(), above(1.3)).images, rtol=0, atol=1e-5)


def test_flat_classifier_gives_no_step_and_no_nan() -> None:
    result = attack(DDN(steps=3), above(1.3), model=lambda images: plane(0 * images + 0.6))
    assert result.images.equal(above(1.3))
    assert result.success.tolist() == [False]


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: DDN(steps=0), "steps"),
        (lambda: DDN(gamma=1.0), "gamma"),
        (lambda: DDN(gamma=0.0), "gamma"),
        (lambda: DDN(initial_norm=0.0), "initial_norm"),
        (lambda: DDN(initial_norm=math.inf), "initial_norm"),
        (lambda: DDN(levels=1), "levels"),
    ],
)
def test_settings_that_cannot_work(build, key: str) -> None:
    with pytest.raises(ConfigError, match=f"DDN.{key}"):
        build()
