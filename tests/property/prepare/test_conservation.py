"""Over random pipelines: every row is accounted for at every step and in the lake, and a replay gives the same rows."""

import json
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.prepare.cache import clear_cache
from stepwell.prepare.clean.constraints import Between
from stepwell.prepare.fitted import Impute, Standard, Vocabulary
from stepwell.prepare.pipeline import Preparation
from stepwell.prepare.row_ids import child_ids, merged_ids
from stepwell.prepare.step import INPUT, NOTHING, ROW, Rows, parents_table
from stepwell.storage import open as open_lake


@dataclass(frozen=True)
class Cut:
    """One row becomes several: as many pieces as its number says."""

    most: int
    sees: str = "row"
    fits: bool = False
    others: dict = field(default_factory=dict)

    @property
    def name(self):
        return f"cut {self.most}"

    def fit(self, train):
        return NOTHING

    def apply(self, tables, fitted):
        table = tables[INPUT]
        old = table.column(ROW).to_numpy()
        count = 1 + old % self.most
        place = np.repeat(np.arange(len(old)), count)
        number = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        ids = child_ids(old[place], number)
        out = table.take(pa.array(place)).set_column(table.schema.names.index(ROW), ROW, pa.array(ids, pa.int64()))
        return Rows(out, parents_table(ids, old[place]))


@dataclass(frozen=True)
class Gather:
    """Rows of one group become one."""

    column: str
    sees: str = "all"
    fits: bool = False
    others: dict = field(default_factory=dict)

    @property
    def name(self):
        return f"gather {self.column}"

    def fit(self, train):
        return NOTHING

    def apply(self, tables, fitted):
        table = tables[INPUT]
        old = table.column(ROW).to_numpy()
        text = table.column(self.column).cast(pa.string())
        _, group = np.unique(np.array([str(value) for value in text.to_pylist()]), return_inverse=True)
        groups, ids = merged_ids(group.astype(np.int64), old)
        first = np.array([np.flatnonzero(group == one)[np.argmin(old[group == one])] for one in groups], np.int64)
        out = table.take(pa.array(first)).set_column(table.schema.names.index(ROW), ROW, pa.array(ids, pa.int64()))
        return Rows(out, parents_table(ids[group], old))


def odd_out(batch):
    return batch.filter(pc.not_equal(pc.bit_wise_and(batch.column(ROW), 3), 0))


def louder(batch):
    place = batch.schema.names.index("x")
    return batch.set_column(place, "x", pc.add(pc.multiply(batch.column("x").cast(pa.float64()), 2.0), 1.0))


STEPS = st.sampled_from(
    [
        lambda p: p.where("x > 0 or x is null"),
        lambda p: p.expect(Between("x", low=-2, high=3)),
        lambda p: p.expect(Between("x", low=-1), on_fail="null"),
        lambda p: p.map(odd_out),
        lambda p: p.map(louder),
        lambda p: p.derive({"z": "x * 2", "g": "g"}),
        lambda p: p.then(Cut(3)),
        lambda p: p.then(Gather("g")),
        lambda p: p.encode(Impute(("x",), "mean", indicator=False), Standard(("x",))),
        lambda p: p.encode(Vocabulary(("g",), size=3)),
        lambda p: p.deduplicate("g", order="x"),
        lambda p: p.deduplicate("id", then="quarantine"),
        lambda p: p.deduplicate("x", "id", how="vectors", similarity=0.9),
        lambda p: p.outliers("x", share=0.3),
    ]
)
TABLES = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(-5, 5).map(lambda v: round(v, 2))), st.sampled_from("abcd"), st.integers(0, 9)
    ),
    max_size=40,
)


def build(lake, steps, split):
    preparation = Preparation(lake, "raw", key=("id", "g"))
    for step in steps:
        preparation = step(preparation)
    return preparation.split(by="g", test=0.3) if split else preparation


@settings(max_examples=8)
@given(TABLES, st.lists(STEPS, max_size=4), st.booleans(), st.randoms(use_true_random=False))
def test_rows_are_conserved_traced_and_replayed(tmp_path_factory, rows, steps, split, random):
    lake = open_lake(tmp_path_factory.mktemp("lake"))
    table = pa.table(
        {
            "id": pa.array([row[2] for row in rows], pa.int64()),
            "x": pa.array([row[0] for row in rows], pa.float64()),
            "g": pa.array([row[1] for row in rows], pa.string()),
        }
    )
    lake.write("raw", table)
    prepared = build(lake, steps, split).commit("done")
    found = prepared.table.to_arrow()

    source = set(build(lake, [], split=False).run()[0].ids().tolist())
    assert len(source) == len(rows)
    quarantined = lake.sql("select step, _row from done.quarantine").to_pylist()
    parents = lake.sql("select step, _row, _parent from done.parents").to_pylist()
    stored = build(lake, steps, split).run()
    for step, report in enumerate(prepared.reports[1:], start=1):
        before, after = set(stored[step - 1].ids().tolist()), stored[step].ids().tolist()
        gone = {row[ROW] for row in quarantined if row["step"] == step}
        listed: dict[int, set[int]] = {}
        for row in parents:
            if row["step"] == step:
                listed.setdefault(row[ROW], set()).add(row["_parent"])
        assert len(set(after)) == len(after) == report.rows_out
        came = set().union(*(listed.get(row, {row}) for row in after))
        assert came | gone == before
        assert report.rows_in == len(before)
        assert sum(report.dropped.values()) == len(gone)
    assert json.loads(lake.metadata("done")["tables"]).keys() >= {"done.steps", "done.quarantine", "done.parents"}

    assert not build(lake, steps, split).commit("done").made
    order = list(range(len(rows)))
    random.shuffle(order)
    clear_cache(lake)
    lake.write("raw", table.take(pa.array(order, pa.int64())))
    again = build(lake, steps, split).commit("done")
    assert again.made
    replayed = again.table.to_arrow()
    assert replayed.schema.equals(found.schema)
    for name in found.schema.names:
        a, b = (one.sort_by(ROW).column(name).to_pylist() for one in (found, replayed))
        if found.schema.field(name).type in (pa.float32(), pa.float64()):
            a, b = (np.array(values, float) for values in (a, b))
            assert np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        else:
            assert a == b
