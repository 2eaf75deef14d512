"""Votes of real crowds and real rules, and what other label engines make of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from benchmarks.peers.youtube_rules import RULES
from stepwell.prepare.label import Pattern, Votes, vote
from stepwell.prepare.label.engine import majority

SETS = ("sms-spam", "trec-questions", "youtube-spam", "crowd-duck", "crowd-product", "crowd-face")
_LONG_NAMES = {"ABBREVIATION": "ABBR", "DESCRIPTION": "DESC", "ENTITY": "ENTY", "HUMAN": "HUM", "LOCATION": "LOC"}
_ITERATIONS = 100
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """Votes and, apart from them, the truth: only the scorer reads it.

    Args:
        votes: The votes.
        truth: The number of each item's class.
    """

    votes: Votes
    truth: npt.NDArray[np.int64]

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Which items have a vote; the others are not scored."""
        return np.diff(self.votes.indptr) > 0

    def accuracy(self, shares: Shares) -> float:
        """Return how many in a hundred covered items are right; a tie counts for its share of right classes."""
        top = shares >= shares.max(1, keepdims=True) - 1e-12
        right = top[np.arange(len(top)), self.truth] / top.sum(1)
        return 100 * float(right[self.covered].mean())


def load(name: str) -> Task:
    """Return one of the six sets."""
    folder = Path(os.environ["STEPWELL_DATA"]) / name
    return _crowd(folder) if name.startswith("crowd") else _rules(folder, name)


def numbers() -> tuple[Votes, npt.NDArray[np.float64]]:
    """Return the votes of crowd-emotion and the truth."""
    folder = Path(os.environ["STEPWELL_DATA"]) / "crowd-emotion"
    answers = csv.read_csv(folder / "answer.csv")
    truth = csv.read_csv(folder / "truth.csv").sort_by("question")
    votes = Votes.from_table(answers, item="question", source="worker", label="answer", classes=())
    return votes, truth["truth"].to_numpy().astype(np.float64)


def _crowd(folder: Path) -> Task:
    text = csv.ConvertOptions(column_types={"question": pa.string(), "worker": pa.string()})
    answers = csv.read_csv(folder / "answer.csv", convert_options=text)
    truth = csv.read_csv(folder / "truth.csv", convert_options=text)
    item = pc.index_in(answers["question"], truth["question"].combine_chunks()).cast(pa.int64())
    answers = answers.append_column("_row", item)
    votes = Votes.from_table(answers, source="worker", label="answer", rows=np.arange(truth.num_rows))
    return Task(votes, truth["truth"].to_numpy().astype(np.int64))


def _rules(folder: Path, name: str) -> Task:
    if name == "youtube-spam":
        rows = parquet.read_table(folder / "comments.parquet")
        text = pc.utf8_trim(pc.utf8_lower(rows["content"]), " \ufeff\n")
        label = pc.if_else(pc.equal(rows["label"], 1), "spam", "ham")
        rules = [Pattern(rule, "text", pattern, said) for rule, said, pattern in RULES]
    else:
        parts = ("rules_train", "rules_valid", "rules_test") if name == "sms-spam" else ("train", "valid", "test")
        plain = pa.schema([("label", pa.string()), ("text", pa.string())])
        rows = pa.concat_tables([parquet.read_table(folder / f"{part}.parquet").cast(plain) for part in parts])
        text, label = pc.utf8_lower(rows["text"]), rows["label"]
        lines = [line.split("\t") for line in (folder / "rules.tsv").read_text().splitlines()]
        names = _LONG_NAMES | {"NUMERIC": "NUM"}
        rules = [Pattern(str(n), "text", line[1], names.get(line[0], line[0])) for n, line in enumerate(lines)]
    classes = sorted(pc.unique(label).to_pylist())
    table = pa.table({"_row": np.arange(len(text)), "text": text})
    truth = pc.index_in(label, pa.array(classes)).to_numpy()
    return Task(vote(rules, table, classes), truth.astype(np.int64))


def peers() -> tuple[str, ...]:
    """Return the names of all peers; stop with what to install if one is missing."""
    for module, package in (("snorkel", "snorkel==0.10.0"), ("crowdkit", "crowd-kit==1.4.2")):
        if find_spec(module) is None:
            raise SystemExit(f"This claim needs {package}. Install it beside the benchmarks: pip install {package}")
    return ("majority", "crowd-kit Dawid-Skene", "crowd-kit one-coin", "crowd-kit GLAD", "Snorkel", "Snorkel, balance")


def contestant(name: str, task: Task, seed: int = 0) -> Callable[[], Shares]:
    """Return what makes probabilities of the votes by one peer; what a peer reads is laid out before.

    `"Snorkel, balance"` is given the true share of each class; all others see votes alone.
    """
    if name == "majority":
        return lambda: majority(task.votes)
    if name.startswith("crowd-kit"):
        return _crowd_kit(name, task.votes)
    return _snorkel(task, seed, given=name.endswith("balance"))


def _crowd_kit(name: str, votes: Votes) -> Callable[[], Shares]:
    import pandas as pd
    from crowdkit.aggregation import GLAD, DawidSkene, OneCoinDawidSkene

    frame = pd.DataFrame({"task": votes.item, "worker": votes.source, "label": votes.label})

    def run() -> Shares:
        if name.endswith("GLAD"):
            found = GLAD(n_iter=_ITERATIONS, silent=True).fit_predict_proba(frame)
        else:
            kind = DawidSkene if name.endswith("Skene") else OneCoinDawidSkene
            found = kind(n_iter=_ITERATIONS).fit_predict_proba(frame)
        shares = np.zeros((len(votes.rows), len(votes.classes)))
        shares[np.ix_(found.index.to_numpy(), found.columns.to_numpy())] = found.to_numpy()
        return shares

    return run


def _snorkel(task: Task, seed: int, *, given: bool) -> Callable[[], Shares]:
    from snorkel.labeling.model import LabelModel as Peer

    votes, covered = task.votes, task.covered
    matrix = np.full((len(votes.rows), len(votes.sources)), -1)
    matrix[votes.item, votes.source] = votes.label
    classes = len(votes.classes)
    share = np.bincount(task.truth[covered], minlength=classes) / covered.sum()

    def run() -> Shares:
        model = Peer(cardinality=classes, verbose=False)
        balance = share.tolist() if given else None
        model.fit(matrix[covered], class_balance=balance, n_epochs=500, seed=seed, progress_bar=False)
        shares = np.zeros((len(votes.rows), classes))
        shares[covered] = model.predict_proba(matrix[covered])
        return shares

    return run
