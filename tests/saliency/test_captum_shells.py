"""Gradient-like methods on networks whose attributions are known, and the networks that they refuse."""

import gc

import jsonargparse
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.normalizations import CENTRED
from helpers.saliency_cases import toy_classifier, toy_images
from verisal.errors import ConfigError, NumericError
from verisal.fingerprint import settings_of
from verisal.functional.baselines import Baseline, Constant, DatasetMean
from verisal.functional.networks import channels_last
from verisal.functional.seeding import content_ids, per_sample
from verisal.models import Classifier, SmallResNet
from verisal.saliency import (
    DeepLift,
    GradCAM,
    Gradient,
    GradientSHAP,
    GuidedBackpropagation,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
    VarGrad,
)

QUERY = torch.tensor([0, 2, 1])


class Linear(nn.Module):
    """Logits that are linear in the pixels: every gradient is a row of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(-2, 3, 3 * 12).view(3, 3, 2, 2))

    def forward(self, images):
        return torch.einsum("bchw,kchw->bk", images, self.weights)


def squares(images):
    """Logits k of (k + 1) * sum x^2 / 2, a function and no module; the gradient is (k + 1) x."""
    return images.square().sum(dim=(1, 2, 3))[:, None] / 2 * torch.tensor([1.0, 2.0, 3.0])


def small_images(count=3, size=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def attribution(method, classifier, images=None, query=QUERY):
    images = small_images() if images is None else images
    return method(classifier, images, query[: len(images)]).attribution


def test_methods_on_a_linear_network_give_its_weights_or_weights_times_image():
    network, images = Linear(), small_images()
    weights = network.weights.detach()[QUERY]
    assert attribution(Gradient(), network).equal(weights)
    torch.testing.assert_close(attribution(SmoothGrad(samples=7), network), weights)
    torch.testing.assert_close(attribution(VarGrad(samples=7), network), torch.zeros_like(weights))
    products = weights * images
    for method in (InputXGradient(), IntegratedGradients(steps=3), DeepLift()):
        torch.testing.assert_close(attribution(method, network), products)
    white = IntegratedGradients(baseline=Constant(level=1.0), steps=3)
    torch.testing.assert_close(attribution(white, network), weights * (images - 1))
    both = GradientSHAP(baselines=(Constant(level=0.25),), samples=3)
    torch.testing.assert_close(attribution(both, network), weights * (images - 0.25))


def test_map_is_the_largest_absolute_value_over_the_channels():
    result = Gradient()(Linear(), small_images(1), QUERY[:1])
    # Row 0 of the weights rises from -2 in steps of 1/7: channel 0 is the farthest from 0 everywhere.
    expected = torch.tensor([[[[14.0, 13.0], [12.0, 11.0]]]]) / 7
    torch.testing.assert_close(result.saliency, expected)
    assert result.raw.equal(result.saliency)
    assert float(result.attribution.max()) < 0


def test_midpoints_integrate_a_quadratic_exactly():
    images = small_images()
    method = IntegratedGradients(baseline=Constant(level=0.5), steps=2)
    expected = (QUERY + 1).view(-1, 1, 1, 1) * (images.square() - 0.25) / 2
    torch.testing.assert_close(attribution(method, squares), expected)


def test_completeness_error_of_integrated_gradients_falls_with_steps():
    classifier, images = toy_classifier(), toy_images(3)
    change = classifier(images) - classifier(torch.zeros_like(images))
    change = change.gather(1, QUERY[:, None])[:, 0].detach()
    errors = []
    for steps in (2, 8, 32, 128):
        total = attribution(IntegratedGradients(steps=steps), classifier, images).sum(dim=(1, 2, 3))
        errors.append(float((total - change).abs().mean()))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 0.02 * errors[0]


def test_black_is_black_in_pixels_and_not_the_mean_that_normalisation_maps_to_zero():
    classifier, images = toy_classifier(), toy_images(3)
    black, mean = torch.zeros_like(images), torch.full_like(images, 0.5)
    for method, start in (
        (DeepLift(), black),
        (DeepLift(baseline=DatasetMean()), mean),
        (IntegratedGradients(steps=400), black),
        (IntegratedGradients(baseline=DatasetMean(), steps=400), mean),
    ):
        with torch.no_grad():
            change = (classifier(images) - classifier(start)).gather(1, QUERY[:, None])[:, 0]
        total = attribution(method, classifier, images).sum(dim=(1, 2, 3))
        torch.testing.assert_close(total, change, rtol=0, atol=2e-2)
    assert not torch.allclose(classifier(black), classifier(mean), atol=0.1)


def test_smoothgrad_averages_noise_of_each_image_s_own_range_without_clamping():
    images = torch.stack([torch.full((3, 2, 2), 0.5), small_images(1)[0], torch.ones(3, 2, 2)])
    images[2, 0, 0, 0] = 0.0
    draws = torch.stack(
        [
            per_sample(
                lambda generator: torch.randn(3, 2, 2, generator=generator),
                seed=4,
                sample_ids=content_ids(images),
                stream=("noisy copy", index),
                device=images.device,
            )
            for index in range(40)
        ]
    )
    ranges = torch.tensor([0.0, float(images[1].max() - images[1].min()), 1.0]).view(3, 1, 1, 1)
    factor = (QUERY + 1).view(-1, 1, 1, 1)
    smooth = SmoothGrad(samples=40, noise=0.5, seed=4, chunk_size=7)
    torch.testing.assert_close(
        attribution(smooth, squares, images), factor * (images + 0.5 * ranges * draws.mean(dim=0))
    )
    variance = VarGrad(samples=40, noise=0.5, seed=4, chunk_size=7)
    torch.testing.assert_close(
        attribution(variance, squares, images),
        (0.5 * factor * ranges).square() * draws.var(dim=0, correction=0),
    )


def test_variance_survives_a_large_mean():
    """E[a^2] - E[a]^2 in float32 would lose a variance this small beside the mean."""

    def steep(images):
        return 1e4 * images.sum(dim=(1, 2, 3))[:, None] + squares(images)

    found = attribution(VarGrad(samples=30, noise=1.0), steep)
    torch.testing.assert_close(
        found, attribution(VarGrad(samples=30, noise=1.0), squares), rtol=1e-2, atol=1e-4
    )


def test_seeds_of_sampled_methods_draw_different_numbers():
    for make in (SmoothGrad, VarGrad, lambda seed: GradientSHAP(seed=seed)):
        first, other = (attribution(make(seed=seed), squares) for seed in (0, 1))
        assert float((first - other).abs().min()) > 0


def test_sampled_methods_wrap_any_gradient_method():
    images = small_images()
    found = SmoothGrad(base=IntegratedGradients(steps=3), samples=4, noise=0.0)(squares, images, QUERY)
    torch.testing.assert_close(found.attribution, attribution(IntegratedGradients(steps=3), squares, images))
    assert (found.n_forward, found.n_backward, found.baseline) == (12, 12, "black")


@pytest.mark.parametrize(
    "make",
    [
        lambda size: IntegratedGradients(steps=9, chunk_size=size),
        lambda size: SmoothGrad(samples=9, chunk_size=size),
        lambda size: VarGrad(samples=9, chunk_size=size),
        lambda size: GradientSHAP(samples=9, chunk_size=size),
        lambda size: SmoothGrad(
            base=IntegratedGradients(steps=9, chunk_size=size), samples=9, chunk_size=size
        ),
    ],
)
def test_no_pass_holds_more_images_than_the_chunk_size(make):
    rows = []

    def counted(images):
        rows.append(len(images))
        return squares(images)

    images, query = small_images(5), torch.tensor([0, 2, 1, 1, 0])
    expected = make(100)(squares, images, query)
    for size in (2, 7, 100):
        found = make(size)(counted, images, query)
        torch.testing.assert_close(found.attribution, expected.attribution)
        assert max(rows) <= size
        assert sum(rows) == 5 * found.n_forward
        rows.clear()


def staged_network():
    """One channel each of red and green, then their double; logits of the means, weights 1, -1 and -1, 1."""
    first, second = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(3)[:2].view(2, 3, 1, 1))
        second.weight.copy_(2 * torch.eye(2).view(2, 2, 1, 1))
        head.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    network = nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return Classifier(network, ("0", "1"), class_names=("red", "green"), image_size=2, normalization="none")


def test_gradcam_of_a_network_worked_by_hand():
    image = torch.tensor([[[0.9, 0.1], [0.5, 0.2]], [[0.1, 0.6], [0.5, 0.0]], [[0.3] * 2] * 2])[None]
    # Logit "red" is the mean of 2 (red - green): every weight is 1/4 at the last stage, 1/2 at the first,
    # where the activations are half as large.
    expected = torch.tensor([[[[0.8, -0.5], [0.0, 0.2]]]]) / 2
    for method in (GradCAM(), GradCAM(stage="0"), GradCAM(stage="1")):
        result = method(staged_network(), image, torch.tensor([0]))
        torch.testing.assert_close(result.attribution, expected)
        torch.testing.assert_close(result.saliency, expected.clamp_min(0))


def test_gradcam_resizes_the_positive_part_and_keeps_magnitudes():
    classifier, images = toy_classifier(), toy_images(3)
    result = GradCAM()(classifier, images, QUERY)
    outputs = classifier.stage_outputs(images)
    last = outputs.activations[-1]
    (gradient,) = torch.autograd.grad(outputs.logits.gather(1, QUERY[:, None]).sum(), last)
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * last).sum(dim=1, keepdim=True).detach()
    size = {"size": images.shape[-2:], "mode": "bilinear", "align_corners": False}
    torch.testing.assert_close(result.attribution, F.interpolate(cam, **size))
    torch.testing.assert_close(result.saliency, F.interpolate(cam.relu(), **size))
    with torch.no_grad():
        classifier.network.head.weight.mul_(3)
    torch.testing.assert_close(GradCAM()(classifier, images, QUERY).saliency, 3 * result.saliency)


class Turned(nn.Module):
    """Turns ``(B, C, h, w)`` into ``(B, h, w, C)``, or back, where it is told to."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, maps):
        return maps.permute(self.order)


