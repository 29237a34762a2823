import math
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.saliency_cases import toy_classifier, toy_images
from verisal.attacks.on_maps.attack import MapAttack
from verisal.attacks.on_maps.search import map_objective, stored_within, target_side
from verisal.attacks.on_maps.surrogates import (
    GradientSurrogate,
    IntegratedGradientsSurrogate,
    SmoothGradSurrogate,
    softplus_relu,
)
from verisal.errors import ConfigError, DataError
from verisal.functional.comparison import map_change, top_k_intersection
from verisal.functional.comparison.sensitivity import centre_of_mass
from verisal.functional.comparison.similarity import attribution_of
from verisal.saliency import Gradient
from verisal.types import SaliencyResult

KINDS = ["top_k", "mass_centre", "target"]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SURROGATES = [
    GradientSurrogate(),
    SmoothGradSurrogate(samples=3),
    IntegratedGradientsSurrogate(steps=3),
]
EVERY_SURROGATE = pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda part: part.name)


# The twin


def into(module):
    """What the module leaves in its input."""

    def applied(values):
        module(values)
        return values

    return applied


RELUS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "what a module in place leaves": into(nn.ReLU(inplace=True)),
    "F.relu": F.relu,
    "F.relu in place": lambda values: F.relu(values, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda values: values.relu(),
    "method in place": into(lambda values: values.relu_()),
    "clamp": lambda values: values.clamp(min=0),
    "clamp by position": lambda values: torch.clamp(values, 0),
    "clamp by name": lambda values: torch.clamp(input=values, min=0.0),
    "clamp in place": into(lambda values: values.clamp_(min=0)),
    "clip": lambda values: values.clip(0),
    "clamp_min": lambda values: values.clamp_min(0),
    "torch.clamp_min": lambda values: torch.clamp_min(values, 0),
    "clamp_min in place": into(lambda values: values.clamp_min_(0)),
}
OTHERS = {
    "two limits": lambda values: values.clamp(0, 1),
    "upper limit": lambda values: values.clamp(max=0),
    "another limit": lambda values: values.clamp_min(0.05),
    "a tensor as limit": lambda values: values.clamp(min=torch.zeros(3)),
    "whole numbers": lambda values: (values * 10).long().clamp(min=0),
    "leaky": F.leaky_relu,
    "from below 0": lambda values: F.hardtanh(values, -1, 1),
}
SIXES = {
    "module": nn.ReLU6(),
    "module in place": lambda values: nn.ReLU6(inplace=True)(values),
    "function": F.relu6,
    "function in place": lambda values: F.relu6(values, inplace=True),
    "hardtanh": lambda values: F.hardtanh(values, 0.0, 6.0),
    "hardtanh in place": lambda values: F.hardtanh_(values, min_val=0.0, max_val=6.0),
}


@pytest.mark.parametrize("name", RELUS)
def test_every_spelling_of_relu_is_a_softplus_that_can_be_differentiated_twice(name):
    values = torch.tensor([-0.1, 0.0, 0.2], requires_grad=True)
    with softplus_relu(10.0):
        found = RELUS[name](values * 1)
    expected = [math.log1p(math.exp(10 * value)) / 10 for value in (-0.1, 0.0, 0.2)]
    assert found.tolist() == pytest.approx(expected)
    (slope,) = torch.autograd.grad(found.sum(), values, create_graph=True)
    sigmoid = [1 / (1 + math.exp(-10 * value)) for value in (-0.1, 0.0, 0.2)]
    assert slope.tolist() == pytest.approx(sigmoid)
    (second,) = torch.autograd.grad(slope.sum(), values)
    assert second.tolist() == pytest.approx([10 * part * (1 - part) for part in sigmoid])


