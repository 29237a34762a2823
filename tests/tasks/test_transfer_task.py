"""The transfer study on a classifier that knows its scenes by heart: cells, report, going on after a kill."""

import math

import lightning as L
import pytest
import torch

from helpers.tiny_detector import COUNTS
from helpers.tiny_transfer import CELLS, FAMILIES, FITS, ROWS, SEEDS, data, rows, study, task, trainer
from verisal.detection import DetectorData
from verisal.detectors import CNNDetector, LearnedConsistency, MaxSoftmax
from verisal.errors import ConfigError
from verisal.functional.statistics import auroc, pair_by_image
from verisal.tasks.transfer import build_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def whole(folder):
    """The study from nothing."""
    return study(folder)


@pytest.fixture(scope="module")
def tables(folder, whole):
    """What the least measurement gives of the three splits."""
    found, measured = data(folder), MaxSoftmax().measurement
    return {split: (found.groups(split), found.measured(split, measured)) for split in COUNTS}


@pytest.fixture
def fits(monkeypatch):
    """How often a detector was fitted; ``stop_at`` raises instead of the n-th fit."""
    counted = {"fits": 0, "stop_at": None}
    for kind in (CNNDetector, LearnedConsistency, MaxSoftmax):

        def fit(self, *args, _fit=kind.fit, **settings):
            if counted["fits"] == counted["stop_at"]:
                raise InterruptedError("killed")
            counted["fits"] += 1
            return _fit(self, *args, **settings)

        monkeypatch.setattr(kind, "fit", fit)
    return counted


def said(evaluation):
    """Everything but clocks, in a form in which undefined equals undefined."""
    heatmaps = [
        (shown.figure, shown.rows, shown.columns, shown.values.tolist()) for shown in evaluation.heatmaps
    ]
    return repr((evaluation.scores, evaluation.counts, evaluation.samples, evaluation.notes, heatmaps))


def max_softmax_of(tables, part, group):
    """Scores and images of a group, straight from the logits."""
    table, measured = tables[part]
    rows_ = table.group == table.groups.index(group)
    return MaxSoftmax().judge({"logits": measured["logits"][rows_]}).double(), table.image_index[rows_]


def threshold_of(tables):
    """The literal rule: at most 5 % of the clean validation images lie strictly above."""
    scores = sorted(max_softmax_of(tables, "det_val", "clean")[0].tolist(), reverse=True)
    assert len(scores) >= 200
    return scores[int(0.05 * len(scores))]


def test_cells_are_paired_aurocs_and_columns_their_means(whole, tables):
    clean, images = max_softmax_of(tables, "det_test", "clean")
    found, attacks = whole.evaluation.scores, {}
    for name in ("pgd", "fgsm", "weak"):
        scores, attacked = max_softmax_of(tables, "det_test", name)
        first, second = pair_by_image(attacked, images)
        attacks[name] = auroc(scores[first], clean[second])
    one_step = (attacks["fgsm"] + attacks["weak"]) / 2
    expected = {"iterated": attacks["pgd"], "one_step": one_step}
    for fit in FITS:
        for family, value in expected.items():
            assert found[f"test/max_softmax/auroc_fitted_on_{fit}/{family}"].value == pytest.approx(value)
    assert found["test/max_softmax/auroc/mean_unseen"].value == pytest.approx(one_step)
    assert found["test/max_softmax/auroc/mean_seen"].value == pytest.approx(attacks["pgd"])
    assert found["test/max_softmax/auroc_fitted_on_one_step/mean_unseen"].value == pytest.approx(
        attacks["pgd"]
    )


def test_an_attack_without_budget_never_succeeds_and_is_undefined(whole):
    for row in ROWS:
        score = whole.evaluation.scores[f"test/{row}/auroc_fitted_on_default/none"]
        assert (math.isnan(score.value), score.n) == (True, 0)
    assert whole.evaluation.counts["nothing"] == 0
    assert whole.evaluation.counts["nothing_failed"] == whole.evaluation.counts["clean"]
    found = whole.evaluation
    assert found.settings["success of nothing"] == "0.0% before and 0.0% after rounding to 8 bits"
    assert any(note.startswith("nothing fools the classifier on 0.0%") for note in found.notes)


