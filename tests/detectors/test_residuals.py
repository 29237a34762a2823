import pytest
import torch

from helpers.detector_cases import toy_classifier, toy_images
from verisal.detectors import CNNDetector, Pixels
from verisal.detectors.network import AttributionCNN, map_stack
from verisal.detectors.residuals import FILTERS, residual_kernels, residuals
from verisal.errors import ConfigError
from verisal.fingerprint import fingerprint
from verisal.functional.statistics import auroc


@pytest.mark.parametrize("name", FILTERS)
def test_a_residual_is_in_grey_levels_and_blind_to_what_the_neighbours_predict(name):
    kernels = residual_kernels([name])
    assert kernels[:, 2, 2].tolist() == pytest.approx([-8 / 9 if name == "mean3" else -1] * len(kernels))
    assert kernels.sum(dim=(1, 2)).tolist() == pytest.approx([0] * len(kernels), abs=1e-6)
    # One pixel, three levels brighter than its neighbours.
    image = torch.full((1, 1, 7, 7), 0.4)
    image[0, 0, 3, 3] += 3 / 255
    found = residuals(image, kernels, cut_off=8.0)[0, :, 3, 3]
    assert found.tolist() == pytest.approx((3 * kernels[:, 2, 2]).tolist(), abs=1e-3)


def test_higher_orders_do_not_see_smooth_images():
    ramp = (torch.arange(9.0) ** 2 / 255)[None, None, None].repeat(1, 1, 9, 1)
    inner = (slice(None), slice(None), slice(3, 6), slice(3, 6))
    # Differences of a parabola grow, its second difference of 2, halved as the pixel weighs 2, and none.
    expected = {
        "first": [7, 9, 11],
        "second": [1] * 3,
        "third": [0] * 3,
        "square3": [0] * 3,
        "square5": [0] * 3,
    }
    for name, values in expected.items():
        found = residuals(ramp, residual_kernels([name]), cut_off=100.0)[inner][0, 0, 0]
        assert found.tolist() == pytest.approx(values, abs=1e-3)


def test_channels_stand_one_after_the_other_and_gradients_end_at_the_cut_off():
    kernels = residual_kernels(["first", "square3"])
    images = torch.rand(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    found = residuals(images, kernels, cut_off=40.0)
    assert found.shape == (2, 12, 6, 5)
    assert found[:, 3:6].equal(residuals(images[:, 1:2], kernels, cut_off=40.0))
    leaf = torch.tensor([[[[0.5, 0.5], [0.5, 0.9]]]], requires_grad=True)
    for cut_off, slope in ((200.0, 255.0), (50.0, 0.0)):
        # The difference across of the lower left pixel.
        across = residuals(leaf, residual_kernels(["first"]), cut_off=cut_off)[0, 0, 1, 0]
        assert torch.autograd.grad(across, leaf)[0][0, 0, 1, 1].item() == slope


def noisy(count, *, seed):
    """Smooth images of any brightness, half of them with signs of two levels in a pattern of their own."""
    rng = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(
        torch.rand(count, 3, 3, 3, generator=rng) * 200 + 20, (24, 24), mode="bilinear", align_corners=True
    )
    adversarial = torch.arange(count) >= count // 2
    signs = torch.randint(0, 2, smooth.shape, generator=rng) * 2 - 1
    other = torch.randn(smooth.shape, generator=rng) * 0.3
    return {"image": (smooth + torch.where(adversarial[:, None, None, None], 2 * signs, other)).round()
            .to(torch.uint8)}, adversarial  # fmt: skip


def network(**settings):
    chosen = {"grid": None, "filters": ("second", "square3"), "strides": (1, 2, 2), "members": 1, "epochs": 6}
    return CNNDetector(source=Pixels(), reads=("image",), width=4, batch_size=16, **(chosen | settings))


def test_noise_of_two_grey_levels_is_found_by_residuals_at_full_resolution():
    (measured, adversarial), (asked, truth) = noisy(80, seed=0), noisy(60, seed=1)
    detector = network()
    detector.fit(measured, adversarial, ~adversarial)
    scores = detector.judge(asked)
    assert auroc(scores[truth], scores[~truth]) > 0.99


def test_residuals_of_clean_fit_images_are_standardised(monkeypatch):
    measured, adversarial = noisy(40, seed=0)
    detector = network(epochs=1)
    monkeypatch.setattr("verisal.detectors.network._ROWS", 7)
    detector.fit(measured, adversarial, ~adversarial)
    clean = residuals(
        measured["image"][~adversarial] / 255, residual_kernels(detector.filters), cut_off=detector.cut_off
    )
    found = detector._networks[0]
    assert found.input_mean.shape == (1, 9, 1, 1)
    torch.testing.assert_close(found.input_mean.flatten(), clean.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        found.input_std.flatten(), clean.std(dim=(0, 2, 3), correction=0), atol=1e-4, rtol=1e-4
    )
    # Whatever is read at once, and whether images came as bytes or not.
    whole = detector.judge(measured)
    monkeypatch.undo()
    torch.testing.assert_close(detector.judge(measured), whole)
    torch.testing.assert_close(detector.judge({"image": measured["image"] / 255}), whole)


def test_scores_have_a_gradient_to_the_image_that_was_measured():
    measured, adversarial = noisy(40, seed=0)
    detector = network(epochs=1)
    detector.fit(measured, adversarial, ~adversarial)
    leaf = (measured["image"][:3] / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(detector.judge({"image": leaf}).sum(), leaf)
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 0).all())


