"""Work done ahead: a function over items on background threads, its results in the order of the items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Background threads for one owner, started at first use and kept, so that a short epoch does not wait for them.

    They end when the owner is gone, or its last running loop is left early. A forked child starts its own.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.loops = 0
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The running threads."""
        if self._pool is None or self._process != os.getpid():
            count = max(1, min(self.count, os.cpu_count() or 1))
            self._pool, self._process = ThreadPoolExecutor(count, thread_name_prefix="stepwell-ahead"), os.getpid()
        return self._pool

    def close(self) -> None:
        """Cancel what waits, and return when all threads have ended; the next use starts new ones."""
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def map_ahead(
    work: Callable[[Item], Result], items: Iterator[Item], depth: int, workers: Workers | None = None
) -> Iterator[Result]:
    """Yield `work(item)` for each item, in order, with up to `depth` results made before they are asked for.

    An exception comes out where its result would have, with the traceback of its thread. When the iterator is closed
    early (a `break`, an error in the loop), waiting work is cancelled and the threads have ended before it returns.

    Args:
        work: A pure function; several calls may run at once.
        items: What to work on; drawn from the caller's thread only.
        depth: Results ahead, 0 for none and no thread.
        workers: The threads; None starts some for this call alone.
    """
    if depth == 0:
        yield from map(work, items)
        return
    crew = workers or Workers(depth)
    pool, waiting, done = crew.pool, deque[Future[Result]](), False
    crew.loops += 1
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        done = True
    finally:
        crew.loops -= 1
        wait([future for future in waiting if not future.cancel()])
        if workers is None or not (done or crew.loops):
            crew.close()
