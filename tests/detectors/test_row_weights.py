"""What each row of a fit counts."""

import pytest
import torch

from verisal.detectors import LogisticRegression, Logits
from verisal.detectors.base import row_weights


def test_both_sides_weigh_the_same_where_images_are_unknown():
    adversarial = torch.tensor([True, False, False, False])
    assert row_weights(adversarial, None).tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])


def test_each_image_weighs_as_much_on_one_side_as_on_the_other():
    images = torch.tensor([7, 7, 7, 7, 3, 3, 5, 5, 9])
    adversarial = torch.tensor([True, True, True, False, True, False, False, False, True])
    weights = row_weights(adversarial, images)
    assert float(weights[adversarial].sum()) == pytest.approx(4.5)
    assert float(weights[~adversarial].sum()) == pytest.approx(4.5)
    for image in (7, 3):
        of = images == image
        attacked, other = weights[of & adversarial].sum(), weights[of & ~adversarial].sum()
        assert float(attacked) == pytest.approx(1.5)
        assert float(other) == pytest.approx(2.25)
    assert weights[images == 5].tolist() == [0, 0]  # no attack succeeded
    assert float(weights[8]) == pytest.approx(1.5)  # nothing but the attacked image


def test_rows_weigh_the_same_where_no_image_has_both_sides():
    images, adversarial = torch.arange(6), torch.arange(6) < 2
    assert torch.equal(row_weights(adversarial, images), row_weights(adversarial, None))


def test_how_easily_an_image_is_attacked_is_not_learned():
    """Images have 0 to 4 adversarial rows and 2 others; one number says how many, another what a row is."""
    attacked = torch.arange(100) % 5
    images = torch.cat([torch.arange(100).repeat_interleave(attacked), torch.arange(100).repeat(2)])
    adversarial = torch.arange(len(images)) < int(attacked.sum())
    rng = torch.Generator().manual_seed(0)
    told = adversarial + torch.randn(len(images), generator=rng)
    measured = {"logits": torch.stack([attacked[images].float(), told], dim=1)}
    detector = LogisticRegression(source=Logits(), reads=("logits",))
    detector.fit(measured, adversarial, ~adversarial)
    assert float(detector.state()["LogisticRegression.weight"][0]) > 0.5
    detector.fit(measured, adversarial, ~adversarial, images=images)
    weight = detector.state()["LogisticRegression.weight"]
    assert abs(float(weight[0])) < 0.2
    assert float(weight[1]) > 0.5
