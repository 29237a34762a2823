"""An alarm from images and labels in memory: honest parts, threshold, report and file."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.detector_cases import toy_classifier, toy_images
from verisal.attacks import FGSM, PGD, Attack, GaussianBlur, named_attacks
from verisal.data.guard import ImageDigests
from verisal.detection import Alarm, load_alarm
from verisal.detection.detector_file import read_detector
from verisal.detectors import LearnedConsistency, Mahalanobis, MaxSoftmax
from verisal.errors import CheckpointError, ConfigError, DataError
from verisal.fingerprint import state_hash
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import ask
from verisal.models import Classifier

COUNT = 300


@pytest.fixture(scope="module")
def problem():
    """A classifier, and images that it gets right but for one."""
    classifier, images = toy_classifier(), toy_images(COUNT)
    with torch.no_grad():
        labels = ask(classifier, images).argmax(dim=1)
    labels[7] = (labels[7] + 1) % 5
    return classifier, images, labels


def fitted(problem, **settings) -> Alarm:
    classifier, images, labels = problem
    given = {"attacks": [FGSM(0.1), PGD(0.05, steps=3)], "false_alarms": 0.1} | settings
    return Alarm.fit(classifier, images, labels, **given)


@pytest.fixture(scope="module")
def alarm(problem) -> Alarm:
    return fitted(problem, unseen=[PGD(0.5, "l2", steps=3)])


def digests(images: Tensor) -> Tensor:
    return ImageDigests.of(round_to_8bit(images), [""] * len(images)).values


def part_of(alarm: Alarm, images: Tensor) -> dict[str, Tensor]:
    """Rows of the images by the part that they stand in."""
    own = digests(images)
    parts = {part: torch.isin(own, alarm.seen[part]) for part in ("fit", "val")}
    return parts | {"test": ~(parts["fit"] | parts["val"])}


def test_parts_share_no_image_and_have_the_proportions(alarm, problem):
    parts = part_of(alarm, problem[1])
    assert not (parts["fit"] & parts["val"]).any()
    shares = [float(rows.float().mean()) for rows in parts.values()]
    assert shares == pytest.approx([0.3, 0.5, 0.2], abs=0.08)
    assert alarm.report.counts["clean"] + alarm.report.counts["clean_misclassified"] == parts["test"].sum()


def test_threshold_comes_from_clean_validation_images_that_are_right(alarm, problem):
    classifier, images, labels = problem
    validation = part_of(alarm, images)["val"]
    right = validation & (ask(classifier, images).argmax(dim=1) == labels)
    scores = alarm.detector.score(classifier, images[right]).sort(descending=True).values
    assert alarm.threshold == pytest.approx(float(scores[int(0.1 * len(scores))]), abs=1e-9)
    assert (scores > alarm.threshold).float().mean() <= 0.1


def test_report_is_of_the_third_part_alone(alarm, problem):
    classifier, images, labels = problem
    test = part_of(alarm, images)["test"] & (ask(classifier, images).argmax(dim=1) == labels)
    share = float((alarm.detector.score(classifier, images[test]) > alarm.threshold).float().mean())
    assert alarm.report.scores["test/Vote/fpr/clean"].value == pytest.approx(share)
    for name in ("fgsm", "pgd", "pgd_eps_0_5_norm_l2"):
        score = alarm.report.scores[f"test/Vote/tpr_at_fpr10/{name}"]
        assert score.n == alarm.report.counts[name]
    assert alarm.report.notes == ("kinds of attacks that the alarm never saw before: pgd_eps_0_5_norm_l2",)


def test_what_is_reported_on_changes_neither_fit_nor_threshold(alarm, problem):
    other = fitted(problem, unseen=[PGD(0.2, "l2", steps=1), FGSM(0.3)])
    assert other.threshold == alarm.threshold
    assert state_hash(other.detector.state()) == state_hash(alarm.detector.state())


def test_fit_depends_on_the_images_not_on_their_order_or_number_of_copies(alarm, problem):
    classifier, images, labels = problem
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    again = fitted((classifier, images[order], labels[order]))
    for part, own in alarm.seen.items():
        assert again.seen[part].equal(own)
    twice = fitted((classifier, torch.cat([images, images[:60]]), torch.cat([labels, labels[:60]])))
    for part, own in alarm.seen.items():
        assert twice.seen[part].equal(own)


def test_judges_new_images(alarm, problem):
    classifier, images, _ = problem
    scores, alarms = alarm(images[:5])
    assert scores.equal(alarm.detector.score(classifier, images[:5]))
    assert alarms.equal(scores > alarm.threshold)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        alarm(images[:5] * 255)


def test_attacked_images_ring_more_often_than_clean_ones(alarm):
    rates = alarm.report.scores
    assert rates["test/Vote/auroc/fgsm"].value > 0.6
    assert rates["test/Vote/fpr/clean"].value < 0.25


def test_images_of_another_kind_are_known_by_their_scores(alarm, problem):
    parts = part_of(alarm, problem[1])
    assert not alarm.drift(alarm(problem[1][parts["test"]]).scores).drifted
    same = problem[1][:1].expand(60, -1, -1, -1)
    assert alarm.drift(alarm(same.clone()).scores).drifted
    assert alarm.drift(torch.zeros(0)) is None
    assert replace(alarm, clean_scores=None).drift(torch.zeros(9)) is None


def test_images_near_the_border_are_learned_from(alarm, problem):
    without = fitted(problem, unseen=[PGD(0.5, "l2", steps=3)], near_border=0)
    assert without.threshold != alarm.threshold
    assert without.report.counts == alarm.report.counts
    assert "near" not in alarm.table()


def test_classifier_is_left_as_it_was(problem):
    classifier, images, labels = problem
    classifier.train()
    before = state_hash(classifier)
    fitted((classifier, images, labels))
    assert all(module.training for module in classifier.modules())
    assert state_hash(classifier) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    classifier.eval()


def test_a_network_must_say_how_it_normalises(problem):
    classifier, images, labels = problem
    with pytest.raises(ConfigError, match="normalization"):
        fitted((classifier.network, images, labels))


@pytest.mark.parametrize("detector", [LearnedConsistency(), Mahalanobis(), MaxSoftmax()], ids=repr)
def test_file_gives_the_same_alarm(problem, tmp_path, detector):
    classifier, images, _ = problem
    alarm = fitted(problem, detector=detector, false_alarms=0.08)
    alarm.save(tmp_path / "alarm.safetensors")
    again = load_alarm(tmp_path / "alarm.safetensors", classifier)
    assert again(images[:9]).scores.equal(alarm(images[:9]).scores)
    assert (again.threshold, again.false_alarms) == (alarm.threshold, 0.08)
    assert again.fits()
    assert {part: again.seen[part].equal(own) for part, own in alarm.seen.items()} == {
        "fit": True,
        "val": True,
    }
    assert repr(again) == repr(alarm)
    assert again.clean_scores.size == alarm.clean_scores.size >= 100
    assert again.clean_scores.quantiles.equal(alarm.clean_scores.quantiles)
    card = read_detector(tmp_path / "alarm.safetensors").card
    assert card.get("stages") == (["first", "second"] if isinstance(detector, Mahalanobis) else None)
    with pytest.raises(ConfigError, match="no report, as it comes from a file"):
        again.table()


def test_file_of_another_classifier_is_refused_and_other_weights_are_told(alarm, tmp_path):
    alarm.save(tmp_path / "alarm.safetensors")
    other = toy_classifier()
    with torch.no_grad():
        other.network.head.bias += 1
    with pytest.raises(CheckpointError, match="another classifier: other weights"):
        load_alarm(tmp_path / "alarm.safetensors", other)
    assert alarm.fits()
    moved = alarm.beside(other)
    assert not moved.fits()
    taken = load_alarm(tmp_path / "alarm.safetensors", other, other_weights=True)
    assert (taken.threshold, taken.fits()) == (alarm.threshold, False)
    assert (moved.threshold, moved.detector) == (alarm.threshold, alarm.detector)
    with pytest.raises(CheckpointError, match=r"kept in a \.safetensors file, found alarm\.pt"):
        alarm.save("alarm.pt")


def test_file_is_read_beside_a_classifier_that_has_seen_no_image(problem, tmp_path):
    classifier, images, _ = problem
    bare, known = classifier.network, classifier.normalization
    alarm = fitted((Classifier(bare, normalization=known), *problem[1:]), detector=MaxSoftmax())
    alarm.save(tmp_path / "alarm.safetensors")
    again = load_alarm(tmp_path / "alarm.safetensors", Classifier(bare, normalization=known))
    assert again(images[:9]).scores.equal(alarm(images[:9]).scores)
    with pytest.raises(ConfigError, match="does not say how it normalises"):
        load_alarm(tmp_path / "alarm.safetensors", bare)


def test_a_detector_that_is_fitted_again_changes_no_alarm_before(problem):
    detector = Mahalanobis()
    first = fitted(problem, detector=detector)
    learned = state_hash(first.detector.state())
    fitted(problem, detector=detector, seed=1)
    assert state_hash(first.detector.state()) == learned
    assert detector.state() == {}


def test_a_classifier_of_other_classes_or_stages_is_refused(problem):
    classifier, *_ = problem
    alarm = fitted(problem, detector=Mahalanobis())
    with pytest.raises(ConfigError, match=r"5 classes and the stages \['first', 'second'\], found 5 classes"):
        alarm.beside(Classifier(classifier.network, ["first"], normalization="none", image_size=12))


def test_table_has_a_line_per_group(alarm):
    lines = alarm.table().splitlines()
    assert lines[0] == f"Vote, alarm above {alarm.threshold:.4g}: 10 % of clean validation images"
    shown = {line.split()[0]: line.split()[1] for line in lines[2:-1]}
    assert shown == {name: str(count) for name, count in alarm.report.counts.items() if count}
    assert lines[-1] == "kinds of attacks that the alarm never saw before: pgd_eps_0_5_norm_l2"


def test_noise_and_corruptions_of_ones_own(problem):
    alarm = fitted(problem, noise=[GaussianBlur(0.5)])
    assert {"gaussian_blur", "noise_l2"} <= set(alarm.report.counts)
    assert "sign_noise" not in alarm.report.counts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_alarms": 5}, r"must lie in \(0, 1\), found 5"),
        ({"attacks": []}, "at least one attack to learn from"),
        ({"attacks": ["fgsm"]}, r"an attack such as PGD\(eps=8 / 255\) was expected, found str"),
        ({"attacks": {"a": FGSM(0.1)}, "unseen": {"a": FGSM(0.2)}}, r"share the names \['a'\]"),
        ({"ratios": (0.5, 0.5, 0.0)}, "three proportions"),
    ],
)
def test_refusals(problem, settings, message):
    with pytest.raises(ConfigError, match=message):
        fitted(problem, **settings)


def test_too_few_images_are_refused_before_anything_is_attacked(problem, monkeypatch):
    def attacked(*given, **settings):
        raise AssertionError("attacked")

    monkeypatch.setattr(Attack, "__call__", attacked)
    message = (
        r"needs 1000 clean images that the classifier gets right in the part that sets the threshold;"
        r" found 1\d\d among its 1\d\d \(50 % of all, .*some 20\d\d in all at this accuracy"
    )
    with pytest.raises(ConfigError, match=message):
        fitted(problem, false_alarms=0.01)
    with pytest.raises(AssertionError, match="attacked"):
        fitted(problem)


def test_a_fit_says_how_far_it_is(problem, capsys):
    fitted(problem)
    said = [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()]
    # Clean images of the threshold come first, which may be too few.
    kinds = ["reading", "reading", "attacking", "adding", "measuring", "measuring"]
    kinds += ["reading", "attacking", "adding", "measuring"]
    assert [line.split()[:4] for line in said] == [
        [str(number + 1), "of", str(len(kinds)), kind] for number, kind in enumerate(kinds)
    ]
    assert said[0].endswith(" validation images")


def test_images_that_trained_the_classifier_are_refused(problem):
    classifier, images, labels = problem
    known = toy_classifier()
    known.seen_images = {"fit": digests(images[:3])}
    with pytest.raises(DataError, match="stand in the images that the classifier was trained on"):
        fitted((known, images, labels))
    assert classifier.seen_images == {}


def test_names_of_attacks():
    assert list(named_attacks([FGSM(8 / 255), PGD(8 / 255)])) == ["fgsm", "pgd"]
    assert list(named_attacks([PGD(8 / 255, steps=5), FGSM(0.1), PGD(8 / 255)])) == [
        "pgd_steps_5",
        "fgsm",
        "pgd_steps_10",
    ]
    assert named_attacks({"mine": FGSM(0.1)}) == {"mine": FGSM(0.1)}
    with pytest.raises(ConfigError, match=r"two of the attacks \['fgsm'\] are equal"):
        named_attacks([FGSM(0.1), FGSM(0.1)])
    with pytest.raises(ConfigError, match=r"letters, digits and '_', found \['a b'\]"):
        named_attacks({"a b": FGSM(0.1)})


def test_a_store_keeps_what_was_attacked_and_measured(problem, tmp_path):
    first = fitted(problem, store=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = fitted(problem, store=tmp_path)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert again.threshold == first.threshold
    assert state_hash(again.detector.state()) == state_hash(first.detector.state())
