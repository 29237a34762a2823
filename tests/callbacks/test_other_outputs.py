"""Callbacks on networks for several labels, and on scores in the place of classes, of strangers."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from helpers.strangers import CLASSES, SIDE, Pictures, Stranger, TinyNet, loader, trainer
from verisal.attacks import FGSM
from verisal.callbacks import (
    ClassRanks,
    DisturbedLocalization,
    RobustValidation,
    SaliencyMetrics,
    SaliencyPanels,
)
from verisal.errors import ConfigError
from verisal.functional.baselines import Constant
from verisal.functional.regions.disturbed import label_queries, most_probable
from verisal.metrics import PerturbationCurve
from verisal.models import Classifier, ClassLogit, targeted
from verisal.saliency import Gradient, HierarchicalMasks

UNKNOWN = float("nan")


class Tagger(Stranger):
    """Decides each label by itself, and trains on those that are known."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        known = ~y.isnan() & (y >= 0)
        loss = nn.functional.binary_cross_entropy_with_logits(self(x)[known], y[known])
        self.log("val/loss", loss)


class Ager(Stranger):
    """One number per image."""

    def __init__(self):
        super().__init__(TinyNet(1))

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        self.log("val/loss", (self(x)[:, 0] - y).square().mean())


def images():
    return Pictures(6).images


def labels():
    """The label of the bright quarter is there; of some nobody knows."""
    sets = nn.functional.one_hot(torch.arange(6) % CLASSES, CLASSES).float()
    sets[0, 2] = 1
    sets[1, 3], sets[2, 0] = UNKNOWN, -1
    return sets


def test_scores_of_several_labels_are_those_of_the_label_that_is_there():
    module, sets = Tagger(), labels()
    with torch.no_grad():
        module.net.fc.bias += 3
    found = SaliencyMetrics(
        [Gradient()],
        [PerturbationCurve("deletion", steps=2, baseline=Constant(), score="logit")],
        output="sigmoid",
        normalization="none",
        resamples=0,
    )
    trainer(found).validate(module, loader(TensorDataset(images(), sets)), verbose=False)
    classifier = Classifier(module.net.eval(), normalization="none", output="sigmoid")
    logits = module.net(images())
    asked = most_probable(logits, (sets == 1).long())
    assert bool((logits.gather(1, asked[:, None]) > 0).all())
    expected = PerturbationCurve("deletion", steps=2, baseline=Constant(), score="logit")
    expected.update(Gradient()(classifier, images(), asked), images=images(), classifier=classifier)
    (value,) = [
        score.value
        for name, score in found.evaluation.scores.items()
        if name.row == "gradient" and name.column.endswith("/auc")
    ]
    assert value == pytest.approx(float(expected.compute()), abs=1e-5)


def test_absent_classes_are_the_labels_that_are_0():
    logits = torch.tensor([[3.0, 1.0, 2.0, -1.0, 0.5, 0.4, 0.3], [-3.0, 1.0, 2.0, -1.0, 0.5, 0.4, 0.3]])
    sets = torch.tensor([[1, 0, -1, 0, 0, 0, 0], [1, 0, 0, -1, -1, -1, -1]])
    found = label_queries(logits, sets, image_ids=["a", "b"])
    assert found.query_class[:, 0].tolist()[:2] == [0, 1]
    assert found.query_class[3, 0] == 3
    # The five most probable labels of the first image are 0, 2, 1, 4 and 5.
    assert found.query_class[2, 0] in (3, 6)
    assert found.valid.tolist() == [[True, False]] * 4
    never = label_queries(logits[:1], sets[:1].where(sets[:1] == 1, -1), image_ids=["a"])
    assert never.valid[:, 0].tolist() == [True, False, False, False]


