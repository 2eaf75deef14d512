"""The entity resolution benchmarks: what is read, which pairs are compared, and what of them.

Two kinds of task. *Tables*: both tables whole, pairs by blocking, F1 against all true matches (those that blocking lost
count as misses). *Pairs*: the labelled pairs that DeepMatcher and Ditto were measured on, F1 on their test part.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stepwell.core.settings import settings
from stepwell.prepare.link import Exact, Listed, Nearest, Number, Settings, Text
from stepwell.prepare.link.block import Block
from stepwell.prepare.link.compare import Comparison
from stepwell.prepare.link.model import Unique

Pairs = set[tuple[int, int]]
PUBLISHED = {  # F1 on the test pairs, trained on all training pairs; quoted from knowledge of both papers
    "deepmatcher": {"dblp-acm": 98.4, "abt-buy": 62.8, "amazon-google": 69.3, "beer": 72.7, "fodors-zagats": 100.0},
    "ditto": {"dblp-acm": 98.99, "abt-buy": 89.33, "amazon-google": 75.58, "beer": 94.37, "fodors-zagats": 100.0},
}


@dataclass(frozen=True)
class Task:
    """One benchmark.

    Args:
        name: The data set; pairs of labelled ones are called `<name>, test pairs`.
        left: The left table, `_row` from 0.
        right: The right one, or None.
        truth: All true pairs.
        judged: The pairs that F1 is computed on; None for all.
        labelled: The pairs whose labels may be drawn on when a tenth is given; None for all that are compared.
        compare: What is compared.
        block: Which pairs.
        unique: Of which table a row has one partner.
    """

    name: str
    left: pa.Table
    right: pa.Table | None
    truth: Pairs
    judged: Pairs | None
    labelled: Pairs | None
    compare: tuple[Comparison, ...]
    block: tuple[Block, ...]
    unique: Unique

    @property
    def settings(self) -> Settings:
        """How the model is fitted."""
        return Settings(unique=self.unique)


_Recipe = tuple[tuple[Comparison, ...], tuple[str, ...], Unique]
_PRODUCT = (Text("name"), Text("name", "description"), Text("description"), Number("price"))
RECIPES: dict[str, _Recipe] = {
    "dblp-acm": (
        (
            Text("title"),
            Text("authors", measure="soft"),
            Text("venue", measure="jaro_winkler"),
            Number("year", scale=1),
        ),
        ("title", "authors"),
        "both",
    ),
    "abt-buy": ((*_PRODUCT, Text("name", "description", measure="codes")), ("name", "description"), "both"),
    "amazon-google": (
        (
            *(Text("title", "manufacturer", measure="soft"), Text("title", "manufacturer")),
            *(Text("title", measure="codes"), Number("price")),
        ),
        ("title", "manufacturer"),
        "both",
    ),
    "imdb-tmdb": (
        (
            *(Text("title", measure="edit"), Text("name", measure="edit"), Number("year", scale=1)),
            *(Exact("episode", rare=False), Exact("season", rare=False), Exact("kind", rare=False)),
        ),
        ("title", "name", "year"),
        "both",
    ),
    "cora": (
        (
            *(Text("title", "author"), Text("venue"), Text("pages", measure="words")),
            *(Number("year", scale=1), Exact("volume")),
        ),
        ("title", "author", "venue"),
        "neither",
    ),
    "beer": (
        (
            *(Text("beer_name", measure="soft"), Text("brew_factory_name", measure="soft")),
            *(Text("style", measure="words"), Number("abv", scale=0.2)),
        ),
        (),
        "both",
    ),
    "fodors-zagats": (
        (
            *(Text("name", measure="soft"), Text("addr", measure="words"), Text("city", measure="jaro_winkler")),
            *(Text("phone", measure="words"), Text("type", measure="words")),  # `class` names the entity: never read
        ),
        (),
        "both",
    ),
}
_FILES = {
    "dblp-acm": ("dblp.csv", "acm.csv", "%"),
    "abt-buy": ("abt.csv", "buy.csv", "|"),
    "amazon-google": ("amazon.csv", "gp.csv", "#"),
    "imdb-tmdb": ("imdb.csv", "tmdb.csv", "|"),
    "cora": ("cora.csv", None, "|"),
}
TABLES = tuple(_FILES)
PAIRS = ("dblp-acm", "abt-buy", "amazon-google", "beer", "fodors-zagats")


def _folder(name: str) -> Path:
    data = settings().data
    if data is None:
        raise FileNotFoundError("The entity resolution data sets are read from STEPWELL_DATA.")
    return data / f"er-{name}"


def tables(name: str) -> Task:
    """Return a task on whole tables."""
    folder, (first, second, delimiter) = _folder(name), _FILES[name]
    compare, block, unique = RECIPES[name]
    left = _read(folder / first, delimiter)
    right = None if second is None else _read(folder / second, delimiter)
    truth = np.loadtxt(folder / "gt.csv", np.int64, None, delimiter, skiprows=0 if name == "cora" else 1)
    if right is None:
        truth = np.sort(truth, 1)
    k = 150 if right is None else 10
    pairs = set(map(tuple, truth.tolist()))
    return Task(name, left, right, pairs, None, None, compare, (Nearest(*block, k=k),), unique)


def _read(path: Path, delimiter: str) -> pa.Table:
    with path.open(encoding="utf8") as file:
        head, *rows = list(csv.reader(file, delimiter=delimiter))
    names = [name.rsplit("/", 1)[-1] for name in head if name]
    columns = {name: [row[i] or None for row in rows] for i, name in enumerate(names)}
    if "startYear" in columns or "release_year" in columns:  # a film or a person
        columns = {
            "title": columns["title"],
            "name": columns["name"],
            "year": columns.get("startYear") or columns["release_year"],
            "episode": columns["episodeNumber"],
            "season": columns["seasonNumber"],
            "kind": ["person" if name else "film" for name in columns["name"]],
        }
    columns = {name: column for name, column in columns.items() if name not in ("id", "Entity Id")}
    return _table(columns, len(rows))


def _table(columns: dict[str, list[str | None]], num_rows: int) -> pa.Table:
    text = {name.lower(): pa.array(column, pa.string()) for name, column in columns.items()}
    return pa.table({"_row": np.arange(num_rows), **text})


def pairs(name: str) -> Task:
    """Return a task on labelled pairs; equal records are one row."""
    compare, _, unique = RECIPES[name]
    if name == "amazon-google":
        unique = "right"  # the training labels give many left rows two partners, and few right rows
    rows: tuple[dict[str, int], dict[str, int]] = ({}, {})
    parts: dict[str, list[tuple[int, int]]] = {}
    truth: Pairs = set()
    for part in ("train", "valid", "test"):
        table = pq.read_table(_folder(name) / f"pairs_{part}.parquet").to_pydict()
        parts[part] = [
            (rows[0].setdefault(a, len(rows[0])), rows[1].setdefault(b, len(rows[1])))
            for a, b in zip(table["left"], table["right"], strict=True)
        ]
        truth |= {pair for pair, label in zip(parts[part], table["label"], strict=True) if label}
    left, right = (_parsed(list(side)) for side in rows)
    every = np.array([pair for part in parts.values() for pair in part])
    listed = Listed(pa.table({"left": every[:, 0], "right": every[:, 1]}))
    judged, labelled = set(parts["test"]), set(parts["train"]) | set(parts["valid"])
    title = f"{name}, test pairs"
    return Task(title, left, right, truth, judged, labelled - judged, compare, (listed,), unique)


def _parsed(records: list[str]) -> pa.Table:
    found: list[dict[str, str]] = []
    for record in records:
        part = re.split(r"\s*COL (\S+) VAL ?", " " + record)[1:]
        found.append({name: value.strip() for name, value in zip(part[::2], part[1::2], strict=True)})
    return _table({name: [row.get(name) or None for row in found] for name in found[0]}, len(found))


def all_tasks() -> list[tuple[str, Callable[[], Task]]]:
    """Return the name of every task with what makes it."""
    found: list[tuple[str, Callable[[], Task]]] = [(name, partial(tables, name)) for name in TABLES]
    return found + [(f"{name}, test pairs", partial(pairs, name)) for name in PAIRS]


def f1(task: Task, found: Pairs, leave_out: Pairs | None = None) -> float:
    """Return F1 in per cent on the judged pairs, without those whose label was given away."""
    gone = leave_out or set()
    truth, found = task.truth - gone, found - gone
    if task.judged is not None:
        truth, found = truth & task.judged, found & task.judged
    return 100 * 2 * len(found & truth) / max(1, len(found) + len(truth))


def tenth(task: Task, compared: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Return a random tenth of the pairs whose labels may be given away, `[L, 2]`."""
    allowed = compared
    if task.labelled is not None:
        allowed = np.array([pair for pair in map(tuple, compared.tolist()) if pair in task.labelled])
    order = np.random.default_rng(seed).permutation(len(allowed))
    return allowed[np.sort(order[: len(allowed) // 10])]