def test_gradcam_of_a_stage_with_channels_last():
    """As Swin transformers have them: the map is that of the same stage with its channels first."""

    def maps(order, back, size):
        torch.manual_seed(3)
        layers = nn.Conv2d(3, 5, 3, 2, 1), Turned(*order), Turned(*back), nn.ReLU(), nn.Conv2d(5, 4, 1)
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        classifier = Classifier(network, ("1", "4"), class_names="abcd", image_size=8, normalization=CENTRED)
        images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(2))
        first = classifier.prefix(images)
        gates = [torch.linspace(0, 1, first[0].numel()).view(first[:1].shape), torch.ones(1)]
        return GradCAM(stage="1")(classifier, images, QUERY), classifier.gated(first, gates)

    for size in ((8, 8), (8, 12), (7, 11)):
        found, gated = maps((0, 2, 3, 1), (0, 3, 1, 2), size)
        expected, first = maps((0, 1, 2, 3), (0, 1, 2, 3), size)
        torch.testing.assert_close(gated, first)
        torch.testing.assert_close(found.attribution, expected.attribution)
        torch.testing.assert_close(found.saliency, expected.saliency)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1, 4, 4, 8), (32, 32), True),
        ((1, 8, 4, 4), (32, 32), False),
        ((1, 4, 4, 4), (32, 32), False),
        ((1, 4, 6, 8), (32, 48), True),
        ((1, 8, 4, 6), (32, 48), False),
        ((1, 5, 4, 8), (32, 32), False),
        ((1, 16, 8), (32, 32), False),
    ],
)
def test_channels_are_last_where_the_axes_before_them_are_the_image(shape, size, expected):
    assert channels_last(shape, size) is expected