@pytest.mark.parametrize("name", SIXES)
def test_every_spelling_of_a_relu_that_is_cut_can_be_differentiated_twice(name):
    values = torch.tensor([-0.1, 0.2, 5.9, 6.3], requires_grad=True)
    with softplus_relu(10.0):
        found = SIXES[name](values * 1)

    def soft(value):
        return math.log1p(math.exp(10 * value)) / 10

    assert found.tolist() == pytest.approx([soft(v) - soft(v - 6) for v in (-0.1, 0.2, 5.9, 6.3)], abs=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), values)
    # It bends upwards near 0 and downwards near 6.
    assert (second > 0).tolist() == [True, True, False, False]
    assert bool((second.abs() > 0.1).all())
    plain = SIXES[name](values.detach().clone())
    assert plain.tolist() == pytest.approx([0.0, 0.2, 5.9, 6.0])


def test_maps_of_a_network_of_cut_relus_can_be_attacked():
    """Without a twin its second derivatives are 0, and an attack is the image rounded to 8 bits."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Flatten(), nn.LazyLinear(3)
    )
    images = toy_images(2)
    network(images)
    query = network.eval()(images).argmax(dim=1)

    def explain(some, classes):
        return Gradient()(network, some, classes)

    found = MapAttack(kind="top_k", steps=4, judge_every=4)(network, explain, images, query_class=query)
    assert bool((found.linf > 2 / 255).all())


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_relu_stays(name):
    values = torch.tensor([-0.1, 0.0, 0.2])
    with softplus_relu(10.0):
        found = OTHERS[name](values)
    assert found.equal(OTHERS[name](values))


def test_twin_ends_with_its_scope_on_exceptions_too():
    values = torch.tensor([-1.0, 1.0])
    with pytest.raises(RuntimeError, match="stop"), softplus_relu():
        raise RuntimeError("stop")
    assert values.relu().tolist() == [0.0, 1.0]


def test_other_threads_keep_their_relu():
    found = []
    with softplus_relu():
        thread = threading.Thread(target=lambda: found.append(torch.tensor([-1.0, 1.0]).relu()))
        thread.start()
        thread.join()
    assert found[0].tolist() == [0.0, 1.0]


def test_sharpness_must_be_positive():
    with pytest.raises(ConfigError, match="beta must be positive, found 0"), softplus_relu(0.0):
        pass


# What an attack wants

MAPS = torch.tensor([[[[1.0, -4.0, 0.0], [3.0, 2.0, -2.0]], [[0.0, 0.0, 2.0], [1.0, 0.0, 0.0]]]])


def test_centre_of_mass_by_hand():
    # The map is 1 4 2 / 3 2 2, of sum 14.
    assert centre_of_mass(MAPS)[0].tolist() == pytest.approx([(4 + 2 + 2 * 4) / 14, 7 / 14])


def test_objectives_by_hand():
    other = torch.tensor([[[[2.0, 2.0, 2.0], [2.0, 1.0, 1.0]]]])
    # Two of six pixels, 4 and 3, hold 7 of 14, and 4 of 10 in the other map.
    top = map_objective("top_k", MAPS, top_share=0.34)
    assert (float(top(MAPS)), float(top(other))) == pytest.approx((-0.5, -0.4))
    # The corner of 2 x 2 px holds 4 + 2 + 2 + 2 of 14, and 6 of 10.
    target = map_objective("target", MAPS)
    assert (float(target(MAPS)), float(target(other))) == pytest.approx((10 / 14, 0.6))
    centre = map_objective("mass_centre", MAPS)
    assert float(centre(MAPS)) == 0.0
    assert float(centre(other)) == pytest.approx((14 / 14 - (3 + 6) / 10) ** 2 + (0.5 - 0.4) ** 2)


def test_of_tied_pixels_the_first_are_the_top():
    region = map_objective("top_k", torch.ones(1, 1, 2, 3), top_share=0.5).region
    assert region.tolist() == [[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]


def test_target_has_four_pixels_a_side_at_224_and_two_at_least():
    assert [target_side(*size) for size in ((224, 224), (448, 300), (64, 64), (8, 6))] == [4, 5, 2, 2]


def test_map_of_zeros_is_no_division_by_zero():
    for kind in KINDS:
        assert float(map_objective(kind, MAPS)(torch.zeros_like(MAPS))) == pytest.approx(
            {"mass_centre": 1.25}.get(kind, 0.0)
        )


def test_nudged_centre_has_a_slope_on_the_clean_map():
    maps = torch.tensor([[[[1.0, 3.0]]]], requires_grad=True)
    objective = map_objective("mass_centre", maps)
    for wanted, flat in ((objective, True), (objective.nudged(), False)):
        (slope,) = torch.autograd.grad(wanted(maps).sum(), maps)
        assert bool((slope == 0).all()) is flat
    # It sends the centre from the right to the left.
    assert bool(slope[0, 0, 0, 0] > 0)


# Storing in 8 bits


def test_storing_rounds_towards_the_image_at_the_rim_of_the_ball():
    level = torch.arange(256) / 255
    image = torch.tensor([100.0, 100.4, 100.4, 0.2, 254.9, 100.0]).div(255).view(1, 1, 1, 6)
    changed = torch.tensor([101.7, 102.3, 98.5, 0.0, 255.0, 99.4]).div(255).view(1, 1, 1, 6)
    stored = stored_within(changed, image, 1.9 / 255)
    assert stored.flatten().tolist() == level[[101, 102, 99, 0, 255, 99]].tolist()


def test_without_a_level_in_the_ball_a_pixel_stays():
    image = torch.tensor([100.4, 100.0, 100.1]).div(255).view(1, 1, 1, 3)
    assert stored_within(image, image, 0.0).equal(image.where(image != image[..., 1:2], 100 / 255))
    found = stored_within(image + 0.2 / 255, image, 0.2 / 255)
    assert found.flatten().tolist() == torch.tensor([100.4, 100.0, 100.0]).div(255).tolist()


# Planted answers: of half the sum of squares the gradient is the image itself


class Squares(nn.Module):
    """Logits: half the sum of the squares, and a rival."""

    def __init__(self, rival=lambda images: images.new_full((len(images),), -1.0)):
        super().__init__()
        self.rival = rival

    def forward(self, images):
        return torch.stack([images.square().sum(dim=(1, 2, 3)) / 2, self.rival(images)], dim=1)


def itself(images, query_class):
    saliency = images.amax(dim=1, keepdim=True)
    return SaliencyResult(saliency=saliency, raw=saliency, attribution=images, n_forward=1, n_backward=1)


def grey(levels):
    return torch.tensor(levels).float().div(255).expand(1, 3, -1, -1).clone()


LEVELS = [[130, 120, 121, 122], [123, 124, 131, 125], [120, 120, 120, 120]]
QUERY = torch.zeros(1, dtype=torch.int64)


def attacked(attack, network, images, explain=itself, *, control=False):
    call = attack.control if control else attack
    return call(
        network, explain, images, query_class=QUERY, attribution=attribution_of(explain(images, QUERY))
    )


@pytest.mark.parametrize("surrogate", [SURROGATES[0], SURROGATES[2]], ids=lambda part: part.name)
def test_top_k_darkens_the_top_and_lights_up_the_rest(surrogate):
    images = grey(LEVELS)
    attack = MapAttack(kind="top_k", steps=10, top_share=2 / 12, surrogate=surrogate)
    found = attacked(attack, Squares(), images)
    top = images >= 130 / 255
    assert found.images.equal(torch.where(top, images * 255 - 8, images * 255 + 8).round() / 255)
    assert found.clean_objective.item() == pytest.approx(-261 / 1476)
    assert found.objective.item() == pytest.approx(-(261 - 16) / (1476 + 8 * 8))
    assert top_k_intersection(images[:, :1], found.maps, 2 / 12).item() == 0.0
    assert found.maps.equal(found.images.amax(dim=1, keepdim=True))
    assert (found.found.item(), found.step.item()) == (True, 10)
    assert found.linf.item() == pytest.approx(8 / 255)
    assert found.l2.item() == pytest.approx(8 / 255 * 6)


def test_target_lights_up_the_corner():
    images = grey(LEVELS)
    found = attacked(MapAttack(kind="target", steps=20), Squares(), images)
    corner = torch.zeros(1, 3, 3, 4)
    corner[..., 1:, 2:] = 2
    assert found.images.equal((images * 255 + 8 * (corner - 1)).round() / 255)


def test_mass_centre_moves_to_the_far_side():
    images = grey([[140, 120, 120, 121]])
    found = attacked(MapAttack(kind="mass_centre", steps=20), Squares(), images)
    # From the left of the middle to the right: pixels left of the centre darker, right of it brighter.
    assert (found.images * 255).round()[0, 0].tolist() == [[132.0, 112.0, 128.0, 129.0]]
    moved = centre_of_mass(found.images) - centre_of_mass(images)
    assert found.objective.item() == pytest.approx(moved.square().sum().item(), rel=1e-4)


@EVERY_KIND
def test_attack_is_worth_more_than_random_signs(kind):
    images, network = toy_images(6), toy_classifier()
    query = network(images).argmax(dim=1)
    attack = MapAttack(kind=kind, steps=20, judge_every=5)

    def explain(some, classes):
        return Gradient()(network, some, classes)

    attribution = attribution_of(explain(images, query))
    found, control = (
        call(network, explain, images, query_class=query, attribution=attribution)
        for call in (attack, attack.control)
    )
    assert bool(found.found.all())
    assert bool((found.objective > control.objective).all())
    changes = [map_change(attribution, part.maps, l2=part.l2) for part in (found, control)]
    assert changes[0].sensitivity.mean() > 1.3 * changes[1].sensitivity.mean()
    if kind == "top_k":
        assert changes[0].top_k.mean() < changes[1].top_k.mean() - 0.1
    for part in (found, control):
        assert network(part.images).argmax(dim=1).equal(query)


# The label and the budget


def test_only_iterates_that_keep_the_label_count():
    # A step makes 4 pixels brighter and 12 darker; the rival wins once the image is darker by 1.75 levels.
    images = grey([[100] * 4] * 4)
    network = Squares(lambda some: (98.25 / 255 - some.mean(dim=(1, 2, 3))) * 1e4)
    found = attacked(MapAttack(kind="target", steps=20, judge_every=20), network, images)
    assert (found.found.item(), found.step.item()) == (True, 3)
    corner = torch.zeros(1, 3, 4, 4)
    corner[..., 2:, 2:] = 2
    assert found.images.equal((images * 255 + 3 * (corner - 1)).round() / 255)
    assert network(found.images).argmax().item() == 0
    assert found.confidence.item() == pytest.approx(network(found.images).softmax(dim=1)[0, 0].item())
    assert found.clean_confidence.item() == pytest.approx(network(images).softmax(dim=1)[0, 0].item())


def test_nothing_found_returns_the_image_and_says_so():
    images = grey(LEVELS)
    network = Squares(lambda some: (some - images).abs().sum(dim=(1, 2, 3)) * 1e6 - 1)
    asked = []

    def explain(some, classes):
        asked.append(len(some))
        return itself(some, classes)

    for control in (False, True):
        found = attacked(MapAttack(kind="top_k", steps=7), network, images, explain, control=control)
        assert not bool(found.found)
        assert found.images.equal(images)
        assert found.maps.equal(images[:, :1])
        assert (found.step.item(), found.l2.item(), found.linf.item()) == (0, 0.0, 0.0)
        assert found.objective.equal(found.clean_objective)
        assert found.confidence.equal(found.clean_confidence)
    assert asked == [1, 1]  # for the images themselves


@EVERY_SURROGATE
def test_maps_of_a_linear_network_cannot_be_attacked(surrogate):
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))

    def explain(images, query_class):
        rows = network[1].weight.detach()[query_class]
        saliency = rows.view(-1, 3, 3, 4).abs().amax(dim=1, keepdim=True).expand(len(images), -1, -1, -1)
        return SaliencyResult(saliency=saliency, raw=saliency)

    found = attacked(MapAttack(kind="top_k", steps=3, surrogate=surrogate), network, grey(LEVELS), explain)
    # Only where the image multiplies the gradient does the surrogate's map move.
    assert bool(found.found) is isinstance(surrogate, IntegratedGradientsSurrogate)
    assert found.objective.item() == pytest.approx(found.clean_objective.item())


@pytest.mark.parametrize("between", [0.0, 0.3 / 255])
def test_a_direction_of_zero_finds_nothing_where_rounding_alone_changes_the_image(between):
    """Of a network without second derivatives the surrogate's map has no slope: no step moves a pixel."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    images = grey(LEVELS) + between
    query = network(images).argmax(dim=1)

    def explain(some, classes):
        return Gradient()(network, some, classes)

    found = MapAttack(kind="top_k", steps=3, judge_every=1)(network, explain, images, query_class=query)
    assert not bool(found.found.any())
    assert found.images.equal(images)
    assert (found.step.tolist(), found.linf.tolist(), found.l2.tolist()) == ([0], [0.0], [0.0])
    assert found.objective.equal(found.clean_objective)
    # Random signs move the same image's pixels, so its control is one, though the map stays.
    control = MapAttack(kind="top_k", steps=3, judge_every=1).control
    assert bool(control(network, explain, images, query_class=query).found.all())


