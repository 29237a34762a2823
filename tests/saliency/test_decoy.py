"""Decoys: what they keep, what they change, what is made of them, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.normalizations import CENTRED
from helpers.saliency_cases import toy_classifier, toy_images
from verisal.errors import ConfigError
from verisal.functional.comparison import spearman
from verisal.functional.comparison.similarity import attribution_of
from verisal.functional.networks import stopped_at
from verisal.functional.seeding import derive_seed
from verisal.functional.shared_work import SharedWork
from verisal.models import Classifier
from verisal.saliency import Decoy, Gradient, Occlusion, SmoothGrad
from verisal.saliency.decoy.descent import DecoyDescent
from verisal.saliency.decoy.layer import check_not_linear, find_layer

QUERY = torch.tensor([0, 2, 1])
FEW = {"steps": 8, "rounds": 2, "epsilon": 0.1}


class PoolNet(nn.Module):
    """Smooth features of stride 2 behind a max-pooling, so that pixels can hide."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Softplus())
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Softplus())
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        return self.head(self.second(self.pool(self.first(images))).mean(dim=(2, 3)))


def pooling_classifier():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = PoolNet()
    return Classifier(
        network, ("first", "second"), class_names=("a", "b", "c"), image_size=16, normalization=CENTRED
    ).eval()


def features_of(classifier, name, images):
    with torch.no_grad(), stopped_at(classifier, find_layer(classifier, name, images[:1])) as features:
        return features(images)


