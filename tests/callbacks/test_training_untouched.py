"""Weights after training, identical with and without the callbacks, on a stranger's module."""

import pytest
import torch
from lightning.pytorch import callbacks as of_lightning

from helpers.strangers import Stranger, TinyNet, loader, normalised, trainer
from verisal.attacks import PGD
from verisal.callbacks import RobustValidation, SaliencyMetrics, SaliencyPanels
from verisal.metrics import PerturbationCurve
from verisal.saliency import GradCAM, Gradient, HierarchicalMasks

# The oldest Lightning has one of them.
AVERAGINGS = [
    getattr(of_lightning, name)
    for name in ("EMAWeightAveraging", "WeightAveraging")
    if hasattr(of_lightning, name)
]


def callbacks():
    return [
        SaliencyMetrics(
            {"gradient": Gradient(), "grad_cam": GradCAM()}, [PerturbationCurve("deletion", steps=1)]
        ),
        SaliencyPanels({"gradient": Gradient()}, max_images=2),
        RobustValidation([PGD(8 / 255, steps=2)]),
    ]


def fitted(watching, *others, module=None, loaders=1, before=(), **settings):
    """The module after a fit, as many global random numbers later, and the callbacks."""
    torch.manual_seed(4)
    module = module() if module else Stranger()
    found = callbacks() if watching else []
    data = [loader(normalised(8, seed=seed)) for seed in range(loaders)]
    run = trainer(*before, *found, *others, **{"max_epochs": 2, "num_sanity_val_steps": 1} | settings)
    run.fit(module, loader(normalised(10), shuffle=True), data if loaders > 1 else data[0])
    return module, torch.rand(3), found


def assert_untouched(**settings):
    alone, draws, _ = fitted(False, **settings)
    watched, again, found = fitted(True, **settings)
    assert torch.equal(draws, again)
    for (name, one), other in zip(alone.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert all(parameter.requires_grad for parameter in watched.parameters())
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in watched.modules())
    for callback in found:
        assert callback.evaluation is not None
    return watched, found


class CompiledParts(Stranger):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class CompiledInPlace(Stranger):
    def __init__(self):
        super().__init__()
        self.net.compile(backend="eager")


class OwnForward(Stranger):
    """Backbone and head, put together in the module's forward."""

    def __init__(self):
        super().__init__()
        self.head, self.net.fc = self.net.fc, torch.nn.Identity()

    def forward(self, x):
        return self.head(self.net(x).relu())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"val_check_interval": 1},
        {"loaders": 2},
        {"module": CompiledParts},
        {"module": CompiledInPlace},
        {"module": OwnForward},
        {"gradient_clip_val": 0.1},
    ],
    ids=lambda settings: str(settings),
)
def test_weights_are_the_same(settings):
    _, found = assert_untouched(**settings)
    # Inside of what is compiled in place nothing can be watched.
    inside = settings.get("module") not in (OwnForward, CompiledInPlace)
    assert found[0].run.subject.finding.explains == ("net" if inside else "forward")
    assert len(found[1].evaluation.panels) == 2


@pytest.mark.parametrize("averaging", AVERAGINGS)
@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_are_explained_wherever_they_are_listed(averaging, first):
    settings = {"decay": 0.5} if averaging.__name__.startswith("EMA") else {}
    seen = []

    class Looking(SaliencyPanels.__mro__[1]):
        """Notes the weights that it finds."""

        def add(self, epoch, seen_images):
            seen.append(epoch.classifier.network.fc.weight.clone())

        def finish(self, epoch):
            return None

    def run(watching):
        seen.clear()
        torch.manual_seed(4)
        module, mean = Stranger(), averaging(**settings)
        own = [Looking({"gradient": Gradient()}, max_images=None)] if watching else []
        listed = [mean, *own] if first else [*own, mean]
        trainer(*listed, max_epochs=2).fit(module, loader(normalised(8)), loader(normalised(8)))
        return module, mean

    alone, _ = run(False)
    watched, mean = run(True)
    for (name, one), other in zip(alone.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    # At the end of the fit the module has the average of the last epoch.
    assert torch.equal(seen[-1], mean._average_model.module.net.fc.weight)
    assert torch.equal(seen[-1], watched.net.fc.weight)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluations_under_inference_mode_leave_everything_as_it_is(stage):
    module = Stranger()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = [
        SaliencyMetrics(
            {"gates": HierarchicalMasks(steps=2, learning_rate=0.5), "cam": GradCAM()},
            [PerturbationCurve("deletion", steps=1)],
        )
    ]
    getattr(trainer(*found, inference_mode=True), stage)(module, loader(normalised(4)), verbose=False)
    assert found[0].evaluation.counts["explained images"] == 4
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())
    plain = TinyNet()
    assert module.net.state_dict().keys() == plain.state_dict().keys()


class Interrupted(Stranger):
    """Somebody stops the cell of a notebook in the first validation."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        raise KeyboardInterrupt


def test_the_cell_of_a_notebook_may_be_stopped_and_run_again():
    found, module = callbacks(), Interrupted()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(*found).fit(module, loader(normalised(8)), loader(normalised(8)))
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    for module in (Stranger(), Stranger()):
        trainer(*found).fit(module, loader(normalised(8)), loader(normalised(8)))
        trainer(*found).validate(module, loader(normalised(8)), verbose=False)
        assert found[0].epoch.classifier.network is module.net
        assert found[0].evaluation.counts["explained images"] == 8
