"""A stranger's module on two processes: the numbers of one, also with uneven shares, and the same weights."""

import os
import warnings

import pytest
import torch
from lightning.pytorch import callbacks as of_lightning
from lightning.pytorch.callbacks import EarlyStopping
from torch import multiprocessing
from torch.utils.data import IterableDataset, Sampler

from helpers.strangers import Stranger, loader, normalised, trainer
from verisal.attacks import PGD
from verisal.callbacks import PerturbationCurves, RobustValidation, SaliencyMetrics, SaliencyPanels
from verisal.functional.baselines import Constant
from verisal.metrics import PerturbationCurve
from verisal.saliency import GradCAM, Gradient

pytestmark = pytest.mark.slow

if not hasattr(of_lightning, "EMAWeightAveraging"):
    pytest.skip("needs Lightning 2.6", allow_module_level=True)


def callbacks(max_images=3):
    methods = {"gradient": Gradient(), "grad_cam": GradCAM()}
    return [
        SaliencyMetrics(
            methods, [PerturbationCurve("deletion", steps=2)], resamples=20, randomisation_steps=1
        ),
        PerturbationCurves(
            methods, baselines=[Constant()], kinds=["insertion"], steps=2, resamples=20, max_images=max_images
        ),
        SaliencyPanels(methods, max_images=2),
        RobustValidation([PGD(0.1, steps=2)], resamples=20, max_images=max_images),
    ]


def validated(data, *, max_images=3, **settings):
    found = callbacks(max_images)
    trainer(*found, **settings).validate(Stranger(), data, verbose=False)
    return [(one.evaluation.scores, one.evaluation.counts) for one in found]


def fitted(watching, **settings):
    torch.manual_seed(4)
    module, found = Stranger(), callbacks() if watching else []
    others = [EarlyStopping("val/grad_cam/deletion", patience=9)] if watching else []
    averaging = of_lightning.EMAWeightAveraging(decay=0.5)
    run = trainer(*found, averaging, *others, max_epochs=2, num_sanity_val_steps=1, **settings)
    run.fit(module, loader(normalised(10)), loader(normalised(7), batch_size=2))
    return module.state_dict(), [one.affordable for one in found]


class Uneven(Sampler):
    """Six images on the first process, one on the other; none twice."""

    def __init__(self, rank):
        self.indices = range(6) if rank == 0 else range(6, 7)

    def __iter__(self):
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)


class Stream(IterableDataset):
    """Everything on the first process, nothing on the other."""

    def __init__(self, rank):
        self.pictures, self.count = normalised(7), 0 if rank else 7

    def __iter__(self):
        return (self.pictures[index] for index in range(self.count))


def work(rank, folder):
    torch.set_num_threads(1)
    # Whoever reads Lightning's advice to sum over processes would sum what is summed already.
    warnings.filterwarnings("error", message=r".*self\.log\('val/(gradient|grad_cam|random|explaining)")
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    both = {"devices": 2, "strategy": "ddp"}
    own = {**both, "use_distributed_sampler": False}
    found = {
        "padded": validated(loader(normalised(7), batch_size=1), **both),
        "uneven": validated(loader(normalised(7), batch_size=1, sampler=Uneven(rank)), **own),
        "none on one": validated(loader(Stream(rank), batch_size=1), max_images=None, **own),
    }
    found["alone"], _ = fitted(False, **both)
    found["watched"], found["affordable"] = fitted(True, **both)
    torch.save(found, folder / f"{rank}.pt")


def test_two_processes_equal_one_and_leave_the_weights_alone(folder):
    # One image a batch: which images stand beside it changes the last digits.
    data = loader(normalised(7), batch_size=1)
    some, every = validated(data), validated(data, max_images=None)
    multiprocessing.start_processes(work, args=(folder,), nprocs=2, start_method="forkserver")
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for own in found:
        assert_same(own["padded"], some)
        assert_same(own["uneven"], some)
        assert_same(own["none on one"], every)
        for name, weights in own["alone"].items():
            assert torch.equal(weights, own["watched"][name]), name
    assert found[0]["affordable"] == found[1]["affordable"]
    assert found[0]["affordable"][0] >= 8


def assert_same(found, expected):
    for (scores, counts), (wanted, wanted_counts) in zip(found, expected, strict=True):
        assert counts == wanted_counts
        assert scores.keys() == wanted.keys()
        for name, score in wanted.items():
            assert scores[name].n == score.n, name
            for end in ("value", "low", "high"):
                near = pytest.approx(getattr(score, end), abs=1e-6, nan_ok=True)
                assert getattr(scores[name], end) == near, name