def test_network_that_ignores_the_image_gives_no_direction():
    def constant(images):
        return torch.ones(len(images), 2) + 0 * images.mean()

    assert not bool(attacked(MapAttack(kind="top_k", steps=3), constant, grey(LEVELS)).found)


def test_network_without_gradients_is_no_robust_one():
    with pytest.raises(ConfigError, match="no gradient to the image"):
        attacked(MapAttack(kind="top_k", steps=3), lambda images: torch.ones(len(images), 2), grey(LEVELS))


@EVERY_KIND
def test_budget_of_zero_is_the_identity(kind):
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for call in (MapAttack(kind=kind, eps=0.0, steps=3), MapAttack(kind=kind, eps=0.0, steps=3).control):
        query = torch.zeros(2, dtype=torch.int64)
        found = call(Squares(), itself, images, query_class=query, attribution=images)
        assert not bool(found.found.any())
        assert found.images.equal(images)


@pytest.mark.parametrize("eps", [8 / 255, 0.02, 0.3 / 255])
@pytest.mark.parametrize("levels", [True, False])
def test_budget_holds_after_rounding(eps, levels):
    images = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(1))
    images = (images * 255).round() / 255 if levels else images
    attack = MapAttack(kind="top_k", eps=eps, steps=12, step=0.003, judge_every=1)
    query = torch.zeros(3, dtype=torch.int64)
    for call in (attack, attack.control):
        found = call(Squares(), itself, images, query_class=query, attribution=images)
        assert float(found.linf.max()) <= eps + 1e-6
        changed = found.images != images
        # Below half a level a stored image is the rounded one, whatever the steps.
        assert bool(changed.any()) is (eps > 0.5 / 255)
        steps = found.images[changed] * 255
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert bool((found.images >= 0).all() and (found.images <= 1).all())


