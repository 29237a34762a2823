"""Views by hand, what is measured of them, and detectors that read several."""

import pytest
import torch
from jsonargparse import ArgumentParser, set_parsing_settings

from helpers.detector_cases import ToyGates, toy_classifier, toy_images
from verisal.attacks import JPEG
from verisal.detectors import (
    Detector,
    DetectorFeatures,
    Flipped,
    LearnedConsistency,
    LogitTrees,
    MeanFiltered,
    Measurement,
    MedianFiltered,
    Moved,
    Noised,
    ReEncoded,
    Scaled,
    ShiftConsistency,
    View,
    ViewConsistency,
    ViewLogits,
)
from verisal.errors import ConfigError
from verisal.fingerprint import fingerprint
from verisal.functional.filters import shift_one_pixel
from verisal.functional.outputs import softmax_distance
from verisal.functional.statistics import auroc

VIEWS = (
    Moved(), Moved(-2, 0), Moved(0, 3), Moved(9, -20), Flipped(), MeanFiltered(2), MedianFiltered(), Scaled(),
    Scaled(0.3), ReEncoded(), Noised(), Noised(2.0, 5),
)  # fmt: skip


def test_moves_by_hand():
    image = torch.arange(6.0).view(1, 1, 2, 3) / 8
    assert (8 * Moved(-1, 0)(image)).tolist() == [[[[1, 2, 2], [4, 5, 5]]]]
    assert (8 * Moved(0, 1)(image)).tolist() == [[[[0, 1, 2], [0, 1, 2]]]]
    assert (8 * Moved(2, -1)(image)).tolist() == [[[[3, 3, 3], [3, 3, 3]]]]
    assert Moved(1, 1)(image).equal(shift_one_pixel(image))
    assert (8 * Flipped()(image)).tolist() == [[[[2, 1, 0], [5, 4, 3]]]]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_of_an_image_is_an_image_of_its_size_that_its_batch_mates_do_not_change(view, channels):
    rng = torch.Generator().manual_seed(0)
    images = (torch.rand(3, channels, 9, 14, generator=rng) * 255).round() / 255
    given = images.clone()
    seen = view(images)
    assert seen.shape == images.shape
    assert 0 <= seen.min() <= seen.max() <= 1
    assert not seen.equal(images)
    assert view(images[1:2]).equal(seen[1:2])
    assert view(images[:0]).shape == images[:0].shape
    assert images.equal(given)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_gradients_pass_through_and_change_no_value(view):
    images = toy_images(2)
    leaf = images.clone().requires_grad_()
    seen = view(leaf)
    torch.testing.assert_close(seen, view(images), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(seen.sum(), leaf)
    assert gradient.abs().sum() > 100


def test_names_differ_where_settings_do():
    assert len({view.name for view in VIEWS}) == len(VIEWS)
    assert [view.name for view in VIEWS[:2]] == ["moved_1_1", "moved_-2_0"]
    assert [view.name for view in VIEWS[-4:]] == ["scaled_0.3", "jpeg_75", "noise_0.5_0", "noise_2_5"]


def test_noise_has_its_norm_and_is_the_same_for_all_images():
    images = torch.full((2, 3, 20, 20), 0.5)
    noise = Noised(1.5)(images) - images
    assert noise[0].norm().item() == pytest.approx(1.5, rel=1e-4)
    assert noise[0].equal(noise[1])
    assert not noise.equal(Noised(1.5, seed=1)(images) - images)


def test_re_encoded_is_the_corruption_of_that_name():
    images = toy_images(3)
    corrupted = JPEG(40)(toy_classifier(), images, [0, 1, 2]).images
    assert ReEncoded(40)(images).equal(corrupted)


@pytest.mark.parametrize("make", [lambda: Moved(0, 0), lambda: Scaled(1.0)])
def test_no_change_at_all_is_refused(make):
    with pytest.raises(ConfigError, match="is the image itself"):
        make()


def test_logits_of_every_view_under_its_name():
    classifier, images = toy_classifier(), toy_images(4)
    found = ViewLogits(views=(Moved(0, -1), Flipped()))(classifier, images)
    assert list(found) == ["logits", "moved_0_-1/logits", "flipped/logits"]
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], classifier(images))
        torch.testing.assert_close(found["flipped/logits"], classifier(images.flip(-1)))
        torch.testing.assert_close(found["moved_0_-1/logits"], classifier(Moved(0, -1)(images)))


