"""Two processes on an uneven number of images give the scores of one."""

import pytest
import torch
from torch import multiprocessing

from helpers.explaining_toys import Brightness, Samples, Task, loader, right_labels, trainer
from verisal.callbacks import (
    BaselineNeutrality,
    DisturbedLocalization,
    MapAgreement,
    PerturbationCurves,
    SaliencyMetrics,
    SaliencyPanels,
)
from verisal.functional.baselines import DatasetMean
from verisal.metrics import EnergyInside, PointingGame

pytestmark = pytest.mark.slow

COUNT = 7


def evaluated(**settings):
    methods = {"b": Brightness()}
    callbacks = [
        SaliencyMetrics(methods, [PointingGame(), EnergyInside()], randomisation_steps=2, resamples=30),
        SaliencyMetrics(methods, [EnergyInside()], max_images=3, resamples=30),
        PerturbationCurves(methods, baselines=[DatasetMean()], steps=3, resamples=30),
        DisturbedLocalization(
            methods,
            Samples(8, name="held out", labels=right_labels(8)),
            several=Samples(5, name="several", labels=right_labels(5)),
            resamples=30,
        ),
        BaselineNeutrality([DatasetMean()], resamples=30),
        MapAgreement({"one": Brightness(), "other": Brightness(grey=0.6)}, {"greys": ["one", "other"]}),
        SaliencyPanels(methods, max_images=2),
    ]
    run = trainer(*callbacks, **settings)
    run.validate(Task(), loader(COUNT, batch_size=2, labels=right_labels(COUNT)), verbose=False)
    return [callback.evaluation for callback in callbacks]


def work(rank, folder):
    import os

    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    found = evaluated(devices=2, strategy="ddp")
    torch.save(
        [evaluation and (evaluation.scores, evaluation.counts) for evaluation in found], folder / f"{rank}.pt"
    )
    curves = [(curve.figure, curve.label, curve.y) for one in found if one for curve in one.curves]
    torch.save(curves, folder / f"curves {rank}.pt")
    torch.save([panel.image_id for panel in found[-1].panels], folder / f"panels {rank}.pt")


def test_seven_images_on_two_processes_equal_one_process(folder):
    alone = evaluated()
    multiprocessing.start_processes(work, args=(folder,), nprocs=2, start_method="forkserver")
    for rank in range(2):
        found = torch.load(folder / f"{rank}.pt", weights_only=False)
        for one, many in zip(alone[:-1], found[:-1], strict=True):
            scores, counts = many
            assert counts == one.counts
            assert scores.keys() == one.scores.keys()
            for name, score in one.scores.items():
                other = scores[name]
                assert (other.n, other.undefined) == (score.n, score.undefined), name
                for end in ("value", "low", "high"):
                    expected = pytest.approx(getattr(score, end), abs=1e-6, nan_ok=True)
                    assert getattr(other, end) == expected, name
        shown = torch.load(folder / f"panels {rank}.pt")
        assert shown == [panel.image_id for panel in alone[-1].panels]
        assert len(shown) == 2
        curves = torch.load(folder / f"curves {rank}.pt", weights_only=False)
        expected = [curve for one in alone for curve in one.curves]
        for curve, (figure, label, y) in zip(expected, curves, strict=True):
            assert (curve.figure, curve.label) == (figure, label)
            torch.testing.assert_close(y, curve.y)
