"""Work done ahead: a function over items on background threads, its results in the order of the items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from stepwell.kernels.threads import serial

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Background threads for one owner, started at first use and kept, so that a short epoch does not wait for them.

    They end when the owner is gone, or its last running loop is left early. A forked child starts its own.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.loops = 0
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._process = 0

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The threads that work at once."""
        return self._started("ahead", max(1, min(self.count, os.cpu_count() or 1)))

    @property
    def lane(self) -> ThreadPoolExecutor:
        """The one thread that works in order."""
        return self._started("ahead-lane", 1)

    def _started(self, name: str, count: int) -> ThreadPoolExecutor:
        if self._process != os.getpid():
            self._pools, self._process = {}, os.getpid()
        if name not in self._pools:
            self._pools[name] = ThreadPoolExecutor(count, thread_name_prefix=f"stepwell-{name}")
        return self._pools[name]

    def close(self) -> None:
        """Cancel what waits, and return when all threads have ended; the next use starts new ones."""
        if self._process == os.getpid():
            for pool in self._pools.values():
                pool.shutdown(wait=True, cancel_futures=True)
        self._pools = {}


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterator[Item],
    depth: int,
    workers: Workers | None = None,
    then: Callable[[Result], Result] | None = None,
) -> Iterator[Result]:
    """Yield `work(item)`, or `then(work(item))`, for each item in order, up to `depth` made before they are asked for.

    An exception comes out where its result would have, with the traceback of its thread; `then` is not called for the
    items behind it. When the iterator is closed early (a `break`, an error in the loop), waiting work is cancelled and
    the threads have ended before it returns.

    Args:
        work: A pure function; several calls may run at once.
        items: What to work on; drawn from the caller's thread only.
        depth: Results ahead, 0 for none and no thread.
        workers: The threads; None starts some for this call alone.
        then: What may have state: called for one item after the other, in their order, on one thread.
    """
    if depth == 0:
        made = map(work, items)
        yield from made if then is None else map(then, made)
        return
    crew = workers or Workers(depth)
    first: deque[Future[Result]] = deque()
    last, done = first if then is None else deque[Future[Result]](), False
    crew.loops += 1
    try:
        for item in items:
            first.append(crew.pool.submit(work, item))
            if then is not None:
                last.append(crew.lane.submit(_after(then, first.popleft(), last[-1] if last else None)))
            if len(last) > depth:
                yield last.popleft().result()
        while last:
            yield last.popleft().result()
        done = True
    finally:
        crew.loops -= 1
        wait([future for future in last if not future.cancel()])
        if workers is None or not (done or crew.loops):
            crew.close()


def _after(
    then: Callable[[Result], Result], made: Future[Result], before: Future[Result] | None
) -> Callable[[], Result]:
    """Return the step of the lane that follows `made`, unless the step before it has failed."""

    def step() -> Result:
        if before is not None and before.exception() is not None:
            raise CancelledError
        return then(made.result())

    return step


def serially(work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """Return `work` with its kernels on one thread.

    Making a batch is little work beside the step that it is for. A parallel region on a worker would start one more
    team of OpenMP threads, and with more threads than cores GNU OpenMP puts every team to sleep between regions: a
    training step of 9 ms then takes 13. On the loop's own thread, two teams take turns at the same cores.
    """

    def alone(item: Item) -> Result:
        with serial():
            return work(item)

    return alone
