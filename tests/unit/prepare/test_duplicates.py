"""Duplicates, outliers, leaks and impact: known answers, and kernels equal to their definitions."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.core.errors import InvalidValueError
from stepwell.kernels.minhash import signatures, signatures_reference
from stepwell.prepare.clean.doubts import impact_order, outlier_scores, split_leaks
from stepwell.prepare.clean.duplicates import exact_duplicates, groups, near_duplicates, vector_duplicates


def test_exact_duplicates_are_paired_with_the_first_and_nulls_are_equal():
    table = pa.table({"_row": [4, 2, 9, 7], "a": [1, 1, None, None], "b": ["x", "x", "y", "y"]})
    assert exact_duplicates(table, ["a", "b"]).to_pylist() == [
        {"_row": 2, "other": 4, "similarity": 1.0},
        {"_row": 7, "other": 9, "similarity": 1.0},
    ]


def jaccard(a, b, letters=5):
    a, b = (" ".join(text.split()) for text in (a, b))
    sets = [{t[i : i + letters] for i in range(max(1, len(t) - letters + 1))} for t in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_duplicates_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    words = np.array("stone water well step light shade cool deep rain carved north south".split())
    texts = [" ".join(rng.choice(words, 30)) for _ in range(40)]
    texts += [f"{text[:-6]} again" for text in texts[:20]]
    rows = np.arange(60) * 2
    found = {(r["_row"], r["other"]): r["similarity"] for r in near_duplicates(texts, rows, similarity=0.8).to_pylist()}
    pairs = ((i, j) for i in range(60) for j in range(i))
    true = {(2 * j, 2 * i): jaccard(texts[i], texts[j]) for i, j in pairs if jaccard(texts[i], texts[j]) >= 0.8}
    assert set(found) <= set(true)
    assert len(found) >= 0.95 * len(true) >= 15
    assert found == pytest.approx({pair: true[pair] for pair in found})


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=4), max_size=5), st.integers(0, 2**64 - 1))
def test_signatures_are_those_of_the_reference(sets, seed):
    indptr = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    elements = np.array([one for some in sets for one in some], np.uint64)
    seeds = np.array([seed, 7], np.uint64)
    assert np.array_equal(signatures(elements, indptr, seeds), signatures_reference(elements, indptr, seeds))


def test_close_vectors_are_those_of_all_pairs():
    vectors = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = vector_duplicates(vectors, np.arange(50), similarity=0.9, block=7)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    i, j = np.nonzero(np.triu(unit @ unit.T >= 0.9, 1))
    assert list(zip(found["_row"].to_pylist(), found["other"].to_pylist(), strict=True)) == list(zip(i, j, strict=True))


def test_pairs_that_share_a_row_are_one_group():
    pairs = pa.table({"_row": [1, 2, 8], "other": [2, 5, 9]})
    assert groups(pairs, np.array([1, 2, 5, 7, 8, 9])).tolist() == [1, 1, 1, 7, 8, 8]


def test_the_planted_row_is_the_furthest_out():
    features = np.random.default_rng(0).normal(size=(500, 4))
    features[123] = 6
    scores = outlier_scores(features)
    assert scores.argmax() == 123
    assert scores[123] == pytest.approx(4 * np.log(500))  # alone in all four right tails
    with pytest.raises(InvalidValueError, match="finite"):
        outlier_scores(np.array([[np.nan]]))


def test_an_entity_on_both_sides_of_a_split_is_a_leak():
    table = pa.table(
        {
            "_row": [0, 1, 2, 3, 4],
            "who": ["a", "a", "b", None, None],
            "split": ["train", "test", "train", "train", "test"],
        }
    )
    pairs = pa.table({"_row": [2], "other": [4]})
    assert [tuple(row.values()) for row in split_leaks(table, ["who"], pairs=pairs).to_pylist()] == [
        (0, "train", "who", "a"),
        (1, "test", "who", "a"),
        (2, "train", "duplicate", "4"),
        (4, "test", "duplicate", "2"),
    ]


def test_what_moves_the_model_most_comes_first():
    violations = pa.table({"_row": [5, 3, 7], "constraint": ["a", "b", "c"]})
    gradients = np.array([[3.0, 4.0], [0.0, 1.0]])
    ordered = impact_order(violations, np.array([3, 5]), gradients, np.array([1.0, 0.1, 1.0]))
    assert ordered.column("constraint").to_pylist() == ["a", "b", "c"]
    assert ordered.column("impact").to_pylist() == [1.0, pytest.approx(0.5), None]
