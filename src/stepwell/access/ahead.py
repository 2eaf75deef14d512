"""Work done ahead: a function over items on background threads, its results in the order of the items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(work: Callable[[Item], Result], items: Iterator[Item], depth: int) -> Iterator[Result]:
    """Yield `work(item)` for each item, in order, with up to `depth` results made before they are asked for.

    An exception comes out where its result would have, with the traceback of its thread. When the iterator is closed
    early (a `break`, an error in the loop), waiting work is cancelled and the threads have ended before it returns.

    Args:
        work: A pure function; several calls may run at once.
        items: What to work on; drawn from the caller's thread only.
        depth: Results ahead, 0 for none and no thread.
    """
    if depth == 0:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(max_workers=min(depth, os.cpu_count() or 1), thread_name_prefix="stepwell-ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