@pytest.mark.parametrize("absent", [True, False])
def test_disturbed_localisation_of_several_labels(absent):
    module, sets, said = Tagger(), labels(), {}
    with torch.no_grad():
        module.net.fc.bias += 3
    if not absent:
        sets = sets.where(sets == 1, UNKNOWN)
    methods = [Gradient(), HierarchicalMasks(steps=10, learning_rate=0.1)]
    found = DisturbedLocalization(methods, output="sigmoid", normalization="none", resamples=0)
    trainer(found).validate(module, loader(TensorDataset(images(), sets)), verbose=False)
    evaluation = found.evaluation
    counts = {name: count for name, count in evaluation.counts.items() if "label" in name}
    assert counts == {
        "absent labels (D-WSOL)": int((sets == 0).sum()),
        "unknown labels, left out (D-WSOL)": int((sets.isnan() | (sets == -1)).sum()),
    }
    said = "no label is known to be absent (0) in any image that counts; queries of absent labels are NaN"
    assert any(said in note for note in evaluation.notes) == (not absent)
    (ratio,) = [
        score
        for name, score in evaluation.scores.items()
        if name.row == "gradient" and name.column.endswith("response_ratio_c1")
    ]
    assert (ratio.n > 0) == absent


def test_ranks_are_those_of_labels_that_are_known_to_be_absent():
    module = Tagger()
    with torch.no_grad():
        module.net.fc.bias += 3
    for sets in (labels(), labels().where(labels() == 1, UNKNOWN)):
        found = ClassRanks([Gradient()], ranks=(2,), output="sigmoid", normalization="none", resamples=0)
        trainer(found).validate(module, loader(TensorDataset(images(), sets)), verbose=False)
        logits = Classifier(module.net.eval(), normalization="none")(images())
        second = logits.topk(2, dim=1).indices[:, 1:]
        (norm,) = [
            score
            for name, score in found.evaluation.scores.items()
            if name.row == "gradient" and name.column.endswith("norm[rank2]")
        ]
        assert norm.n == int((sets.gather(1, second) == 0).sum())


def test_robust_validation_attacks_the_label_that_is_there():
    module = Tagger()
    with torch.no_grad():
        module.net.fc.bias += 3
    found = RobustValidation([FGSM(0.3)], output="sigmoid", normalization="none")
    trainer(found).validate(module, loader(TensorDataset(images(), labels())), verbose=False)
    (clean,) = [score for name, score in found.evaluation.scores.items() if name.row == "clean"]
    assert (clean.value, clean.n) == (1.0, 6)


def test_other_numbers_and_widths_are_refused():
    data = TensorDataset(images(), labels() + 4)
    run = trainer(SaliencyPanels([Gradient()], output="sigmoid", normalization="none"))
    with pytest.raises(ConfigError, match=r"1, 0, or -1 or NaN where that is not known, found \[-?\d"):
        run.validate(Tagger(), loader(data), verbose=False)
    run = trainer(SaliencyPanels([Gradient()], normalization="none"))
    with pytest.raises(ConfigError, match="say output='sigmoid' where each label is decided by itself"):
        run.validate(
            Tagger(), loader(TensorDataset(images(), labels().nan_to_num().clamp(min=0))), verbose=False
        )


def test_a_target_in_a_module_that_gives_one_number():
    module = Ager()
    found = [
        SaliencyMetrics(
            [Gradient()],
            [PerturbationCurve("deletion", steps=2, baseline=Constant())],
            target=ClassLogit(0),
            normalization="none",
            resamples=0,
        ),
        SaliencyPanels([Gradient()], max_images=2),
    ]
    ages = torch.linspace(20.5, 80, 6)
    trainer(*found).validate(module, loader(TensorDataset(images(), ages)), verbose=False)
    classifier = targeted(Classifier(module.net.eval(), normalization="none"), ClassLogit(0))
    expected = PerturbationCurve("deletion", steps=2, baseline=Constant())
    expected.update(Gradient()(classifier, images()), images=images(), classifier=classifier)
    (value,) = [
        score.value
        for name, score in found[0].evaluation.scores.items()
        if name.row == "gradient" and name.column.endswith("/auc")
    ]
    assert value == pytest.approx(float(expected.compute()), abs=1e-5)
    assert found[1].evaluation.panels[0].image.shape == (3, SIDE, SIDE)
    with pytest.raises(ConfigError, match="DisturbedLocalization needs classes"):
        trainer(DisturbedLocalization([Gradient()], target=ClassLogit(0), normalization="none")).validate(
            module, loader(TensorDataset(images(), ages)), verbose=False
        )
