"""Compressed rows as a user meets them: a source of a pipeline, a table of a lake, bytes and errors in the open."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

import stepwell as sw
from stepwell.access.dense import ShuffledBlocks
from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.compress import (
    CompressedRows,
    Float16,
    QuantileSketch,
    Tolerance,
    TupleCodes,
    TupleLinear,
    TupleRows,
    Uniform,
    choose,
    compress,
)
from stepwell.testing.state import check_stateful

DRAW = np.random.default_rng(0)
TABLE = pa.table(
    {
        "price": DRAW.normal(100, 10, 500).astype(np.float32),
        "count": DRAW.integers(0, 12, 500),
        "grade": DRAW.choice([1.5, 2.25, 9.0], 500),
        "label": DRAW.integers(0, 2, 500),
    }
)


def test_each_column_gets_the_cheapest_codec_within_its_tolerance():
    coded = compress(TABLE, Tolerance(0.01), keep=["label"])
    assert [one.bits for one in coded.fitted] == [8, 4, 2]
    assert coded.error[1].max_abs == coded.error[2].max_abs == 0
    assert coded.packed.nbytes == 500 * 2
    assert coded.nbytes == 1000 + coded.codebook_bytes + 8 * 500
    assert coded.accuracy == "bounded"
    assert compress(TABLE, Tolerance(0), keep=["label"]).accuracy == "same"


def test_bytes_are_those_of_the_definition():
    rows = DRAW.normal(size=(333, 21))
    coded = compress(rows, codec=Uniform(4))
    assert coded.packed.nbytes == 333 * math.ceil(21 * 4 / 8)
    assert coded.codebook_bytes == 21 * 16


def test_a_pipeline_shuffles_and_decodes_compressed_rows():
    coded = compress(TABLE, keep=["label"])
    seen = []
    for batch in sw.Pipeline(coded, sw.Shuffled(64)).epoch(0):
        assert batch.x.shape == (len(batch), 3)
        seen.append(np.asarray(batch.x)[:, 1].sum() + 100 * np.asarray(batch.label).sum())
    assert sum(seen) == pytest.approx(TABLE["count"].to_numpy().sum() + 100 * TABLE["label"].to_numpy().sum())


def test_a_lake_keeps_codes_as_binary_with_bytes_and_errors_declared(tmp_path):
    coded = compress(TABLE, keep=["label"])
    stored = sw.open(tmp_path / "lake").write("coded", coded.to_arrow())
    back = CompressedRows.from_arrow(stored.to_arrow(), coded.declaration())
    assert np.array_equal(np.sort(back.take(np.arange(500)), 0), np.sort(coded.take(np.arange(500)), 0))
    first = json.loads(coded.declaration())[0]
    assert first["max_abs_err"] == coded.error[0].max_abs
    assert first["bytes"] == 500 * first["bits"] / 8 + coded.fitted[0].codebook_bytes
    with pytest.raises(DataError, match="declared"):
        CompressedRows.from_arrow(pa.table({"codes": [b"ab"]}))
    with pytest.raises(UnknownNameError, match="codes"):
        CompressedRows.from_arrow(TABLE)


def test_missing_numbers_stay_missing_or_are_refused():
    values = np.array([1.0, np.nan, 3.0])
    fitted = choose(values, Tolerance(0.5))
    assert fitted.name == "float16"
    assert np.isnan(fitted.decode(fitted.encode(values))).tolist() == [False, True, False]
    with pytest.raises(DataError, match="row 1"):
        Uniform(8).fit(np.array([0.0, 4.0])).encode(values)


def test_numbers_too_large_for_half_precision_are_not_halved():
    assert Float16().fit(np.array([1e5])) is None


def test_text_must_be_left_out_or_kept():
    with pytest.raises(DataError, match="'name'"):
        compress(pa.table({"name": ["a", "b"]}))
    with pytest.raises(UnknownNameError, match="pries"):
        compress(TABLE, {"pries": Tolerance()})
    with pytest.raises(InvalidValueError, match="bits"):
        Uniform(5)


def test_rows_that_are_not_there_are_refused():
    with pytest.raises(InvalidValueError, match="rows"):
        compress(TABLE).take(np.array([500]))


def test_a_sketch_resumes_with_the_same_bits():
    def step(sketch, i):
        sketch.add(np.random.default_rng(i).normal(size=(300, 2)))
        return sketch.points()

    check_stateful(lambda: QuantileSketch(2, k=64), step, num_steps=4)


def test_a_pipeline_hands_out_blocks_of_codes_in_another_order_each_epoch():
    rows = DRAW.choice([0, 0, 1, 2.5], (103, 7)).astype(np.float32)
    source = TupleRows.of(rows, 20, {"label": np.arange(103)})
    orders = []
    for epoch in range(2):
        seen = list(sw.Pipeline(source, ShuffledBlocks(20)).epoch(epoch))
        labels = np.concatenate([np.asarray(batch.label) for batch in seen])
        assert sorted(labels.tolist()) == list(range(103))
        assert np.array_equal(np.concatenate([batch.codes.dense() for batch in seen]), rows[labels])
        orders.append(labels.tolist())
    assert orders[0] != orders[1]
    with pytest.raises(InvalidValueError, match="ShuffledBlocks"):
        list(sw.Pipeline(source, sw.Shuffled(20)))
    with pytest.raises(InvalidValueError, match="label"):
        TupleRows.of(rows, 20, {"label": np.arange(3)})


def test_a_pipeline_shuffles_and_decodes_rows_of_tuple_codes():
    rows = DRAW.choice([0, 0, 1, 2.5], (103, 7)).astype(np.float32)
    source = TupleRows.of(rows, 20, {"label": np.arange(103)}).decoded
    seen = list(sw.Pipeline(source, sw.Shuffled(16)))
    labels = np.concatenate([np.asarray(batch.label) for batch in seen])
    assert sorted(labels.tolist()) == list(range(103))
    assert labels.tolist() != list(range(103))
    assert np.array_equal(np.concatenate([np.asarray(batch.x) for batch in seen]), rows[labels])
    with pytest.raises(InvalidValueError, match="rows"):
        source.coded.take(np.array([103]))


def test_a_network_learns_the_same_from_codes_as_from_numbers():
    rows = DRAW.choice([0, 0, 0, 1, 2], (200, 9)).astype(np.float32)
    label = (rows[:, 0] + rows[:, 3] > 2).astype(np.int64)
    losses = {}
    for field, source in (("codes", TupleRows.of(rows, 25, {"y": label})), ("x", None)):
        source = TupleRows.of(rows, 25, {"y": label}).decoded if source is None else source
        torch.manual_seed(0)
        model = torch.nn.Sequential(TupleLinear(9, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses[field] = []
        for epoch in range(3):
            for batch in sw.Pipeline(source, ShuffledBlocks(25)).epoch(epoch):
                loss = torch.nn.functional.cross_entropy(model(batch[field]), batch.tensor("y"))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[field].append(float(loss.detach()))
    assert losses["codes"] == pytest.approx(losses["x"], rel=1e-4)
    assert losses["x"][-1] < losses["x"][0]


def test_words_refuse_what_is_no_matrix_of_numbers():
    with pytest.raises(InvalidValueError, match="matrix"):
        TupleCodes.of(np.array([1.0, 2.0]))
    assert TupleCodes.of(np.zeros((3, 4))).dense().tolist() == [[0.0] * 4] * 3
