"""Objects of other packages, replaced by small ones with the same calls, and results that are none."""

import numpy as np
import pytest
import torch

from helpers.saliency_cases import toy_classifier, toy_images
from helpers.saliency_rows_captum import FakeTorchCam
from verisal.errors import ConfigError, NumericError
from verisal.saliency import CallableAdapter, CaptumAdapter, GradCAM, GradCamAdapter, TorchCamAdapter

QUERY = torch.tensor([0, 2, 1])


def constant(values):
    return CallableAdapter(function=lambda classifier, images, query: values)


def explained(adapter, classifier=None):
    return adapter(classifier or toy_classifier(), toy_images(3), QUERY)


def test_one_channel_keeps_its_signs_as_attribution_and_its_positive_part_as_map():
    values = torch.linspace(-1, 1, 3 * 16 * 12).view(3, 1, 16, 12)
    for given in (values, values[:, 0], values.numpy(), values.double(), values.requires_grad_()):
        result = explained(constant(given))
        assert result.attribution.equal(values)
        assert result.saliency.equal(values.clamp_min(0))
        assert not result.saliency.requires_grad
        assert result.raw_layers == ()


def test_several_channels_give_the_largest_absolute_value():
    values = torch.zeros(3, 3, 16, 12)
    values[0, :, 0, 0] = torch.tensor([0.5, -2.0, 1.0])
    result = explained(constant(values))
    assert result.attribution.equal(values)
    assert float(result.saliency[0, 0, 0, 0]) == 2
    assert float(result.saliency.sum()) == 2


def test_the_result_is_a_copy():
    values = torch.rand(3, 1, 16, 12)
    result = explained(constant(values))
    values.zero_()
    assert float(result.attribution.min()) > 0


def test_smaller_maps_are_resized_bilinearly_after_the_positive_part():
    values = torch.tensor([[1.0, -1.0]]).expand(3, 1, 2)
    result = explained(constant(values))
    expected = torch.tensor([max(0.0, min(1.0, 1 - (column - 2.5) / 6)) for column in range(12)])
    torch.testing.assert_close(result.saliency[0, 0, 5], expected)
    torch.testing.assert_close(result.attribution[0, 0, 5], 2 * expected - 1)


BAD = {
    "no tensor": ("a map", "must return a tensor or an array, found str"),
    "one map for the batch": (torch.rand(16, 12), r"for 3 images of \(16, 12\) pixels, found \(16, 12\)"),
    "another batch": (torch.rand(2, 16, 12), r"found \(2, 16, 12\)"),
    "empty": (torch.rand(3, 0, 12), r"found \(3, 0, 12\)"),
    "five axes": (torch.rand(3, 1, 1, 16, 12), r"found \(3, 1, 1, 16, 12\)"),
}


@pytest.mark.parametrize("bad", BAD)
def test_results_of_another_shape_are_named(bad):
    values, words = BAD[bad]
    with pytest.raises(ConfigError, match=words):
        explained(constant(values))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_results_that_are_not_finite_are_refused(value):
    values = torch.zeros(3, 16, 12)
    values[1, 2, 3] = value
    with pytest.raises(NumericError, match=r"the function returned values that are not finite"):
        explained(constant(values))


def test_objects_without_the_call_are_refused():
    with pytest.raises(ConfigError, match=r"attribute\(inputs, target=...\), found str"):
        CaptumAdapter(method="Saliency")
    for make in (
        lambda: TorchCamAdapter(extractor=3),
        lambda: GradCamAdapter(cam=3),
        lambda: CallableAdapter(function=3),
    ):
        with pytest.raises(ConfigError, match="must be callable, found int"):
            make()
    with pytest.raises(ConfigError, match="list with one map per hooked layer, found Tensor"):
        explained(TorchCamAdapter(extractor=lambda **_: torch.rand(3, 4, 3)))


def test_layers_of_an_extractor_are_averaged_and_kept():
    result = explained(TorchCamAdapter(extractor=FakeTorchCam()))
    assert len(result.raw_layers) == 2
    torch.testing.assert_close(result.saliency, torch.stack(result.raw_layers).mean(dim=0))
    assert float(result.attribution.min()) < 0


class StageExtractor:
    """Grad-CAM as an extractor of torch-cam computes it: hooks from the start, logits from the caller."""

    def __init__(self, layer):
        self.handle = layer.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.output = output

    def __call__(self, class_idx=None, scores=None, normalized=True, *, targets=None):
        query = torch.tensor(class_idx)
        loss = scores.gather(1, query.view(-1, 1)).sum()
        (gradient,) = torch.autograd.grad(loss, self.output)
        return [(gradient.mean(dim=(2, 3), keepdim=True) * self.output.detach()).sum(dim=1)]


class WholeCam:
    """Grad-CAM as pytorch-grad-cam computes it: clears gradients, calls backward, scales each map."""

    def __init__(self, model, layer):
        self.model = model
        layer.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.activation = output
        if output.requires_grad:
            output.register_hook(lambda gradient: setattr(self, "gradient", gradient))

    def __call__(self, input_tensor, targets, aug_smooth=False, eigen_smooth=False):
        outputs = self.model(input_tensor)
        self.model.zero_grad()
        sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
        cam = (self.gradient.mean(dim=(2, 3), keepdim=True) * self.activation).sum(dim=1).detach()
        cam = np.maximum(cam.numpy(), 0)
        return cam / (1e-7 + cam.max(axis=(1, 2), keepdims=True))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradient_cams_of_peers_equal_ours_on_a_frozen_network(mode):
    classifier = toy_classifier().requires_grad_(False)
    ours = explained(GradCAM(stage="one"), classifier)
    extractor = StageExtractor(classifier.network.one)
    cam = WholeCam(classifier, classifier.network.two)
    with mode():
        first = explained(TorchCamAdapter(extractor=extractor), classifier)
        second = explained(GradCamAdapter(cam=cam), classifier)
    torch.testing.assert_close(first.attribution, ours.attribution)
    torch.testing.assert_close(first.saliency, ours.saliency)
    # The peer scales every map by its own maximum.
    whole = explained(GradCAM(stage="two"), classifier).saliency
    scale = whole.amax(dim=(1, 2, 3), keepdim=True) / second.saliency.amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(second.saliency * scale, whole)
    assert float(whole.flatten(1).amax(dim=1).min()) > 0


def test_gradients_survive_a_peer_that_clears_and_fills_them():
    classifier = toy_classifier()
    for parameter in classifier.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    kept = [parameter.grad for parameter in classifier.parameters()]
    cam = WholeCam(classifier, classifier.network.three)
    explained(GradCamAdapter(cam=cam), classifier)
    assert all(p.grad is grad for p, grad in zip(classifier.parameters(), kept, strict=True))
    assert all(grad.eq(3).all() for grad in kept)

    def fail(**_):
        classifier.zero_grad()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        explained(GradCamAdapter(cam=fail), classifier)
    assert all(p.grad is grad for p, grad in zip(classifier.parameters(), kept, strict=True))
    assert all(p.requires_grad for p in classifier.parameters())


def test_query_class_of_a_plain_function_is_checked_before_the_extractor_indexes_with_it():
    network = toy_classifier()
    with pytest.raises(ConfigError, match=r"0\.\.3 \(K = 4\), found 0\.\.9"):
        TorchCamAdapter(extractor=FakeTorchCam())(
            lambda images: network(images), toy_images(3), torch.tensor([0, 9, 1])
        )
