"""Processes that read, draw and write beside the network while ``verisal explain`` is at many images."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Generic, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal._files import write_atomic
from verisal.cli._explain_done import file_identity
from verisal.cli._memory import keep_freed_memory
from verisal.data import ImageReader, resize_image
from verisal.errors import DataError
from verisal.progress import tell
from verisal.reporting import Explanation, draw_explanation

_MOST = 8
_LOST = (
    "verisal: a helping process was ended from outside, most often because memory ran out; this one goes on"
    " alone"
)
_Result = TypeVar("_Result")


def helpers_for(images: int, *, threads: int, at_once: int, on_gpu: bool) -> int:
    """Number of processes that pay beside one that computes on so many threads.

    Args:
        images: to explain. For two batches no process is worth its start.
        threads: of the process that computes, one for each core that is free. A single core does one thing
            at a time.
        at_once: images in a batch.
        on_gpu: True if the network computes there and leaves the cores free.
    """
    if images <= 2 * at_once:
        return 0
    return min(_MOST, threads - 1 if on_gpu else threads // 2)


@final
class Job(Generic[_Result]):
    """Something to be done, by a helper or, where none has begun it, by whoever wants its result."""

    def __init__(
        self, work: Callable[..., _Result], given: Sequence[Any], future: Future[bytes] | None
    ) -> None:
        self._work, self._given, self._future = work, given, future
        self._result: list[_Result] = []

    @property
    def done(self) -> bool:
        """True if there is a result, or an error."""
        return bool(self._result) or (self._future is not None and self._future.done())

    def result(self) -> _Result:
        """The result; an error of the job is raised here."""
        if not self._result:
            self._result.append(self._found())
            # What waits in a line behind others keeps nothing that is large.
            self._given = ()
        return self._result[0]

    def _found(self) -> _Result:
        if self._future is None or self._future.cancel():
            return self._work(*self._given)
        try:
            found: _Result = pickle.loads(self._future.result())  # noqa: S301 - from a process of our own
        except BrokenProcessPool:
            return self._work(*self._given)
        return found


@final
class Helpers:
    """Processes that do jobs, or none.

    Args:
        pool: the processes; None for this one alone.
        count: how many they are.
    """

    def __init__(self, pool: ProcessPoolExecutor | None, count: int) -> None:
        self._pool, self.number = pool, count

    def job(self, work: Callable[..., _Result], *given: Any) -> Job[_Result]:  # noqa: ANN401 - of the work
        """Have something done that can be done anywhere: a function of a module, and what can be pickled."""
        if self._pool is None:
            return Job(work, given, None)
        try:
            # Tensors in bytes of our own: torch's would need a file in shared memory for each.
            return Job(work, given, self._pool.submit(_done, pickle.dumps((work, given), protocol=5)))
        except BrokenProcessPool:
            self._pool, self.number = None, 0
            tell(_LOST, error=True)
            return Job(work, given, None)


ALONE = Helpers(None, 0)
"""This process without helpers."""


@contextmanager
def helping(count: int) -> Iterator[Helpers]:
    """So many processes, until the end; those of a process that is killed end with it."""
    if count < 1:
        yield ALONE
        return
    # Threads and a GPU's context do not survive a plain fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "matplotlib.backends.backend_agg"])
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin)
    try:
        yield Helpers(pool, count)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Make a helper of this process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    # Ctrl-C reaches all processes of a terminal; the one that explains ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(process: int) -> None:
    wait([process])
    os._exit(1)


def _done(job: bytes) -> bytes:
    work, given = pickle.loads(job)  # noqa: S301 - from the process that explains
    return pickle.dumps(work(*given), protocol=5)


@final
@dataclass(frozen=True)
class ReadImage:
    """An image as the classifier takes it.

    Attributes:
        image: ``(C, H, W)`` float32 in [0, 1].
        size: height and width in the file.
        file: what tells it from a file that was changed since.
    """

    image: Tensor
    size: tuple[int, int]
    file: Mapping[str, int]


def read_image(reader: ImageReader, path: Path, size: tuple[int, int]) -> ReadImage | str:
    """Read a file and bring it to a size; in words why it cannot be read."""
    try:
        file = file_identity(path)
        image = reader(path)
        return ReadImage(resize_image(image, size), (image.shape[-2], image.shape[-1]), file)
    except DataError as error:
        return str(error)


def write_explanation(
    figure: tuple[Explanation, Path, float] | None, maps: Path, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write the figure of an image, if it gets one, and then its maps: where they are, all is.

    Args:
        figure: what is drawn, the file, and the opacity of the map over the image.
        maps: the file.
        arrays: of which it holds each under its name.
    """
    if figure is not None:
        # Those of an earlier command would belong to the figure of this one.
        maps.unlink(missing_ok=True)
        draw_explanation(figure[0], figure[1], opacity=figure[2])
    maps.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(maps, packed(arrays))


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A file as ``np.savez_compressed`` makes it, in two thirds of the time and 2 % larger."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return content.getvalue()