def test_deeplift_of_a_class_that_is_impossible_says_so():
    network = nn.Sequential(Linear(), Impossible())
    with pytest.raises(NumericError, match="not finite for 1 of 3 images; ask about a class whose logit"):
        DeepLift()(network, small_images(), torch.tensor([0, 2, 1]))


class Impossible(nn.Module):
    """The last class is impossible."""

    def forward(self, logits):
        return logits.masked_fill(torch.arange(logits.shape[1]) == logits.shape[1] - 1, -torch.inf)


class TwoRelus(nn.Module):
    """Two convolutions with a shortcut; the rectifiers are given."""

    def __init__(self, first, second) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.head = nn.Linear(6, 3)
            nn.init.normal_(self.head.weight)
        self.first, self.second = first, second

    def forward(self, images):
        hidden = self.first(self.one(images))
        hidden = self.second(self.two(hidden) + hidden)
        return self.head(hidden.mean(dim=(2, 3)))


class PreActivation(TwoRelus):
    """The shortcut leaves before the rectifier, so that two layers read its input."""

    def forward(self, images):
        hidden = self.one(images)
        hidden = hidden + self.two(self.first(hidden))
        return self.head(self.second(hidden).mean(dim=(2, 3)))


class _Guided(torch.autograd.Function):
    """A rectifier that passes back what guided backpropagation passes back."""

    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return values.clamp_min(0)

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return gradient.clamp_min(0) * (values > 0)


