"""Callbacks on modules that were written without them: what is explained is found, measured and proven."""

import pytest
import torch

from helpers.strangers import MEAN, STD, Normalize, Pictures, Stranger, TinyNet, loader, normalised, trainer
from verisal.callbacks import SaliencyMetrics, SaliencyPanels
from verisal.errors import ConfigError
from verisal.metrics import PerturbationCurve
from verisal.saliency import Gradient


def metrics_callback(**settings):
    return SaliencyMetrics(
        {"gradient": Gradient()}, [PerturbationCurve("deletion", steps=2)], **{"resamples": 0} | settings
    )


def validated(module, data=None, *callbacks, **settings):
    """The callback after a validation, whose classifier is still at hand."""
    callback = callbacks[0] if callbacks else metrics_callback()
    trainer(*(callbacks or (callback,)), **settings).validate(module, loader(data), verbose=False)
    return callback


def same_logits(callback, module, data):
    """The classifier of images in [0, 1] says what the module says of the loader's images."""
    module.eval()
    given = torch.stack([data[index][0] for index in range(4)])
    with torch.no_grad():
        return torch.allclose(callback.epoch.classifier(data.images[:4]), module(given), atol=1e-4)


def test_the_only_callback_line_is_enough():
    module, data = Stranger(), normalised()
    callback = validated(module, data)
    assert callback.run.subject.finding.explains == "net"
    assert callback.epoch.classifier.network is module.net
    assert callback.run.subject.finding.loader.mean == MEAN
    assert callback.run.subject.finding.network.std == STD
    assert same_logits(callback, module, data)
    assert callback.evaluation.counts["explained images"] == 12


class NormalisesItself(Stranger):
    def forward(self, x):
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return self.net((x - mean) / std)


def test_a_normalisation_inside_the_module_is_measured():
    module, data = NormalisesItself(), Pictures()
    callback = validated(module, data)
    assert callback.run.subject.finding.explains == "net"
    assert callback.run.subject.finding.loader.mean == (0.0,)
    assert callback.run.subject.finding.network.mean == pytest.approx(MEAN, abs=1e-4)
    assert callback.run.subject.finding.network.std == pytest.approx(STD, abs=1e-4)
    assert same_logits(callback, module, data)


def test_what_is_said_on_one_callback_holds_for_all_and_twice_differently_is_refused():
    callbacks = [metrics_callback(), SaliencyPanels({"gradient": Gradient()}, explains="net")]
    run = trainer(*callbacks)
    run.validate(Stranger(), loader(), verbose=False)
    assert callbacks[0].run.told.explains == "net"
    callbacks = [metrics_callback(explains="model"), SaliencyPanels({"gradient": Gradient()}, explains="net")]
    with pytest.raises(ConfigError, match=r"SaliencyMetrics says explains='model' and SaliencyPanels says"):
        trainer(*callbacks).validate(Stranger(), loader(), verbose=False)


def test_normalised_images_without_a_word_about_it_are_a_question():
    class Silent(Pictures):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return Normalize()(image), label

    with pytest.raises(ConfigError, match=r"values from -2.* give normalization=: mean and std"):
        validated(Stranger(), Silent())
    callback = validated(Stranger(), Silent(), metrics_callback(normalization=(MEAN, STD)))
    assert callback.run.subject.finding.loader.mean == MEAN


class Averaging(Stranger):
    def __init__(self):
        super().__init__()
        self.teacher = TinyNet()

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.log("val/agree", (self(x).argmax(1) == self.teacher(x).argmax(1)).float().mean())


def test_two_networks_in_one_step_are_a_question_with_both_names():
    with pytest.raises(ConfigError, match="'forward' and 'teacher' of Averaging both answer"):
        validated(Averaging(), normalised())
    module = Averaging()
    callback = validated(module, normalised(), metrics_callback(explains="teacher"))
    assert callback.epoch.classifier.network is module.teacher


class Counting(Stranger):
    """Counts the steps of training; its validation does nothing in the sanity check if it is told so."""

    def __init__(self, *, lazy=False):
        super().__init__()
        self.lazy, self.steps = lazy, 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if not (self.lazy and self.trainer.sanity_checking):
            super().validation_step(batch, batch_idx, dataloader_idx)


@pytest.mark.parametrize("checks", [0, 1])
def test_questions_come_in_the_sanity_check_before_training(checks):
    module, callback = Counting(), metrics_callback(explains="model")
    run = trainer(callback, max_epochs=1, num_sanity_val_steps=checks)
    with pytest.raises(ConfigError, match="'model'"):
        run.fit(module, loader(), loader())
    assert (module.steps == 0) is bool(checks)


def test_a_step_that_does_nothing_in_the_sanity_check_is_explained_later():
    callback = metrics_callback(max_images=None)
    run = trainer(callback, max_epochs=1, num_sanity_val_steps=2)
    run.fit(Counting(lazy=True), loader(), loader())
    assert callback.run.subject.finding.explains == "net"
    assert callback.evaluation.counts["explained images"] == 12
