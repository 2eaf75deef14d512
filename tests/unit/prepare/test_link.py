"""What linkage, merging and schema matching find, and what they refuse."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.link import Exact, Nearest, Number, Same, Settings, Text, link, match_schema, merge, predict
from stepwell.prepare.link.cluster import chosen, quality
from stepwell.prepare.link.compare import Fuzz
from stepwell.prepare.link.linkage import expected_best
from stepwell.prepare.link.merge import truth
from stepwell.prepare.link.model import fit

SHOPS = pa.table(
    {
        "_row": [0, 1, 2, 3],
        "name": ["Sony Turntable PSLX350H", "Bose Speaker AM53BK", "Sony Switcher SBV40S", "Canon Case"],
        "price": [100.0, 399.0, 49.0, None],
    }
)
OTHER = pa.table(
    {
        "_row": [10, 11, 12],
        "name": ["SONY pslx-350h turntable", "Bose AM53BK speaker system", "Sony cable"],
        "price": [105.0, 399.0, 9.0],
    }
)


@pytest.mark.parametrize(
    ("a", "b", "similarity"), [("MARTHA", "MARHTA", 0.9611), ("DWAYNE", "DUANE", 0.84), ("DIXON", "DICKSONX", 0.8133)]
)
def test_jaro_winkler_gives_the_published_values(a, b, similarity) -> None:
    one, other = pa.table({"x": [a]}), pa.table({"x": [b]})
    found = Text("x", measure="jaro_winkler").compare(one, other, (np.array([0]), np.array([0])))
    assert found.similarity[0] == pytest.approx(similarity, abs=1e-4)


def test_an_initial_stands_for_the_name_it_begins() -> None:
    one, other = pa.table({"x": ["d. scott mackay"]}), pa.table({"x": ["David Scott MacKay"]})
    rows = (np.array([0]), np.array([0]))
    soft, hard = (Text("x", measure=m).compare(one, other, rows).similarity[0] for m in ("soft", "words"))
    assert soft > 0.9 > hard


def test_numbers_are_compared_by_ratio_or_by_scale() -> None:
    one, other = pa.table({"x": ["$1,000.50", "8", None]}), pa.table({"x": ["2001", "10", "3"]})
    rows = (np.arange(3), np.arange(3))
    np.testing.assert_allclose(Number("x").compare(one, other, rows).similarity, [0.5, 0.8, np.nan], atol=1e-3)
    np.testing.assert_allclose(Number("x", scale=2).compare(one, other, rows).similarity[1:], [0.5, np.nan])


def test_agreement_on_a_rare_value_weighs_more() -> None:
    table = pa.table({"x": ["smith"] * 8 + ["xu", "xu"]})
    found = Exact("x").compare(table, table, (np.array([0, 8]), np.array([1, 9])))
    assert found.similarity.tolist() == [1.0, 1.0]
    assert found.rarity[1] - found.rarity[0] == pytest.approx(np.log(4))


def test_our_distances_equal_those_of_rapidfuzz() -> None:
    distance = pytest.importorskip("rapidfuzz.distance")
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("abcd1 é"), draw.integers(1, 12))) + "a" for _ in range(60)]
    table = pa.table({"x": texts})
    rows = (np.arange(60), np.arange(60)[::-1].copy())
    from stepwell.prepare.link.text import normalized

    plain = normalized(table, ["x"]).to_pylist()
    pairs = [(plain[i], plain[j]) for i, j in zip(*rows, strict=True)]
    edit = Text("x", measure="edit").compare(table, table, rows).similarity
    jaro = Text("x", measure="jaro_winkler").compare(table, table, rows).similarity
    np.testing.assert_allclose(edit, [distance.Levenshtein.normalized_similarity(*pair) for pair in pairs])
    plainly = [distance.Jaro.similarity(*pair) for pair in pairs]
    prefixes = [next((k for k in range(4) if a[k : k + 1] != b[k : k + 1] or not a[k:]), 4) for a, b in pairs]
    wanted = [j + 0.1 * p * (1 - j) for j, p in zip(plainly, prefixes, strict=True)]
    np.testing.assert_allclose(jaro, wanted)
    assert Fuzz("x").compare(table, table, (rows[0], rows[0])).similarity.tolist() == [1.0] * 60


def test_blocks_that_would_explode_are_refused_before_a_pair_is_made() -> None:
    table = pa.table({"_row": np.arange(3000), "name": ["same"] * 3000})
    counts = predict(table, None, [Same("name"), Nearest("name", k=2)])
    assert counts["pairs"].to_pylist() == [3000 * 2999 // 2, 6000]
    assert counts["exact"].to_pylist() == [True, False]
    with pytest.raises(DataError, match="4,498,500 of them by Same"):
        link(table, compare=[Text("name")], block=[Same("name")], max_pairs=1_000_000)


def test_two_small_tables_link_as_a_reader_would() -> None:
    found = link(
        *(SHOPS, OTHER),
        compare=[Text("name"), Text("name", measure="codes"), Number("price")],
        block=[Nearest("name", k=3)],
        settings=Settings(unique="both"),
    )
    best = found.pairs.sort_by([("probability", "descending")]).slice(0, 2)
    assert set(zip(best["left"].to_pylist(), best["right"].to_pylist(), strict=True)) == {(0, 10), (1, 11)}
    assert best["match"].to_pylist() == [True, True]
    assert found.blocks.column_names == ["rule", "pairs", "exact", "share", "compared"]
    assert found.pairs["price (number)"].null_count > 0
    assert found.model.table().num_rows == 3 * 26


def test_a_row_that_is_unique_is_taken_once_by_its_best_pair() -> None:
    rows = (np.array([0, 0, 1]), np.array([0, 1, 1]))
    probability = np.array([0.6, 0.9, 0.8])
    assert chosen(rows, probability, 0.5).tolist() == [0, 1, 2]
    assert chosen(rows, probability, 0.5, "left").tolist() == [1, 2]
    assert chosen(rows, probability, 0.5, "both").tolist() == [1]


def test_the_expected_best_threshold_is_half_of_the_expected_best_f1() -> None:
    probability = np.linspace(0, 1, 2001)
    best = expected_best(probability)
    kept = probability[probability >= best]
    assert best == pytest.approx(kept.sum() / (len(kept) + probability.sum()), abs=1e-3)


def generated(seed: int = 0, pairs: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the levels of three comparisons whose m and u are known."""
    draw = np.random.default_rng(seed)
    match = draw.random(pairs) < 0.2
    m = np.array([[0.05, 0.15, 0.8], [0.1, 0.3, 0.6], [0.02, 0.08, 0.9]])
    u = np.array([[0.9, 0.08, 0.02], [0.7, 0.2, 0.1], [0.85, 0.1, 0.05]])
    tables = np.where(match[:, None, None], m, u)
    level = (draw.random((pairs, 3, 1)) > np.cumsum(tables, 2)).sum(2)
    return level / 2, match, m, u


