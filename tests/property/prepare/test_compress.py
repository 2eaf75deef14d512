"""Codecs state their error and keep it; packed rows decode as the reference says; products on codes are products."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stepwell.kernels.codecs import (
    decode_rows,
    decode_rows_reference,
    encode_rows,
    encode_rows_reference,
    pack_rows,
    unpack_rows,
)
from stepwell.prepare.compress import (
    CompressedRows,
    EqualRank,
    LloydMax,
    QuantileSketch,
    Tolerance,
    TupleCodes,
    Uniform,
    choose,
    codecs,
    compress,
)
from stepwell.prepare.compress.rows import layout_of

FLOATS = arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32))
TABLES = st.tuples(st.integers(1, 30), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0, 0, 0, 1, 2, -3.5, 1e-3, 7]))
)
SHAPES = ["normal", "lognormal", "uniform"]


def column(shape, n=20_000, seed=0):
    draw = np.random.default_rng(seed)
    return {
        "normal": draw.normal(size=n), "lognormal": np.exp(1.5 * draw.normal(size=n)), "uniform": draw.random(n),
    }[shape]  # fmt: skip


@pytest.mark.parametrize("name", sorted(codecs))
@given(values=FLOATS)
@settings(max_examples=30)
def test_decoding_and_encoding_again_changes_nothing(name, values):
    fitted = codecs[name].fit(values)
    if fitted is not None:
        codes = fitted.encode(values)
        assert codes.max() < 2**fitted.bits
        again = fitted.encode(fitted.decode(codes))
        assert np.array_equal(fitted.decode(again), fitted.decode(codes))


@pytest.mark.parametrize("name", ["plain", "dictionary", "bit-pack"])
@given(values=arrays(np.float32, st.integers(1, 100), elements=st.integers(-300, 300).map(float)))
def test_lossless_codecs_lose_nothing(name, values):
    fitted = codecs[name].fit(values)
    assert fitted is None or fitted.error(values).max_abs == 0


@given(values=FLOATS, bits=st.sampled_from([2, 4, 8]))
def test_a_uniform_codec_is_off_by_at_most_half_a_step(values, bits):
    fitted = Uniform(bits).fit(values)
    assert fitted.error(values).max_abs <= fitted.step / 2 * (1 + 1e-5) + 1e-6 * np.abs(values).max()


@given(values=FLOATS, bits=st.sampled_from([2, 4, 8]))
def test_lloyd_max_is_never_worse_than_equal_ranks_in_squares(values, bits):
    lloyd, rank = LloydMax(bits).fit(values), EqualRank(bits).fit(values)
    assert lloyd.error(values).rmse <= rank.error(values).rmse * (1 + 1e-4) + 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equal_ranks_from_a_sketch_keep_the_rank_within_a_part_and_twice_its_error(shape, bits):
    values = column(shape)
    sketch = QuantileSketch(1, k=512)
    sketch.add(values[:, None])
    points, weight = sketch.points()
    assert weight.sum() == len(values)
    fitted = EqualRank(bits).fit(points[:, 0], weight)
    ordered = np.sort(values)
    decoded = fitted.decode(fitted.encode(values))
    rank = (np.searchsorted(ordered, values) - np.searchsorted(ordered, decoded)) / len(values)
    assert np.abs(rank).max() <= 2**-bits + 2 * sketch.rank_error()
    spread = np.searchsorted(ordered, np.sort(points[:, 0])) / len(values)
    own = np.cumsum(weight[np.argsort(points[:, 0], kind="stable")]) / len(values)
    assert np.abs(spread - own).max() <= sketch.rank_error() + 1 / len(values)
    assert sketch.nbytes < values.nbytes / 4


def test_codecs_err_as_measured_for_the_paper():
    normal, heavy = column("normal"), column("lognormal")
    relative = {
        (name, key): codecs[name].fit(values).error(values).rmse ** 2 / values.var()
        for name in ("uniform-8", "equal-rank-8", "lloyd-max-8", "uniform-2", "equal-rank-2", "lloyd-max-2")
        for key, values in (("normal", normal), ("heavy", heavy))
    }
    assert relative["uniform-8", "normal"] == pytest.approx(8.4e-5, rel=0.5)
    assert relative["equal-rank-8", "normal"] == pytest.approx(7.6e-4, rel=0.5)
    assert relative["lloyd-max-8", "normal"] < 3.3e-4 / 3  # begun at the cube root's spacing; 4.2e-5 is the best
    assert relative["equal-rank-2", "normal"] == pytest.approx(0.14, rel=0.2)
    assert relative["lloyd-max-2", "normal"] == pytest.approx(0.12, rel=0.2)
    assert relative["uniform-8", "heavy"] < relative["equal-rank-8", "heavy"]
    assert relative["lloyd-max-8", "heavy"] < relative["equal-rank-8", "heavy"] / 4


@given(table=TABLES, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rows_gathered_and_decoded_are_those_of_the_reference(table, seed):
    draw = np.random.default_rng(seed)
    names = [draw.choice(["uniform-2", "uniform-8", "lloyd-max-4", "float16", "plain", "uniform-16"]) for _ in table.T]
    parts = {str(f): table[:, f] for f in range(table.shape[1])}
    fitted = [codecs[name].fit(values) for name, values in zip(names, parts.values(), strict=True)]
    layout = layout_of(fitted)
    codes = np.stack([f.encode(values) for f, values in zip(fitted, parts.values(), strict=True)], 1)
    packed = pack_rows(codes, layout)
    assert packed.shape[1] == -(-sum(f.bits for f in fitted) // 8)
    assert np.array_equal(unpack_rows(packed, layout), codes)
    if "float16" not in names:
        assert np.array_equal(encode_rows(table, layout), codes)
        assert np.array_equal(encode_rows_reference(table, layout), codes)
    rows = draw.integers(0, len(table), 40)
    assert np.array_equal(decode_rows(packed, layout, rows), decode_rows_reference(packed, layout, rows))
    one_by_one = np.stack([f.decode(f.encode(v)) for f, v in zip(fitted, parts.values(), strict=True)], 1)
    assert np.array_equal(decode_rows(packed, layout), one_by_one)


@given(values=FLOATS, rmse=st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5]))
def test_what_is_chosen_keeps_the_declared_error(values, rmse):
    fitted = choose(values, Tolerance(rmse))
    error, deviation = fitted.error(values), float(values.astype(np.float64).std())
    assert error.rmse <= rmse * deviation
    assert choose(values, Tolerance(1e9)).bits <= fitted.bits or len(values) < 64


@given(table=TABLES)
@settings(max_examples=40, deadline=None)
def test_a_product_on_words_is_the_product(table):
    codes = TupleCodes.of(table)
    assert np.array_equal(codes.dense(), table)
    assert codes.num_values == np.count_nonzero(table)
    draw = np.random.default_rng(0)
    right, left = draw.normal(size=(table.shape[1], 3)), draw.normal(size=(len(table), 2))
    assert np.allclose(codes.times(right), table @ right, atol=1e-4)
    assert np.allclose(codes.transposed_times(left), table.T @ left, atol=1e-4)


def test_a_linear_layer_on_words_has_the_gradients_of_one_on_rows():
    rows = np.eye(5, dtype=np.float32)[np.random.default_rng(0).integers(0, 5, 40)]
    layer = torch.nn.Linear(5, 3)
    layer(torch.from_numpy(rows)).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    TupleCodes.of(rows).linear(layer.weight, layer.bias).square().sum().backward()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-4)


def test_repeating_rows_take_fewer_bytes_and_fewer_additions():
    draw = np.random.default_rng(0)
    kinds = np.concatenate([np.eye(8)[draw.choice(8, 2000, p=np.r_[0.65, np.full(7, 0.05)])] for _ in range(6)], 1)
    codes = TupleCodes.of(kinds)
    assert codes.saved > 2
    assert codes.nbytes < 2000 * 6 * 5 / 2  # against one byte of column and four of value, sparse
    assert TupleCodes.of(draw.normal(size=(200, 20))).saved < 1


@given(st.integers(0, 50))
def test_compressed_rows_survive_arrow_and_read_as_declared(seed):
    draw = np.random.default_rng(seed)
    table = np.stack([draw.normal(size=60), draw.integers(0, 3, 60), draw.random(60) * 1e5], 1).astype(np.float32)
    coded = compress(table, Tolerance(0.05))
    found = CompressedRows.from_arrow(coded.to_arrow())
    assert np.array_equal(found.take(np.arange(60)), coded.take(np.arange(60)))
    assert found.error == coded.error
    for f, error in enumerate(coded.error):
        assert np.abs(coded.take(np.arange(60))[:, f] - table[:, f]).max() == pytest.approx(error.max_abs, rel=1e-5)
