"""One DuckDB a process for small questions, so that a step does not start one for each."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from stepwell.storage.query import connect

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def scratch() -> DuckDBPyConnection:
    """Return a connection of its own names over the process's small DuckDB; close it after use.

    It works on one thread, so that sums are the same in every run.
    """
    return _whole(os.getpid()).cursor()


@functools.lru_cache(maxsize=1)
def _whole(process: int) -> DuckDBPyConnection:
    """Start it; a forked process starts its own."""
    connection = connect()
    connection.execute("set threads = 1").fetchall()
    return connection
