"""What ids, accounts, quarantine, notes and the commit cost beside the work of the steps themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from benchmarks.harness import Claim, Result, interleave
from stepwell.prepare import Preparation
from stepwell.prepare.cache import clear_cache
from stepwell.prepare.clean.constraints import Between, Matches, NotNull
from stepwell.prepare.fitted import Impute, Standard, Vocabulary
from stepwell.prepare.label import Pattern
from stepwell.prepare.step import INPUT, NOTHING, ROW, SPLIT, TRAIN, SqlStep, Step, Stream
from stepwell.storage import Lake
from stepwell.storage import open as open_lake
from stepwell.storage.query import connect

_WORK = (
    "four constraints, near duplicates among the texts, eight labelling rules with the label engine, a split by time, "
    "and five encoders over generated messages (60,000; a slice of that in the quick run), commit included"
)
CLAIMS = [
    Claim(
        "prepare_overhead",
        "CPU time of a preparation beyond that of the same steps one after the other, each result kept in Parquet and "
        f"the last one in the lake, without ids, accounts, quarantine, notes and lineage: {_WORK}",
        5.0,
        "%",
        "<=",
    ),
]
_SPAM, _HAM = ("free", "cash", "won", "click"), ("hello", "meeting", "see", "invoice")
RULES = [Pattern(word, "text", word, kind) for kind, some in (("spam", _SPAM), ("ham", _HAM)) for word in some]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run both in turn; every run of ours begins with an empty cache."""
    rows = 10_000 if quick else 60_000
    figures: dict[str, dict[str, float | str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        lake = open_lake(Path(folder) / "lake")
        lake.write("raw", _messages(rows))
        number = iter(range(1_000))
        for kind, build in (("all steps", _all_steps), ("cheap steps only", _cheap_steps)):
            contestants: dict[str, Callable[[], object]] = {
                "stepwell": lambda build=build: _ours(lake, build(lake), next(number)),  # type: ignore[misc]
                "steps alone, kept": lambda build=build: _alone(lake, build(lake), Path(folder)),  # type: ignore[misc]
                "steps alone, in memory": lambda build=build: _alone(lake, build(lake), None),  # type: ignore[misc]
            }
            for name, timing in interleave(contestants, runs=3 if quick else 5).items():
                figures[f"{name}; {kind}"] = {"cpu_s": round(timing.cpu_s, 3), "wall_s": round(timing.wall_s, 3)}
    over = _percent(figures, "steps alone, kept", "all steps")
    quality: dict[str, float | str] = {
        "all steps, % over steps in memory": _percent(figures, "steps alone, in memory", "all steps"),
        "cheap steps, % over steps kept": _percent(figures, "steps alone, kept", "cheap steps only"),
        "cheap steps, % over steps in memory": _percent(figures, "steps alone, in memory", "cheap steps only"),
        "rows": float(rows),
    }
    why = "Each step checks that it does not look ahead and writes side tables, which small and cheap steps feel most."
    return [Result("prepare_overhead", over, figures, quality, (0,), why)]


def _percent(figures: dict[str, dict[str, float | str]], plain: str, kind: str) -> float:
    ours, theirs = (float(figures[f"{name}; {kind}"]["cpu_s"]) for name in ("stepwell", plain))
    return round(100 * (ours / theirs - 1), 1)


def _cheap_steps(lake: Lake) -> Preparation:
    constraints = (NotNull("text"), Between("count", low=1), Matches("city", "c[0-9]+"), Between("price", low=-6))
    encoders = (Impute(("price",)), Standard(("price", "count")), Vocabulary(("city",)))
    base = Preparation(lake, "raw", key="id").expect(*constraints).derive({"total": "price * count"})
    return base.split(time="day", test=0.2).encode(*encoders)


def _all_steps(lake: Lake) -> Preparation:
    cheap = _cheap_steps(lake).steps
    base = Preparation(lake, "raw", key="id", steps=cheap[:2]).deduplicate("text", how="text", similarity=0.9)
    labelled = base.label(RULES, classes=("ham", "spam"))
    return Preparation(lake, "raw", key="id", steps=(*labelled.steps, *cheap[2:]))


def _ours(lake: Lake, preparation: Preparation, number: int) -> None:
    clear_cache(lake)
    preparation.commit(f"ours{number}")


def _alone(lake: Lake, preparation: Preparation, folder: Path | None) -> None:
    """Run the very same step objects one after the other; `folder` keeps each result as a resumable script would."""
    table = lake.table("raw").to_arrow()
    table = table.add_column(0, ROW, pa.array(np.arange(len(table))))
    for place, step in enumerate(preparation.ordered):
        table = _queried(step, table) if isinstance(step, SqlStep) else _applied(step, table)
        if folder is not None:
            parquet.write_table(table, folder / f"{place}.parquet", compression="lz4")
    lake.write("alone", table)


def _queried(step: SqlStep, table: pa.Table) -> pa.Table:
    connection = connect()
    try:
        connection.register("given", table)
        connection.execute(f"create table {INPUT} as from given").fetchall()
        query = step.query(table.schema, connection)
        if query.base:
            connection.execute(f"create table base as {query.base}").fetchall()
        return connection.sql(query.out).to_arrow_table()
    finally:
        connection.close()


def _applied(step: Step, table: pa.Table) -> pa.Table:
    train = table.filter(pc.equal(table[SPLIT], TRAIN)) if SPLIT in table.schema.names else table
    fitted = step.fit(Stream(table.schema, lambda: iter(train.to_batches()))) if step.fits else NOTHING
    return step.apply({INPUT: table}, fitted).out


def _messages(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    words = np.array([*(f"w{i}" for i in range(3_000)), *_SPAM, *_HAM])
    chance = np.r_[np.full(3_000, 0.9 / 3_000), np.full(8, 0.1 / 8)]
    drawn = words[rng.choice(len(words), (rows, 12), p=chance)]
    price = np.where(rng.random(rows) < 0.05, np.nan, rng.normal(5, 4, rows))
    return pa.table(
        {
            "id": np.arange(rows),
            "text": [" ".join(row) for row in drawn.tolist()],
            "price": pa.array(price, from_pandas=True),
            "count": rng.integers(0, 50, rows),
            "city": rng.choice([f"c{i}" for i in range(500)], rows),
            "day": rng.integers(0, 1_000, rows),
        }
    )
