"""What both ways of the end-to-end comparison share: the two dirty sources, labelling rules, classifier and scoring.

UCI Adult is cut into a register of persons and one of jobs, with faults planted by a seed: the shared number is
mistyped, ages are missing or off by one, hours are impossible, and each register lacks some people. Incomes stand in
the jobs and are the truth for scoring; no rule reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

Mask = npt.NDArray[np.bool_]
NUMBERS = ("age", "education_num", "hours_per_week", "capital_gain", "married", "expert", "male")
CLASSES = ("less", "more")
# name, column, what it says of the column's values, class
RULES: tuple[tuple[str, str, Callable[[np.ndarray], Mask], str], ...] = (
    ("gain", "capital_gain", lambda v: v > 5000, "more"),
    ("degree", "education_num", lambda v: v >= 13, "more"),
    ("school", "education_num", lambda v: v <= 9, "less"),
    ("young", "age", lambda v: v < 28, "less"),
    ("settled", "age", lambda v: (v > 38) & (v < 60), "more"),
    ("short", "hours_per_week", lambda v: v < 38, "less"),
    ("long", "hours_per_week", lambda v: v > 48, "more"),
    ("single", "married", lambda v: v == 0, "less"),
    ("expert", "expert", lambda v: v == 1, "more"),
)


def make_sources(data: Path, folder: Path, rows: int = 3000, seed: int = 0) -> None:
    """Write `people.csv`, `jobs.csv` and `truth.csv` (which person has which job)."""
    table = pq.read_table(data / "adult" / "train.parquet").slice(0, rows)
    draw = np.random.default_rng(seed)
    number = table["fnlwgt"].to_numpy().copy()
    age = table["age"].to_numpy().astype(float)
    people = table.select(["race", "sex", "marital_status"]).append_column("person", pa.array(np.arange(rows)))
    blank = pa.array(np.where(draw.random(rows) < 0.04, np.nan, age), from_pandas=True)
    people = people.append_column("age", blank).append_column("number", pa.array(number))
    typo = draw.random(rows) < 0.1
    number[typo] = number[typo] // 10 * 10 + draw.integers(0, 10, typo.sum())
    jobs = table.select(["race", "sex", "education_num", "occupation", "capital_gain", "income"])
    hours = np.where(draw.random(rows) < 0.05, 999, table["hours_per_week"].to_numpy())
    jobs = jobs.append_column("hours_per_week", pa.array(hours)).append_column("number", pa.array(number))
    jobs = jobs.append_column("job", pa.array(np.arange(rows)))
    jobs = jobs.append_column("age", pa.array(age + (draw.random(rows) < 0.08)))
    here, there = draw.random(rows) >= 0.05, draw.random(rows) >= 0.05
    shuffled = draw.permutation(np.flatnonzero(there))
    pyarrow.csv.write_csv(people.filter(pa.array(here)), folder / "people.csv")
    pyarrow.csv.write_csv(jobs.take(pa.array(shuffled)), folder / "jobs.csv")
    both = np.flatnonzero(here & there)
    pyarrow.csv.write_csv(pa.table({"person": both, "job": both}), folder / "truth.csv")


def answers(column: str, says: Callable[[np.ndarray], Mask], label: str, rows: pa.RecordBatch) -> list[str | None]:
    """Return what a rule says of each row."""
    found: list[str | None] = np.where(says(rows[column].to_numpy()), label, None).tolist()
    return found


def train(
    x: npt.NDArray[np.floating], y: npt.ArrayLike, weight: npt.NDArray[np.float64] | None = None
) -> LogisticRegression:
    """Return the classifier that both ways train."""
    return LogisticRegression(max_iter=200).fit(x, y, sample_weight=weight)


def say(
    predicted: npt.ArrayLike,
    income: Sequence[str | None],
    pairs: Sequence[tuple[int, int]] | npt.NDArray[np.int64],
    taught: int,
    where: str,
) -> None:
    """Print what one way found, as JSON.

    Args:
        predicted: Class of each test row.
        income: Income of each test row; rows without one are not scored.
        pairs: Linked records: person and job.
        taught: Rows that the classifier was trained on.
        where: What can be said of where the first training row comes from.
    """
    known = np.array([value is not None for value in income])
    truth = np.array(["more" if value == ">50K" else "less" for value in income])
    hit = np.asarray(predicted)[known] == truth[known]
    linked = [(int(a), int(b)) for a, b in pairs]
    record = {"accuracy": float(hit.mean()), "scored": len(hit), "taught": taught, "pairs": linked, "where": where}
    print(json.dumps(record))
