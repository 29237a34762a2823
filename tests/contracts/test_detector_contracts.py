"""What every exported detector promises, generated from the table of cases."""

import copy
import inspect

import pytest
import torch
from detector_cases import CASES, DetectorCase, toy_classifier, toy_images

import verisal.detectors
from verisal.detectors import Detector

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def fitted(case: DetectorCase, classifier: torch.nn.Module | None = None) -> Detector:
    detector = case.make(classifier or toy_classifier())
    images = toy_images(16, seed=9)
    detector.fit(images, torch.arange(16) % 2 == 0)
    return detector


def test_every_exported_detector_has_a_row():
    exported = {getattr(verisal.detectors, name) for name in verisal.detectors.__all__}
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Detector)}
    concrete = {kind for kind in kinds if not inspect.isabstract(kind)}
    assert concrete == {type(case.make(toy_classifier())) for case in CASES.values()}


@EVERY
def test_detector_is_final(case):
    assert type(case.make(toy_classifier())).__final__


@EVERY
def test_one_finite_float_per_image_that_varies_and_carries_no_graph(case):
    scores = fitted(case).score(toy_images(9))
    assert scores.shape == (9,)
    assert scores.dtype in (torch.float32, torch.float64)
    assert bool(scores.isfinite().all())
    assert not scores.requires_grad
    assert len(scores.unique()) == 9  # continuous: thresholds can be put anywhere
    assert fitted(case).score(toy_images(0)).shape == (0,)


@EVERY
def test_score_of_an_image_does_not_depend_on_its_batch_mates(case):
    detector, images = fitted(case), toy_images(7)
    whole = detector.score(images)
    order = torch.tensor([4, 0, 6])
    torch.testing.assert_close(detector.score(images[order]), whole[order], rtol=0, atol=1e-5)
    singles = torch.cat([detector.score(image[None]) for image in images])
    torch.testing.assert_close(singles, whole, rtol=0, atol=1e-5)


@EVERY
@pytest.mark.parametrize("mode", MODES)
def test_same_scores_whatever_surrounds_the_call(case, mode):
    detector = fitted(case)
    plain = detector.score(toy_images(5))
    with MODES[mode]():
        inside = detector.score(toy_images(5))
    assert inside.equal(plain)


@EVERY
def test_fitting_and_scoring_leave_classifier_images_and_random_state_alone(case):
    classifier, images, before = toy_classifier(), toy_images(6), torch.get_rng_state()
    kept, given = copy.deepcopy(classifier.state_dict()), images.clone()
    first = fitted(case, classifier).score(images)
    torch.manual_seed(77)
    assert fitted(case, classifier).score(images).equal(first)
    torch.set_rng_state(before)
    fitted(case, classifier).score(images)
    assert torch.get_rng_state().equal(before)
    assert all(value.equal(kept[name]) for name, value in classifier.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())
    assert not classifier.training
    assert images.equal(given)
