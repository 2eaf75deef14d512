"""What an as-of join with arrival times costs over DuckDB's plain one, and whether it equals brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness import Claim, Result, interleave
from stepwell.prepare.asof import AsOf, join_asof, join_asof_reference
from stepwell.storage.query import connect

_BUDGET = "1GiB"
_DATA = "200,000 queries and 1,000,000 generated feature rows of 5,000 keys with four numbers, a tenth arriving late"
CLAIMS = [
    Claim(
        "asof_join_cost",
        f"An as-of join with arrival times of two tables in memory against DuckDB's plain asof join of them without "
        f"arrival times: CPU seconds, both read to the end within {_BUDGET} ({_DATA})",
        2.0,
        "x",
        "<=",
    ),
    Claim(
        "asof_join_equal",
        "Answers that differ from a search through all rows, with late corrections and equal times (500 queries, 1,000 "
        "rows, five draws; in memory and as streams)",
        0.0,
        "answers",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Join both ways in turn, then compare small joins with brute force."""
    return [_cost(quick=quick), _equal()]


def _tables(seed: int, queries: int, features: int, keys: int, span: int) -> tuple[pa.Table, pa.Table]:
    """Draw queries and features; a tenth of the features arrive late, by up to a hundredth of the span."""
    draw = np.random.default_rng(seed)
    left = {"key": draw.integers(0, keys, queries), "time": draw.integers(0, span, queries), "_row": np.arange(queries)}
    time = draw.integers(0, span, features)
    late = np.where(draw.random(features) < 0.1, draw.integers(0, max(2, span // 100), features), 0)
    right: dict[str, Any] = {"key": draw.integers(0, keys, features), "time": time, "known": time + late}
    right |= {f"x{i}": draw.random(features) for i in range(4)}
    return pa.table(left), pa.table({**right, "_row": np.arange(features)})


def _cost(*, quick: bool) -> Result:
    part = 10 if quick else 1
    left, right = _tables(0, 200_000 // part, 1_000_000 // part, 5_000 // part, 10_000_000)
    on = AsOf("key", "time", "known")
    plain = "select l.*, r.* exclude (key) from l asof left join r on l.key = r.key and l.time >= r.time"

    def duckdb_plain() -> None:
        with connect(_BUDGET) as connection:
            connection.register("l", left)
            connection.register("r", right)
            rows = sum(batch.num_rows for batch in pa.RecordBatchReader.from_stream(connection.sql(plain)))
        assert rows == left.num_rows

    def ours(on: AsOf, *, streamed: bool = False) -> None:
        sides = (left.to_reader(), right.to_reader()) if streamed else (left, right)
        rows = sum(batch.num_rows for batch in join_asof(*sides, on, budget=_BUDGET))
        assert rows == left.num_rows

    taken = interleave(
        {
            "DuckDB, plain": duckdb_plain,
            "stepwell, known_at": lambda: ours(on),
            "stepwell, without known_at": lambda: ours(AsOf("key", "time")),
            "stepwell, known_at, streams through DuckDB": lambda: ours(on, streamed=True),
        },
        runs=3 if quick else 5,
    )
    figures: dict[str, dict[str, float | str]] = {
        name: {"wall_s": one.wall_s, "cpu_s": one.cpu_s} for name, one in taken.items()
    }
    ratio = taken["stepwell, known_at"].cpu_s / taken["DuckDB, plain"].cpu_s
    wall = taken["stepwell, known_at"].wall_s / taken["DuckDB, plain"].wall_s
    streamed = taken["stepwell, known_at, streams through DuckDB"].cpu_s / taken["DuckDB, plain"].cpu_s
    why = (
        "Streams, and tables beyond the budget, go through DuckDB: a window sorts the features once more, which costs "
    )
    why += f"{streamed:.2f}x a plain join. In memory the join is a sort of integers and runs on one thread."
    return Result("asof_join_cost", ratio, figures, {"by wall seconds": wall}, seeds=[0], why=why)


def _equal() -> Result:
    seeds = [0, 1, 2, 3, 4]
    differ = answered = 0
    for seed in seeds:
        left, right = _tables(seed, 500, 1_000, 20, 300)
        on = AsOf("key", "time", "known")
        found = join_asof(left, right, on).read_all().sort_by("_row")["_row_right"].to_pylist()
        expected = [None if at < 0 else at for at in join_asof_reference(left, right, on)]
        streamed = join_asof(left.to_reader(), right.to_reader(), on).read_all().sort_by("_row")
        for one in (found, streamed["_row_right"].to_pylist()):
            differ += sum(a != b for a, b in zip(one, expected, strict=True))
        answered += sum(at is not None for at in expected)
    return Result("asof_join_equal", float(differ), quality={"queries with an answer": float(answered)}, seeds=seeds)