def test_rates_and_false_alarms_are_those_at_the_validation_threshold(whole, tables):
    threshold, found = threshold_of(tables), whole.evaluation.scores
    rates = {
        group: float((max_softmax_of(tables, "det_test", group)[0] > threshold).double().mean())
        for group in ("fgsm", "weak", "clean", "noise_linf", "noise_small", "noise_l2")
    }
    name = "test/max_softmax/tpr_at_fpr5/mean_unseen"
    assert found[name].value == pytest.approx((rates["fgsm"] + rates["weak"]) / 2)
    for group in ("clean", "noise_linf", "noise_small", "noise_l2"):
        assert found[f"test/max_softmax/fpr/{group}"].value == pytest.approx(rates[group])
    worst = max(rates[group] for group in ("noise_linf", "noise_small", "noise_l2"))
    assert found["test/max_softmax/fpr/worst_benign"].value == pytest.approx(worst)


def test_worst_case_is_taken_image_by_image(whole, tables):
    threshold = threshold_of(tables)
    _, clean = max_softmax_of(tables, "det_test", "clean")
    lost, fooled = set(), set()
    for attack in ("pgd", "fgsm", "weak"):
        for score, image in zip(
            *(side.tolist() for side in max_softmax_of(tables, "det_test", attack)), strict=True
        ):
            fooled.add(image)
            lost |= {image} if score <= threshold else set()
    found = whole.evaluation.scores
    left = found["test/max_softmax/end_to_end/right_or_rejected"]
    assert left.value == pytest.approx(1 - len(lost) / len(clean))
    assert found["test/max_softmax/end_to_end/fooled"].value == pytest.approx(len(fooled) / len(clean))


def test_images_that_no_attack_tried_are_not_said_to_withstand(folder, tables):
    """They count for false alarms alone."""
    found = study(folder, given={"test_attacked_count": 8}).evaluation.scores
    _, clean = max_softmax_of(tables, "det_test", "clean")
    tried = [image for image in clean.tolist() if image < 8]
    assert 0 < len(tried) < len(clean)
    fooled = {
        image
        for attack in ("pgd", "fgsm", "weak")
        for image in max_softmax_of(tables, "det_test", attack)[1].tolist()
        if image < 8
    }
    score = found["test/max_softmax/end_to_end/fooled"]
    assert score.n == len(tried)
    assert score.value == pytest.approx(len(fooled) / len(tried))
    assert found["test/max_softmax/fpr/clean"].n == len(clean)
    assert found["test/max_softmax/fpr/noise_linf"].n > len(tried)


def test_thresholds_do_not_move_with_the_test_images(folder, tables, whole, monkeypatch):
    given, opacities = [], []

    def build(result, *args, **settings):
        given.append(result.thresholds)
        opacities.append(result.opacity)
        return build_evaluation(result, *args, **settings)

    monkeypatch.setattr("verisal.tasks.transfer.build_evaluation", build)
    study(folder)
    study(folder, given={"test_count": 12}, opacity=0.25)
    assert given[0] == given[1]
    # Of the pictures of masks.
    assert opacities == [0.7, 0.25]
    assert given[0]["default"]["max_softmax"][0.05] == pytest.approx(threshold_of(tables))
    # FPR 1 % asks for 1000 images.
    assert given[0]["default"]["max_softmax"][0.01] is None
    assert any("FPR 1 % not supported" in note for note in whole.evaluation.notes)


def test_killed_half_way_it_goes_on_to_the_report_of_one_run_from_nothing(folder, whole, fits, tmp_path):
    # Images and measurements are there; the scores of these seeds are not.
    fits["stop_at"] = 5
    with pytest.raises(InterruptedError):
        study(folder, seed=10)
    assert fits["fits"] == 5
    fits.update(fits=0, stop_at=None)
    resumed = study(folder, seed=10)
    # The rows whose default fit was made by then are fitted once more at the end, to time them.
    assert fits["fits"] == CELLS - 5 + 2
    fits.update(fits=0)
    again = study(folder, seed=10)
    assert fits["fits"] == len(ROWS)
    assert said(again.evaluation) == said(resumed.evaluation)
    elsewhere = study(folder, seed=10, given={"store": str(tmp_path / "other")})
    assert said(elsewhere.evaluation) == said(resumed.evaluation)