class GuidedRelu(nn.Module):
    def forward(self, values):
        return _Guided.apply(values)


def twice(module):
    return TwoRelus(module, module)


EXACT = {
    "own modules": lambda: TwoRelus(nn.ReLU(), nn.ReLU()),
    "in place": lambda: TwoRelus(nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
    "one module used twice": lambda: twice(nn.ReLU()),
    "one module used twice in place": lambda: twice(nn.ReLU(inplace=True)),
}


@pytest.mark.parametrize("network", EXACT)
def test_guided_backpropagation_is_exact_on_reused_and_in_place_relu(network):
    images = small_images(3, 8)
    expected = attribution(Gradient(), TwoRelus(GuidedRelu(), GuidedRelu()), images)
    found = attribution(GuidedBackpropagation(), EXACT[network](), images)
    torch.testing.assert_close(found, expected)
    assert float((found - attribution(Gradient(), EXACT[network](), images)).abs().max()) > 0.01


@pytest.mark.parametrize("network", ["own modules", "in place"])
def test_deeplift_sums_to_the_change_of_the_logit(network):
    images, network = small_images(3, 8), EXACT[network]()
    change = (network(images) - network(images * 0)).gather(1, QUERY[:, None])[:, 0].detach()
    found = attribution(DeepLift(), network, images)
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), change)
    assert float((found - attribution(InputXGradient(), network, images)).abs().max()) > 0.005


def test_deeplift_of_the_baseline_itself_is_zero():
    black = torch.zeros(2, 3, 8, 8)
    assert attribution(DeepLift(), EXACT["own modules"](), black).eq(0).all()


class Functional(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, values):
        return self.function(values)


HIDDEN = {
    "functional relu": lambda: twice(Functional(F.relu)),
    "tensor method": lambda: twice(Functional(lambda values: values.relu())),
    "clamp": lambda: twice(Functional(lambda values: values.clamp(min=0))),
    "one of two": lambda: TwoRelus(nn.ReLU(), Functional(F.relu)),
    "ReLU6": lambda: twice(nn.ReLU6()),
}


@pytest.mark.parametrize("method", [GuidedBackpropagation(), DeepLift()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("network", HIDDEN)
def test_rectifiers_that_hooks_cannot_see_are_refused(method, network):
    with pytest.raises(ConfigError, match=r"rectifies outside of them [12] times .* module of its own"):
        attribution(method, HIDDEN[network](), small_images(3, 8))


@pytest.mark.parametrize("method", [GuidedBackpropagation(), DeepLift()], ids=lambda m: type(m).__name__)
def test_a_relu_whose_input_others_read_is_refused(method):
    with pytest.raises(ConfigError, match=r"read the inputs of \['first'\] too"):
        attribution(method, PreActivation(nn.ReLU(), nn.ReLU()), small_images(3, 8))


def test_deeplift_refuses_a_relu_used_twice():
    with pytest.raises(ConfigError, match=r"TwoRelus calls \['first'\] more than once; give every rectifier"):
        attribution(DeepLift(), twice(nn.ReLU()), small_images(3, 8))


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, lambda: Functional(torch.sigmoid)])
def test_deeplift_refuses_what_the_rescale_rule_does_not_reach(activation):
    network = TwoRelus(activation(), activation())
    with pytest.raises(ConfigError, match=r"sum to .* and the query logit changes by .* non-linear outside"):
        attribution(DeepLift(), network, small_images(3, 8))


def test_guided_backpropagation_refuses_a_network_without_relu():
    with pytest.raises(ConfigError, match="Linear has none; choose Gradient"):
        attribution(GuidedBackpropagation(), Linear())


@pytest.mark.parametrize("method", [GuidedBackpropagation(), DeepLift(), GradCAM()])
def test_methods_with_hooks_refuse_a_function(method):
    with pytest.raises(ConfigError, match="found function; wrap the network"):
        attribution(method, squares)


def test_gradcam_names_the_stages_there_are():
    with pytest.raises(ConfigError, match=r"'layer4' is none of .* known: \['one', 'two', 'three'\]"):
        GradCAM(stage="layer4")(toy_classifier(), toy_images(3), QUERY)
    with pytest.raises(ConfigError, match=r"no stages of Linear were found"):
        GradCAM()(Linear(), small_images(), QUERY)


