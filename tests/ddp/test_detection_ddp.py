import math

import pytest
import torch
from torch import distributed, multiprocessing

from verisal.detection.metric import DetectionScores
from verisal.detection.table import detection_report
from verisal.functional.statistics import Bootstrap

ROWS = ("masks", "max_softmax")
SCORES = torch.tensor([[0.1, 2.0], [0.7, math.nan], [-3.0, 1.0], [4.2, 0.3], [1.5, 0.2]])
ATTACKED = SCORES + torch.tensor([[0.5, 0.1], [-0.2, 0.3], [4.0, -0.9], [0.1, 0.1], [0.4, 0.2]])


def padded_share(images, rank, world_size):
    """What a padding sampler gives a rank: shares of one length, the first images repeated."""
    length = -(-images // world_size)
    order = list(range(images)) + list(range(length * world_size - images))
    return torch.tensor(order[rank::world_size])


def gather(share, metric):
    for chunk in share.split(2):
        metric.update(SCORES[chunk], chunk, torch.zeros_like(chunk))
        metric.update(ATTACKED[chunk], chunk, torch.ones_like(chunk))
    return metric.compute()


def report(table):
    return detection_report(
        table,
        split="test",
        rows=ROWS,
        groups={0: "clean", 1: "pgd"},
        roles={"clean": "clean", "pgd": "attack"},
        thresholds={row: {0.05: 1.0, 0.01: None} for row in ROWS},
        bootstrap=Bootstrap(50),
    )


def shares(rank):
    return {
        "padded": padded_share(5, rank, 2),
        "one process without images": torch.arange(5)[: 0 if rank else 5],
    }


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = DetectionScores(ROWS)
    for name, share in shares(rank).items():
        table = gather(share, metric)
        found = [table.scores, table.image_index, table.group, report(table)]
        torch.save(found, folder / f"{name} {rank}.pt")
        metric.reset()
    distributed.destroy_process_group()


def test_five_images_on_two_processes_equal_one_process(tmp_path):
    table = gather(torch.arange(5), DetectionScores(ROWS))
    # A fork server imports the packages once for both processes.
    multiprocessing.start_processes(work, args=(tmp_path,), nprocs=2, start_method="forkserver")
    for rank in range(2):
        for name in shares(rank):
            scores, image_index, group, found = torch.load(tmp_path / f"{name} {rank}.pt", weights_only=False)
            torch.testing.assert_close(scores, table.scores, rtol=0, atol=1e-6, equal_nan=True)
            assert torch.equal(image_index, table.image_index)
            assert torch.equal(group, table.group)
            for metric, score in report(table).items():
                for one, many in zip(vars(score).values(), vars(found[metric]).values(), strict=True):
                    assert many == pytest.approx(one, abs=1e-6, nan_ok=True)
