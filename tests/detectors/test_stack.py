"""Measurements joined, scores out of fold, and a regression on the scores of different parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import pytest
import torch
from torch import Tensor

from helpers.detector_cases import ToyGates, toy_classifier, toy_images
from verisal.detectors import (
    ChannelGates,
    Combined,
    Detector,
    Flipped,
    LogisticRegression,
    LogitMargin,
    Logits,
    Mahalanobis,
    MaxSoftmax,
    Measurement,
    PooledActivations,
    ShiftConsistency,
    Stack,
    ViewLogits,
    Vote,
)
from verisal.detectors.measurements import measure_each
from verisal.detectors.stack import divisions
from verisal.errors import ConfigError, DataError, NumericError
from verisal.functional.statistics import auroc


@final
@dataclass(kw_only=True)
class Memory(Detector):
    """Scores 1 for rows that it was fitted on and that were adversarial, else the second logit."""

    source: Measurement = field(default_factory=Logits)
    given: list[tuple[list[float], list[int], int]] = field(
        init=False, default_factory=list, repr=False, compare=False
    )

    def fit(self, measured, adversarial, clean, *, images=None, seed=0):
        self._learned = {"known": measured["logits"][adversarial, 0]}
        kept = None if images is None else images.tolist()
        Memory.log.append((measured["logits"][:, 0].tolist(), kept, seed))

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        known = torch.isin(measured["logits"][:, 0], self._learned["known"])
        return torch.where(known, 1.0, measured["logits"][:, 1])


Memory.log = []


def rows(count=60, *, seed=0):
    """Images with a clean, a noisy and an attacked row each; names by the first logit."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.stack([torch.arange(float(count)), torch.randn(count, generator=rng)], dim=1)
    images = torch.arange(count) % (count // 3)
    adversarial = torch.arange(count) >= 2 * count // 3
    clean = torch.arange(count) < count // 3
    return {"logits": logits}, adversarial, clean, images


def test_versions_of_an_image_are_never_in_two_divisions_and_scores_are_out_of_fold():
    Memory.log = []
    measured, adversarial, clean, images = rows()
    stack = Stack(parts=(Memory(), LogitMargin()), folds=4)
    stack.fit(measured, adversarial, clean, images=images, seed=3)
    assert len(Memory.log) == 5  # once a division, and once on all
    apart, (whole, _, _) = Memory.log[:4], Memory.log[4]
    assert len(whole) == 60
    held = [sorted(set(range(60)) - {int(name) for name in names}) for names, _, _ in apart]
    assert sorted(row for one in held for row in one) == list(range(60))
    for (_, kept, _), left in zip(apart, held, strict=True):
        assert len(left) == 15
        assert not {int(images[row]) for row in left} & set(kept)
    assert len({seed for _, _, seed in Memory.log}) == 5
    # Out of fold the memory knows nothing: what it remembers of fit rows is worth nothing.
    weight = stack._learned["weight"]
    assert weight[0].abs() < 1.0


def test_without_the_images_rows_are_divided_each_kind_evenly():
    measured, adversarial, clean, _ = rows()
    Memory.log = []
    Stack(parts=(Memory(), LogitMargin()), folds=5).fit(measured, adversarial, clean)
    for names, kept, _ in Memory.log[:5]:
        assert kept is None
        assert torch.isin(torch.arange(40, 60).float(), torch.tensor(names)).sum() == 16
        assert torch.isin(torch.arange(20).float(), torch.tensor(names)).sum() == 16


def test_divisions_are_equal_spread_kinds_and_depend_on_the_seed_alone():
    images = torch.tensor([7, 7, 3, 9, 9, 4, 5, 8, 3, 11])
    kinds = torch.tensor([0, 2, 0, 1, 2, 0, 0, 0, 2, 0])
    found = divisions(images, kinds, 3, seed=1)
    for image in images.unique():
        assert len(found[images == image].unique()) == 1
    attacked = torch.stack([found[images == image][0] for image in (3, 7, 9)])
    assert attacked.sort().values.tolist() == [0, 1, 2]
    assert found.equal(divisions(images, kinds, 3, seed=1))
    assert any(not found.equal(divisions(images, kinds, 3, seed=seed)) for seed in range(2, 6))


def halves(count, *, seed):
    """Attacked rows show in the first vector or in the second, never in both."""
    rng = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, 3, generator=rng)
    adversarial = torch.arange(count) >= count // 2
    first[adversarial & (torch.arange(count) % 2 == 0)] += 3
    second[adversarial & (torch.arange(count) % 2 == 1)] += 3
    return {"pooled/1": first, "pooled/2": second}, adversarial


