"""The Lightning loop over detectors: what they learn from, which step is kept, what is reported."""

import copy

import lightning as L
import pytest
import torch
from PIL import Image

from helpers import tiny_transfer
from helpers.listed_names import unlisted
from helpers.tiny_detector import SIZE, data, memorised, rows
from verisal.data import ImageData
from verisal.detection.groups import GroupTable
from verisal.detectors import LearnedConsistency, MaxSoftmax, Pixels
from verisal.errors import ConfigError
from verisal.functional.statistics import threshold_at_fpr
from verisal.tasks import DetectorTask, TransferTask
from verisal.types import Batch

GROUPS = ("clean", "clean_misclassified", "pgd", "pgd_failed", "noise_linf", "noise_l2")
ROLES = dict(zip(GROUPS, ("clean", "benign", "attack", "failed", "benign", "benign"), strict=True))
STAGES, QUERIES = (1, 2, 3, 4), ("prediction", "runner_up")


def table(sizes, *, seed, signal=3.0):
    """Groups, and standard normal measurements; ``signal`` is added to the maps of successful attacks.

    ``sizes`` is the number of images of each group; they are the first ones of the split.
    """
    rng = torch.Generator().manual_seed(seed)
    group = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    index = torch.cat([torch.arange(size) for size in sizes])
    # Misclassified images are images of their own, behind the others.
    index[group == 1] += sizes[0]
    count, lift = len(group), signal * (group == 2).float().view(-1, 1, 1, 1)

    def maps(channels, side):
        return (torch.randn(count, channels, side, side, generator=rng) + lift).half()

    measured = {f"masks/{query}/{n}": maps(3, 4) for query in QUERIES for n in STAGES}
    measured |= {f"activations/{n}": maps(3, 4) for n in STAGES}
    measured |= {"gradient": maps(3, SIZE)}
    images = (torch.rand(count, 3, SIZE, SIZE, generator=rng) * 255).to(torch.uint8)
    measured |= {name: torch.randn(count, 24, generator=rng) for name in ("logits", "shifted/logits")}
    nothing = torch.zeros(count, dtype=torch.int64)
    return GroupTable(images, index, group, nothing, nothing, GROUPS, ROLES, {"pgd": (1.0, 0.9)}), measured


def tables(*, signal=3.0):
    return {
        "det_fit": table((48, 4, 40, 5, 48, 48), seed=1, signal=signal),
        "det_val": table((220, 9, 60, 7, 60, 60), seed=2, signal=signal),
        "det_test": table((100, 5, 90, 8, 100, 100), seed=3, signal=signal),
    }


def changed(source, *, groups, scale=1.0, offset=0.0):
    """The table with other measurements in the rows of ``groups``."""
    of, measured = source
    chosen = torch.isin(of.group, torch.tensor([GROUPS.index(name) for name in groups]))
    measured = {name: values.clone() for name, values in measured.items()}
    for values in measured.values():
        values[chosen] = values[chosen] * scale + offset
    return of, measured


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


def read_by(measurement, source):
    groups, measured = source
    if isinstance(measurement, Pixels):
        return {"image": groups.images}
    return measured


def module_of(folder, given, **settings):
    """The data module with tables made by hand instead of attacks."""
    module = data(folder, **settings)
    module.setup = lambda stage: None
    module.measure = lambda splits, measurements: None
    module.groups = lambda split: given[split][0]

    def measured(split, measurement):
        return read_by(measurement, given[split])

    module.measured = measured
    return module


def task_of(*names, settings=None, **known):
    names = names or ("masks", "activations", "max_softmax")
    return DetectorTask(
        **{"detectors": rows(*names, **settings or {}), "head": names[0], "resamples": 20} | known
    )


def trainer(epochs=2, callbacks=()):
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
        callbacks=list(callbacks),
    )


def fitted(folder, given, *names, epochs=2, callbacks=(), **known):
    task, run = task_of(*names, **known), trainer(epochs, callbacks)
    run.fit(task, datamodule=module_of(folder, given))
    return task, run