# What decides


def test_each_stretch_is_explained_once_and_the_best_is_kept():
    images, asked = grey(LEVELS), []

    def explain(some, classes):
        asked.append(some.clone())
        return itself(some, classes)

    def reached(every):
        asked.clear()
        found = attacked(
            MapAttack(kind="top_k", steps=10, judge_every=every), Squares(), images, explain=explain
        )
        return found.step.item(), len(asked) - 1, found.objective.item()

    # From the eighth step on nothing moves, and of equals the first is kept.
    assert reached(1)[:2] == (8, 10)
    assert reached(4)[:2] == (8, 3)
    assert reached(10)[:2] == (10, 1)
    assert reached(1)[2] == reached(10)[2]


def test_method_decides_not_the_surrogate():
    images, calls = grey(LEVELS), []

    def explain(some, classes):
        # After the second explained iterate the method's map is the clean one again.
        calls.append(1)
        return itself(some if len(calls) <= 3 else images, classes)

    found = attacked(MapAttack(kind="top_k", steps=8, judge_every=1), Squares(), images, explain)
    assert found.step.item() == 2


def test_map_that_is_not_finite_is_kept_only_if_there_is_no_other():
    images = grey(LEVELS)

    def broken(since):
        calls = []

        def explain(some, classes):
            calls.append(1)
            return itself(some * (math.nan if len(calls) > since else 1.0), classes)

        return explain

    attack = MapAttack(kind="top_k", steps=4, judge_every=1)
    found = attacked(attack, Squares(), images, broken(2))
    assert found.step.item() == 1
    found = attacked(attack, Squares(), images, broken(1))
    assert (found.found.item(), found.step.item()) == (True, 1)
    assert math.isnan(found.objective.item())


