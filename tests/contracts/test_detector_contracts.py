"""What every exported detector promises, generated from the table of cases."""

import copy
import inspect
import json

import pytest
import torch

import verisal.detectors
from helpers.detector_cases import CASES, fitted, toy_classifier, toy_images
from verisal.detectors import CNNDetector, Detector, DetectorFeatures, SalientPixels, SqueezedLogits
from verisal.errors import ConfigError, NumericError
from verisal.functional.baselines import Blur
from verisal.saliency import Gradient, HierarchicalMasks, LearnedMask, Occlusion, SmoothGrad

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def score(detector: Detector, images: torch.Tensor) -> torch.Tensor:
    return detector.score(toy_classifier(), images)


def test_every_exported_detector_has_a_row():
    exported = {getattr(verisal.detectors, name) for name in verisal.detectors.__all__}
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Detector)}
    concrete = {kind for kind in kinds if not inspect.isabstract(kind)}
    assert concrete == {type(case.make()) for case in CASES.values()}


@EVERY
def test_detector_is_final_and_its_settings_are_plain_data_that_fitting_does_not_change(case):
    assert type(case.make()).__final__
    assert json.loads(json.dumps(case.make().settings())) == case.make().settings()
    assert fitted(case).settings() == case.make().settings()


@EVERY
def test_measurement_is_one_row_per_image_and_its_settings_are_plain_data(case):
    measurement = case.make().measurement
    assert json.loads(json.dumps(measurement.settings())) == measurement.settings()
    measured = measurement(toy_classifier(), toy_images(5))
    assert measured
    assert all(len(tensor) == 5 and not tensor.requires_grad for tensor in measured.values())


@EVERY
def test_what_is_measured_of_an_image_does_not_depend_on_its_batch_mates(case):
    measurement, images = case.make().measurement, toy_images(6)
    whole = measurement(toy_classifier(), images)
    part = measurement(toy_classifier(), images[[4, 1]])
    for name, tensor in whole.items():
        torch.testing.assert_close(part[name].float(), tensor[[4, 1]].float(), rtol=1e-3, atol=1e-3)


@EVERY
def test_an_image_without_logits_is_not_measured(case):
    """What would be read is for the class that argmax names, and there is none."""
    classifier = toy_classifier()
    with torch.no_grad():
        classifier.network.head.bias[1] = torch.nan
    with pytest.raises(NumericError, match=r"not finite .* for 2 of 2 images"):
        case.make().measurement(classifier, toy_images(2))


@EVERY
def test_a_function_is_measured_or_refused_and_a_wrapped_classifier_is_seen_through(case):
    classifier, images = toy_classifier(), toy_images(2)
    measurement = case.make().measurement
    expected = measurement(classifier, images)
    wrapped = measurement(torch.nn.DataParallel(classifier), images)
    assert all(wrapped[name].equal(tensor) for name, tensor in expected.items())
    if any(kind in name for name in expected for kind in ("pooled/", "gates/", "masks/", "spectrum/")):
        with pytest.raises(ConfigError, match=r"reads or gates stages and needs verisal\.models\.Classifier"):
            measurement(classifier.forward, images)
    else:
        torch.testing.assert_close(measurement(classifier.forward, images), expected)


@EVERY
def test_one_that_learns_says_so_when_it_was_not_fitted(case):
    if case.learns:
        with pytest.raises(ConfigError, match="fit"):
            score(case.make(), toy_images(2))
    else:
        assert score(case.make(), toy_images(2)).equal(score(fitted(case), toy_images(2)))


@EVERY
def test_fitting_again_forgets_and_repeats(case):
    detector, images = fitted(case), toy_images(6)
    before = score(detector, images)
    measured = detector.measurement(toy_classifier(), toy_images(40, seed=77))
    detector.fit(measured, torch.arange(40) >= 20, torch.arange(40) < 10)
    other = score(detector, images)
    assert other.equal(before) is not case.learns
    assert score(fitted(case), images).equal(before)


@EVERY
def test_one_finite_float_per_image_that_varies_and_carries_no_graph(case):
    scores = score(fitted(case), toy_images(9))
    assert scores.shape == (9,)
    assert scores.dtype in (torch.float32, torch.float64)
    assert bool(scores.isfinite().all())
    assert not scores.requires_grad
    assert len(scores.unique()) >= case.distinct  # continuous: thresholds can be put anywhere
    assert score(fitted(case), toy_images(0)).shape == (0,)


