"""The part of a stranger's module that is explained: found where one answer is obvious, else a question."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.strangers import MEAN, STD, Stranger, TinyNet, loader, trainer
from verisal.callbacks import SaliencyMetrics
from verisal.errors import ConfigError
from verisal.metrics import PerturbationCurve
from verisal.saliency import Gradient


def found(module, **settings):
    callback = SaliencyMetrics(
        {"gradient": Gradient()}, [PerturbationCurve("deletion", steps=1)], resamples=0, **settings
    )
    trainer(callback).validate(module, loader(), verbose=False)
    return callback


class Step(Stranger):
    """Everything is in the step; the module has no forward of its own."""

    forward = nn.Module.forward

    def __init__(self, answer, net=None, **parts):
        super().__init__(net)
        self.answer = answer
        for name, part in parts.items():
            setattr(self, name, part)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", self.answer(self, x, y))


class Forward(Step):
    """Everything is in the forward."""

    def forward(self, x):
        return self.answer(self, x)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/accuracy", (self(x).argmax(1) == y).float().mean())


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = TinyNet()

    def forward(self, x):
        return {"logits": self.inner(x), "images": x}


def headless():
    net = TinyNet()
    head, net.fc = net.fc, nn.Identity()
    return {"net": net, "head": head}


def loss(module, logits, labels):
    return module.criterion(logits, labels)


@pytest.mark.parametrize(
    ("module", "part"),
    [
        (Step(lambda m, x, y: loss(m, m.net(x), y)), "net"),
        (Step(lambda m, x, y: loss(m, m.net(x).log_softmax(1), y)), "net"),
        (Step(lambda m, x, y: loss(m, m.net(x) + m.net(x.flip(-1)), y)), "net"),
        (Step(lambda m, x, y: loss(m, m.net(x)["logits"], y), Named()), "net"),
        (Forward(lambda m, x: m.net(x)), "net"),
        (Forward(lambda m, x: m.head(m.net(x).relu()), **headless()), "forward"),
        (Forward(lambda m, x: m.net(F.interpolate(x, size=32))), "forward"),
        (Forward(lambda m, x: m.net(x) / 2), "forward"),
    ],
)
def test_the_outermost_part_that_answers_images_is_found_and_said(module, part):
    callback = found(module)
    assert callback.run.subject.finding.explains == part
    assert (
        f"maps are those of {part!r} of {type(module).__name__} by its 4 logits; the loader's images are"
        f" taken as normalised by (mean {list(MEAN)}, std {list(STD)})" in callback.evaluation.notes
    )


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            Step(lambda m, x, y: loss(m, m.head(m.net(x)), y), **headless()),
            r"'net' answers images with 32 values that 'head' makes others of; give explains= a function of"
            r" both, such as lambda module, images: module.head\(module.net\(images\)\)",
        ),
        (
            Step(lambda m, x, y: loss(m, m.head(F.normalize(m.net(x))), y), **headless()),
            "'net' answers images with 32 values that 'head' makes others of",
        ),
        (Step(lambda m, x, y: x.mean(), **headless()), "32 values that 'head' makes others of"),
        (Forward(lambda m, x: m.net(x).softmax(1)), "'forward' gives probabilities of the logits that 'net'"),
        (Forward(lambda m, x: m.net(x).sigmoid()), "explain the logits: explains='net'"),
        (Step(lambda m, x, y: loss(m, m.net(x[..., 2:]), y)), r"before 'net' gets them \(\(4, 3, 16, 14\)\)"),
        (Step(lambda m, x, y: loss(m, m.net(x.flip(1)), y)), "by more than a normalisation; give explains="),
        (
            Step(lambda m, x, y: m.net(x).mean(), TinyNet(3)),
            "with 3 values, and the loader's labels go up",
        ),
        (Step(lambda m, x, y: m.net(x).mean(), nn.Conv2d(3, 4, 1)), r"no part of Step was seen to answer"),
        (Step(lambda m, x, y: m.net.train()(x).mean()), "gave other logits in the evaluation's step than"),
    ],
)
def test_what_is_not_clear_is_a_question(module, words):
    with pytest.raises(ConfigError, match=words):
        found(module)


def test_the_answers_to_these_questions_are_taken():
    module = Step(lambda m, x, y: loss(m, m.head(m.net(x)), y), **headless())
    callback = found(module, explains=lambda module, images: module.head(module.net(images)))
    assert callback.epoch.classifier(torch.rand(2, 3, 16, 16)).shape == (2, 4)
    assert any("maps are those of the function explains=" in note for note in callback.evaluation.notes)
    nested = Step(lambda m, x, y: loss(m, m.net(x)["logits"], y), Named())
    assert found(nested, explains="net.inner").epoch.classifier.network is nested.net.inner
    with pytest.raises(ConfigError, match=r"explains='model' names no part of Step; found the parts \['net'"):
        found(Step(lambda m, x, y: loss(m, m.net(x), y)), explains="model")