@pytest.mark.parametrize("masks", ["lattice", "single"])
def test_decoys_keep_the_features_change_nothing_outside_of_patches_and_stay_in_range(masks):
    classifier, images = pooling_classifier(), toy_images(3)
    kept = features_of(classifier, "pool", images)
    epsilon = 0.1 * kept.flatten(1).std(dim=1)
    patches = torch.zeros(1, *images.shape[-2:])
    for group in Decoy(masks=masks, chunk_size=24, **FEW).decoys(classifier, images):
        assert group.images.flatten(0, 1).shape[0] <= 24
        change = group.images - images[group.rows]
        assert bool((change * ~group.masks[:, None] == 0).all())
        assert float(group.images.min()) >= 0
        assert float(group.images.max()) <= 1
        for decoys, row in zip(group.images.transpose(0, 1), group.rows.tolist(), strict=True):
            moved = (features_of(classifier, "pool", decoys) - kept[row]).abs().amax()
            assert float(moved) <= float(epsilon[row]) * (1 + 1e-4)
        # Both signs of a mask follow each other, and push their patches in their own direction.
        assert group.signs.tolist() == [1.0, -1.0] * (len(group.signs) // 2)
        pushed = (change * group.signs.view(-1, 1, 1, 1, 1)).clamp_min(0).flatten(1).sum(dim=1)
        assert bool((pushed > 0).all())
        patches += group.masks[::2].float().sum(dim=0)
    assert patches.eq(1).all()


def test_report_is_what_the_decoys_themselves_say():
    classifier, images = toy_classifier(), toy_images(2)
    method = Decoy(**FEW, period=9)
    (group,) = method.decoys(classifier, images)
    kept = features_of(classifier, "one", images)
    epsilon = 0.1 * kept.flatten(1).std(dim=1)
    top = classifier(images).argmax(dim=1)
    result = method(classifier, images, QUERY[:2])
    for row in range(2):
        decoys = group.images[:, row]
        over = (features_of(classifier, "one", decoys) - kept[row]).abs() / epsilon[row] - 1
        agrees = (classifier(decoys).argmax(dim=1) == top[row]).float().mean()
        change = (decoys - images[row]).abs().sum() / (2 * 3 * images[0, 0].numel())
        expected = {
            "violation_max": over.clamp_min(0).max(),
            "violation_mean": over.clamp_min(0).mean(),
            "top1_agreement": agrees,
        }
        for name, value in expected.items():
            torch.testing.assert_close(result.diagnostics[name][row], value, rtol=1e-3, atol=1e-4)
        # Patches are of equal size but for the border, so their mean is nearly that of all pixels.
        assert float(result.diagnostics["deviation"][row]) == pytest.approx(float(change), rel=0.2)
    assert group.report.n_patches == 2 * 6 * 4
    assert group.report.n_decoys == len(group.images) == 2 * 9
    assert result.diagnostics["infeasible"].tolist() == group.report.infeasible.tolist()
    # One round: its steps and their check, eight tries, both measurements.
    (once,) = Decoy(**FEW | {"rounds": 1}, period=9).decoys(classifier, images)
    assert once.report.prefix_passes.tolist() == [18 * (8 + 1 + 8 + 1 + 1)] * 2


@pytest.mark.parametrize("base", [Gradient(), Occlusion(window=8, stride=4)], ids=["gradient", "occlusion"])
@pytest.mark.parametrize("aggregate", ["range", "mean"])
@pytest.mark.parametrize("perturbation", ["decoy", "constant", "noise"])
def test_map_is_range_or_mean_of_signed_attributions_of_all_decoys(base, aggregate, perturbation):
    classifier, images = toy_classifier(), toy_images(2)
    settings = {"base": base, "perturbation": perturbation, "aggregate": aggregate, **FEW}
    result = Decoy(**settings, chunk_size=10)(classifier, images, QUERY[:2])
    groups = list(Decoy(**settings).decoys(classifier, images))
    for row in range(2):
        decoys = torch.cat([group.images[:, row] for group in groups])
        values = attribution_of(base(classifier, decoys, QUERY[row].repeat(len(decoys))))
        wanted = values.mean(dim=0) if aggregate == "mean" else values.amax(dim=0) - values.amin(dim=0)
        torch.testing.assert_close(result.attribution[row], wanted, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(result.saliency[row, 0], wanted.abs().amax(dim=0), rtol=1e-3, atol=1e-4)


def test_constant_control_puts_the_mean_colour_into_the_patches_once_per_mask():
    images = toy_images(1)
    (group,) = Decoy(perturbation="constant").decoys(toy_classifier(), images)
    mean = images[0].mean(dim=(1, 2), keepdim=True)
    assert group.signs.eq(1).all()
    wanted = torch.where(group.masks, mean, images[0])
    torch.testing.assert_close(group.images[:, 0], wanted)
    assert float(group.report.violation_max) > 1


def test_noise_control_deviates_as_much_as_the_decoys_do():
    settings, images = {"max_deviation": 0.05, **FEW}, toy_images(2) * 0.8 + 0.1  # room on both sides
    (decoys,), (noise,) = (
        Decoy(perturbation=kind, **settings).decoys(toy_classifier(), images) for kind in ("decoy", "noise")
    )
    assert float((decoys.images - images).abs().max()) <= 0.05 + 1e-6
    torch.testing.assert_close(noise.report.deviation, decoys.report.deviation, rtol=0.1, atol=0)
    assert bool((noise.report.violation_mean > 10 * decoys.report.violation_mean).all())


def test_lattice_ranks_pixels_much_as_single_patches_do():
    images = toy_images(3)
    maps = [Decoy(masks=masks, **FEW)(toy_classifier(), images, QUERY) for masks in ("lattice", "single")]
    assert float(spearman(maps[0].saliency, maps[1].saliency).mean()) > 0.5
    # The single form asks for a map per patch and sign.
    assert maps[1].n_backward == 2 * 6 * 4
    assert maps[0].n_backward < maps[1].n_backward


def test_what_no_network_sees_moves_as_far_as_it_can_and_what_it_sees_does_not():
    """The layer reads the red channel only: green and blue are free, and go to the end of the range."""
    classifier, images = toy_classifier(), toy_images(1) * 0.5
    with torch.no_grad():
        classifier.network.one.conv.weight[:, 1:] = 0
    (group,) = Decoy(steps=60, rounds=5, max_deviation=0.1).decoys(classifier, images)
    up = group.images[::2, 0].amax(dim=0) - images[0]
    assert float(up[1:].mean()) > 0.09
    assert float(up[0].mean()) < 0.05


class LinearNet(nn.Module):
    """Two convolutions and a mean, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, images):
        return self.two(self.one(images)).mean(dim=(2, 3))


def linear_classifier():
    return Classifier(
        LinearNet(), ("one", "two"), class_names=("a", "b", "c"), image_size=16, normalization=CENTRED
    ).eval()


def test_a_network_that_bends_between_one_pair_of_four_is_not_linear():
    size, asked = (6, 5), []
    generator = torch.Generator().manual_seed(derive_seed("linear or not"))
    ends = torch.rand(2, 4, 3, *size, generator=generator).flatten(0, 1).flatten(1).sum(dim=1)
    highest = ends.sort().values[-2:].mean()

    class Bent(nn.Module):
        def forward(self, images):
            asked.append(len(images))
            total = images.flatten(1).sum(dim=1)
            return torch.stack([total, (total - highest).relu()], dim=1)

    check_not_linear(Bent(), (3, *size), torch.device("cpu"))
    assert asked == [3 * 4]


def test_range_of_gradients_of_a_linear_model_is_zero_at_any_images():
    images = toy_images(6)
    values = Gradient()(linear_classifier(), images, torch.zeros(6, dtype=torch.int64)).attribution
    assert float((values.amax(dim=0) - values.amin(dim=0)).max()) <= 1e-7


def test_linear_model_is_refused_because_decoys_say_nothing_there():
    with pytest.raises(ConfigError, match=r"Classifier is linear in the image.*decoys say nothing about it"):
        Decoy()(linear_classifier(), toy_images(1), QUERY[:1])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            "head",
            r"'head' does not suit decoys: its output is no map .* of several places; known: .*one",
        ),
        ("pool", r"'pool' does not suit decoys: its output is no map"),
        ("four", r"has no layer 'four'; known: \['network.one.conv'"),
    ],
)
def test_layer_that_is_unknown_or_above_the_head_is_refused_with_the_known_ones(layer, words):
    with pytest.raises(ConfigError, match=words):
        Decoy(layer=layer)(toy_classifier(), toy_images(1), QUERY[:1])


def test_layer_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.pool = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, images):
            return self.relu(self.conv(self.relu(self.conv(images)))).mean(dim=(2, 3))

    with pytest.raises(ConfigError, match="'relu' does not suit decoys: it runs 2 times"):
        Decoy(layer="relu")(Twice().eval(), toy_images(1), QUERY[:1])
    # The pooling never runs, and a plain module has no stages to choose from.
    with pytest.raises(ConfigError, match=r"no max-pooling layer that runs once and no stage"):
        Decoy()(Twice().eval(), toy_images(1), QUERY[:1])


def test_default_layer_is_the_first_pooling_that_runs_or_the_first_stage():
    images = toy_images(1)
    pooled, staged = pooling_classifier(), toy_classifier()
    assert find_layer(pooled, None, images) is pooled.network.pool
    assert find_layer(staged, None, images) is staged.network.one
    assert find_layer(staged, "two.relu", images) is staged.network.two.relu


def test_a_layer_with_channels_last_is_refused():
    class Last(torch.nn.Module):
        def forward(self, maps):
            return maps.permute(0, 2, 3, 1)

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, 2, 1), Last(), torch.nn.Flatten())
    with pytest.raises(ConfigError, match=r"layer '1' does not suit decoys: its output is no map .* \['0'\]"):
        find_layer(network, "1", torch.rand(1, 3, 8, 8))


def test_network_stops_at_the_layer_and_leaves_no_hook():
    classifier, images = toy_classifier(), toy_images(2)
    layer, before = classifier.network.one, classifier.network.two.calls
    with stopped_at(classifier, layer) as features, torch.no_grad():
        assert features(images).shape == (2, 4, 8, 6)
    assert classifier.network.two.calls == before
    assert not layer._forward_hooks
    with pytest.raises(RuntimeError), stopped_at(classifier, layer):
        raise RuntimeError
    assert not layer._forward_hooks


def test_tolerance_below_rounding_is_refused_with_the_least_sensible_one():
    with pytest.raises(
        ConfigError, match=r"epsilon 1e-08 is below the float32 rounding.*least sensible.*e-0"
    ):
        Decoy(epsilon=1e-8)(toy_classifier(), toy_images(1), QUERY[:1])


def test_period_that_lets_patches_meet_is_refused_with_the_least_that_works():
    method = Decoy(patch=3, stride=1, period=4, **FEW)
    with pytest.raises(ConfigError, match=r"period 4 is too small: features depend on 3 pixels.*works is 5"):
        method(toy_classifier(), toy_images(1), QUERY[:1])
    assert len(next(Decoy(patch=3, stride=1, period=5, **FEW).decoys(toy_classifier(), toy_images(1))).images)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive, found 0.0"),
        ({"learning_rate": -1.0}, "learning_rate must be positive, found -1.0"),
        ({"multiplier": 0.0}, "multiplier must be positive, found 0.0"),
        ({"factor": 0.5}, "factor must be at least 1, found 0.5"),
        ({"patch": 0}, "patch must be at least 1, found 0"),
        ({"stride": 0}, "stride must be at least 1, found 0"),
        ({"max_deviation": 1.5}, r"max_deviation .* must lie in \(0, 1\], found 1.5"),
        ({"period": 16}, "positive multiple of the stride 3, found period=16"),
        ({"period": 15, "masks": "single"}, "found period=15 with masks='single'"),
    ],
)
def test_settings_out_of_range_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        Decoy(**settings)


def test_flat_image_has_decoys_too():
    images = torch.full((1, 3, 16, 12), 0.5)
    result = Decoy(**FEW)(toy_classifier(), images, QUERY[:1])
    assert bool(result.saliency.isfinite().all())
    assert float(result.diagnostics["infeasible"]) == 0


def test_resized_softplus_layers_are_fine_without_a_module_for_every_step():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 3)

        def forward(self, images):
            return self.head(F.softplus(self.conv(images)).square().mean(dim=(2, 3)))

    torch.manual_seed(0)
    result = Decoy(layer="conv", **FEW)(Functional().eval(), toy_images(1), QUERY[:1])
    assert float(result.saliency.max()) > 0


def counted_solves(monkeypatch):
    """How many rows were solved, one entry per run of the descent."""
    solved, run = [], DecoyDescent.run

    def counting(self, features, rows, start):
        solved.append(len(rows.images))
        return run(self, features, rows, start)

    monkeypatch.setattr(DecoyDescent, "run", counting)
    return solved


def test_decoys_are_solved_once_for_all_bases_aggregates_and_controls_and_maps_are_the_same(monkeypatch):
    classifier, images = toy_classifier(), toy_images(3)
    methods = [
        Decoy(base=base, aggregate=aggregate, perturbation=perturbation, **FEW)
        for base in (Gradient(), SmoothGrad(samples=2))
        for aggregate in ("range", "mean")
        for perturbation in ("decoy", "noise", "constant")
    ]
    alone = [method(classifier, images, QUERY) for method in methods]
    solved = counted_solves(monkeypatch)
    asked = []
    gradient = Gradient.__call__
    monkeypatch.setattr(Gradient, "__call__", lambda *given: asked.append(given) or gradient(*given))
    with SharedWork().sharing():
        together = [method(classifier, images, QUERY) for method in methods]
    assert len(solved) == 1
    assert len(asked) == 3
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.saliency, other.saliency)
        assert torch.equal(one.attribution, other.attribution)
        assert (one.n_forward, one.n_backward, one.baseline) == (
            other.n_forward,
            other.n_backward,
            other.baseline,
        )
        assert all(torch.equal(values, other.diagnostics[name]) for name, values in one.diagnostics.items())


def test_other_images_weights_or_settings_have_decoys_of_their_own(monkeypatch):
    classifier, images, method = toy_classifier(), toy_images(3), Decoy(**FEW)
    solved = counted_solves(monkeypatch)
    with SharedWork().sharing():
        method(classifier, images, QUERY)
        method(classifier, images, QUERY.flip(0))
        assert len(solved) == 1
        method(classifier, images * 0.999, QUERY)
        Decoy(**{**FEW, "epsilon": 0.2})(classifier, images, QUERY)
        Decoy(**FEW, seed=1)(classifier, images, QUERY)
        assert len(solved) == 4
        with torch.no_grad():
            next(classifier.parameters()).mul_(1.01)
        method(classifier, images, QUERY)
        assert len(solved) == 5
    method(classifier, images, QUERY)
    assert len(solved) == 6


def test_rounding_does_not_change_the_random_numbers_of_the_base_method(monkeypatch):
    """Other processors and batch sizes give decoys that differ in the last bits."""
    method = Decoy(patch=3, stride=6, epsilon=0.1, steps=5, rounds=2, base=SmoothGrad(samples=3))
    classifier, images, query = toy_classifier(), toy_images(3), torch.tensor([0, 3, 1])
    exact, convolved = method(classifier, images, query).saliency, nn.Conv2d._conv_forward
    generator = torch.Generator().manual_seed(0)

    def rounded(self, *inputs):
        found = convolved(self, *inputs)
        return found * (1 + 3e-7 * torch.randn(found.shape, generator=generator))

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", rounded)
    for _ in range(3):
        torch.testing.assert_close(method(classifier, images, query).saliency, exact, rtol=0, atol=1e-4)
