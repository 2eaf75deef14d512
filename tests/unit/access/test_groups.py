"""Batches made in groups are the batches made alone."""

from __future__ import annotations

import numpy as np
import pytest

from stepwell.access import Pipeline, Shuffled
from stepwell.access.dense.stage import RowStage
from stepwell.core import Batch, Statistics
from stepwell.core.errors import DataError
from stepwell.storage import Codes, Dictionary, Ragged


class Rows:
    """A source by row, with every kind of field."""

    by_row = True
    texts = Ragged.of([f"{'x' * (i % 5)}{i}" for i in range(500)])
    codes = Codes(np.arange(500, dtype=np.int32) % 3, Dictionary(["a", "b", "c"]))

    def __len__(self):
        return 500

    def read(self, cut):
        return Batch(cut, row=cut.rows, text=self.texts.take(cut.rows), kind=self.codes.take(cut.rows))

    def statistics(self):
        return Statistics(500, row_bytes=16)


class Bad(RowStage):
    """Refuses one row."""

    needs, gives = frozenset(("row",)), frozenset(("seen",))

    def __call__(self, batch):
        if (batch.array("row") == 321).any():
            raise DataError("row 321", "is bad", "good rows", "mend it")
        return batch.give(seen=batch.array("row"))


def content(batches):
    return [(b.slice.index, b["row"].tolist(), b["text"].tolist(), b["kind"].tolist()) for b in batches]


@pytest.mark.parametrize("size", [1, 7, 64, 600])
@pytest.mark.parametrize("prefetch", [1, 3])
def test_groups_are_cut_into_the_same_batches(size, prefetch):
    alone = content(Pipeline(Rows(), Shuffled(size), prefetch=0))
    assert content(Pipeline(Rows(), Shuffled(size), prefetch=prefetch)) == alone


def test_every_batch_before_a_bad_row_is_given():
    order = [batch for batch in content(Pipeline(Rows(), Shuffled(16), prefetch=0))]
    before = next(i for i, batch in enumerate(order) if 321 in batch[1])
    seen = []
    with pytest.raises(DataError, match="row 321"):
        for batch in Pipeline(Rows(), Shuffled(16), stages=[Bad()], prefetch=2):
            seen.append(batch["row"].tolist())
    assert seen == [batch[1] for batch in order[:before]]


def test_the_plan_counts_batches_not_groups():
    pipeline = Pipeline(Rows(), Shuffled(16), prefetch=2)
    list(pipeline)
    assert pipeline.measured["Read"].calls == len(pipeline)
    assert pipeline.measured["Read"].rows == 500


def test_leaving_one_of_two_loops_does_not_stop_the_other():
    pipeline = Pipeline(Rows(), Shuffled(16), prefetch=2)
    first, second = pipeline.epoch(0), pipeline.epoch(1)
    next(first), next(second)
    first.close()
    assert sum(len(batch) for batch in second) == 500 - 16
