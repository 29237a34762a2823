"""Threads of a command: cores, limits, what else is at work, and what a person says."""

import os
import subprocess
import sys

import pytest
import torch

from verisal.cli import _threads, main
from verisal.cli._threads import Threads, wait_without_spinning
from verisal.data import ImageData
from verisal.errors import ConfigError

CONTROLLED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_CPUS_ON_NODE")


@pytest.fixture(autouse=True)
def _apart(monkeypatch):
    """No number in the environment, and this process as it was."""
    monkeypatch.setattr(_threads, "_BETWEEN", 0.0)
    before = torch.get_num_threads()
    for name in (*CONTROLLED, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    # What a command sets goes with the test, too.
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a machine, and gives the threads of a command on it."""

    def made(siblings, *, usable=None, running=1, groups="", quotas=(), own=True):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _: usable or set(range(len(siblings))), raising=False
        )
        for number, text in enumerate(siblings):
            folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{text}\n")
        for name, text in quotas:
            file = tmp_path / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        (tmp_path / "proc/loadavg").write_text(f"9.00 9.00 9.00 {running}/250 4711\n")
        return Threads(own_process=own, proc=tmp_path / "proc", system=tmp_path / "sys")

    return made


FOUR = ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("siblings", "settings", "number", "words"),
    [
        # The load of the last minute, 9 here, is that of commands that are over.
        (FOUR, {}, 4, ()),
        # Two threads of one core count once, as torch counts them.
        (("0-1", "0-1", "2-3", "2-3"), {}, 2, ()),
        (FOUR, {"usable": {1, 3}}, 2, ()),
        (FOUR, {"running": 2}, 3, ("threads: 3 of 4 cores", "1 other thread is at work", "--threads N")),
        (FOUR, {"running": 3}, 2, ("threads: 2 of 4 cores", "2 other threads are at work")),
        # One is always left.
        (FOUR, {"running": 40}, 1, ("threads: 1 of 4 cores", "39 other threads are at work")),
        # Others may be at work on the cores that this process has no part in.
        (FOUR, {"usable": {0, 1}, "running": 3}, 2, ()),
        (
            FOUR,
            {
                "groups": "0::/a/b\n",
                "quotas": [("a/b/cpu.max", "max 100000"), ("a/cpu.max", "250000 100000")],
            },
            2,
            ("threads: 2 of 4 cores", "limit on this process's CPU time"),
        ),
        # A container sees its own group at the top, and the path outside of it.
        (FOUR, {"groups": "0::/outside/c1\n", "quotas": [("cpu.max", "50000 100000")]}, 1, ("CPU time",)),
        (
            FOUR,
            {
                "groups": "4:cpu,cpuacct:/job\n3:memory:/none\n",
                "quotas": [
                    ("cpu,cpuacct/job/cpu.cfs_quota_us", "300000"),
                    ("cpu,cpuacct/job/cpu.cfs_period_us", "100000"),
                    ("cpu,cpuacct/cpu.cfs_quota_us", "-1"),
                    ("cpu,cpuacct/cpu.cfs_period_us", "100000"),
                ],
            },
            3,
            ("threads: 3 of 4 cores",),
        ),
    ],
)
def test_cores_limits_and_others_decide(machine, siblings, settings, number, words):
    threads = machine(siblings, **settings)
    said = threads.use(None)
    assert torch.get_num_threads() == number
    assert os.environ["OMP_NUM_THREADS"] == str(number)
    assert bool(said) == bool(words)
    assert all(part in said for part in words)
    assert "\n" not in said


def test_a_system_that_tells_nothing_has_a_thread_per_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert Threads(own_process=True, proc=tmp_path, system=tmp_path).use(None) == ""
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_in_the_environment_goes_before_cores_and_threads_before_both(machine, name, monkeypatch):
    threads = machine(FOUR)
    monkeypatch.setenv(name, "3")
    torch.set_num_threads(1)
    assert threads.use(None) == threads.share(2) == ""
    assert torch.get_num_threads() == 1
    assert threads.use(2) == ""
    assert torch.get_num_threads() == 2
    threads.restore()
    assert torch.get_num_threads() == 1


def test_a_process_that_is_not_the_commands_own_keeps_its_number(machine):
    torch.set_num_threads(2)
    assert machine(FOUR, own=False).use(None) == ""
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("given", "processes", "environment", "number", "words"),
    [
        (None, 1, {}, 4, ""),
        (None, 2, {}, 2, "threads: 2 in each of 2 processes, which share 4"),
        (None, 8, {}, 1, "threads: 1 in each of 8 processes, which share 4"),
        (6, 2, {}, 3, "threads: 3 in each of 2 processes, which share 6"),
        # SLURM has divided 16 cores: each process sees its own four alone.
        (None, 4, {"SLURM_CPUS_ON_NODE": "16", "SLURM_NTASKS": "4"}, 4, ""),
        # It has not: all see the same.
        (None, 4, {"SLURM_CPUS_ON_NODE": "4", "SLURM_NTASKS": "4"}, 1, "threads: 1 in each of 4 processes"),
    ],
)
def test_processes_of_one_command_share(machine, monkeypatch, given, processes, environment, number, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Those of one command that start together are no load to each other.
    threads = machine(FOUR, running=4 if environment else 1)
    threads.use(given)
    said = threads.share(processes)
    assert said.startswith(words)
    assert bool(said) == bool(words)
    assert torch.get_num_threads() == number
    assert os.environ["OMP_NUM_THREADS"] == str(number)


@pytest.mark.parametrize("given", [0, -1, 1025])
def test_a_number_out_of_range_is_refused(given):
    with pytest.raises(ConfigError, match=f"threads must be from 1 to 1024, found {given}"):
        Threads(own_process=True).use(given)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["explain", "none.png", "--classifier=emoji_scenes_64"], 1),
        (["export", "none", "--output=out"], 2),
        (["data", "check", "none"], 1),
    ],
)
def test_commands_take_a_number(words, code, monkeypatch, capsys):
    used = []
    monkeypatch.setattr(Threads, "_set", lambda self, number: used.append(number))
    assert main([*words, "--threads=3"]) == code
    assert main(words) == code
    assert used == [3]
    assert main([*words, "--threads=none"]) == 2
    assert "none" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("environment", "policy"),
    [
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "7"}, ""),
    ],
)
def test_waiting_threads_sleep_unless_somebody_says_otherwise(environment, policy, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    wait_without_spinning()
    assert os.environ["OMP_WAIT_POLICY"] == policy


def test_a_command_of_its_own_sets_the_policy_before_torch_is_there(tmp_path):
    code = (
        "import os, sys; from verisal.cli import _main, main\n"
        "def run(arguments, command):\n"
        "    policy = os.environ['OMP_WAIT_POLICY'] or 'none'\n"
        "    print(policy, 'torch' in sys.modules, command.threads.own_process)\n"
        "    return 0\n"
        "_main._run = run; sys.argv = ['verisal', 'explain', 'photo.png']\n"
        "main(None if sys.stdin.read() == 'own' else ['explain', 'photo.png'])"
    )
    said = [
        subprocess.run(  # noqa: S603
            [sys.executable, "-c", code], input=word, capture_output=True, text=True, check=True
        ).stdout.split()
        for word in ("own", "part")
    ]
    # In a notebook, or a test, the process is somebody else's.
    assert said == [["passive", "False", "True"], ["none", "False", "False"]]


@pytest.mark.parametrize(("threads", "workers"), [(1, 0), (2, 1), (3, 2), (8, 2)])
def test_loaders_leave_a_core_to_computing(threads, workers):
    torch.set_num_threads(threads)
    assert ImageData(val_count=2).num_workers == workers
    assert ImageData(val_count=2, num_workers=5).num_workers == 5