def test_another_detector_fits_that_detector_alone(folder, whole, fits):
    more = rows() | {
        "pixels_again": CNNDetector(
            source=rows()["pixels"].source, reads=("image",), grid=4, members=1, epochs=1, width=2
        )
    }
    found = study(folder, detectors=more)
    assert fits["fits"] == len(FITS) * SEEDS + len(ROWS)
    for name, score in whole.evaluation.scores.items():
        if name.startswith("test/pixels/"):
            assert repr(found.evaluation.scores[name]) == repr(score)


def test_score_of_a_row_is_the_mean_over_its_seeds(folder, whole):
    found = data(folder)
    test, table = found.groups("det_test"), found.groups("det_fit")
    seeds = []
    for number in range(SEEDS):
        detector = rows()["pixels"]
        measured = found.measured("det_fit", detector.measurement)
        kept = torch.tensor(
            [name == "pgd" or table.roles[name] in ("clean", "benign") for name in table.groups]
        )
        chosen = kept[table.group]
        detector.fit(
            {name: tensor[chosen] for name, tensor in measured.items()},
            table.adversarial[chosen],
            (table.group == table.groups.index("clean"))[chosen],
            images=table.image_index[chosen],
            seed=number,
        )
        seeds.append(detector.judge(found.measured("det_test", detector.measurement)).double())
    assert not seeds[0].equal(seeds[1])
    mean = torch.stack(seeds).mean(dim=0)
    assert whole.evaluation.samples["pixels"] == pytest.approx(mean.tolist(), abs=1e-6)
    assert whole.evaluation.samples["group"] == [test.groups[index] for index in test.group.tolist()]
    assert whole.evaluation.samples["image_id"][0] == found.image_id("det_test", int(test.image_index[0]))


def test_cost_is_counted_from_the_image_to_the_score(whole):
    passes = {row: whole.evaluation.timings[f"{row}: forward passes per image"] for row in ROWS}
    assert passes == {"consistency": 2.0, "pixels": 1.0, "max_softmax": 1.0}
    assert all(whole.evaluation.timings[f"{row}: backward passes per image"] == 0 for row in ROWS)
    assert all(whole.evaluation.timings[f"{row}: ms per image"] > 0 for row in ROWS)


def test_heat_maps_hold_the_reported_numbers(whole):
    matrix, compared = whole.evaluation.heatmaps
    columns = (*FAMILIES, "mean_unseen", "worst_unseen")
    assert (matrix.figure, matrix.rows, matrix.columns) == ("transfer_consistency", tuple(FITS), columns)
    for line, fit in enumerate(FITS):
        for column, name in enumerate(columns):
            score = whole.evaluation.scores[f"test/consistency/auroc_fitted_on_{fit}/{name}"]
            assert matrix.values[line, column].item() == pytest.approx(score.value, nan_ok=True)
    assert matrix.marked.tolist() == [
        [True, False, False, False, False],
        [False, True, False, False, False],
    ]
    ordered = [whole.evaluation.scores[f"test/{row}/auroc/mean_unseen"].value for row in compared.rows]
    assert set(compared.rows) == set(ROWS)
    assert ordered == sorted(ordered, reverse=True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"head": "mask"}, "head must be one of the detectors"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"opacity": 1.5}, r"opacity must be from 0 to 1, found 1\.5"),
        ({"detectors": {"two words": MaxSoftmax()}, "head": "two words"}, "'two words'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong, words):
    with pytest.raises(ConfigError, match=words):
        task(**wrong)


def test_a_default_that_is_no_fit_is_refused_before_anything_is_attacked(folder, monkeypatch):
    monkeypatch.setattr(DetectorData, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="default is 'broad'; the data's fits are"):
        study(folder, default="broad")


def test_other_data_and_other_stages_are_refused():
    with pytest.raises(ConfigError, match="TransferTask needs DetectorData, found LightningDataModule"):
        trainer().test(task(), datamodule=L.LightningDataModule(), verbose=False)
    with pytest.raises(ConfigError, match="nothing to validate"):
        task().setup("validate")
