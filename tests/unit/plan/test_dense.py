"""The loading of a table is planned too: what to keep, and how far ahead to prepare the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest

import stepwell as sw
from stepwell.access import Shuffled
from stepwell.access.dense.stage import RowStage
from stepwell.core import Batch, Machine, Slice, Statistics
from stepwell.plan.dense import LOAD


class Columns:
    """A source over one array in memory."""

    def __init__(self, rows: int) -> None:
        self.raw = np.arange(rows, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.raw)

    def read(self, cut: Slice) -> Batch:
        rows = cut.rows if cut.rows is not None else np.arange(cut.begin, cut.end)
        return Batch(cut, raw=self.raw[rows])

    def statistics(self) -> Statistics:
        return Statistics(len(self), row_bytes=4)

    @property
    def by_row(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Slow(RowStage):
    """Work that is worth keeping: 20 microseconds a row."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"raw"})

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({"x"})

    def __call__(self, batch: Batch) -> Batch:
        time.sleep(2e-5 * len(batch))
        return Batch(batch.slice, x=np.repeat(batch.array("raw")[:, None], 8, axis=1))


@pytest.fixture
def table() -> Columns:
    return Columns(4_000)


def test_dear_rows_are_kept_where_they_fit(table: Columns, here: Machine) -> None:
    found = sw.plan(table, stages=[Slow()], batches=Shuffled(100), machine=here)
    assert found.names["cache"] == "rows" and "100%" in str(found)
    assert sum(len(batch) for batch in found.pipeline()) == len(table)


def test_less_memory_keeps_fewer_rows_and_takes_longer(table: Columns, here: Machine) -> None:
    large = sw.plan(table, stages=[Slow()], batches=Shuffled(100), machine=here, memory="1MiB", prefetch=1)
    small = large.what_if(memory=16_000 + 32 * 1_000)
    assert large.seconds < small.seconds
    hit = next(node.predicted.hit_rate for _, node in small.tree.rows() if node.predicted.hit_rate is not None)
    assert hit == pytest.approx(0.25, abs=0.01)


def test_no_memory_keeps_nothing(table: Columns, here: Machine) -> None:
    found = sw.plan(table, stages=[Slow()], batches=Shuffled(100), machine=here, memory=1)
    assert found.names["cache"] == "none" and found.seconds > 0.02


def test_a_loaded_epoch_is_measured_beside_the_prediction(table: Columns, here: Machine) -> None:
    done = sw.plan(table, stages=[Slow()], batches=Shuffled(100), machine=here).analyze()
    assert done.tree.name == LOAD and all(node.measured is not None for _, node in done.tree.rows())
    assert done.tree.measured is not None and done.tree.measured.rows == len(table)
