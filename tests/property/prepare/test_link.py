"""Blocking counts, similarities, marginals, components and the model hold for any input."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.prepare.link import Nearest, Same, Settings, merge
from stepwell.prepare.link.block import candidates
from stepwell.prepare.link.cluster import components, components_reference, pairs_within
from stepwell.prepare.link.compare import Text
from stepwell.prepare.link.kernels import matching_marginals
from stepwell.prepare.link.linkage import link
from stepwell.prepare.link.model import _grouped, fit, isotonic
from stepwell.prepare.link.text import bags, normalized

words = st.lists(st.sampled_from(["ann", "bob", "Bob.", "ána", "cy", "", "x1"]) | st.none(), max_size=9)


def people(names: list[str | None], begin: int = 0) -> pa.Table:
    column = pa.array(names, pa.string())
    return pa.table({"_row": np.arange(begin, begin + len(names)), "name": column, "city": column})


@given(words, words | st.none())
def test_equality_blocks_make_exactly_the_pairs_they_predict(left, right) -> None:
    a, b = people(left), None if right is None else people(right)
    rule = Same("name", "city")
    first, second = rule.pairs(a, b)
    x = normalized(a, ["name"]).to_pylist()
    y = x if b is None else normalized(b, ["name"]).to_pylist()
    every = [(i, j) for i in range(len(x)) for j in range(len(y)) if b is not None or i < j]
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {
        (i, j) for i, j in every if x[i] is not None and x[i] == y[j]
    }
    predicted = rule.predict(a, b)
    assert predicted.exact
    assert predicted.pairs == len(first)


@given(words, words | st.none(), st.integers(1, 3))
def test_nearest_rows_are_those_of_the_largest_cosine(left, right, k) -> None:
    a, b = people(left), None if right is None else people(right)
    rule = Nearest("name", k=k)
    first, second = candidates(a, b, [rule])
    assert len(first) <= rule.predict(a, b).pairs
    other = a if b is None else b
    found = bags(normalized(a, ["name"]), normalized(other, ["name"]))
    dense = np.zeros((2, max(len(left), other.num_rows), found.size + 1))
    for side, part in enumerate((found.left, found.right)):
        for row in range(len(part)):
            dense[side, row, part.ids[part.indptr[row] : part.indptr[row + 1]]] = part.weights[
                part.indptr[row] : part.indptr[row + 1]
            ]
    cosine = (dense[0] @ dense[1].T)[: len(left), : other.num_rows].round(9)
    wanted = set()
    for axis in (0,) if b is None else (0, 1):
        for row, near in enumerate(cosine if axis == 0 else cosine.T):
            order = sorted((-value, at) for at, value in enumerate(near) if value > 0 and not (b is None and at == row))
            wanted |= {(row, at) if axis == 0 else (at, row) for _, at in order[:k]}
    if b is None:
        wanted = {(min(pair), max(pair)) for pair in wanted}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == wanted


@given(st.lists(st.text("abcé1 ", max_size=7), min_size=1, max_size=6))
def test_every_text_is_as_alike_to_itself_as_can_be_and_likeness_is_symmetric(names) -> None:
    table = people(names)
    rows = np.repeat(np.arange(len(names)), len(names)), np.tile(np.arange(len(names)), len(names))
    for measure in ("grams", "words", "soft", "jaro_winkler", "edit"):
        found = Text("name", measure=measure).compare(table, table, rows).similarity.reshape(len(names), -1)
        known = np.array([text is not None for text in normalized(table, ["name"]).to_pylist()])
        assert np.allclose(np.diag(found)[known], 1)
        assert np.isnan(found[~known]).all()
        np.testing.assert_allclose(found, found.T, atol=1e-12)
        assert ((found[known][:, known] >= 0) & (found[known][:, known] <= 1)).all()


@given(st.integers(2, 7), st.data())
def test_marginals_of_a_matching_are_exact_on_forests(size, data) -> None:
    edges = []
    for node in range(1, size):  # a tree whose sides alternate by depth, so it is bipartite
        parent = data.draw(st.integers(0, node - 1))
        edges.append((parent, node))
    depth = [0] * size
    for parent, node in edges:
        depth[node] = depth[parent] + 1
    pairs = [(a, b) if depth[a] % 2 == 0 else (b, a) for a, b in edges]
    weight = np.array(data.draw(st.lists(st.floats(0.01, 50), min_size=len(pairs), max_size=len(pairs))))
    total, share = 0.0, np.zeros(len(pairs))
    for count in range(len(pairs) + 1):
        for chosen in combinations(range(len(pairs)), count):
            nodes = [node for pair in chosen for node in pairs[pair]]
            if len(set(nodes)) == len(nodes):
                product = float(np.prod(weight[list(chosen)]))
                total += product
                share[list(chosen)] += product
    left, right = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    found = matching_marginals(weight, *_grouped(left), *_grouped(right), 200, 1e-13)
    np.testing.assert_allclose(found, share / total, rtol=1e-9)


@given(st.integers(1, 12), st.data())
def test_components_are_what_passing_on_the_smallest_row_gives(size, data) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=12))
    first, second = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    entity = components(first, second, size)
    assert entity.tolist() == components_reference(first, second, size).tolist()
    a, b = pairs_within(entity)
    within = {(i, j) for i, j in combinations(range(size), 2) if entity[i] == entity[j]}
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == within
    assert len(a) == len(within)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 9)), min_size=1, max_size=12))
def test_pooling_gives_the_nearest_rising_sequence(points) -> None:
    regression = pytest.importorskip("sklearn.isotonic")
    values, weights = (np.array([point[i] for point in points]) for i in (0, 1))
    model = regression.IsotonicRegression()
    expected = model.fit_transform(np.arange(len(values)), values, sample_weight=weights)
    np.testing.assert_allclose(isotonic(values, weights), expected, atol=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([2, 5, 25]), st.floats(0, 0.4))
def test_the_likelihood_never_falls(seed, monotone, levels, missing) -> None:
    draw = np.random.default_rng(seed)
    match = draw.random(200) < 0.3
    similarity = np.clip(draw.normal(0.3 + 0.4 * match[:, None], 0.25, (200, 3)), 0, 1)
    similarity[draw.random((200, 3)) < missing] = np.nan
    similarity[0] = 1.0
    labels = np.where(draw.random(200) < 0.1, match, -1).astype(np.int8)
    rows = (np.arange(200), np.arange(200))
    how = Settings(monotone=monotone, levels=levels, rounds=40)
    for known in (None, labels):
        trace = fit(similarity, np.zeros((200, 3)), rows, ["a", "b", "c"], how, known).likelihood
        assert (np.diff(trace) >= -1e-6 * np.abs(trace[:-1])).all()


@settings(max_examples=25)
@given(words.filter(lambda names: sum(bool(name) for name in names) > 1), words, st.sampled_from(["neither", "both"]))
def test_every_row_is_in_one_entity_and_a_parent_of_one_row(left, right, unique) -> None:
    a, b = people(left), people([*right, *left], begin=100)
    found = link(a, b, compare=[Text("name")], block=[Nearest("name", k=3)], settings=Settings(unique=unique))
    ids = [*a["_row"].to_pylist(), *b["_row"].to_pylist()]
    assert found.entities["row"].to_pylist() == ids
    out, parents, _ = (lambda m: (m.out, m.parents, m.conflicts))(merge(found.entities, a, b))
    assert sorted(parents["_parent"].to_pylist()) == sorted(ids)
    assert set(parents["_row"].to_pylist()) == set(out["_row"].to_pylist())
    assert out.num_rows == len(set(found.entities["entity"].to_pylist()))
    if unique == "both":
        sizes = np.bincount(found.entities["entity"].to_numpy())
        assert sizes.max() <= 2