EVERY = [
    Gradient(),
    InputXGradient(),
    IntegratedGradients(),
    SmoothGrad(),
    VarGrad(),
    GradientSHAP(),
    GuidedBackpropagation(),
    DeepLift(),
]


@pytest.mark.parametrize("method", EVERY, ids=lambda method: type(method).__name__)
def test_query_class_beyond_the_logits_of_a_plain_network_is_named(method):
    with pytest.raises(ConfigError, match=r"0\.\.2 \(K = 3\), found 0\.\.3"):
        attribution(method, EXACT["own modules"](), small_images(3, 8), torch.tensor([0, 3, 1]))


def test_logits_of_another_shape_are_named():
    with pytest.raises(ConfigError, match=r"returns \(3, 3, 2, 2\) float32 for 3 images; expected logits"):
        attribution(Gradient(), lambda images: 2 * images)


def test_deeplift_leaves_nothing_on_modules_of_a_network_that_fails():
    network = EXACT["own modules"]()

    def fail(*_):
        raise RuntimeError("out of order")

    class FailsInBackward(torch.autograd.Function):
        forward = staticmethod(lambda ctx, values: values.clone())
        backward = staticmethod(fail)

    before = [set(vars(module)) for module in network.modules()]
    network.one.register_forward_hook(lambda module, inputs, output: FailsInBackward.apply(output))
    with pytest.raises(RuntimeError, match="out of order"):
        attribution(DeepLift(), network, small_images(3, 8))
    assert [set(vars(module)) for module in network.modules()] == before


@pytest.mark.parametrize("method", [GradCAM(), GuidedBackpropagation(), DeepLift()])
def test_memory_is_flat_over_many_calls(method):
    torch.manual_seed(0)
    network = SmallResNet(4, widths=(3, 4, 5, 6)).eval()
    classifier = Classifier(
        network, network.stage_names, class_names=tuple("abcd"), image_size=16, normalization=CENTRED
    )
    images, counts = small_images(3, 16), []
    for call in range(50):
        method(classifier, images, QUERY)
        if call in (1, 49):
            gc.collect()
            counts.append(sum(type(item) is torch.Tensor for item in gc.get_objects()))
    assert counts[1] == counts[0]


def test_bad_settings_are_named_with_what_was_found():
    class Masked:
        needs_mask, name = True, "linear"

    with pytest.raises(ConfigError, match="steps must be at least 2, found 1"):
        IntegratedGradients(steps=1)
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, found 0"):
        IntegratedGradients(chunk_size=0)
    for kind in (SmoothGrad, VarGrad, GradientSHAP):
        with pytest.raises(ConfigError, match="chunk_size must be at least 1, found 0"):
            kind(chunk_size=0)
    for kind in (SmoothGrad, VarGrad):
        with pytest.raises(ConfigError, match=r"must not be negative, found -0\.1"):
            kind(noise=-0.1)
    with pytest.raises(ConfigError, match="found none; give one or more"):
        GradientSHAP(baselines=())
    for make in (
        lambda: IntegratedGradients(baseline=Masked()),
        lambda: DeepLift(baseline=Masked()),
        lambda: GradientSHAP(baselines=(Constant(), Masked())),
    ):
        with pytest.raises(ConfigError, match="linear is made for a mask of removed pixels"):
            make()


def test_command_line_nests_methods_and_baselines_by_class_name():
    # By default jsonargparse takes a final class for one that needs no name, and drops it from defaults.
    jsonargparse.set_parsing_settings(subclasses_enabled=[Saliency, Baseline])
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--saliency", type=Saliency)

    def parsed(*arguments):
        return parser.instantiate(parser.parse_args(list(arguments))).saliency

    assert parsed("--saliency=SmoothGrad", "--saliency.base=Gradient") == SmoothGrad()
    nested = parsed(
        "--saliency=VarGrad",
        "--saliency.samples=5",
        "--saliency.base=IntegratedGradients",
        "--saliency.base.baseline=Constant",
        "--saliency.base.baseline.level=0.5",
    )
    assert nested == VarGrad(base=IntegratedGradients(baseline=Constant(level=0.5)), samples=5)
    assert settings_of(nested)["base"]["baseline"] == {"class": "Constant", "level": 0.5}
    assert parsed("--saliency=GradCAM", "--saliency.stage=two") == GradCAM(stage="two")
    assert parsed("--saliency=GradientSHAP") == GradientSHAP()
