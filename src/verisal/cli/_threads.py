"""Threads of a command: as many as there are free cores when it begins to compute; imports nothing heavy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import final

from verisal.errors import ConfigError

THREADS_HELP = "Threads to compute on. Default: OMP_NUM_THREADS, else one for each core that is free."
"""Words on the option, the same of every command."""

_MOST = 1024
# What any of them says, a person has chosen.
_GIVEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Looks at what else is at work, and the seconds between them: a process that comes and goes is not counted.
_LOOKS, _BETWEEN = 10, 0.002


def wait_without_spinning() -> None:
    """Have threads that wait for others sleep instead of spin, unless the environment says otherwise.

    torch's OpenMP reads this when it is loaded. A spinning thread takes a core from the process that the
    others wait for.
    """
    if not any(os.environ.get(name) for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


@final
class Threads:
    """Number of threads that torch computes on in a command.

    ``--threads`` goes before ``OMP_NUM_THREADS``, and that before the number of cores: those that the process
    may use, within its share of CPU time, without those that others compute on.

    Args:
        own_process: whether the process is the command's own; elsewhere no number is chosen.
        proc: where the system says what is at work.
        system: where it says what there is.
    """

    def __init__(self, *, own_process: bool, proc: Path = Path("/proc"), system: Path = Path("/sys")) -> None:
        self.own_process, self._proc, self._system = own_process, proc, system
        self._number: int | None = None
        self._given = False
        self._before: int | None = None
        self._words = ""

    def use(self, given: int | None) -> str:
        """Compute on so many threads from now on; called once torch has been imported.

        Args:
            given: by ``--threads``.

        Returns:
            Number and reason in one line; empty where it is what torch takes by itself, or what was given.

        Raises:
            ConfigError: fewer than one, or more than any machine has cores for.
        """
        if given is not None and not 1 <= given <= _MOST:
            raise ConfigError(f"threads must be from 1 to {_MOST}, found {given}")
        self._given = given is not None
        if given is not None:
            self._set(given)
        elif self.own_process and not any(os.environ.get(name) for name in _GIVEN):
            number, self._words = self._chosen()
            self._set(number)
        return self._words

    def share(self, processes: int) -> str:
        """Divide the threads among the processes of this command on this machine.

        Returns:
            As :meth:`use`, of the number of each process.
        """
        if self._number is not None and processes > 1:
            # SLURM may have divided the cores among the processes already, so that each sees its own alone.
            there = 0 if self._given else int(os.environ.get("SLURM_CPUS_ON_NODE") or 0)
            cores = max(self._number, there)
            number = min(self._number, max(1, cores // processes))
            if number < self._number:
                self._words = f"threads: {number} in each of {processes} processes, which share {cores}"
                self._set(number)
        return self._words

    def restore(self) -> None:
        """Put back the number that torch computed on before."""
        if self._before is not None:
            import torch

            torch.set_num_threads(self._before)

    def _set(self, number: int) -> None:
        import torch

        if self._before is None:
            self._before = torch.get_num_threads()
        self._number = number
        torch.set_num_threads(number)
        # For libraries that are yet to be loaded, and for the processes of other devices.
        os.environ["OMP_NUM_THREADS"] = str(number)

    def _chosen(self) -> tuple[int, str]:
        """Number of threads, and its reason in words where torch would take another number."""
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        if usable is None:
            import torch

            return torch.get_num_threads(), ""
        cores, limit, others = self._cores(usable), self._limit(), self._at_work_elsewhere()
        free = self._cores(None) - others
        number = max(1, min(cores, limit, free))
        of = f"threads: {number} of {cores} core{'s' if cores > 1 else ''}"
        if number >= cores:
            return number, ""
        if limit <= free:
            return number, f"{of}, as the limit on this process's CPU time allows"
        at_work = "1 other thread is" if others == 1 else f"{others} other threads are"
        return number, f"{of}, since {at_work} at work here (--threads N sets it)"

    def _cores(self, usable: set[int] | None) -> int:
        """Cores with a processor among ``usable``, or all; two threads of a core are no faster than one."""
        found = {
            file.read_text().strip()
            for file in self._system.glob("devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
            if usable is None or int(file.parents[1].name.removeprefix("cpu")) in usable
        }
        return len(found) or (len(usable) if usable is not None else os.cpu_count() or 1)

    def _limit(self) -> int:
        """Whole cores in the CPU time that the process and those that it belongs to may take."""
        limits = [_MOST]
        for line in self._read("self/cgroup").splitlines():
            _, controllers, inside = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            # In a container the path is often that outside of it; the limit then lies at the top.
            folder = Path(inside.lstrip("/"))
            for below in (folder, *folder.parents):
                limits += _quota(self._system / "fs/cgroup" / controllers / below)
        return max(1, min(limits))

    def _at_work_elsewhere(self) -> int:
        """Threads that compute, without the one that asks; the mean of some looks, rounded."""
        # Processes of one command start together, and are no load to each other.
        if any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
            return 0
        counts = []
        for _ in range(_LOOKS):
            fields = self._read("loadavg").split()
            if len(fields) < 4:
                return 0
            counts.append(int(fields[3].partition("/")[0]) - 1)
            time.sleep(_BETWEEN)
        return max(0, round(sum(counts) / len(counts)))

    def _read(self, name: str) -> str:
        try:
            return (self._proc / name).read_text()
        except OSError:
            return ""


def _quota(folder: Path) -> list[int]:
    """Cores that a control group of either version may take; empty where there is no limit."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except (OSError, ValueError):
        return []
    return [] if quota == "max" or int(quota) <= 0 else [int(quota) // int(period)]