def test_expectation_maximisation_finds_the_m_and_u_that_made_the_data() -> None:
    similarity, match, m, u = generated()
    rows = (np.arange(len(match)), np.arange(len(match)))
    how = Settings(cuts=(0.25, 0.75), monotone=False, rounds=200, tolerance=1e-6)
    found = fit(similarity, np.zeros_like(similarity), rows, ["a", "b", "c"], how)
    np.testing.assert_allclose(found.model.m, m, atol=0.02)
    np.testing.assert_allclose(found.model.u, u, atol=0.01)
    assert 1 / (1 + np.exp(-found.model.prior)) == pytest.approx(0.2, abs=0.01)


def test_labels_tell_how_far_comparisons_repeat_each_other() -> None:
    similarity, match, _, _ = generated(1)
    twice = np.column_stack([similarity, similarity[:, 0], similarity[:, 0]])
    rows = (np.arange(len(match)), np.arange(len(match)))
    how = Settings(cuts=(0.25, 0.75))
    labels = np.where(np.arange(len(match)) < 4000, match, -1).astype(np.int8)
    found = fit(twice, np.zeros_like(twice), rows, list("abcde"), how, labels)
    assert found.model.scale[[0, 3, 4]].sum() < 1.2
    assert (found.model.scale[[1, 2]] > 2 * found.model.scale[0]).all()


