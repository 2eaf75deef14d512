"""Where units run: in this process, or in worker processes of this machine.

A worker process is spawned, maps the shared data, and dies with its parent; there is no daemon. Its next unit is
fetched while the current one computes, and states are written back while the next one computes. A worker that dies is
started again; the unit that it held is reported as lost and nothing else is.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, cast

from stepwell.core.errors import InvalidValueError, StepwellError
from stepwell.select.data import Source, shared_folder
from stepwell.select.hopper import Unit
from stepwell.select.runner import Runner, write_blob
from stepwell.select.work import Outcome, Reached, Task, Work

_SWITCH_S = 2e-4
"""How long a worker's thread keeps the interpreter while another one wants it: fetching must not hold up training."""


class Lost(NamedTuple):
    """A unit that came to nothing because its worker died.

    Args:
        slot: The worker.
        unit: The unit.
        reason: How it died.
        began: Whether the unit was at work; one that only waited is not to blame.
    """

    slot: int
    unit: Unit
    reason: str
    began: bool = True


Message: TypeAlias = "Outcome | Lost"


class Executor(Protocol):
    """Runs units on numbered workers."""

    @property
    def slots(self) -> int:
        """How many workers there are."""

    @property
    def depth(self) -> int:
        """Units that a worker may hold at once: the one at work and those fetched ahead."""

    def submit(self, slot: int, work: Work) -> None:
        """Give a worker a unit."""

    def wait(self, timeout_s: float) -> Sequence[Message]:
        """Return what has ended, waiting at most so long for the first."""

    def close(self) -> None:
        """Stop all workers and free what they shared."""


class Inline:
    """Runs every unit in this process as soon as it is submitted.

    Args:
        task: What is the same for all units.
        source: The data.
    """

    def __init__(self, task: Task, source: Source) -> None:
        self._runner = Runner(task, source)
        self._ended: list[Message] = []

    @property
    def slots(self) -> int:
        """One."""
        return 1

    @property
    def depth(self) -> int:
        """One: nothing can be fetched meanwhile."""
        return 1

    def submit(self, slot: int, work: Work) -> None:
        self._ended.append(written(self._runner.run(work), work))

    def wait(self, timeout_s: float) -> Sequence[Message]:
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Nothing is shared."""


def written(outcome: Outcome, work: Work) -> Outcome:
    """Write the states of an outcome where its work wants them, and return it with their places."""
    results = []
    for result, path in zip(outcome.results, work.writes, strict=True):
        if isinstance(result, Reached) and isinstance(result.state, bytes) and path is not None:
            write_blob(path, result.state)
            result = result._replace(state=path)
        results.append(result)
    return outcome._replace(results=tuple(results))


class _Worker:
    """A process, the pipe to it, and what it holds."""

    def __init__(self, slot: int, payload: bytes) -> None:
        context = mp.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.held: deque[Unit] = deque()
        name = f"stepwell-worker-{slot}"
        self.process = context.Process(target=_main, args=(far, payload, slot), name=name, daemon=True)
        self.process.start()
        far.close()


class Processes:
    """Runs units in worker processes.

    Args:
        task: What is the same for all units; its functions must be importable by a new process.
        source: The data; shared as maps of files in memory.
        workers: How many.

    Raises:
        InvalidValueError: If a function cannot be sent to another process.
    """

    def __init__(self, task: Task, source: Source, workers: int) -> None:
        self._folder = shared_folder(_size(source))
        self._payload = _pickled(task, source.shared(Path(self._folder.name)))
        self._workers = [_Worker(slot, self._payload) for slot in range(workers)]
        self._dead: list[Message] = []
        self._short = 0

    @property
    def slots(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def depth(self) -> int:
        """One at work, one fetched ahead."""
        return 2

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The workers' process ids, by slot."""
        return tuple(worker.process.pid or 0 for worker in self._workers)

    def submit(self, slot: int, work: Work) -> None:
        worker = self._workers[slot]
        worker.held.append(work.unit)
        try:
            worker.pipe.send(work)
        except (BrokenPipeError, ConnectionResetError):
            pass  # its death is found by the next wait

    def wait(self, timeout_s: float) -> Sequence[Message]:
        found, self._dead = self._dead, []
        pipes: dict[object, int] = {worker.pipe: slot for slot, worker in enumerate(self._workers)}
        ready = wait(list(pipes), 0 if found else timeout_s)  # type: ignore[arg-type]
        for pipe in ready:
            found += self._hear(pipes[pipe])
        return found

    def _hear(self, slot: int) -> list[Message]:
        """Return all that one worker has said; if it died, replace it."""
        worker, found = self._workers[slot], list[Message]()
        try:
            while worker.pipe.poll():
                outcome = cast("Outcome", worker.pipe.recv())
                if outcome.unit in worker.held:
                    worker.held.remove(outcome.unit)
                found.append(outcome)
        except (EOFError, ConnectionResetError, OSError):
            worker.process.join()
            reason = _death(worker.process.exitcode)
            found += [Lost(slot, unit, reason, place == 0) for place, unit in enumerate(worker.held)]
            worker.pipe.close()
            self._replace(slot, reason, idle=not worker.held)
        return found

    def _replace(self, slot: int, reason: str, *, idle: bool) -> None:
        self._short = self._short + 1 if idle else 0
        if self._short > 2 * len(self._workers):
            raise StepwellError(
                f"Workers do not start: {reason}. Scripts that start workers keep their own work under "
                "`if __name__ == '__main__':`; or pass workers=1."
            )
        self._workers[slot] = _Worker(slot, self._payload)

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._folder.cleanup()


def _size(source: Source) -> int:
    arrays = getattr(source, "arrays", ())
    return sum(array.numel() * array.element_size() for array in arrays)


def _pickled(task: Task, source: Source) -> bytes:
    """Return task and source as bytes; functions that pickle refuses go through cloudpickle where it is installed."""
    try:
        return pickle.dumps((task, source))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        try:
            dumps: Callable[[object], bytes] = import_module("cloudpickle").dumps
        except ImportError:
            allowed = "functions of an importable module (or install cloudpickle, or pass workers=1)"
            raise InvalidValueError("build, step or score", str(error), allowed) from error
        return dumps((task, source))


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its worker was killed by {signal.Signals(-code).name}"
    return f"its worker ended with status {code}"


def _main(pipe: Connection, payload: bytes, slot: int) -> None:
    """Run as a worker: one thread fetches, this one trains, one hands back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(_SWITCH_S)
    task, source = pickle.loads(payload)
    runner = Runner(task, source, slot)
    todo: queue.Queue[Work | None] = queue.Queue()
    done: queue.Queue[tuple[Outcome, Work] | None] = queue.Queue()

    def fetch() -> None:
        try:
            while True:
                work = cast("Work", pipe.recv())
                states = tuple(_ahead(state) for state in work.states)
                todo.put(work._replace(states=states))
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone or done: what is at work is of no use to anybody

    def hand_back() -> None:
        while True:
            item = done.get()
            if item is None:
                return
            pipe.send(written(*item))

    for loop in (fetch, hand_back):
        threading.Thread(target=loop, daemon=True).start()
    while True:
        work = todo.get()
        if work is None:
            return
        done.put((runner.run(work), work))


def _ahead(state: object) -> bytes | None:
    """Read a state now, while another unit computes; a missing one is left to be reported by the unit itself."""
    if isinstance(state, Path):
        for _ in range(2):
            try:
                return state.read_bytes()
            except OSError:
                time.sleep(0.001)
        return b""
    return cast("bytes | None", state)