@EVERY
def test_score_of_an_image_does_not_depend_on_its_batch_mates(case):
    detector, images = fitted(case), toy_images(7)
    whole = score(detector, images)
    order = torch.tensor([4, 0, 6])
    torch.testing.assert_close(score(detector, images[order]), whole[order], rtol=1e-4, atol=1e-4)
    singles = torch.cat([score(detector, image[None]) for image in images])
    torch.testing.assert_close(singles, whole, rtol=1e-4, atol=1e-4)


@EVERY
@pytest.mark.parametrize("mode", MODES)
def test_same_scores_whatever_surrounds_the_call(case, mode):
    detector = fitted(case)
    # Made outside: a classifier made under inference mode can never be asked for a gradient.
    classifier = toy_classifier()
    plain = detector.score(classifier, toy_images(5))
    with MODES[mode]():
        inside = detector.score(classifier, toy_images(5))
    assert inside.equal(plain)


@EVERY
def test_fitting_and_scoring_leave_classifier_images_and_random_state_alone(case):
    classifier, images, before = toy_classifier(), toy_images(6), torch.get_rng_state()
    kept, given = copy.deepcopy(classifier.state_dict()), images.clone()
    first = fitted(case, classifier).score(classifier, images)
    torch.manual_seed(77)
    assert fitted(case, classifier).score(classifier, images).equal(first)
    torch.set_rng_state(before)
    fitted(case, classifier).score(classifier, images)
    assert torch.get_rng_state().equal(before)
    assert all(value.equal(kept[name]) for name, value in classifier.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())
    assert not classifier.training
    assert images.equal(given)


@EVERY
def test_what_was_learned_is_named_tensors_that_give_an_equal_detector_the_same_scores(case):
    detector, images = fitted(case), toy_images(6)
    state = detector.state()
    assert bool(state) is case.learns
    assert all(name.startswith(f"{type(detector).__name__}.") for name in state)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    fresh = Detector.from_recipe(json.loads(json.dumps(detector.recipe())))
    assert type(fresh) is type(detector)
    assert fresh.settings() == detector.settings()
    assert fresh.state() == {}
    fresh.restore(kept)
    assert score(fresh, images).equal(score(detector, images))
    assert all(tensor.equal(kept[name]) for name, tensor in fresh.state().items())


@EVERY
def test_the_state_of_another_detector_and_that_of_an_unfitted_one_are_refused(case):
    other = fitted(CASES["KernelDensity" if case is not CASES["KernelDensity"] else "MaskStatistics"])
    detector = case.make()
    with pytest.raises(ConfigError, match="is the state of"):
        detector.restore(other.state())
    if case.learns:
        with pytest.raises(ConfigError, match="learned nothing"):
            detector.restore({})


@pytest.mark.parametrize(
    "source",
    [
        DetectorFeatures(saliency=HierarchicalMasks(reg_weight=0.3, shown="gates"), queries=("prediction",)),
        DetectorFeatures(
            saliency=LearnedMask(checkpoint="emoji_scenes_64_masks"), views=("original", "shifted")
        ),
        SalientPixels(saliency=SmoothGrad(base=Gradient(), samples=3)),
        SalientPixels(saliency=Occlusion(window=4, stride=2, baseline=Blur(sigma=3.0))),
        SqueezedLogits(bits=3),
    ],
    ids=lambda source: type(source).__name__,
)
def test_a_recipe_makes_what_is_nested_again_and_names_what_it_cannot_make(source):
    detector = CNNDetector(source=source, reads=("a/*", "b"), members=1)
    recipe = json.loads(json.dumps(detector.recipe()))
    assert Detector.from_recipe(recipe) == detector
    for change in ({"class": "os.system"}, {"width_": 3}, {"source": {"class": "Path"}}):
        with pytest.raises(ConfigError, match="no detector can be made of"):
            Detector.from_recipe(recipe | change)
    with pytest.raises(ConfigError, match="a detector was expected"):
        Detector.from_recipe(recipe["source"])