def test_a_label_is_never_overruled() -> None:
    labels = pa.table({"left": [0, 1], "right": [10, 10], "match": [0, 1]})
    found = link(
        SHOPS,
        OTHER,
        compare=[Text("name")],
        block=[Nearest("name", k=3)],
        settings=Settings(unique="both"),
        labels=labels,
    )
    matches = set(zip(found.matches["left"].to_pylist(), found.matches["right"].to_pylist(), strict=True))
    assert (1, 10) in matches
    assert (0, 10) not in matches


def read(path, delimiter: str) -> pa.Table:
    with path.open(encoding="utf8") as file:
        head, *rows = list(csv.reader(file, delimiter=delimiter))
    columns = {name: [row[i] or None for row in rows] for i, name in enumerate(head)}
    return pa.table({"_row": np.arange(len(rows)), **columns})


def test_dblp_and_acm_are_linked_without_a_label(data_folder) -> None:
    folder = data_folder / "er-dblp-acm"
    left, right = read(folder / "dblp.csv", "%"), read(folder / "acm.csv", "%")
    truth = np.loadtxt(folder / "gt.csv", dtype=np.int64, delimiter="%", skiprows=1)
    found = link(
        *(left, right),
        compare=[Text("title"), Text("authors", measure="soft"), Number("year", scale=1)],
        block=[Nearest("title", "authors", k=5)],
        settings=Settings(unique="both"),
    )
    pairs = found.matches["left"].to_numpy(), found.matches["right"].to_numpy()
    assert quality(pairs, (truth[:, 0], truth[:, 1])).f1 > 0.985


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"left": SHOPS.drop_columns(["_row"])}, DataError),
        ({"left": pa.concat_tables([SHOPS, SHOPS])}, DataError),
        ({"block": []}, InvalidValueError),
        ({"compare": []}, InvalidValueError),
        ({"compare": [Text("name"), Text("name")]}, InvalidValueError),
        ({"compare": [Text("nothing")]}, UnknownNameError),
        ({"threshold": 2.0}, InvalidValueError),
        ({"right": None, "settings": Settings(unique="left")}, InvalidValueError),
        ({"labels": pa.table({"left": [0], "right": [99], "match": [1]})}, DataError),
        ({"labels": pa.table({"left": [0], "right": [10], "match": [2]})}, DataError),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, error) -> None:
    given = {"left": SHOPS, "right": OTHER, "compare": [Text("name")], "block": [Nearest("name")], **change}
    with pytest.raises(error):
        link(given.pop("left"), given.pop("right"), **given)


def entities(groups: list[int], left: pa.Table, right: pa.Table | None = None) -> pa.Table:
    sides = ["left"] * left.num_rows + ["right"] * (0 if right is None else right.num_rows)
    rows = [*left["_row"].to_pylist(), *([] if right is None else right["_row"].to_pylist())]
    return pa.table({"_row": range(len(rows)), "side": sides, "row": rows, "entity": groups})


def test_a_source_that_others_contradict_loses_the_disputes_it_has_alone() -> None:
    draw = np.random.default_rng(0)
    right = draw.integers(0, 50, 300)
    liar = np.where(draw.random(300) < 0.7, right + 1, right)
    said = {"a": right, "b": np.where(draw.random(300) < 0.1, right + 2, right), "liar": liar}
    rows = [(i, name, int(values[i])) for name, values in said.items() for i in range(300) if name != "b" or i < 200]
    table = pa.table({"_row": range(len(rows)), "source": [r[1] for r in rows], "x": [r[2] for r in rows]})
    found = merge(entities([r[0] for r in rows], table), table, source="source", fuse={"source": "first"})
    assert (found.out["x"].to_numpy() == right).mean() > 0.97
    alone = [at for at, row in enumerate(found.conflicts.to_pylist()) if row["column"] == "x" and row["entity"] >= 200]
    assert len(alone) > 0


def test_policies_settle_what_they_say_and_nulls_never_win() -> None:
    left = pa.table({"_row": [0, 1], "t": ["a", None], "n": [1.0, 5.0], "f": [None, "x"]})
    right = pa.table({"_row": [7, 8], "t": ["abc", "b"], "n": [9.0, 2.0], "only": [True, None]})
    found = merge(entities([0, 0, 0, 0], left, right), left, right, fuse={"t": "longest", "n": "median", "f": "first"})
    assert found.out.to_pylist() == [{"_row": 0, "t": "abc", "n": 2.0, "f": "x", "only": True}]
    assert found.parents["_parent"].to_pylist() == [0, 1, 7, 8]
    assert set(found.conflicts["column"].to_pylist()) == {"t", "n"}
    assert found.conflicts.filter(found.conflicts["chosen"])["value"].to_pylist() == ["abc", "2"]


