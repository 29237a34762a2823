"""Processes that Lightning did not start find the run of the first one."""

import json
import os
import socket
import threading

import pytest

from verisal.cli._rendezvous import ProcessGroup, started_group
from verisal.cli._runs import open_run, process_rank
from verisal.errors import ConfigError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME", "MASTER_ADDR")


@pytest.fixture
def environment(monkeypatch):
    for name in (
        *NAMES,
        "MASTER_PORT",
        "VERISAL_RUN",
        "SLURM_JOB_ID",
        "SLURM_NODELIST",
        "SLURM_NTASKS_PER_NODE",
    ):
        monkeypatch.delenv(name, raising=False)
    # torch's stores and Lightning write into it too.
    monkeypatch.setenv("MASTER_ADDR", "")
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.delenv("MASTER_PORT")
    return monkeypatch


def meeting_place(environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment.setenv("MASTER_PORT", str(free.getsockname()[1]))
    environment.setenv("MASTER_ADDR", "127.0.0.1")


def test_who_started_a_process(environment):
    assert started_group() is None
    environment.setenv("LOCAL_RANK", "1")
    assert (started_group(), process_rank()) == (None, 1)
    environment.setenv("RANK", "5")
    environment.setenv("WORLD_SIZE", "8")
    assert (started_group(), process_rank()) == (ProcessGroup(5, 8), 5)
    # One process is no group.
    environment.setenv("RANK", "0")
    environment.setenv("WORLD_SIZE", "1")
    assert (started_group(), process_rank()) == (None, 1)


def test_srun_is_a_group_and_a_shell_in_a_job_is_none(environment):
    environment.setenv("SLURM_NTASKS", "4")
    environment.setenv("SLURM_PROCID", "3")
    environment.setenv("SLURM_NODELIST", "node[07-08]")
    environment.setenv("SLURM_JOB_ID", "123456")
    environment.setenv("SLURM_JOB_NAME", "interactive")
    assert started_group() is None
    environment.setenv("SLURM_JOB_NAME", "detector")
    with pytest.raises(ConfigError, match="--ntasks-per-node"):
        started_group()
    environment.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert started_group() == ProcessGroup(3, 4)
    # Where Lightning's processes meet: the job's first host, a port that its number gives.
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node07", "18456")


def test_all_get_the_text_of_the_first(environment):
    meeting_place(environment)
    taken = []
    others = [
        threading.Thread(target=lambda rank=rank: taken.append(ProcessGroup(rank, 3).take()))
        for rank in (1, 2)
    ]
    for other in others:
        other.start()
    ProcessGroup(0, 3).hand_down("hello")
    for other in others:
        other.join(250)
    assert taken == ["hello", "hello"]


def test_a_refusal_of_the_first_process_ends_all(environment, tmp_path):
    meeting_place(environment)
    (tmp_path / "file").write_text("")
    texts = []
    other = threading.Thread(target=lambda: texts.append(ProcessGroup(1, 2).take()))
    other.start()
    environment.setenv("RANK", "0")
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="choose another with --run_dir"):
        open_run("fit", "toy", run_dir=tmp_path / "file", resume="never")
    other.join(250)
    assert "choose another with --run_dir" in json.loads(texts[0])["error"]


def test_a_group_without_a_meeting_place_is_refused(environment):
    with pytest.raises(ConfigError, match="MASTER_ADDR, MASTER_PORT is not set; start the processes with"):
        ProcessGroup(1, 2).take()


def test_a_process_that_nobody_explains_is_refused(environment):
    environment.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="start all with torchrun or srun"):
        open_run("fit", "toy", run_dir=None, resume="never")
