"""splink on DuckDB, on the very pairs that we compare, set up in several ways and trained by its own methods.

Every text column is offered in the normalised form that we compare, and also as a vector (its TF-IDF letter groups
hashed to 256 numbers), so that splink may use its cosine comparison.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from benchmarks.er_tasks import Task
from stepwell.prepare.link import Exact, Number
from stepwell.prepare.link.compare import Text, numbers
from stepwell.prepare.link.text import Bags, bags, normalized

INSTALL = "pip install 'splink>=5' 'sqlglot' 'igraph' 'jinja2' 'altair'"
_WIDTH = 256


@dataclass(frozen=True)
class Setup:
    """One way to set splink up.

    Args:
        text: How texts are compared: `"jaro-winkler"`, `"jaccard"` or `"cosine"`.
        free_u: Whether expectation maximisation also moves u, which random sampling has set.
    """

    text: str
    free_u: bool

    def __str__(self) -> str:
        return f"{self.text}, u {'free' if self.free_u else 'by sampling'}"


SETUPS = [
    Setup("jaro-winkler", free_u=False),
    *(Setup(text, free_u=True) for text in ("jaro-winkler", "jaccard", "cosine")),
]


@dataclass(frozen=True)
class Scored:
    """What splink said: the pairs with their probability, and those that remain as single best links."""

    left: np.ndarray
    right: np.ndarray
    probability: np.ndarray


def score(task: Task, compared: np.ndarray, setup: Setup, labels: np.ndarray | None = None) -> Scored:
    """Train splink on the compared pairs and return its probabilities.

    On a few hundred pairs u may become 0 where it is free, which splink refuses; then u stays as sampling set it.

    Args:
        task: The task.
        compared: The pairs, `[P, 2]`.
        setup: How.
        labels: Known pairs, `[L, 3]` with 0 or 1 last; then m comes from the matches among them.

    Raises:
        ImportError: If splink is not installed.
    """
    warnings.simplefilter("ignore")
    logging.getLogger("splink").setLevel(logging.ERROR)
    try:
        return _score(task, compared, setup, labels)
    except ValueError as error:
        if not setup.free_u or "probability" not in str(error):
            raise
        return _score(task, compared, replace(setup, free_u=False), labels)


def _score(task: Task, compared: np.ndarray, setup: Setup, labels: np.ndarray | None) -> Scored:
    from splink import DuckDBAPI, Linker, SettingsCreator

    api = DuckDBAPI()
    sides = _inputs(task, compared)
    tables = [api.register(side) for side in sides]
    rule = "list_contains(l.partners, r.unique_id)"
    settings = SettingsCreator(
        link_type="link_only" if task.right is not None else "dedupe_only",
        comparisons=list(_comparisons(task, setup)),
        blocking_rules_to_generate_predictions=[rule],
        probability_two_random_records_match=min(0.5, 0.5 * task.left.num_rows / len(compared)),
        retain_matching_columns=False,
    )
    linker = Linker(tables if len(tables) > 1 else tables[0], settings)
    linker.training.estimate_u_using_random_sampling(max_pairs=2e5, seed=0)
    linker.training.estimate_parameters_using_expectation_maximisation(
        rule,
        fix_u_probabilities=not setup.free_u,
        populate_probability_two_random_records_match_from_trained_values=True,
    )
    if labels is not None and labels[:, 2].any():
        known = labels[labels[:, 2] == 1]
        linker.training.estimate_m_from_pairwise_labels(api.register(_labels(task, known)))
    found = linker.inference.predict().as_pyarrow_table()
    left, right = (found[f"unique_id_{side}"].to_numpy() for side in ("l", "r"))
    return Scored(left, right, found["match_probability"].to_numpy())


def _labels(task: Task, known: np.ndarray) -> pa.Table:
    names = ("a", "b") if task.right is not None else ("a", "a")
    return pa.table(
        {
            "source_dataset_l": [names[0]] * len(known),
            "unique_id_l": known[:, 0],
            "source_dataset_r": [names[1]] * len(known),
            "unique_id_r": known[:, 1],
        }
    )


def _texts(task: Task) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(one.columns for one in task.compare if isinstance(one, Text)))


def _inputs(task: Task, compared: np.ndarray) -> list[pa.Table]:
    """Return splink's input tables: normalised text, vectors, numbers, and the partners that the blocks gave a row."""
    sides = [task.left] if task.right is None else [task.left, task.right]
    partners: list[list[int]] = [[] for _ in range(task.left.num_rows)]
    for a, b in compared.tolist():
        partners[a].append(b)
    found = []
    for place, side in enumerate(sides):
        columns: dict[str, object] = {"unique_id": np.arange(side.num_rows)}
        columns["source_dataset"] = ["ab"[place]] * side.num_rows
        lists = partners if place == 0 else [[]] * side.num_rows
        columns["partners"] = pa.array(lists, pa.list_(pa.int64()))
        for names in _texts(task):
            texts = [normalized(one, names) for one in sides]
            columns["_".join(names)] = texts[place]
            vocabulary = bags(texts[0], texts[-1])
            bag = vocabulary.left if place == 0 else vocabulary.right
            columns["v_" + "_".join(names)] = _vectors(bag, texts[place])
        for one in task.compare:
            if isinstance(one, Number):
                columns["n_" + one.column] = pa.array(numbers(side, one.column), from_pandas=True)
            if isinstance(one, Exact):
                columns["x_" + one.column] = normalized(side, [one.column])
        found.append(pa.table(columns))
    return found