def test_no_view_by_default_finds_a_file_format_or_noise():
    kinds = {type(view) for view in ViewLogits().seen}
    assert ViewLogits(views=ViewLogits().seen).settings() == ViewLogits().settings()
    assert kinds == {Moved, Flipped, MeanFiltered, MedianFiltered, Scaled}


def test_settings_of_views_are_read_from_files_and_written_to_them():
    set_parsing_settings(subclasses_enabled=[Detector, Measurement, View])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--row", type=Detector)
    views = [{"class_path": "Moved", "init_args": {"right": -1, "down": 0}}, {"class_path": "Flipped"}]
    source = {"class_path": "ViewLogits", "init_args": {"views": views}}
    for given, expected in (
        ({}, ViewConsistency()),
        ({"source": source}, ViewConsistency(source=ViewLogits(views=(Moved(-1, 0), Flipped())))),
    ):
        read = parser.parse_object({"row": {"class_path": "ViewConsistency", "init_args": given}})
        assert parser.instantiate(read).row == expected
        again = parser.parse_string(parser.dump(read))
        assert parser.instantiate(again).row == expected


@pytest.mark.parametrize("views", [(), (Flipped(), Moved(), Flipped())])
def test_no_view_and_two_of_one_name_are_refused(views):
    with pytest.raises(ConfigError, match="views must be at least 1, all different; found"):
        ViewLogits(views=views)


# Features


def features(**settings):
    return DetectorFeatures(saliency=ToyGates(), queries=("prediction",), **settings)


def test_more_views_of_features_change_nothing_of_those_before():
    classifier, images = toy_classifier(), toy_images(4)
    before = features(views=("original", "shifted"))(classifier, images)
    found = features(views=("original", "shifted", Moved(-1, 0)), logits_views=(Flipped(), MeanFiltered()))(
        classifier, images
    )
    assert all(found[name].equal(tensor) for name, tensor in before.items())
    moved = {f"moved_-1_0/{name.removeprefix('shifted/')}" for name in before if name.startswith("shifted/")}
    assert set(found) == {*before, *moved, "flipped/logits", "mean_3/logits"}
    logits = ViewLogits(views=(Moved(-1, 0), Flipped(), MeanFiltered()))(classifier, images)
    for name in ("moved_-1_0/logits", "flipped/logits", "mean_3/logits"):
        torch.testing.assert_close(found[name], logits[name])
    moved_alone = features()(classifier, Moved(-1, 0)(images))
    torch.testing.assert_close(found["moved_-1_0/activations/2"], moved_alone["activations/2"])


def test_logits_of_views_are_in_the_graph_of_the_images_where_there_is_one():
    classifier, images = toy_classifier(), toy_images(2).requires_grad_()
    made = features(logits_views=(MedianFiltered(),))
    found = made.differentiable(
        classifier, images, gates=lambda network, seen, outputs, query: outputs.activations
    )
    (gradient,) = torch.autograd.grad(found["median_3/logits"].sum(), images)
    assert gradient.abs().sum() > 0
    assert not made(classifier, images)["median_3/logits"].requires_grad


def test_settings_of_features_without_further_views_are_those_of_before():
    settings = features(views=("original", "shifted")).settings()
    assert set(settings) == {"class", "rules", "saliency", "queries", "views", "gated_activation"}
    assert settings["views"] == ["original", "shifted"]
    with_view = features(logits_views=(Flipped(),))
    assert fingerprint(with_view) != fingerprint(features())
    assert with_view.settings()["logits_views"] == [{"class": "Flipped"}]


