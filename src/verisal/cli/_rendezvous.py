"""Agreement of processes that torchrun, SLURM or a person started on the run that they work in."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import final

from torch._C._distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from verisal.errors import ConfigError

_MINUTES = 5
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
# Names of job under which Lightning, too, takes a process for one that a person started.
_BY_HAND = ("bash", "interactive")


@final
@dataclass(frozen=True)
class ProcessGroup:
    """Processes that something other than Lightning started.

    Attributes:
        rank: number of this process among all, 0 for the first.
        world_size: number of processes.
    """

    rank: int
    world_size: int

    def hand_down(self, text: str) -> None:
        """Give a text to all others; waits until each has it.

        Raises:
            ConfigError: some did not come.
        """
        store, key = self._store(), self._key()
        store.set(key, text)
        others = [f"{key}/{rank}" for rank in range(1, self.world_size)]
        try:
            store.wait(others, timedelta(minutes=_MINUTES))
        except Exception as error:
            came = sum(store.check([other]) for other in others)
            raise ConfigError(self._alone(f"{came} of {len(others)} others came")) from error

    def take(self) -> str:
        """The text of the first process.

        Raises:
            ConfigError: none came.
        """
        store, key = self._store(), self._key()
        try:
            text: str = store.get(key).decode()
        except Exception as error:
            raise ConfigError(self._alone("the first process said nothing")) from error
        store.set(f"{key}/{self.rank}", "read")
        return text

    def _store(self) -> Store:
        missing = [name for name in _ADDRESS if not os.environ.get(name)]
        if missing:
            raise ConfigError(
                f"this is process {self.rank} of {self.world_size}, but {', '.join(missing)} is not set;"
                " start the processes with torchrun or srun"
            )
        try:
            # The address at which the processes meet again later: torch shares one server among them.
            wait = timedelta(minutes=_MINUTES)
            store: Store = next(rendezvous("env://", self.rank, self.world_size, timeout=wait))[0]
        except Exception as error:
            raise ConfigError(self._alone(" ".join(str(error).split())[:200])) from error
        # Alive to the end: the process group meets at the same server, which must not go in between.
        atexit.register(id, store)
        return store

    def _key(self) -> str:
        # torchrun's own store outlives the processes, which it starts again when one of them fails.
        return f"verisal/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"

    def _alone(self, reason: str) -> str:
        address = ":".join(os.environ.get(name, "?") for name in _ADDRESS)
        return (
            f"process {self.rank} of {self.world_size} waited {_MINUTES} minutes at {address} for the others:"
            f" {reason}; start one command per process, all with the same MASTER_ADDR and MASTER_PORT"
        )


def started_group() -> ProcessGroup | None:
    """The processes of which this is one, if torchrun, ``srun`` or a person started several.

    Raises:
        ConfigError: a SLURM job that asks for its processes in another way than per host.
    """
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:
        group = ProcessGroup(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    elif _by_srun():
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        group = ProcessGroup(int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]))
        if group.world_size > 1:
            # Written into the environment from the job's list of hosts, as Lightning does later.
            try:
                slurm = SLURMEnvironment(auto_requeue=False)
            except RuntimeError as error:
                raise ConfigError(f"SLURM: {error}") from None
            _ = slurm.main_address, slurm.main_port
    else:
        return None
    return group if group.world_size > 1 else None


def _by_srun() -> bool:
    names = {"SLURM_NTASKS", "SLURM_PROCID"}
    return names <= os.environ.keys() and os.environ.get("SLURM_JOB_NAME") not in _BY_HAND