# Contracts


def method(network):
    return lambda images, query_class: Gradient()(network, images, query_class)


def toy_attack(attack, rows, *, network=None, control=False):
    network = toy_classifier() if network is None else network
    images = toy_images(5)[rows]
    query = torch.tensor([0, 1, 2, 3, 0])[rows]
    attribution = attribution_of(method(network)(images, query))
    call = attack.control if control else attack
    return call(network, method(network), images, query_class=query, attribution=attribution)


@EVERY_SURROGATE
@EVERY_KIND
def test_batch_mates_and_chunks_change_nothing(surrogate, kind):
    attack = MapAttack(kind=kind, surrogate=surrogate, steps=4, judge_every=2)
    whole = toy_attack(attack, [0, 1, 2, 3, 4])
    for rows, chunk_size in (([3], 64), ([4, 1], 64), ([2, 0], 2)):
        part = toy_attack(replace(attack, chunk_size=chunk_size), rows)
        assert part.images.equal(whole.images[rows])
        assert part.step.equal(whole.step[rows])
        assert torch.allclose(part.objective, whole.objective[rows], atol=1e-6)


def test_control_depends_on_seed_and_content_alone():
    attack = MapAttack(kind="top_k", steps=20)
    whole = toy_attack(attack, [0, 1, 2], control=True)
    assert toy_attack(attack, [2], control=True).images.equal(whole.images[2:])
    other = toy_attack(replace(attack, seed=1), [0, 1, 2], control=True)
    assert not other.images.equal(whole.images)
    inside = (toy_images(3) > 9 / 255) & (toy_images(3) < 246 / 255)
    moved = (whole.images - toy_images(3)).abs()[inside] * 255
    assert float(moved.min()) > 7 - 1e-3
    assert float(moved.max()) < 8 + 1e-3


