"""The same linkage by splink on DuckDB, for who wants its model: an optional library (`stepwell[link]`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError, MissingExtraError
from stepwell.prepare.link.block import Block, candidates, predict
from stepwell.prepare.link.cluster import chosen
from stepwell.prepare.link.compare import Comparison, Exact, Number, Text, numbers
from stepwell.prepare.link.linkage import Links, entities_of, expected_best, row_ids
from stepwell.prepare.link.text import Floats, normalized

_EDGES = (0.95, 0.9, 0.85, 0.8, 0.7)


@dataclass(frozen=True)
class SplinkModel:
    """What splink learned.

    Args:
        levels: `comparison`, `level`, `m`, `u`, `weight_bits`, a row per comparison and level.
    """

    levels: pa.Table

    def table(self) -> pa.Table:
        """Return the levels."""
        return self.levels


def link_by_splink(
    left: pa.Table,
    right: pa.Table | None = None,
    *,
    compare: Sequence[Comparison],
    block: Sequence[Block],
    threshold: float | None = None,
    max_pairs: int = 20_000_000,
) -> Links:
    """Link as `link` does, with splink's model on the same pairs.

    u comes from random pairs, m from expectation maximisation on the blocked pairs. `Exact` becomes splink's exact
    match (with term frequencies if `rare`), `Text` its Jaro-Winkler levels whatever the measure, or Jaccard levels for
    `"words"` and `"grams"`, and `Number` four levels of nearness. Pairs of a row do not compete.

    Raises:
        MissingExtraError: If splink is not installed.
        InvalidValueError: If a comparison is none of these three.

    Cost: splink's, in DuckDB; the blocking join looks at every pair of rows once.
    """
    try:
        splink = import_module("splink")
    except ImportError as error:
        raise MissingExtraError("link_by_splink", "splink", "link") from error
    for one in compare:
        if not isinstance(one, Exact | Text | Number):
            raise InvalidValueError("compare", one, "Exact, Text or Number for splink")
    ids = [row_ids(table, side) for table, side in ((left, "left"), (right, "right")) if table is not None]
    blocks = predict(left, right, block)
    rows = candidates(left, right, block, max_pairs)
    tables = [
        _input(table, compare, rows, place) for place, table in enumerate([left] if right is None else [left, right])
    ]
    api = splink.DuckDBAPI()
    rule = "list_contains(l.partners, r.unique_id)"
    settings = splink.SettingsCreator(
        link_type="dedupe_only" if right is None else "link_only",
        comparisons=[made for one in compare for made in _comparison(one)],
        blocking_rules_to_generate_predictions=[rule],
        probability_two_random_records_match=min(0.5, left.num_rows / max(1, 2 * len(rows[0]))),
        retain_matching_columns=False,
    )
    registered = [api.register(table) for table in tables]
    linker = splink.Linker(registered if len(registered) > 1 else registered[0], settings)
    linker.training.estimate_u_using_random_sampling(max_pairs=2e5, seed=0)
    linker.training.estimate_parameters_using_expectation_maximisation(rule)
    found = linker.inference.predict().as_pyarrow_table()
    found = found.sort_by([("unique_id_l", "ascending"), ("unique_id_r", "ascending")])
    rows = (found["unique_id_l"].to_numpy(), found["unique_id_r"].to_numpy())
    probability: Floats = np.asarray(found["match_probability"].to_numpy(), np.float64)
    why = "given" if threshold is not None else "best F1 expected by the model"
    threshold = expected_best(probability) if threshold is None else threshold
    matches = chosen(rows, probability, threshold)
    match = np.zeros(len(probability), bool)
    match[matches] = True
    pairs = pa.table(
        {
            "_row": np.arange(len(match)),
            "left": ids[0][rows[0]],
            "right": ids[-1][rows[1]],
            "match": match,
            "probability": probability,
            "weight": np.asarray(found["match_weight"].to_numpy(), np.float64) * np.log(2),
        }
    )
    blocks = blocks.append_column("compared", pa.array([len(match)] * len(blocks), pa.int64()))
    return Links(pairs, entities_of(rows, matches, ids), blocks, SplinkModel(_levels(linker)), float(threshold), why)


def _input(table: pa.Table, compare: Sequence[Comparison], rows: tuple[Ids, Ids], place: int) -> pa.Table:
    """Return splink's input: positions as ids, the partners that the blocks gave each row, and the columns compared."""
    partners: list[list[int]] = [[] for _ in range(table.num_rows)]
    for a, b in zip(rows[0].tolist(), rows[1].tolist(), strict=True) if place == 0 else ():
        partners[a].append(b)
    columns: dict[str, object] = {
        "unique_id": np.arange(table.num_rows),
        "source_dataset": ["ab"[place]] * len(partners),
    }
    columns["partners"] = pa.array(partners, pa.list_(pa.int64()))
    for one in compare:
        if isinstance(one, Number):
            columns[_column(one)] = pa.array(numbers(table, one.column), from_pandas=True)
        elif isinstance(one, Text | Exact):
            columns[_column(one)] = normalized(table, one.columns if isinstance(one, Text) else [one.column])
    return pa.table(columns)


def _column(one: Comparison) -> str:
    if isinstance(one, Text):
        return "t_" + "_".join(one.columns)
    return f"{'n' if isinstance(one, Number) else 'x'}_{getattr(one, 'column', one.name)}"


def _comparison(one: Comparison) -> Iterator[object]:
    library = import_module("splink.comparison_library")

    column = _column(one)
    if isinstance(one, Text) and one.measure in ("words", "grams"):
        yield library.JaccardAtThresholds(column, list(_EDGES))
    elif isinstance(one, Text):
        yield library.JaroWinklerAtThresholds(column, list(_EDGES)).configure(term_frequency_adjustments=True)
    elif isinstance(one, Exact):
        yield library.ExactMatch(column).configure(term_frequency_adjustments=one.rare)
    elif isinstance(one, Number):
        a, b = f'"{column}_l"', f'"{column}_r"'
        near = [f"least({a}, {b}) >= {share} * greatest({a}, {b})" for share in (0.99, 0.9, 0.75)]
        if one.scale is not None:
            near = [f"abs({a} - {b}) <= {one.scale * times}" for times in (0.01, 1, 3)]
        levels = [{"sql_condition": f"{a} is null or {b} is null", "label_for_charts": "null", "is_null_level": True}]
        levels += [{"sql_condition": level, "label_for_charts": level} for level in near]
        levels.append({"sql_condition": "ELSE", "label_for_charts": "else"})
        yield library.CustomComparison(output_column_name=column, comparison_levels=levels)


def _levels(linker: object) -> pa.Table:
    """Read the learned levels from splink's own description of its model."""
    rows = []
    for one in linker.misc.save_model_to_json()["comparisons"]:  # type: ignore[attr-defined]
        for level in one["comparison_levels"]:
            if not level.get("is_null_level"):
                m, u = level.get("m_probability"), level.get("u_probability")
                bits = float(np.log2(m / u)) if m and u else None
                found = {"comparison": one["output_column_name"], "level": level["label_for_charts"]}
                rows.append({**found, "m": m, "u": u, "weight_bits": bits})
    return pa.Table.from_pylist(rows)
