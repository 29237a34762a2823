"""An alarm that two processes fit: each attacks its share, and both get that of one process."""

import os
import time

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import multiprocessing, nn
from torch.utils.data import DataLoader, TensorDataset

from verisal.attacks import FGSM
from verisal.callbacks import FitAlarm
from verisal.detection import Alarm
from verisal.errors import ConfigError
from verisal.models import Classifier


class Counted(nn.Module):
    """Bright images and dark ones of one channel; counts the images that gradients were asked for.

    Before its first attack, a process waits for the others in ``meeting``: without that a quick one may take
    the whole work before a slow one has started, as it should.
    """

    def __init__(self, meeting=None):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 8)
        self.attacked = 0
        self.meeting = meeting
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8))
            self.layer.bias.copy_(torch.tensor([32.0, -32.0]))

    def forward(self, images):
        if images.requires_grad:
            if self.meeting and not self.attacked:
                meet(self.meeting)
            self.attacked += len(images)
        return self.layer(images).flatten(1)


def meet(meeting, seconds=120):
    """Waits until both processes are here."""
    (meeting / f"began_{os.environ['RANK']}").touch()
    end = time.monotonic() + seconds
    while len(list(meeting.glob("began_*"))) < 2:
        assert time.monotonic() < end, "the other process has attacked nothing"
        time.sleep(0.01)


class Task(LightningModule):
    def __init__(self, meeting=None):
        super().__init__()
        self.classifier = Classifier(
            Counted(meeting), ["layer"], normalization="none", channels=1, image_size=8
        )

    def test_step(self, batch, batch_idx):
        self.classifier(batch[0])


def pictures(count=400):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    base = 0.47 + 0.06 * labels.float().view(-1, 1, 1, 1)
    return (base + 0.1 * torch.randn(count, 1, 8, 8, generator=generator)).clamp(0, 1), labels


def fitted(meeting=None, **settings):
    """The fitted callback, and how many images this process has attacked."""
    callback, task = FitAlarm([FGSM(16 / 255)], false_alarms=0.2), Task(meeting)
    loader = DataLoader(TensorDataset(*pictures()), batch_size=50)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(accelerator="cpu", callbacks=[callback], enable_checkpointing=False, **quiet, **settings).test(
        task, loader, verbose=False
    )
    return callback, task.classifier.network.attacked


def said(callback):
    alarm = callback.alarm
    scores = {str(name): score.value for name, score in callback.evaluation.scores.items()}
    return {
        "threshold": alarm.threshold,
        "scores": alarm(pictures(40)[0]).scores,
        "seen": {part: hashes.tolist() for part, hashes in alarm.seen.items()},
        "report": scores,
    }


def work(rank, folder):
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    callback, attacked = fitted(meeting=folder, devices=2, strategy="ddp")
    torch.save((said(callback), attacked), folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_fit_the_alarm_of_one_and_share_the_attacks(folder):
    callback, attacked = fitted()
    alone = said(callback)
    multiprocessing.start_processes(work, args=(folder,), nprocs=2, start_method="forkserver")
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for own, count in found:
        assert own["threshold"] == pytest.approx(alone["threshold"], abs=1e-6)
        torch.testing.assert_close(own["scores"], alone["scores"], rtol=0, atol=1e-5)
        assert own["seen"] == alone["seen"]
        assert own["report"] == pytest.approx(alone["report"], abs=1e-6, nan_ok=True)
        assert 0 < count < attacked
    assert torch.equal(found[0][0]["scores"], found[1][0]["scores"])
    assert found[0][0]["threshold"] == found[1][0]["threshold"]
    # A shard that both begin at once is locked, so that nothing is made twice.
    assert sum(count for _, count in found) == attacked


def test_several_processes_need_a_folder_in_common():
    images, labels = pictures(40)
    with pytest.raises(ConfigError, match="in a folder that all of them see; give store="):
        Alarm.fit(Task().classifier, images, labels, rank=0, world_size=2)