@pytest.mark.parametrize(
    "settings",
    [
        {"views": ("original", "shifted", "shifted")},
        {"logits_views": (Flipped(), Flipped())},
        {"views": ("original", Moved(1, 0)), "logits_views": (Moved(1, 0),)},
    ],
)
def test_two_views_of_one_name_are_refused(settings):
    with pytest.raises(ConfigError, match="views must be all different; found"):
        features(**settings)


def test_recipes_make_views_again():
    for detector in (
        LogitTrees(source=features(views=("original", Moved(0, 1)), logits_views=(Noised(0.1, 3),))),
        ViewConsistency(source=ViewLogits(views=VIEWS)),
    ):
        assert Detector.from_recipe(detector.recipe()) == detector


# Detectors


def planted(count, *, seed, names=("a", "b")):
    """Answers that the views leave alone on the first half; on the second only view b turns."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=rng) * 2
    measured = {"logits": logits}
    for name in names:
        measured[f"{name}/logits"] = logits + 0.2 * torch.randn(count, 4, generator=rng)
    turned = torch.arange(count) >= count // 2
    measured["b/logits"][turned] = logits[turned].flip(1)
    return measured, turned


@pytest.mark.parametrize("make", [ViewConsistency, lambda **given: LogitTrees(trees=30, share=0.5, **given)])
def test_the_view_that_turns_is_found_among_several_and_missed_without_it(make):
    given, turned = planted(100, seed=0)
    fresh, again = planted(80, seed=1)
    for reads, (least, most) in {("*/logits",): (0.95, 1.0), ("a/logits",): (0.0, 0.75)}.items():
        detector = make(reads=reads)
        detector.fit(given, turned, ~turned)
        scores = detector.judge(fresh)
        assert least <= auroc(scores[again], scores[~again]) <= most


def test_one_view_is_learned_consistency():
    given, turned = planted(60, seed=0, names=("b",))
    shifted = {"logits": given["logits"], "shifted/logits": given["b/logits"]}
    one, several = LearnedConsistency(), ViewConsistency()
    one.fit(shifted, turned, ~turned)
    several.fit(given, turned, ~turned)
    assert one.judge(shifted).equal(several.judge(given))


def test_trees_read_ranks_not_classes():
    given, turned = planted(60, seed=0)
    detector = LogitTrees(trees=10)
    detector.fit(given, turned, ~turned)
    order = torch.tensor([2, 0, 3, 1])
    renamed = {name: tensor[:, order] for name, tensor in given.items()}
    torch.testing.assert_close(detector.numbers(renamed), detector.numbers(given))


def test_trees_of_the_image_alone_read_no_view():
    given, turned = planted(60, seed=0)
    detector = LogitTrees(reads=(), trees=5, ranks=3)
    detector.fit({"logits": given["logits"]}, turned, ~turned)
    assert detector.numbers(given).shape == (60, 3)
    assert (detector.numbers(given).diff(dim=1) <= 0).all()


def test_distances_over_several_views_by_hand():
    measured, _ = planted(6, seed=0)
    apart = torch.stack([softmax_distance(measured["logits"], measured[f"{v}/logits"]) for v in "ab"])
    largest = ShiftConsistency(reads=("*/logits",))
    mean = ShiftConsistency(reads=("*/logits",), over="mean")
    torch.testing.assert_close(largest.judge(measured), apart.amax(dim=0))
    torch.testing.assert_close(mean.judge(measured), apart.mean(dim=0))


def test_settings_of_one_shift_are_those_of_before():
    assert set(ShiftConsistency().settings()) == {"class", "source"}
    assert set(ShiftConsistency(reads=("*/logits",), over="mean").settings()) == {
        "class", "source", "reads", "over"
    }  # fmt: skip


def test_what_no_consistency_can_read_is_refused():
    with pytest.raises(ConfigError, match="needs reads to name a copy's logits"):
        ShiftConsistency(reads=())
    with pytest.raises(ConfigError, match="found none"):
        ViewConsistency(reads=())
    with pytest.raises(ConfigError, match="no measured tensor is named like 'shifted/logits'"):
        ShiftConsistency(source=ViewLogits()).score(toy_classifier(), toy_images(2))