def reloaded(task, run, path, **known):
    """Another task with the checkpoint of this one, as a test loads it."""
    run.save_checkpoint(path)
    again = task_of(*task.rows, **known)
    checkpoint = torch.load(path, weights_only=True)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])
    return again


def scores_of(task, source):
    """``(N, rows)`` scores of a table by what the task has kept."""
    of, measured = source
    judged = [
        detector.judge(
            {"image": of.images} if isinstance(detector.measurement, Pixels) else measured
        ).double()
        for detector in task.detectors.values()
    ]
    return torch.stack(judged, dim=1)


def clean_scores(task, source, row):
    return scores_of(task, source)[source[0].clean, row]


class Snapshots(L.Callback):
    """Weights in training at the end of every validation epoch."""

    def __init__(self):
        self.states = []

    def on_validation_end(self, trainer, pl_module):
        self.states.append(copy.deepcopy(pl_module.networks.state_dict()))


def weights(task):
    return {
        f"{row}.{name}": tensor
        for row, detector in task.detectors.items()
        for name, tensor in detector.state().items()
    }


def same_weights(one, other):
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


def test_a_resumed_detector_keeps_the_statistics_that_its_weights_were_trained_with(folder, tmp_path):
    given = tables()
    task, run = fitted(folder, given, epochs=1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    brighter = given | {"det_fit": changed(given["det_fit"], groups=GROUPS, offset=2.0)}
    longer = task_of()
    trainer(2).fit(
        longer, datamodule=module_of(folder, brighter), ckpt_path=tmp_path / "one.ckpt", weights_only=True
    )
    assert longer.trainer.global_step == 2 * run.global_step
    statistics = [name for name in task.networks.state_dict() if "input_" in name]
    assert len(statistics) == 8
    for name in statistics:
        assert torch.equal(longer.networks.state_dict()[name], task.networks.state_dict()[name]), name


def test_the_last_step_is_kept_with_its_own_thresholds(folder, tmp_path):
    snapshots, given = Snapshots(), tables()
    task, run = fitted(folder, given, epochs=3, callbacks=[snapshots])
    again = reloaded(task, run, tmp_path / "last.ckpt")
    kept = {f"{n}.{name.removeprefix('CNNDetector.')}": value
            for n, row in enumerate(("masks", "activations"))
            for name, value in again.detectors[row].state().items()}  # fmt: skip
    assert same_weights(kept, snapshots.states[2])
    assert not same_weights(kept, snapshots.states[1])
    for index in range(3):
        expected = threshold_at_fpr(clean_scores(again, given["det_val"], index), 0.05)
        assert float(again.thresholds[index, 0]) == pytest.approx(expected, abs=1e-5)
    seen = run.callback_metrics["val/masks/auroc/mean_seen"]
    assert unlisted(run.callback_metrics) == []
    assert float(seen) == pytest.approx(task.evaluation.scores["val/masks/auroc/pgd"].value)


def test_thresholds_come_from_correct_clean_validation_images_alone(folder, tmp_path):
    given = tables()
    task, run = fitted(folder, given)
    others = tuple(name for name in GROUPS if name != "clean")
    moved = given | {"det_val": changed(given["det_val"], groups=others, scale=0.9, offset=0.3)}
    moved["det_test"] = changed(given["det_test"], groups=GROUPS, scale=3.0, offset=-1.0)
    again, _ = fitted(folder, moved)
    assert task.thresholds.equal(again.thresholds)
    kept = reloaded(task, run, tmp_path / "kept.ckpt")
    for index in range(3):
        scores = clean_scores(kept, given["det_val"], index)
        assert len(scores) == 220
        allowed = sorted(scores.tolist(), reverse=True)[11]  # 5 % of 220 may lie above
        assert float(task.thresholds[index, 0]) == pytest.approx(allowed, abs=1e-5)
    # FPR 1 % asks for 1000 images.
    assert task.supported.tolist() == [[True, False]] * 3
    assert int(task.negatives) == 220
    assert any("FPR 1 % not supported" in note and "found 220" in note for note in task.evaluation.notes)
    before = task.thresholds.clone()
    trainer().test(kept, datamodule=module_of(folder, moved), verbose=False)
    assert kept.thresholds.equal(before)
    expected = float((clean_scores(kept, moved["det_test"], 0) > before[0, 0]).double().mean())
    assert kept.evaluation.scores["test/masks/fpr/clean"].value == pytest.approx(expected)


def evaluated(folder, given, *names, tmp_path, **known):
    """A task that was fitted, reloaded from its checkpoint and tested."""
    task, run = fitted(folder, given, *names, **known)
    known = {name: value for name, value in known.items() if name not in ("epochs", "callbacks")}
    again = reloaded(task, run, tmp_path / "tested.ckpt", **known)
    trainer().test(again, datamodule=module_of(folder, given), verbose=False)
    return again


def test_report_holds_every_row_and_group(folder, tmp_path, monkeypatch):
    given = tables()
    task = evaluated(folder, given, tmp_path=tmp_path, opacity=0.25)
    names = set(task.evaluation.scores)
    for row in ("masks", "activations", "max_softmax"):
        assert {
            f"test/{row}/{rest}"
            for rest in (
                *("auroc/pgd", "fpr_at_tpr95/pgd", "tpr_at_fpr5/pgd", "tpr_at_fpr1/pgd"),
                *("fpr/clean", "fpr/clean_misclassified", "fpr/noise_linf", "fpr/noise_l2"),
                *("alarm_rate/pgd_failed", "auroc/mean_seen", "fpr/worst_benign"),
                "end_to_end/right_or_rejected",
            )
        } <= names
    assert "test/masks/auroc_member_min/pgd" in names
    assert "test/max_softmax/auroc_member_min/pgd" not in names
    assert task.evaluation.counts == dict(zip(GROUPS, (100, 5, 90, 8, 100, 100), strict=True))
    assert len(task.evaluation.samples["image_id"]) == 403
    assert task.evaluation.samples["image_id"][0] == "emoji-0-det_test-0"
    assert task.evaluation.timings["masks: forward passes per image"] >= 1
    (panel, _) = task.evaluation.panels
    assert (panel.image_id, panel.attack, panel.opacity) == ("emoji-0-det_test-0", "pgd", 0.25)
    groups, measured = given["det_test"]
    attacked = int((groups.group == 2).nonzero()[0])
    assert panel.attacked.equal(groups.images[attacked] / 255)
    assert panel.attacked_layers["stage2"].equal(measured["masks/prediction/2"][attacked, 0].float())
    assert f"(score {float(scores_of(task, given['det_test'])[attacked, 0]):.2f})" in panel.caption


def test_auroc_is_that_of_the_kept_networks_on_paired_images(folder, tmp_path):
    given = tables(signal=0.3)
    task = evaluated(folder, given, tmp_path=tmp_path)
    groups, scores = given["det_test"][0], scores_of(task, given["det_test"])
    for index, row in enumerate(("masks", "activations", "max_softmax")):
        positive = scores[groups.group == 2, index].tolist()
        negative = scores[groups.group == 0, index].tolist()[:90]  # those that were attacked with success
        wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
        found = task.evaluation.scores[f"test/{row}/auroc/pgd"]
        assert found.value == pytest.approx(wins / (90 * 90), abs=1e-4)
        assert found.n == 90


ROWS = ("masks", "activations", "gradient")


def test_a_strong_signal_is_learned(folder, tmp_path):
    task = evaluated(folder, tables(), *ROWS, "max_softmax", epochs=6, tmp_path=tmp_path)
    for row in ROWS:
        assert task.evaluation.scores[f"test/{row}/auroc/pgd"].value > 0.99
    assert not [note for note in task.evaluation.notes if "NOT TRAINED" in note or "distributed" in note]
    assert abs(task.evaluation.scores["test/max_softmax/auroc/pgd"].value - 0.5) < 0.1


def dealt_anew(source, seed):
    """The measurements of other rows: groups say nothing about them any more."""
    groups, measured = source
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    return groups, {name: values[order] for name, values in measured.items()}


@pytest.mark.parametrize("control", ["shuffled", "noise as attack"])
def test_nothing_is_learned_where_there_is_nothing(folder, tmp_path, control):
    if control == "shuffled":
        given = {split: dealt_anew(source, seed=4) for split, source in tables().items()}
    else:
        given = tables(signal=0.0)
    task = evaluated(folder, given, *ROWS, "max_softmax", epochs=6, tmp_path=tmp_path)
    for row in ROWS:
        assert abs(task.evaluation.scores[f"test/{row}/auroc/pgd"].value - 0.5) < 0.1
        # Max softmax learns nothing, so that chance says nothing about it.
        assert [note for note in task.evaluation.notes if note.startswith(f"{row} WAS NOT TRAINED")]
    assert not [note for note in task.evaluation.notes if note.startswith("max_softmax WAS")]


def test_clean_images_of_another_kind_are_told_in_the_test(folder, tmp_path):
    given = tables()
    given["det_test"] = changed(given["det_test"], groups=["clean"], offset=2.0)
    task = evaluated(folder, given, *ROWS, "max_softmax", epochs=2, tmp_path=tmp_path)
    for row in ROWS:
        (note,) = [note for note in task.evaluation.notes if note.startswith(f"{row}: scores of clean test")]
        assert "(100) are not distributed" in note


def folded(images, side):
    """Blocks of ``side`` x ``side`` pixels as channels: colours first, then rows and columns of the block."""
    strided = [images[:, c, y::side, x::side] for c in range(3) for y in range(side) for x in range(side)]
    return torch.stack(strided, dim=1)


def test_inputs_are_standardised_by_clean_fit_images_alone(folder):
    given = tables()
    others = [name for name in GROUPS if name != "clean"]
    loud = given | {"det_fit": changed(given["det_fit"], groups=others, scale=50.0, offset=9.0)}
    groups, measured = given["det_fit"]
    maps = [measured[f"masks/{query}/{n}"][groups.clean].float() for query in QUERIES for n in STAGES]
    expected = {
        "masks": torch.cat(maps, dim=1),
        "raw_image": folded(groups.images[groups.clean].float() / 255, 8),
    }
    for source in (given, loud):
        task, _ = fitted(folder, source, "masks", "raw_image", epochs=1)
        for row, networks in zip(task.trained, task.networks, strict=True):
            for network in networks:
                torch.testing.assert_close(network.input_mean.flatten(), expected[row].mean(dim=(0, 2, 3)))
                torch.testing.assert_close(network.input_std.flatten(), expected[row].std(dim=(0, 2, 3)))


def test_members_differ_and_their_mean_is_the_score(folder, tmp_path):
    given = tables()
    task = evaluated(folder, given, epochs=1, settings={"members": 3}, tmp_path=tmp_path)
    members = task.detectors["masks"].member_scores(given["det_test"][1])
    assert members.shape == (403, 3)
    assert float(members.std(dim=1).mean()) > 1e-3
    assert task.evaluation.samples["masks"] == pytest.approx(members.double().mean(dim=1).tolist(), abs=1e-5)
    # An untrained row repeats its score.
    logits = given["det_test"][1]["logits"]
    assert task.evaluation.samples["max_softmax"] == pytest.approx(
        MaxSoftmax().judge({"logits": logits}).tolist(), abs=1e-5
    )


def test_rows_with_other_numbers_of_members_stand_in_one_table(folder, tmp_path):
    detectors = rows("masks", members=2) | rows("activations", members=3)
    given = tables()
    task, run = DetectorTask(detectors=detectors, head="masks", resamples=20), trainer(1)
    run.fit(task, datamodule=module_of(folder, given))
    scores = task.evaluation.scores
    task.on_save_checkpoint({"state_dict": {}})
    for row, count in (("masks", 2), ("activations", 3)):
        members = task.detectors[row].member_scores(given["det_val"][1]).double()
        assert members.shape[1] == count
        groups = given["det_val"][0]
        areas = []
        for member in members.unbind(1):
            first, second = member[groups.group == 2], member[groups.group == 0][:60]
            wins = (first[:, None] > second).double() + 0.5 * (first[:, None] == second)
            areas.append(float(wins.mean()))
        assert scores[f"val/{row}/auroc_member_min/pgd"].value == pytest.approx(min(areas), abs=1e-6)
        assert scores[f"val/{row}/auroc_member_max/pgd"].value == pytest.approx(max(areas), abs=1e-6)


def test_same_seed_same_weights_other_seed_other_weights_whatever_the_global_stream(folder, tmp_path):
    states = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        task, run = fitted(folder, tables(), epochs=1, seed=seed)
        states.append(weights(reloaded(task, run, tmp_path / f"{number}.ckpt", seed=seed)))
    assert same_weights(states[0], states[1])
    assert not same_weights(states[0], states[2])


def test_a_row_does_not_depend_on_the_others(folder, tmp_path):
    found = []
    for names in (("masks",), ("activations", "masks", "max_softmax")):
        task, run = fitted(folder, tables(), *names)
        found.append(reloaded(task, run, tmp_path / f"{len(names)}.ckpt").detectors["masks"].state())
    assert same_weights(*found)


def test_the_loop_gives_the_networks_of_fit_itself(folder, tmp_path):
    given = tables()
    groups, measured = given["det_fit"]
    task, run = fitted(folder, given, epochs=3, seed=5)
    kept = reloaded(task, run, tmp_path / "loop.ckpt", seed=5)
    alone = rows("masks", epochs=3, batch_size=32)["masks"]
    chosen = groups.fitted(["pgd"])
    assert len(chosen) % 32 + len(chosen) > 2 * 32  # a short last batch is left out
    alone.fit(
        {name: tensor[chosen] for name, tensor in measured.items()},
        groups.adversarial[chosen], groups.clean[chosen], images=groups.image_index[chosen], seed=5,
    )  # fmt: skip
    for name, tensor in alone.state().items():
        torch.testing.assert_close(kept.detectors["masks"].state()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_detector_without_a_loop_is_fitted_once_and_comes_back_from_the_checkpoint(folder, tmp_path):
    detectors = {"consistency": LearnedConsistency()} | rows("masks")
    given = tables()
    task, run = DetectorTask(detectors=copy.deepcopy(detectors), head="consistency", resamples=20), trainer(1)
    run.fit(task, datamodule=module_of(folder, given))
    run.save_checkpoint(tmp_path / "one.ckpt")
    groups, _ = given["det_fit"]
    chosen = groups.fitted(["pgd"])
    pooled = read_by(detectors["consistency"].measurement, given["det_fit"])
    detectors["consistency"].fit(
        {name: tensor[chosen] for name, tensor in pooled.items()},
        groups.adversarial[chosen], groups.clean[chosen], images=groups.image_index[chosen], seed=0,
    )  # fmt: skip
    again = DetectorTask(detectors={"consistency": LearnedConsistency()} | rows("masks"), head="consistency")
    trainer().test(
        again, datamodule=module_of(folder, given), ckpt_path=tmp_path / "one.ckpt", verbose=False,
        weights_only=True,
    )  # fmt: skip
    expected = detectors["consistency"].judge(
        read_by(detectors["consistency"].measurement, given["det_test"])
    )
    assert again.evaluation.samples["consistency"] == pytest.approx(expected.tolist(), abs=1e-6)


def test_rows_that_stay_as_they_are_judge_each_validation_image_once_in_a_fit(folder, monkeypatch):
    judged = []

    def counting(self, measured):
        judged.append(len(measured["logits"]))
        return LearnedConsistency.judge(self, measured)[:, None]

    monkeypatch.setattr(LearnedConsistency, "member_scores", counting)
    task = DetectorTask(detectors={"consistency": LearnedConsistency()} | rows("masks"), head="consistency")
    given, run = tables(), trainer(3)
    module = module_of(folder, given)
    run.fit(task, datamodule=module)
    assert sum(judged) == len(given["det_val"][0].group)
    once = run.callback_metrics["val/consistency/auroc/pgd"]
    # Another fit has other scores.
    other = given | {"det_val": changed(given["det_val"], groups=["pgd"], scale=5.0)}
    task._measured.clear()
    trainer(2).fit(task, datamodule=module_of(folder, other))
    assert sum(judged) == 2 * len(given["det_val"][0].group)
    assert task.trainer.callback_metrics["val/consistency/auroc/pgd"] != once


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A fit, and the study's cells of the same detectors on the same attacks."""
    folder = tmp_path_factory.mktemp("both")
    few = {"test_count": 20, "val_attacked_count": 0, "batch_size": 32}
    study = TransferTask(detectors=small_rows(), head="pixels", seeds=1, resamples=30)
    tiny_transfer.trainer().test(study, datamodule=tiny_transfer.data(folder, **few), verbose=False)
    task, run = DetectorTask(detectors=small_rows(), head="pixels", resamples=30), trainer(2)
    module = tiny_transfer.data(folder, **few)
    run.fit(task, datamodule=module)
    run.save_checkpoint(folder / "fit.ckpt")
    run.test(task, datamodule=module, ckpt_path=folder / "fit.ckpt", verbose=False, weights_only=True)
    return task.evaluation, study.evaluation


def small_rows():
    network = tiny_transfer.rows()["pixels"]
    network.epochs, network.batch_size, network.members = 2, 32, 2
    return tiny_transfer.rows() | {"pixels": network}


def test_a_detector_has_the_same_numbers_in_the_fit_and_in_the_study(both):
    fit, study = both
    for row in tiny_transfer.ROWS:
        assert fit.samples[row] == pytest.approx(study.samples[row], abs=1e-4)
    shared = fit.scores.keys() & study.scores.keys()
    assert {name for name in study.scores if "_fitted_on_one_step" not in name} == {
        name for name in fit.scores if "_member_" not in name
    }
    for name in shared:
        one, other = fit.scores[name], study.scores[name]
        assert (one.n, one.undefined) == (other.n, other.undefined), name
        for end in ("value", "low", "high"):
            assert getattr(one, end) == pytest.approx(getattr(other, end), abs=1e-6, nan_ok=True), name
    assert fit.counts == study.counts
    assert fit.notes == study.notes


@pytest.mark.slow
def test_max_softmax_row_and_alarms_on_real_images(tmp_path):
    """The row equals the detector of that name on the images; predicting them gives the tested scores."""
    few = {"fit_count": 33, "val_attacked_count": 6, "test_count": 12}
    module, names = data(tmp_path, **few), ("masks", "raw_image", "max_softmax")
    task, run = task_of(*names), trainer(1)
    run.fit(task, datamodule=module)
    run.save_checkpoint(tmp_path / "one.ckpt")
    run.test(task, datamodule=module, ckpt_path=tmp_path / "one.ckpt", verbose=False, weights_only=True)
    images, classifier = module.groups("det_test").images, memorised()
    literal = MaxSoftmax().score(classifier, images.float() / 255).tolist()
    assert task.evaluation.samples["max_softmax"] == pytest.approx(literal, abs=2e-3)
    paths = []
    for number, image in enumerate(images):
        paths.append(str(tmp_path / f"{number:03d}.png"))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    (*batches,) = run.predict(task, datamodule=data(tmp_path, images=paths, **few))
    found = {name: [value for batch in batches for value in batch[name]] for name in batches[0]}
    assert found["image_id"] == paths
    for row in names:
        assert found[f"score/{row}"] == pytest.approx(task.evaluation.samples[row], rel=1e-2, abs=1e-2)
    with torch.no_grad():
        logits = classifier(images.float() / 255)
    classes = classifier.class_names
    assert found["prediction"] == [classes[index] for index in logits.argmax(dim=1).tolist()]
    assert found["probability"] == pytest.approx(logits.softmax(dim=1).amax(dim=1).tolist(), abs=1e-4)
    (threshold,) = set(found["threshold/masks"])
    assert threshold == float(task.thresholds[0, 0])
    assert found["alarm"] == [score > threshold for score in found["score/masks"]]


def test_images_of_another_kind_are_told_when_they_are_predicted(tmp_path, caplog):
    few = {"fit_count": 33, "val_attacked_count": 6, "test_count": 12}
    module = data(tmp_path, **few)
    task, run = task_of("masks", "max_softmax"), trainer(1)
    run.fit(task, datamodule=module)
    run.save_checkpoint(tmp_path / "old.ckpt")
    right = module.groups("det_val").images[module.groups("det_val").clean]

    def predicted(pictures):
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for number, image in enumerate(pictures):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03d}.png")
        caplog.clear()
        run.predict(task, datamodule=data(tmp_path, images=[str(folder)], **few))
        return [record.message for record in caplog.records if "not distributed" in record.message]

    assert predicted(right[:60]) == []
    (told,) = predicted(torch.zeros_like(right[:60]))
    assert "masks: scores of the images (60)" in told
    # One from before these scores were kept says nothing.
    checkpoint = torch.load(tmp_path / "old.ckpt", weights_only=True)
    del checkpoint["state_dict"]["clean_scores"]
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    assert predicted(torch.zeros_like(right[:60])) == []


def test_alarms_need_a_threshold(folder):
    few = tables() | {"det_val": table((30, 2, 20, 2, 20, 20), seed=2)}
    task, _ = fitted(folder, few, epochs=1)
    assert not task.supported.any()
    assert any("FPR 5 % not supported" in note and "found 30" in note for note in task.evaluation.notes)
    task.eval().trainer.datamodule = data(folder)
    empty = torch.zeros(0, dtype=torch.int64)
    images = Batch(torch.rand(1, 3, SIZE, SIZE), torch.tensor([-1]), ("x",), (empty,), (empty,), (empty,))
    with pytest.raises(ConfigError, match=r"no threshold for FPR 5 %.*larger data.val_count"):
        task.predict_step(images, 0)


def test_a_validation_that_is_cut_short_before_its_attacks_is_reported(folder):
    given = tables() | {"det_val": table((300, 9, 60, 7, 60, 60), seed=2)}
    task, run = task_of("masks"), trainer(1)
    run.limit_val_batches = 1
    run.fit(task, datamodule=module_of(folder, given))
    assert "val/masks/auroc/mean_seen" not in task.evaluation.scores
    assert task.evaluation.scores["val/masks/fpr/clean"].n == 256
    assert task.evaluation.panels == ()


def test_a_task_that_was_never_validated_is_not_tested(folder):
    with pytest.raises(ConfigError, match="no threshold was set: the training ended before a validation"):
        trainer().test(task_of("max_softmax"), datamodule=module_of(folder, tables()), verbose=False)


BAD = {
    "head": ({"head": "gradient"}, r"head must be one of the detectors \['activations', 'masks'"),
    "row": ({"detectors": {"two words": MaxSoftmax()}, "head": "two words"}, r"found \['two words'\]"),
    "resamples": ({"resamples": -1}, "resamples must be at least 0, found -1"),
    "opacity": ({"opacity": -0.1}, r"opacity must be from 0 to 1, found -0\.1"),
}


@pytest.mark.parametrize("bad", BAD)
def test_settings_that_cannot_work_are_refused(bad):
    settings, words = BAD[bad]
    with pytest.raises(ConfigError, match=words):
        task_of(**settings)


def test_another_data_module_is_refused():
    with pytest.raises(ConfigError, match="DetectorTask needs DetectorData, found ImageData"):
        trainer().fit(task_of(), datamodule=ImageData(fit_count=1, val_count=1, test_count=1, num_workers=0))


def test_a_fit_that_the_data_lack_is_refused(folder):
    with pytest.raises(ConfigError, match=r"default is 'broad'; the data's fits are \['default'\]"):
        trainer().fit(task_of(default="broad"), datamodule=module_of(folder, tables()))