def test_a_stack_finds_what_each_part_misses_and_is_the_weighted_sum_of_standardised_scores():
    measured, adversarial = halves(200, seed=0)
    parts = [LogisticRegression(source=Logits(), reads=(f"pooled/{n}",)) for n in (1, 2)]
    stack = Stack(parts=parts)
    stack.fit(measured, adversarial, ~adversarial)
    fresh, attacked = halves(200, seed=1)
    alone = [auroc(part.judge(fresh)[attacked], part.judge(fresh)[~attacked]) for part in stack.parts]
    joined = stack.judge(fresh)
    assert auroc(joined[attacked], joined[~attacked]) > max(alone) + 0.1
    learned = stack._learned
    by_hand = learned["bias"] + sum(
        learned["weight"][n] * (part.judge(fresh) - learned["mean"][n]) / learned["scale"][n]
        for n, part in enumerate(stack.parts)
    )
    torch.testing.assert_close(joined, by_hand)


def test_equal_sources_are_measured_once_and_stay_unnumbered():
    assert Stack(parts=(MaxSoftmax(), LogitMargin())).measurement == Logits()
    stack = Stack(parts=(MaxSoftmax(), Mahalanobis(), LogitMargin(), ShiftConsistency()))
    assert stack.measurement == Combined(sources=(Logits(), PooledActivations(), ShiftConsistency().source))
    measured = stack.measurement(toy_classifier(), toy_images(2))
    assert set(measured) == {
        "0/logits",
        "1/logits",
        "1/pooled/1",
        "1/pooled/2",
        "2/logits",
        "2/shifted/logits",
    }


def test_parts_are_measured_once_for_whoever_reads_them():
    asked = []

    @dataclass(frozen=True)
    class Counted(Measurement):
        name: str

        def __call__(self, classifier, images):
            asked.append(self.name)
            return {self.name: images[:, 0, 0, 0]}

    a, b = Counted("a"), Counted("b")
    found = measure_each([a, Combined(sources=(b, a)), b], toy_classifier(), toy_images(3))
    assert sorted(asked) == ["a", "b"]
    assert [set(measured) for measured in found.values()] == [{"a"}, {"0/b", "1/a"}, {"b"}]


def test_a_combination_needs_stages_where_one_of_its_sources_does():
    assert not Combined(sources=(Logits(), ViewLogits())).needs_stages
    assert Combined(sources=(Logits(), PooledActivations())).needs_stages


def test_a_stack_inside_a_vote_is_told_the_versions():
    Memory.log = []
    measured, adversarial, clean, images = rows()
    Vote(voters=(Memory(), LogitMargin())).fit(measured, adversarial, clean, images=images)
    assert Memory.log[0][1] == images.tolist()


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(ConfigError, match="at least two parts, found 1"):
        Stack(parts=(MaxSoftmax(),))
    for sources in ((), (Logits(),), (Logits(), Logits())):
        with pytest.raises(ConfigError, match="at least two sources, all different"):
            Combined(sources=sources)
    measured, adversarial, clean, _ = rows()
    measured["logits"][4] = torch.nan
    with pytest.raises(NumericError, match="1 of 60 fit rows have no finite score by some part"):
        Stack(parts=(MaxSoftmax(), LogitMargin())).fit(measured, adversarial, clean)
    with pytest.raises(DataError, match="at least 4 adversarial"):
        Stack(parts=(MaxSoftmax(), LogitMargin())).fit(measured, ~clean & False, clean)


def test_the_state_of_more_parts_is_refused():
    measured, adversarial, clean, images = rows()
    three = Stack(parts=(MaxSoftmax(), LogitMargin(), Memory()))
    three.fit(measured, adversarial, clean, images=images)
    with pytest.raises(ConfigError, match="a stack of 3 parts or more"):
        Stack(parts=(MaxSoftmax(), LogitMargin())).restore(three.state())


# Vectors


def test_pooled_activations_of_views_and_what_changes():
    classifier, images = toy_classifier(), toy_images(3)
    found = PooledActivations(views=(Flipped(),))(classifier, images)
    own, flipped = (PooledActivations()(classifier, seen) for seen in (images, images.flip(-1)))
    names = ["logits", "pooled/1", "pooled/2"]
    assert set(found) == {
        *names, *(f"flipped/{name}" for name in names), "flipped/change/pooled/1", "flipped/change/pooled/2"
    }  # fmt: skip
    for name in names:
        assert found[name].equal(own[name])
        torch.testing.assert_close(found[f"flipped/{name}"], flipped[name])
    change = flipped["pooled/2"] - own["pooled/2"]
    torch.testing.assert_close(found["flipped/change/pooled/2"], change)


def test_settings_of_vectors_without_views_are_those_of_before():
    assert PooledActivations().settings() == {"class": "PooledActivations"}
    assert set(ChannelGates(saliency=ToyGates()).settings()) == {"class", "saliency"}
    more = ChannelGates(saliency=ToyGates(), contributions=True, views=[Flipped()])
    assert set(more.settings()) == {"class", "saliency", "contributions", "views"}
    with pytest.raises(ConfigError, match="all different"):
        PooledActivations(views=(Flipped(), Flipped()))