def test_three_true_sources_beat_a_random_one() -> None:
    draw = np.random.default_rng(1)
    item = np.repeat(np.arange(100), 4)
    source = np.tile(np.arange(4), 100)
    value = np.where(source < 3, 0, draw.integers(0, 3, 400))
    assert (truth(item, source, value)[value == 0] > 0.9).all()


def test_merging_refuses_ids_that_overlap_and_types_that_differ() -> None:
    left, right = SHOPS.slice(0, 1), OTHER.slice(0, 1)
    clash = right.set_column(0, "_row", pa.array([0]))
    with pytest.raises(DataError, match="overlap"):
        merge(entities([0, 1], left, clash), left, clash)
    with pytest.raises(DataError, match="on the left"):
        merge(entities([0, 0], left, right), left, right.set_column(2, "price", pa.array(["1"])))
    with pytest.raises(DataError, match="right table"):
        merge(entities([0], left), left, right)
    with pytest.raises(UnknownNameError):
        merge(entities([0, 0], left, right), left, right, fuse={"nothing": "first"})
    with pytest.raises(InvalidValueError):
        merge(entities([0, 0], left, right), left, right, fuse={"name": "median"})


def test_columns_are_matched_by_name_and_by_value() -> None:
    draw = np.random.default_rng(0)
    names = [f"{a} {b}" for a in ("ann", "bob", "cy", "dan") for b in ("smith", "jones", "xu", "ford")]
    left = pa.table(
        {
            "_row": range(16),
            "fullName": names,
            "birth_year": draw.integers(1950, 2000, 16),
            "salary": draw.normal(5e4, 1e4, 16),
        }
    )
    right = pa.table(
        {"pay": draw.normal(5e4, 1e4, 16), "person": names[::-1], "yearOfBirth": draw.integers(1950, 2000, 16)}
    )
    found = match_schema(left, right)
    matches = found.filter(found["match"])
    pairs = dict(zip(matches["left"].to_pylist(), matches["right"].to_pylist(), strict=True))
    assert pairs == {"fullName": "person", "birth_year": "yearOfBirth", "salary": "pay"}
    assert found.num_rows == 9


def test_valentine_can_be_asked_instead() -> None:
    pytest.importorskip("valentine")
    pytest.importorskip("pandas")
    table = pa.table({"name": ["ann", "bob"], "age": [1, 2]})
    found = match_schema(table, table.rename_columns(["Name", "age2"]), backend="valentine")
    assert found.filter(found["match"])["right"].to_pylist() == ["Name", "age2"]


def test_splink_links_the_same_tables_on_the_same_pairs(data_folder) -> None:
    pytest.importorskip("splink")
    from stepwell.prepare.link.splink import link_by_splink

    folder = data_folder / "er-dblp-acm"
    left, right = (read(folder / name, "%").slice(0, 400) for name in ("dblp.csv", "acm.csv"))
    compare = [Text("title", measure="jaro_winkler"), Number("year", scale=1)]
    block = [Nearest("title", "authors", k=3)]
    theirs = link_by_splink(left, right, compare=compare, block=block)
    ours = link(left, right, compare=compare, block=block)
    assert theirs.pairs.select(["left", "right"]).equals(ours.pairs.select(["left", "right"]))
    assert theirs.entities.num_rows == 800
    assert {"comparison", "m", "u", "weight_bits"} <= set(theirs.model.table().column_names)
    truth = {tuple(pair) for pair in np.loadtxt(folder / "gt.csv", np.int64, None, "%", skiprows=1).tolist()}
    pairs = zip(theirs.pairs["left"].to_pylist(), theirs.pairs["right"].to_pylist(), strict=True)
    true = np.array([pair in truth for pair in pairs])
    likely = theirs.pairs["probability"].to_numpy()
    assert true.sum() > 20
    assert np.mean(likely[true][:, None] > likely[~true]) > 0.97
