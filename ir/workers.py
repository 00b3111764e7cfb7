"""Copies of this process that work on numbered items and are watched while they do.

A copy that ends early is told at once. One that stops answering is harder to see, for a heavy item takes minutes: what
tells is that it takes no processor time (copies inherit locks that threads held, and wait for them for ever).
"""

from __future__ import annotations

import multiprocessing
import signal
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from .errors import InstarError

CHECK_S = 5.0
"""Seconds between two looks at the processes."""

STILL = 12
"""Looks in a row in which a busy process took no processor time, after which it does not answer any more.

Looks are counted, not seconds: a machine that slept, or stopped all processes, has not looked meanwhile.
"""

PATIENCE_S = 5.0
"""Seconds that a process has to end after its last item."""


class EndedError(Exception):
    """A process ended before its item was done."""


class SilentError(Exception):
    """A process does not answer any more."""


@dataclass(frozen=True)
class Result:
    """What became of an item: a value, or what was raised."""

    place: int
    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        """The value; raises what was raised."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass
class _Worker:
    """A process, this end of its pipe, the item that it is busy with, and how long it has been still."""

    process: BaseProcess
    pipe: Connection
    busy: int | None = None
    ticks: int = -1
    still: int = 0

    def give(self, place: int) -> None:
        """Let it begin an item."""
        try:
            self.pipe.send(place)
        except OSError as problem:
            raise EndedError from problem
        self.busy, self.ticks, self.still = place, -1, 0

    def result(self) -> Result:
        """What it sent."""
        try:
            found: Result = self.pipe.recv()
        except (EOFError, OSError) as problem:
            raise EndedError from problem
        self.busy = None
        return found

    def look(self) -> None:
        """Count one look; ``SilentError`` if it was still for too many."""
        state, ticks = _activity(self.process.pid)
        moved = ticks != self.ticks or state == "R"
        self.ticks, self.still = ticks, 0 if moved else self.still + 1
        if self.busy is not None and self.still >= STILL:
            raise SilentError


class Workers:
    """Processes that do ``work`` of a place among the items; to be used in a ``with`` block, which ends them.

    Args:
        count: how many.
        begin: called first in every process.
        work: gives the value of a place; values and errors are sent back.
    """

    def __init__(self, count: int, begin: Callable[[], None], work: Callable[[int], Any]) -> None:
        self._workers: list[_Worker] = []
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads that hold a lock: these do not work now
            for _ in range(count):
                here, there = (Connection(end.detach()) for end in socket.socketpair())
                others = [here, *(worker.pipe for worker in self._workers)]
                process = context.Process(target=_serve, args=(there, others, begin, work), daemon=True)
                process.start()
                there.close()
                self._workers.append(_Worker(process, here))

    def __enter__(self) -> Workers:
        """The processes themselves."""
        return self

    def __exit__(self, *raised: object) -> None:
        """End them: at once if they are busy or do not end by themselves."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(PATIENCE_S if worker.busy is None else 0)
            worker.process.kill()
            worker.process.join()

    def results(self, places: Sequence[int]) -> Iterator[Result]:
        """Results as they come; items begin in the order of ``places``.

        Raises:
            EndedError: a process ended before its item was done.
            SilentError: a process with an item does not answer any more.
        """
        waiting = list(reversed(places))
        for worker in self._workers[: len(waiting)]:
            worker.give(waiting.pop())
        while busy := [worker for worker in self._workers if worker.busy is not None]:
            ready = wait([worker.pipe for worker in busy], CHECK_S)
            for worker in busy:
                if worker.pipe in ready:
                    found = worker.result()
                    if waiting:
                        worker.give(waiting.pop())
                    yield found
                elif not ready:
                    worker.look()


def _activity(pid: int | None) -> tuple[str, int]:
    """State of a process and the processor time that it took, in ticks of the clock (``proc(5)``)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[11]) + int(fields[12])


def _serve(
    pipe: Connection, others: Sequence[Connection], begin: Callable[[], None], work: Callable[[int], Any]
) -> None:
    """A process: items until the pipe is closed. The other ends are closed, or it would never be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that compiles ends its copies
    for other in others:
        other.close()
    begin()
    try:
        while True:
            pipe.send(_done(pipe.recv(), work))
    except (EOFError, OSError):
        return


def _done(place: int, work: Callable[[int], Any]) -> Result:
    try:
        return Result(place, work(place))
    except Exception as problem:  # noqa: BLE001 - it is raised where the results are wanted
        if not isinstance(problem, InstarError):
            problem.add_note("".join(traceback.format_exception(problem)))
        return Result(place, error=_sendable(problem))


def _sendable(problem: Exception) -> Exception:
    """The error, or its words where it cannot be sent."""
    try:
        ForkingPickler.dumps(problem)
        copy(problem)
    except Exception:  # noqa: BLE001 - whatever its class does when it is made again
        return RuntimeError(f"{type(problem).__name__}: {problem}")
    return problem