def test_contributions_per_channel_are_gate_times_slope_for_the_class_of_the_image():
    classifier, images = toy_classifier(), toy_images(4)
    found = ChannelGates(saliency=ToyGates(), contributions=True, views=(Flipped(),))(classifier, images)
    query = classifier(images).argmax(dim=1)
    for prefix, seen in {"": images, "flipped/": images.flip(-1)}.items():
        gates = ToyGates().find(classifier, seen, query)
        leaves = [gate.clone().requires_grad_() for gate in gates.gates]
        first = classifier.stage_outputs(seen).activations[0].detach()
        asked = classifier.gated(first, leaves)[torch.arange(4), query].sum()
        slopes = torch.autograd.grad(asked, leaves)
        for number, (gate, slope) in enumerate(zip(gates.gates, slopes, strict=True), start=1):
            added = torch.stack([(g * s).flatten(1).sum(dim=1) for g, s in zip(gate, slope, strict=True)])
            torch.testing.assert_close(found[f"{prefix}contributions/{number}"], added)
            torch.testing.assert_close(found[f"{prefix}gates/{number}"], gate.mean(dim=(2, 3)))
    change = found["flipped/contributions/1"] - found["contributions/1"]
    torch.testing.assert_close(found["flipped/change/contributions/1"], change)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_gates_of_whole_places_contribute_as_equal_gates_of_all_channels():
    class Places(ToyGates):
        def find(self, classifier, images, query_class):
            found = super().find(classifier, images, query_class)
            gates = tuple(gate[:, :1].clamp(0, 1) for gate in found.gates)
            gates = (
                gates
                if self.power == 1
                else tuple(g.expand_as(a) for g, a in zip(gates, found.activations, strict=True))
            )
            return type(found)(gates, found.activations, n_forward=1, n_backward=0)

    one, all_channels = (
        ChannelGates(saliency=Places(power=power), contributions=True)(toy_classifier(), toy_images(3))
        for power in (1, 1.0000001)
    )
    for number in (1, 2):
        torch.testing.assert_close(one[f"contributions/{number}"], all_channels[f"contributions/{number}"])


def test_no_image_gives_vectors_of_the_usual_width():
    source = ChannelGates(saliency=ToyGates(), contributions=True, views=(Flipped(),))
    some, none = (source(toy_classifier(), toy_images(count)) for count in (2, 0))
    assert {name: tensor.shape[1:] for name, tensor in some.items()} == {
        name: tensor.shape[1:] for name, tensor in none.items()
    }


def test_a_stronger_penalty_makes_smaller_weights_and_the_optimum_is_that_of_the_formula():
    measured, adversarial = halves(80, seed=0)
    # As many of each kind, so that all weigh 1.
    signs = torch.where(adversarial, 1.0, -1.0).double()
    sizes = []
    for penalty in (0.1, 10.0):
        detector = LogisticRegression(source=Logits(), reads=("pooled/*",), penalty=penalty)
        detector.fit(measured, adversarial, ~adversarial)
        scores, learned = detector.judge(measured), detector._learned
        numbers = torch.cat([measured["pooled/1"], measured["pooled/2"]], dim=1).double()
        scaled = (numbers - learned["mean"]) / learned["scale"]
        # Where the loss is least its slope is 0: penalty times weights are what the data pull.
        pull = (scaled * (signs * torch.sigmoid(-signs * scores))[:, None]).sum(dim=0)
        torch.testing.assert_close(penalty * learned["weight"], pull, rtol=1e-2, atol=1e-2)
        sizes.append(learned["weight"].norm().item())
    assert sizes[1] < 0.6 * sizes[0]


def test_maps_are_no_vectors():
    measured = {"masks/1": torch.zeros(8, 3, 4, 4)}
    detector = LogisticRegression(source=Logits(), reads=("masks/*",))
    with pytest.raises(ConfigError, match="masks/1 is"):
        detector.fit(measured, torch.arange(8) >= 4, torch.arange(8) < 4)
    with pytest.raises(ConfigError, match="must name a measured tensor"):
        LogisticRegression(source=Logits(), reads=())


def test_a_regression_reads_the_sizes_of_what_it_is_told_to():
    rng = torch.Generator().manual_seed(0)
    flags = torch.arange(200) % 2 == 0
    # Attacks change a channel one way or the other: the change says nothing, its size everything.
    change = torch.randn(200, 3, generator=rng) * torch.where(flags, 3.0, 0.3)[:, None]
    measured = {"pooled/1": torch.randn(200, 3, generator=rng), "moved/change/pooled/1": change}
    found = {}
    for sizes in ((), ("*/change/*",)):
        detector = LogisticRegression(source=Logits(), reads=("pooled/*", "*/pooled/*"), sizes=sizes)
        detector.fit(measured, flags, ~flags)
        scores = detector.judge(measured)
        found[sizes] = auroc(scores[flags], scores[~flags])
        twin = LogisticRegression(source=Logits(), reads=("pooled/*", "*/pooled/*"), sizes=sizes)
        twin.restore(detector.state())
        assert twin.judge(measured).equal(scores)
    assert found[()] < 0.7 < 0.95 < found[("*/change/*",)]
    assert "sizes" not in LogisticRegression(source=Logits(), reads=("pooled/*",)).settings()
    with pytest.raises(ConfigError, match="no measured tensor is named like"):
        LogisticRegression(source=Logits(), reads=("pooled/*",), sizes=("none",)).fit(measured, flags, ~flags)
