"""Each dense kernel against its slow twin."""

from __future__ import annotations

import io
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.core.errors import InvalidValueError
from stepwell.kernels.dense import decode_png, gather_spans, hash_tokens, standardise
from stepwell.kernels.dense.reference import (
    decode_png_reference,
    gather_spans_reference,
    hash_tokens_reference,
    standardise_reference,
)


def joined(parts):
    offset = np.zeros(len(parts) + 1, np.int64)
    offset[1:] = np.cumsum([len(part) for part in parts])
    return offset, np.frombuffer(b"".join(parts), np.uint8)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=8), size=st.integers(2, 500), length=st.integers(1, 9))
def test_tokens_equal_the_twin(texts, size, length):
    offset, data = joined([text.encode() for text in texts])
    assert np.array_equal(hash_tokens(offset, data, size, length), hash_tokens_reference(texts, size, length))


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.binary(max_size=30), min_size=1, max_size=10), data=st.data())
def test_gathered_spans_equal_the_twin(parts, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=20)), np.int64)
    offset, flat = joined(parts)
    found, out = gather_spans(offset, flat, rows)
    got = [out[a:b].tobytes() for a, b in pairwise(found)]
    assert got == gather_spans_reference(offset, flat, rows) == [parts[row] for row in rows]


def test_a_span_out_of_range_is_refused():
    with pytest.raises(InvalidValueError, match="rows"):
        gather_spans(np.array([0, 1]), np.zeros(1, np.uint8), np.array([1]))


def png(pixels, **options):
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the test images")
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    colour=st.booleans(),
    values=st.sampled_from([2, 16, 256]),
    smooth=st.booleans(),
    level=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_pixels_of_a_png_equal_the_twin(height, width, colour, values, smooth, level, seed):
    shape = (height, width, 3) if colour else (height, width)
    pixels = np.random.default_rng(seed).integers(0, values, shape)
    pixels = (np.cumsum(pixels, 0) if smooth else pixels).astype(np.uint8)
    raw = png(pixels, compress_level=level)
    out = np.zeros((1, *shape), np.uint8)
    assert decode_png(*joined([raw]), out).all()
    assert np.array_equal(out[0], pixels)
    assert np.array_equal(decode_png_reference(raw, shape), pixels)


def test_an_image_in_several_chunks_is_joined():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    raw = png(pixels)
    begin = raw.index(b"IDAT") - 4
    size = int.from_bytes(raw[begin : begin + 4], "big")
    body = raw[begin + 8 : begin + 8 + size]
    chunks = b"".join(chunk(b"IDAT", body[at : at + 100]) for at in range(0, size, 100))
    out = np.zeros((1, 40, 40), np.uint8)
    assert decode_png(*joined([raw[:begin] + chunks + raw[begin + 12 + size :]]), out).all()
    assert np.array_equal(out[0], pixels)


def chunk(name, body):
    return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.booleans())
def test_damaged_images_are_reported_and_never_read_beyond_their_end(seed, cut):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 4, (16, 16)).astype(np.uint8)
    raw = bytearray(png(pixels))
    if cut:
        raw = raw[: rng.integers(0, len(raw) - 1)]
    else:
        for _ in range(3):
            raw[rng.integers(0, len(raw))] ^= int(rng.integers(1, 256))
    out = np.zeros((1, 16, 16), np.uint8)
    good = decode_png(*joined([bytes(raw)]), out)
    assert not (good[0] and cut and not np.array_equal(out[0], pixels))


@pytest.mark.parametrize("kind", ["size", "mode", "interlaced"])
def test_another_kind_of_image_is_left_to_a_library(kind):
    pixels = np.zeros((8, 8, 4) if kind == "mode" else (9, 8) if kind == "size" else (8, 8), np.uint8)
    raw = bytearray(png(pixels))
    if kind == "interlaced":
        raw[28] = 1
    assert not decode_png(*joined([bytes(raw)]), np.zeros((1, 8, 8), np.uint8)).any()


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int64", "uint32", "float16", "float32", "float64"])
def test_standardised_columns_equal_the_twin(dtype):
    block = (np.random.default_rng(0).normal(0, 40, (50, 3))).astype(dtype)
    if block.dtype.kind == "f":
        block[3] = np.nan
    out = np.zeros((50, 2), np.float32)
    standardise(block[:, 1], 2.5, 3.0, out[:, 1])
    assert np.allclose(out[:, 1], standardise_reference(block[:, 1], 2.5, 3.0), rtol=1e-6)
    assert not out[:, 0].any()