def test_seed_decides_the_noise_of_the_surrogate():
    attack = MapAttack(kind="top_k", surrogate=SmoothGradSurrogate(samples=2, noise=0.5), steps=3)
    found = toy_attack(attack, [0, 1])
    assert toy_attack(attack, [0, 1]).images.equal(found.images)
    assert not toy_attack(replace(attack, seed=3), [0, 1]).images.equal(found.images)


@pytest.mark.parametrize("surrogate", SURROGATES[:2], ids=lambda part: part.name)
def test_same_result_in_every_mode(surrogate):
    attack = MapAttack(kind="mass_centre", surrogate=surrogate, steps=3)
    network = toy_classifier()
    expected = toy_attack(attack, [0, 1], network=network)
    with torch.no_grad():
        assert toy_attack(attack, [0, 1], network=network).images.equal(expected.images)
    with torch.inference_mode():
        assert toy_attack(attack, [0, 1], network=network).images.equal(expected.images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = toy_attack(attack, [0, 1], network=network)
    assert found.images.equal(expected.images)
    assert not found.maps.requires_grad


@pytest.mark.parametrize("fails", [False, True])
def test_network_and_random_state_are_left_as_they_were(fails):
    network = toy_classifier()
    network.network.one.train()
    parameters = list(network.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    modes = [part.training for part in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(11)
    before = torch.get_rng_state()
    attack = MapAttack(kind="top_k", steps=3)
    if fails:
        network.network.one.fail_at = network.network.one.calls + 5
        with pytest.raises(RuntimeError, match="out of order"):
            toy_attack(attack, [0, 1], network=network)
    else:
        toy_attack(attack, [0, 1], network=network)
    assert torch.get_rng_state().equal(before)
    assert [part.training for part in network.modules()] == modes
    assert [part.requires_grad for part in parameters] == [False] + [True] * (len(parameters) - 1)
    assert parameters[1].grad.equal(torch.ones_like(parameters[1]))
    assert all(part.grad is None for part in parameters[2:])
    assert all(value.equal(state[name]) for name, value in network.state_dict().items())
    assert torch.relu(torch.tensor([-1.0])).item() == 0.0


@EVERY_SURROGATE
@pytest.mark.parametrize("chunk_size", [1, 64])
def test_passes_are_counted(surrogate, chunk_size):
    class Counted(Squares):
        forwards = 0

        def forward(self, images):
            self.forwards += len(images)
            return super().forward(images)

    def explain(images, query_class):
        network(images)
        return itself(images, query_class)

    images, network = grey(LEVELS), Counted()
    attack = MapAttack(kind="top_k", surrogate=surrogate, steps=5, judge_every=2, chunk_size=chunk_size)
    found = attacked(attack, network, images, explain)
    # All but the pass for the map of the image itself.
    assert found.n_fwd.tolist() == [network.forwards - 1]
    parts = 2 if chunk_size == 1 and surrogate.points > 1 else 1
    assert found.n_bwd.tolist() == [5 * surrogate.points * (1 + parts) + 3]
    network.forwards = 0
    found = attacked(attack, network, images, explain, control=True)
    assert found.n_fwd.tolist() == [network.forwards - 1]
    assert found.n_bwd.tolist() == [3]


# Bad input


def test_maps_of_another_size_are_refused():
    def explain(images, query_class):
        saliency = images[:, :1, ::2]
        return SaliencyResult(saliency=saliency, raw=saliency)

    with pytest.raises(DataError, match=r"explain\(\) gave maps \(2, 4\) for attacked images"):
        MapAttack(kind="top_k", steps=1)(
            Squares(), explain, grey(LEVELS), query_class=QUERY, attribution=grey(LEVELS)
        )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(0, 3, 4, 4), "at least one image"),
        (torch.rand(1, 3, 4, 5), "found .1, 3, 4, 5. and .1, 3, 4, 4."),
        (torch.full((1, 3, 4, 4), 2.0), r"images must lie in \[0, 1\]"),
        (torch.rand(1, 3, 4, 4).double(), "float32"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(DataError, match=message):
        MapAttack(kind="top_k")(
            Squares(), itself, images, query_class=QUERY[: len(images)], attribution=torch.rand(1, 3, 4, 4)
        )


def test_query_class_out_of_range_names_class_and_number():
    with pytest.raises(ConfigError, match=r"0\.\.1 \(K = 2\), found 5\.\.5"):
        MapAttack(kind="top_k")(
            Squares(), itself, grey(LEVELS), query_class=torch.tensor([5]), attribution=grey(LEVELS)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "topk"}, "kind must be top_k, mass_centre or target, found 'topk'"),
        ({"eps": 8.0}, r"eps must be in \[0, 1\] pixel units, such as 0.0157 for 4/255, found 8.0"),
        ({"eps": -0.1}, r"eps must be in \[0, 1\] pixel units, such as 0.0157 for 4/255, found -0.1"),
        ({"step": 0.0}, "step must be positive, found 0.0"),
        ({"beta": 0.0}, "beta must be positive, found 0.0"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"judge_every": 0}, "judge_every must be at least 1, found 0"),
        ({"top_share": 1.0}, "top_share must lie in"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MapAttack(**{"kind": "top_k", **settings})


def test_surrogates_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="samples must be at least 1"):
        SmoothGradSurrogate(samples=0)
    with pytest.raises(ConfigError, match="GradientSurrogate"):
        SmoothGradSurrogate(noise=0.0)
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        IntegratedGradientsSurrogate(steps=0)
    with pytest.raises(ConfigError, match="kind must be top_k"):
        map_objective("corner", MAPS)


def test_names_tell_settings_apart():
    changed = (
        {},
        {"kind": "target"},
        {"surrogate": SmoothGradSurrogate(samples=5)},
        {"surrogate": SmoothGradSurrogate(samples=5, noise=0.2)},
        {"surrogate": IntegratedGradientsSurrogate(steps=5)},
        *({name: 2} for name in ("steps", "judge_every", "seed")),
        *({name: 0.25} for name in ("eps", "step", "beta", "top_share")),
    )
    names = [MapAttack(**{"kind": "top_k", **part}).name for part in changed]
    assert len(set(names)) == len(names)
    assert MapAttack(kind="top_k", chunk_size=3).name == names[0]
