"""Controls of the whole bench: what must be at chance is, and what must not count does not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import pytest
import torch
from torch import Tensor

from helpers.tiny_detector import SIZE, memorised
from helpers.tiny_transfer import attacks, study
from verisal.attacks import PGD
from verisal.data import EmojiScenes
from verisal.detectors import CNNDetector, Detector, LearnedConsistency, MaxSoftmax, Measurement, Pixels
from verisal.errors import DataError
from verisal.functional.adversarial import gaussian_noise, round_to_8bit
from verisal.functional.statistics import auroc
from verisal.types import StagedClassifier

pytestmark = pytest.mark.slow

# Half of the images to fit on, half to test on.
COUNT = 160


def detectors():
    return {
        "pixels": CNNDetector(
            source=Pixels(), reads=("image",), scalars=("logits",), grid=8, members=1, epochs=8, width=8,
            batch_size=32,
        ),
        "consistency": LearnedConsistency(),
    }  # fmt: skip


LEARNERS = pytest.mark.parametrize("name", detectors())


@pytest.fixture(scope="module")
def clean() -> Tensor:
    return round_to_8bit(EmojiScenes("det_val", COUNT, size=SIZE).stack(range(COUNT)).images).float() / 255


def answers_to(images: Tensor) -> Tensor:
    classifier = memorised()
    with torch.no_grad():
        return classifier(images).argmax(dim=1)


@pytest.fixture(scope="module")
def attacked(clean) -> Tensor:
    answers = answers_to(clean)
    rng = torch.Generator().manual_seed(0)
    return (
        round_to_8bit(PGD(12 / 255, steps=4)(memorised(), clean, answers, generator=rng).images).float() / 255
    )


def noisy(clean: Tensor, like: Tensor, *, seed: int) -> Tensor:
    """Gaussian noise of the L2 norm of each attack."""
    norms = (like - clean).flatten(1).norm(dim=1)
    ids = [f"image {index}" for index in range(len(clean))]
    return round_to_8bit(gaussian_noise(clean, norms, seed=seed, sample_ids=ids)).float() / 255


def chance(detector: Detector, negative: Tensor, positive: Tensor, flags: Tensor | None = None) -> float:
    """AUROC on the second half of the images after a fit on the first; ``flags`` replace what is positive."""
    half = len(negative) // 2
    if flags is None:
        flags = torch.arange(2 * half) >= half
    images = torch.cat([negative[:half], positive[:half]])
    detector.fit(detector.measurement(memorised(), images), flags, ~flags)
    scores = [detector.score(memorised(), side[half:]) for side in (positive, negative)]
    return auroc(*scores)


@LEARNERS
def test_labels_that_are_true_are_learned(name, clean, attacked):
    """Without this the next tests would say nothing."""
    assert chance(detectors()[name], clean, attacked) > 0.75


@LEARNERS
def test_shuffled_images_leave_chance(name, clean, attacked):
    """Each image is by lot the clean or the attacked one, in fit and in test: labels mean nothing."""
    found = []
    for seed in range(3):
        lot = torch.rand(COUNT, 1, 1, 1, generator=torch.Generator().manual_seed(seed)) < 0.5
        first, second = torch.where(lot, clean, attacked), torch.where(lot, attacked, clean)
        found.append(chance(detectors()[name], first, second))
    assert sum(found) / len(found) == pytest.approx(0.5, abs=0.1)


@LEARNERS
def test_noise_called_an_attack_cannot_be_told_from_noise(name, clean, attacked):
    found = chance(detectors()[name], noisy(clean, attacked, seed=0), noisy(clean, attacked, seed=1))
    assert found == pytest.approx(0.5, abs=0.1)


@LEARNERS
def test_the_same_images_on_both_sides_are_exactly_at_chance(name, clean):
    assert chance(detectors()[name], clean, clean) == 0.5


@final
@dataclass(frozen=True)
class Fractions(Measurement):
    """How far the pixels are from whole numbers of 255ths."""

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        scaled = images.double() * 255
        away = (scaled - scaled.round()).abs().flatten(1).mean(dim=1)
        # Single precision leaves a 255th of 255 up to 1e-5 beside a whole number.
        return {"fraction": torch.where(away < 1e-4, 0.0, away)}


@final
@dataclass(kw_only=True)
class FractionDetector(Detector):
    """Sees what rounding to 8 bits should have taken away, and nothing else."""

    source: Measurement = field(default_factory=Fractions)

    @property
    def measurement(self) -> Measurement:
        return self.source

    def fit(
        self,
        measured: Mapping[str, Tensor],
        adversarial: Tensor,
        clean: Tensor,
        *,
        images: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Nothing is learned."""

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        return measured["fraction"]


def test_fractions_would_give_attacks_away_if_they_were_not_rounded(clean):
    answers = answers_to(clean)
    raw = PGD(12 / 255, steps=4)(memorised(), clean, answers, generator=torch.Generator()).images
    detector = FractionDetector()
    assert auroc(detector.score(memorised(), raw), detector.score(memorised(), clean)) == 1.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The study with two rows that see nothing but fractions, and nothing but confidence."""
    rows = {"fractions": FractionDetector(), "max_softmax": MaxSoftmax()}
    return study(tmp_path_factory.mktemp("controls"), detectors=rows, head="fractions", seeds=1)


def test_a_detector_of_fractions_is_exactly_at_chance_on_the_bench(bench):
    scores = bench.evaluation.scores
    for column in ("mean_seen", "mean_unseen", "worst_unseen"):
        score = scores[f"test/fractions/auroc/{column}"]
        assert score.value == 0.5
        assert score.low < 0.5 < score.high  # for so few images chance is not known exactly
    assert scores["test/fractions/fpr/clean"].value == 0.0
    assert scores["test/fractions/tpr_at_fpr5/mean_unseen"].value == 0.0


def test_an_attack_without_budget_counts_nowhere(bench):
    scores, counts = bench.evaluation.scores, bench.evaluation.counts
    assert counts["nothing"] == 0
    for row in ("fractions", "max_softmax"):
        assert scores[f"test/{row}/auroc/nothing"].n == 0
        family = scores[f"test/{row}/auroc_fitted_on_default/one_step"].value
        assert scores[f"test/{row}/auroc/mean_unseen"].value == family
    # What failed is the clean image itself, and raises just as many alarms.
    alarms, clean = scores["test/max_softmax/alarm_rate/nothing_failed"], scores["test/max_softmax/fpr/clean"]
    assert (alarms.value, alarms.n) == (clean.value, clean.n)


def test_without_any_budget_there_is_nothing_to_study(tmp_path):
    none = attacks()["nothing"]
    alone = {
        "attacks": {"nothing": none},
        "families": {"none": ["nothing"]},
        "fits": {"default": ["nothing"]},
    }
    alone |= {"noise": {}, "fit_noise": [], "merged": [], "noise_like": "nothing", "val_count": 12}
    with pytest.raises(DataError, match="no attack succeeded on any image"):
        study(tmp_path, given=alone | {"fit_count": 8, "test_count": 8})
