"""Stages of dense data: numbers, categories, text, images."""

from __future__ import annotations

import io

import numpy as np
import pytest

from stepwell.access.dense import CachedRows, DecodeImage, Encode, Tokenise
from stepwell.core import Batch, Slice, Statistics
from stepwell.core.errors import DataError, InvalidValueError, PlanError, UnknownNameError
from stepwell.core.shapes import Source, Stage
from stepwell.storage import Codes, Dictionary, Ragged

WORDS = Dictionary(["pear", "apple", "fig"])


class Columns:
    """A source over arrays in memory."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def read(self, cut):
        rows = cut.rows if cut.rows is not None else np.arange(cut.begin, cut.end)
        taken = {n: c[rows] if isinstance(c, np.ndarray) else c.take(rows) for n, c in self.columns.items()}
        return Batch(cut, **taken)

    def statistics(self):
        return Statistics(len(self))


def fruit():
    return Columns(
        size=np.array([1.0, 2.0, 3.0, np.nan]),
        count=np.array([5, 5, 5, 5]),
        kind=Codes(np.array([0, 1, 2, -1], np.int32), WORDS),
        sold=Codes(np.array([0, 1, 1, 0], np.int32), Dictionary(["yes", "no"])),
    )


def whole(source):
    return source.read(Slice(0, 0, 0, len(source)))


def test_stages_and_sources_have_the_shapes_of_the_pipeline():
    assert isinstance(Encode.fit(fruit()), Stage)
    assert isinstance(Tokenise("text"), Stage)
    assert isinstance(DecodeImage("image", (2, 2)), Stage)
    assert isinstance(CachedRows(fruit(), budget_bytes=0), Source)


def test_numbers_are_standardised_and_missing_ones_become_the_mean():
    batch = Encode.fit(fruit(), label="sold")(whole(fruit()))
    deviation = np.std([1.0, 2.0, 3.0])
    assert batch.array("x")[:, 0] == pytest.approx([-1 / deviation, 0, 1 / deviation, 0], abs=1e-6)
    assert batch.array("x")[:, 1].tolist() == [0, 0, 0, 0]
    assert batch.array("x").dtype == np.float32


def test_categories_are_codes_in_sorted_order_and_zero_is_unknown():
    stage = Encode.fit(fruit(), label="sold")
    batch = stage(whole(fruit()))
    assert batch.array("codes")[:, 0].tolist() == [3, 1, 2, 0]
    assert batch.array("y").tolist() == [1, 0, 0, 1]
    assert stage.classes == ("no", "yes")
    assert stage.sizes == (4,)
    assert set(batch) == {"x", "codes", "y"} == stage.gives


def test_a_value_unseen_in_training_is_unknown_and_an_unseen_label_is_refused():
    stage = Encode.fit(fruit(), label="sold")
    other = fruit()
    other.columns["kind"] = Codes(np.array([1, 1, 1, 1], np.int32), Dictionary(["fig", "kiwi"]))
    assert stage(whole(other)).array("codes")[:, 0].tolist() == [0, 0, 0, 0]
    other.columns["sold"] = Codes(np.array([0, 0, 1, 0], np.int32), Dictionary(["no", "maybe"]))
    with pytest.raises(DataError, match="row 2 of batch 0"):
        stage(whole(other))


def test_a_fit_in_parts_is_the_fit_of_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    source = Columns(a=rng.normal(1e6, 1.0, 1000), b=rng.integers(0, 9, 1000))
    at_once = Encode.fit(source)
    monkeypatch.setattr("stepwell.access.dense.encode._FIT_ROWS", 77)
    in_parts = Encode.fit(source)
    assert in_parts.mean == pytest.approx(at_once.mean, rel=1e-12)
    assert in_parts.deviation == pytest.approx(at_once.deviation, rel=1e-9)


def test_flags_of_missing_integers_are_respected():
    source = Columns(a=np.array([4, 0, 6]), a_valid=np.array([True, False, True]))
    stage = Encode.fit(source)
    assert stage.mean.tolist() == [5.0]
    assert stage(whole(source)).array("x")[:, 0].tolist() == [-1, 0, 1]


def test_unknown_and_unfit_columns_are_refused_by_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'size'"):
        Encode.fit(fruit(), columns=["sise"])
    with pytest.raises(DataError, match="'v'"):
        Encode.fit(Columns(v=np.zeros((3, 2))), columns=["v"])


def test_tokens_ignore_case_and_punctuation():
    texts = Ragged.of(["To be, or not to be!", "TO BE", ""])
    tokens = Tokenise("text", size=100, length=4)(Batch(Slice(0, 0, 0, 3), text=texts)).array("tokens")
    assert tokens.shape == (3, 4)
    assert tokens[0, :2].tolist() == tokens[1, :2].tolist()
    assert tokens[1, 2:].tolist() == [0, 0]
    assert tokens[2].tolist() == [0, 0, 0, 0]


def test_coded_strings_are_tokenised_like_text():
    codes = Codes(np.array([1, -1], np.int32), WORDS)
    tokens = Tokenise("text", length=2)(Batch(Slice(0, 0, 0, 2), text=codes)).array("tokens")
    same = Tokenise("text", length=2)(Batch(Slice(0, 0, 0, 2), text=Ragged.of(["apple", ""]))).array("tokens")
    assert np.array_equal(tokens, same)


def encoded(pixels, form, **options):
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the test images")
    files = []
    for one in pixels:
        file = io.BytesIO()
        image.fromarray(one).save(file, form, **options)
        files.append(file.getvalue())
    return Ragged.of(files)


def decoded(field, shape, rows=None):
    cut = Slice(0, 0, 0, len(field), rows)
    return DecodeImage("image", shape)(Batch(cut, image=field)).array("image")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_encoded_images_become_their_pixels(shape, form):
    pixels = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    assert np.array_equal(decoded(encoded(pixels, form), shape), pixels)


def test_a_jpeg_becomes_what_pillow_makes_of_it():
    image = pytest.importorskip("PIL.Image", reason="Pillow reads JPEG")
    field = encoded(np.full((9, 8, 8, 3), 90, np.uint8), "JPEG")
    expected = [np.asarray(image.open(io.BytesIO(raw))) for raw in field.tolist()]
    assert np.array_equal(decoded(field, (8, 8, 3)), expected)


def test_raw_bytes_are_viewed_not_copied():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 12)
    assert np.shares_memory(decoded(pixels, (3, 4)), pixels)
    field = Ragged(np.array([0, 12, 24]), pixels.reshape(-1))
    assert np.array_equal(decoded(field, (3, 4)), pixels.reshape(2, 3, 4))


def test_a_damaged_image_is_refused_with_its_row():
    field = encoded(np.zeros((3, 4, 4), np.uint8), "PNG").tolist()
    field[1] = field[1][:40]
    with pytest.raises(DataError, match=r"column 'image', row 70: .*cannot be read"):
        decoded(Ragged.of(field), (4, 4), rows=np.array([5, 70, 9]))
    with pytest.raises(DataError, match=r"has shape \(4, 4\)"):
        decoded(Ragged.of(field[:1]), (5, 4))


def test_settings_out_of_range_are_refused():
    with pytest.raises(InvalidValueError, match="shape"):
        DecodeImage("image", (3,))
    with pytest.raises(InvalidValueError, match="size"):
        Tokenise("text", size=1)


@pytest.mark.parametrize("budget_bytes", [0, 100, 1 << 20])
def test_cached_rows_are_the_rows_prepared_afresh(budget_bytes):
    stage = Encode.fit(fruit(), label="sold")
    cached = CachedRows(fruit(), [stage], budget_bytes=budget_bytes)
    for rows in ([3, 1], [0, 1, 2, 3], [2, 2]):
        cut = Slice(0, 0, 0, len(rows), np.array(rows))
        found, expected = cached.read(cut), stage(fruit().read(cut))
        assert all(np.array_equal(found.array(name), expected.array(name)) for name in stage.gives)
    assert cached.counts.size_bytes <= budget_bytes


def test_a_field_that_cannot_be_kept_is_named():
    cached = CachedRows(Columns(text=Ragged.of(["a", "b"])), budget_bytes=1000)
    with pytest.raises(PlanError, match=r"'text'.*Tokenise"):
        whole(cached)