def test_without_a_grid_maps_keep_their_size_and_others_come_to_the_largest():
    images = torch.rand(2, 3, 6, 9)
    stack = map_stack(
        {"image": images, "masks/1": torch.ones(2, 1, 3, 3)}, ("*",), folds=("image",), grid=None
    )
    assert stack.shape == (2, 4, 6, 9)
    assert stack[:, :3].equal(images)


def test_settings_that_came_later_leave_the_identity_of_stored_detectors_as_it_was():
    plain = CNNDetector(source=Pixels(), reads=("image",))
    assert not {"filters", "cut_off", "strides"} & set(plain.settings())
    assert fingerprint(plain) == fingerprint(CNNDetector(source=Pixels(), reads=("image",), cut_off=8.0))
    others = [network(), network(cut_off=8.0), network(strides=(2, 2, 2)), network(filters=("first",))]
    assert len({fingerprint(each) for each in (plain, *others)}) == 5
    names = set(AttributionCNN(3).state_dict())
    assert names == set(AttributionCNN(3, filters=("first",)).state_dict())


def test_a_state_goes_back_into_a_network_of_the_same_filters_alone():
    measured, adversarial = noisy(40, seed=0)
    detector, other = network(epochs=1), network()
    detector.fit(measured, adversarial, ~adversarial)
    other.restore(detector.state())
    assert other.judge(measured).equal(detector.judge(measured))
    for wrong in ({"filters": ("mean3", "first", "second")}, {"strides": (1, 2)}):
        with pytest.raises(ConfigError, match="other settings than members=1"):
            network(**wrong).restore(detector.state())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"filters": ("first", "median")}, "residual filters are mean3, first, .* found 'median'"),
        ({"cut_off": 0.0}, "cut_off must be positive"),
        ({"strides": ()}, "strides must be whole numbers"),
        ({"strides": (1, 0)}, "strides must be whole numbers"),
        ({"grid": 0}, "grid .or none."),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        network(**wrong)


def test_the_image_is_measured_in_bytes_and_scored_by_one_pass():
    detector, images = network(epochs=1), toy_images(40)
    adversarial = torch.arange(40) >= 20
    measured = detector.measurement(toy_classifier(), images)
    detector.fit(measured, adversarial, ~adversarial)
    assert measured["image"].dtype == torch.uint8
    assert detector.score(toy_classifier(), images).equal(detector.judge(measured))