def _vectors(bag: Bags, text: pa.Array) -> pa.Array:
    """Hash the terms of each row to 256 numbers; null where the text is."""
    rows = np.repeat(np.arange(len(bag)), np.diff(bag.indptr))
    mixed = (bag.ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    sign = np.where(mixed & np.uint64(1), 1.0, -1.0)
    place = (mixed >> np.uint64(1)) % np.uint64(_WIDTH)
    dense = np.zeros((len(bag), _WIDTH), np.float32)
    np.add.at(dense, (rows, place.astype(np.int64)), (sign * bag.weights).astype(np.float32))
    values = pa.FixedSizeListArray.from_arrays(pa.array(dense.ravel()), _WIDTH)
    keep = [None if missing else at for at, missing in enumerate(text.is_null().to_pylist())]
    return values.take(pa.array(keep, pa.int64()))


def _comparisons(task: Task, setup: Setup) -> Iterator[object]:
    import splink.comparison_library as library

    for names in _texts(task):
        column = "_".join(names)
        if setup.text == "cosine":
            yield library.CosineSimilarityAtThresholds("v_" + column, [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
        elif setup.text == "jaccard":
            yield library.JaccardAtThresholds(column, [0.95, 0.9, 0.8, 0.7, 0.6, 0.5])
        else:
            one = library.JaroWinklerAtThresholds(column, [0.95, 0.9, 0.85, 0.8, 0.7])
            yield one.configure(term_frequency_adjustments=True)
    for one in task.compare:
        if isinstance(one, Number):
            yield _number(f"n_{one.column}", one.scale)
        if isinstance(one, Exact):
            yield library.ExactMatch(f"x_{one.column}").configure(term_frequency_adjustments=one.rare)


def _number(column: str, scale: float | None) -> object:
    from splink.comparison_library import CustomComparison

    a, b = f'"{column}_l"', f'"{column}_r"'
    if scale is None:
        near = [f"least({a}, {b}) >= {share} * greatest({a}, {b})" for share in (0.99, 0.9, 0.75, 0.5)]
    else:
        near = [f"abs({a} - {b}) <= {scale * times}" for times in (0.01, 1, 3)]
    levels = [{"sql_condition": f"{a} is null or {b} is null", "label_for_charts": "null", "is_null_level": True}]
    levels += [{"sql_condition": one, "label_for_charts": one} for one in near]
    levels.append({"sql_condition": "ELSE", "label_for_charts": "else"})
    return CustomComparison(output_column_name=column, comparison_levels=levels)
