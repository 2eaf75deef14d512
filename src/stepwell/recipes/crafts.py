"""The six crafts of preparation on real data, each with a score beside a baseline, in less than a minute.

`stepwell prepare integrate` (or `clean`, `extract`, `label`, `compress`, `select`) runs one. Data are read from
`STEPWELL_DATA`; where a set is not there, a small generated one stands in, and the score says so.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from stepwell.core.registry import Registry
from stepwell.core.settings import settings
from stepwell.prepare import Preparation, compressed
from stepwell.prepare.clean.cells import find_errors, repaired
from stepwell.prepare.compress import Tolerance
from stepwell.prepare.extract import Dictionary, Regex
from stepwell.prepare.fitted import Impute, Standard
from stepwell.prepare.label import Pattern
from stepwell.prepare.link import Nearest, Number, Settings, Text
from stepwell.storage import Lake

Floats = npt.NDArray[np.floating]
_HEADS = "disease|syndrome|cancer|tumou?r|carcinoma|deficiency|dystrophy|disorder|anemia|ataxia"
_NO_NAMES = (
    "the|this|that|a|an|of|in|and|or|with|for|other|these|all|by|from|to|some|no|both|each|its|their|severe|genetic|"
    "human|common|disease|is|was|rare|new"
)
K = TypeVar("K")
Pairs = set[tuple[int, int]]
Places = set[tuple[int, int, int]]


@dataclass(frozen=True)
class Score:
    """What a craft reached, beside the plain way.

    Args:
        data: What it was tried on.
        measure: What the two figures are.
        ours: Ours.
        baseline: That of the plain way.
        plain: What the plain way is.
        table: The committed table, whose rows can be asked where they come from.
    """

    data: str
    measure: str
    ours: float
    baseline: float
    plain: str
    table: str

    def __str__(self) -> str:
        return f"{self.measure} on {self.data}: {self.ours:.3f}; {self.plain}: {self.baseline:.3f}"


crafts: Registry[Callable[[Lake], Score]] = Registry("craft")
"""The crafts by name; each takes the lake that it may write to."""


@crafts.register("integrate")
def integrate(lake: Lake) -> Score:
    """Link two libraries' records of the same papers; the plain way compares titles for equality."""
    left, right, truth, data = _libraries()
    for name, table in (("left", left), ("right", right)):
        lake.write(f"{name}_raw", table)
        Preparation(lake, f"{name}_raw", key="id").commit(name)
    compare = (Text("title"), Text("authors", measure="soft"), Number("year", scale=1))
    steps = Preparation(lake, "left").link(
        "right", compare=compare, block=[Nearest("title", "authors", k=5)], settings=Settings(unique="both")
    )
    steps.commit("papers")
    query = (
        'select l.id as a, r.id as b from papers.pairs p join "left" l on l._row = p._row '
        'join "right" r on r._row = p.other where p.match'
    )
    found = {(row["a"], row["b"]) for row in lake.sql(query).to_pylist()}
    titles = [{t: i for t, i in zip(_plain(side), side["id"].to_pylist(), strict=True)} for side in (left, right)]
    same = {(titles[0][title], titles[1][title]) for title in titles[0].keys() & titles[1].keys()}
    return Score(data, "F1 of pairs", _f1(found, truth), _f1(same, truth), "equal titles", "papers")


@crafts.register("clean")
def clean(lake: Lake) -> Score:
    """Find and mend wrong cells that no rule names; the plain way suspects values that occur once."""
    dirty, right, data = _cells()
    lake.write("cells_raw", dirty)
    Preparation(lake, "cells_raw").map(_mended, sees="all").commit("cells")
    mended = lake.table("cells").to_arrow().sort_by("_row")
    names = [name for name in dirty.schema.names if name != "_row"]
    wrong = {(i, n) for n in names for i, (a, b) in enumerate(_both(dirty, right, n)) if a != b}
    found = {(i, n) for n in names for i, (a, b) in enumerate(_both(dirty, mended, n)) if a != b}
    once: set[tuple[int, str]] = set()
    for name in names:
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(dirty[name]).to_pylist()}
        once |= {(i, name) for i, value in enumerate(dirty[name].to_pylist()) if counts[value] == 1}
    return Score(data, "F1 of wrong cells", _f1(found, wrong), _f1(once, wrong), "values that occur once", "cells")


@crafts.register("extract")
def extract(lake: Lake) -> Score:
    """Find diseases in abstracts by a dictionary and a pattern; the plain way has the dictionary alone."""
    known, texts, truth, data = _mentions()
    word = rf"(?!(?:{_NO_NAMES})\b)[A-Za-z]+"  # the pattern was settled on the development part
    rule = Regex("disease", rf"\b(?:{word} ?- ?)?{word} (?:{_HEADS})s?\b", score=0.6, label="heads")
    terms = Dictionary(dict.fromkeys(known, "disease"), ignore_case=True, score=0.9, label="known")
    lake.write("texts_raw", texts)
    Preparation(lake, "texts_raw").extract(terms, rule, fields=["disease"]).commit("texts")
    spans = lake.table("texts.spans").to_arrow().to_pylist()
    return Score(
        data,
        "F1 of exact spans",
        _f1(_apart(spans), truth),
        _f1(_apart([span for span in spans if span["extractor"] == "known"]), truth),
        "the dictionary alone",
        "texts",
    )


@crafts.register("label")
def label(lake: Lake) -> Score:
    """Label messages by rules that disagree, weighed by the engine; the plain way lets the most votes win."""
    rules, messages, data = _messages()
    lake.write("messages_raw", messages)
    Preparation(lake, "messages_raw", key="id").label(rules, classes=("ham", "spam"), uncovered="quarantine").commit(
        "messages"
    )
    found = lake.table("messages").to_arrow(["_row", "label", "truth"]).to_pylist()
    votes: dict[int, int] = {}
    for row in lake.table("messages.votes").to_arrow(["_row", "label"]).to_pylist():
        votes[row["_row"]] = votes.get(row["_row"], 0) + (1 if row["label"] == "spam" else -1)
    ours = np.mean([row["label"] == row["truth"] for row in found])
    most = np.mean([("spam" if votes.get(row["_row"], 0) > 0 else "ham") == row["truth"] for row in found])
    return Score(data, "accuracy of labels", float(ours), float(most), "most votes", "messages")


@crafts.register("compress")
def compress(lake: Lake) -> Score:
    """Hold a table's numbers as codes and train on them; the plain way holds and trains on float32."""
    table, columns, data = _incomes()
    lake.write("incomes_raw", table)
    steps = Preparation(lake, "incomes_raw", key="id").split(test=0.25)
    steps = steps.encode(Impute(columns, indicator=False), Standard(columns))
    plain = steps.commit("incomes_plain").table.to_arrow()
    steps.compress(*columns, tolerance=Tolerance(rmse=0.05)).commit("incomes")
    parts = [compressed(lake, "incomes", split=part) for part in ("train", "test")]
    coded = [(rows.take(np.arange(len(rows))), np.asarray(rows.kept["label"])) for rows in parts]
    exact = [_features(plain.filter(pc.equal(plain["split"], part)), columns) for part in ("train", "test")]
    size = (parts[0].packed.nbytes + parts[0].codebook_bytes) / (4 * len(columns) * len(parts[0]))
    measure = f"test accuracy from {size:.0%} of the bytes"
    return Score(data, measure, _accuracy(*coded[0], *coded[1]), _accuracy(*exact[0], *exact[1]), "float32", "incomes")


@crafts.register("select")
def select(lake: Lake) -> Score:
    """Keep one training image in fifty, weighted by those it stands for; the plain way draws as many at random."""
    table, columns, data = _digits()
    lake.write("digits_raw", table)
    base = Preparation(lake, "digits_raw", key="id").split(test=0.4)
    reached = {}
    for name in ("camel", "random"):
        base.select(0.02, selector=name, columns=columns, label="label").commit(f"digits_{name}")
        rows = lake.table(f"digits_{name}").to_arrow()
        parts = [rows.filter(pc.equal(rows["split"], part)) for part in ("train", "test")]
        weight = parts[0]["weight"].to_numpy()
        taught, tested = (_features(part, columns) for part in parts)
        reached[name] = _accuracy(*taught, *tested, weight=weight)
    measure = "test accuracy from 2% of the images"
    return Score(data, measure, reached["camel"], reached["random"], "as many at random", "digits_camel")


# Data, or what stands in for them -------------------------------------------------------------------------------------


def _here(*parts: str) -> Path | None:
    """Return a data set's file if this machine has it."""
    folder = settings().data
    path = None if folder is None else folder.joinpath(*parts)
    return path if path is not None and path.exists() else None


def _standing_in(what: str) -> str:
    return f"generated rows (STEPWELL_DATA has no {what})"


def _libraries() -> tuple[pa.Table, pa.Table, Pairs, str]:
    path = _here("er-dblp-acm", "gt.csv")
    if path is not None:
        sides = [_csv(path.with_name(name), "%") for name in ("dblp.csv", "acm.csv")]
        truth = {(int(a), int(b)) for a, b in (line.split("%")[:2] for line in path.read_text().splitlines()[1:])}
        return _papers(sides[0]), _papers(sides[1]), truth, "DBLP and ACM"
    rng = np.random.default_rng(0)
    words = np.array([a + b for a in ("data", "query", "graph", "join", "index", "cache") for b in ("base", "s", "er")])
    names = [f"{a} {b}" for a in ("ada", "alan", "grace", "emmy") for b in ("noether", "turing", "hopper", "church")]
    rows = [(" ".join(rng.choice(words, 6)), str(rng.choice(names)), str(rng.integers(1990, 2003))) for _ in range(300)]
    other = [(" ".join(rng.permutation(t.split())) if i % 3 == 0 else t, n, y) for i, (t, n, y) in enumerate(rows)]
    tables = [[[str(i), *row] for i, row in enumerate(side)] for side in (rows, other[:200])]
    head = ["id", "title", "authors", "year"]
    left, right = (_papers([dict(zip(head, row, strict=True)) for row in side]) for side in tables)
    return left, right, {(i, i) for i in range(200)}, _standing_in("er-dblp-acm")


def _papers(rows: Sequence[dict[str, str]]) -> pa.Table:
    texts = {name: [row.get(name) or None for row in rows] for name in ("title", "authors", "year")}
    return pa.table({"id": [int(row["id"]) for row in rows], **texts})


def _csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def _cells() -> tuple[pa.Table, pa.Table, str]:
    path = _here("clean-hospital", "dirty.csv")
    if path is not None:
        dirty, right = _csv(path), _csv(path.with_name("clean.csv"))
        names = list(dirty[0])  # both files have the same columns in the same order, under other names
        rows = [[list(row.values()) for row in side] for side in (dirty, right)]
        tables = [pa.table({"_row": range(len(side)), **_columns(names, side)}) for side in rows]
        return tables[0], tables[1], "hospital"
    rng = np.random.default_rng(0)
    towns = [
        ("10115", "berlin", "be"),
        ("20095", "hamburg", "hh"),
        ("50667", "cologne", "nw"),
        ("80331", "munich", "by"),
    ]
    rows_ = [list(towns[i]) for i in rng.integers(0, 4, 400)]
    clean_ = pa.table({"_row": range(400), **_columns(["zip", "city", "state"], rows_)})
    for i in range(0, 400, 20):
        word, at = rows_[i][1], i // 20 % 6
        rows_[i] = [rows_[i][0], word[:at] + "x" + word[at + 1 :], rows_[i][2]]
    return (
        pa.table({"_row": range(400), **_columns(["zip", "city", "state"], rows_)}),
        clean_,
        _standing_in("clean-hospital"),
    )


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[str | None]]:
    return {name: [row[i] or None for row in rows] for i, name in enumerate(names)}


def _mentions() -> tuple[list[str], pa.Table, Places, str]:
    path = _here("ner-ncbi-disease", "test.parquet")
    if path is not None:
        known, _, _ = _sentences(parquet.read_table(path.with_name("train.parquet")))
        _, texts, truth = _sentences(parquet.read_table(path))
        return known, pa.table({"_row": range(len(texts)), "text": texts}), truth, "NCBI disease"
    seen, unseen = ["breast cancer", "ataxia", "gout"], ["colon cancer", "marfan syndrome", "gout"]
    texts = [f"The gene {i} is linked to {unseen[i % 3]} in men." for i in range(60)]
    truth = {(i, t.index(unseen[i % 3]), t.index(unseen[i % 3]) + len(unseen[i % 3])) for i, t in enumerate(texts)}
    return seen, pa.table({"_row": range(60), "text": texts}), truth, _standing_in("ner-ncbi-disease")


def _sentences(table: pa.Table) -> tuple[list[str], list[str], Places]:
    """Return the distinct mentions, the texts, and where mentions stand in them."""
    known: dict[str, None] = {}
    texts, truth = [], set()
    for number, row in enumerate(table.to_pylist()):
        ends = np.cumsum([len(token) + 1 for token in row["tokens"]]) - 1
        text, begin = " ".join(row["tokens"]), -1
        for place, tag in enumerate([*row["tags"], "O"]):
            if begin >= 0 and not tag.startswith("I"):
                first = int(ends[begin] - len(row["tokens"][begin]))
                truth.add((number, first, int(ends[place - 1])))
                known[text[first : int(ends[place - 1])]] = None
                begin = -1
            begin = place if tag.startswith("B") else begin
        texts.append(text)
    return list(known), texts, truth


def _messages() -> tuple[list[Pattern], pa.Table, str]:
    path = _here("sms-spam", "rules.tsv")
    if path is not None:
        lines = [line.split("\t") for line in path.read_text(encoding="utf8").splitlines() if line.strip()]
        rules = [Pattern(f"rule {i}", "text", line[1], line[0]) for i, line in enumerate(lines)]
        table = parquet.read_table(path.with_name("rules_train.parquet"))
        truth, texts = (table[name].cast(pa.string()).to_pylist() for name in ("label", "text"))
        names = {"0": "ham", "1": "spam"}
        columns = {"text": [text.lower() for text in texts], "truth": [names.get(one, one) for one in truth]}
        return rules, pa.table({"id": range(len(texts)), **columns}), "SMS spam"
    rng = np.random.default_rng(0)
    words = {"spam": ["free", "cash", "prize", "click"], "ham": ["home", "dinner", "later", "thanks"]}
    truth = [["ham", "spam"][one] for one in rng.integers(0, 2, 400)]
    texts = [" ".join(rng.choice([*words[one], *words[one], *words["ham"], *words["spam"]], 5)) for one in truth]
    rules = [Pattern(word, "text", word, kind) for kind, some in words.items() for word in some]
    return rules, pa.table({"id": range(400), "text": texts, "truth": truth}), _standing_in("sms-spam")


def _incomes() -> tuple[pa.Table, tuple[str, ...], str]:
    path = _here("adult", "train.parquet")
    if path is not None:
        table = parquet.read_table(path).slice(0, 12_000)
        numbers = tuple(one.name for one in table.schema if pa.types.is_integer(one.type))
        income = next(name for name in table.schema.names if name.startswith("income") or name in ("class", "label"))
        answer = pc.starts_with(table[income].cast(pa.string()), ">").cast(pa.int64())
        chosen = {name: table[name].cast(pa.float64()) for name in numbers}
        return pa.table({"id": range(len(table)), **chosen, "label": answer}), numbers, "UCI Adult, numbers only"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 4))
    answer = (x @ [1.0, -2.0, 0.5, 0.0] + rng.normal(size=2_000) > 0).astype(np.int64)
    names = ("a", "b", "c", "d")
    return (
        pa.table({"id": range(2_000), **dict(zip(names, x.T, strict=True)), "label": answer}),
        names,
        _standing_in("adult"),
    )


def _digits() -> tuple[pa.Table, tuple[str, ...], str]:
    path = _here("mnist", "train.parquet")
    if path is not None:
        table = parquet.read_table(path).slice(0, 5_000)
        raw = np.stack([np.frombuffer(one, np.uint8) for one in table["image"].to_pylist()]).reshape(-1, 14, 2, 14, 2)
        x, y, data = raw.mean((2, 4)).reshape(len(table), -1) / 255, table["label"].to_numpy().astype(np.int64), "MNIST"
    else:
        rng = np.random.default_rng(0)
        y = np.repeat(np.arange(5), [1_000, 500, 100, 60, 40])
        x, data = rng.normal(size=(5, 16))[y] * 2 + rng.normal(size=(len(y), 16)), _standing_in("mnist")
    names = tuple(f"p{i}" for i in range(x.shape[1]))
    columns = dict(zip(names, x.T.astype(np.float32), strict=True))
    return pa.table({"id": range(len(y)), **columns, "label": y}), names, data


# Scores ---------------------------------------------------------------------------------------------------------------


def _mended(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Find wrong cells and mend them."""
    table = pa.Table.from_batches([batch])
    return repaired(table, find_errors(table)).combine_chunks().to_batches()[0]


def _both(a: pa.Table, b: pa.Table, name: str) -> list[tuple[str | None, str | None]]:
    return list(zip(a[name].to_pylist(), b[name].to_pylist(), strict=True))


def _plain(table: pa.Table) -> list[str]:
    return [" ".join((title or "").casefold().split()) for title in table["title"].to_pylist()]


def _apart(spans: Sequence[dict[str, int]]) -> Places:
    """Return spans that do not overlap: of those that do, the longest."""
    kept: dict[int, list[tuple[int, int]]] = {}
    for span in sorted(spans, key=lambda one: (one["begin"] - one["end"], one["begin"])):
        places = kept.setdefault(span["_row"], [])
        if all(span["end"] <= begin or end <= span["begin"] for begin, end in places):
            places.append((span["begin"], span["end"]))
    return {(row, begin, end) for row, places in kept.items() for begin, end in places}


def _f1(found: Set[K], truth: Set[K]) -> float:
    return 2 * len(found & truth) / max(1, len(found) + len(truth))


def _features(rows: pa.Table, columns: Sequence[str]) -> tuple[Floats, Floats]:
    return np.stack([rows[name].to_numpy() for name in columns], 1).astype(np.float32), rows["label"].to_numpy()


def _accuracy(x: Floats, y: Floats, test: Floats, answers: Floats, weight: Floats | None = None) -> float:
    """Fit a softmax regression by gradient descent and return its accuracy."""
    import torch

    mean, spread = x.mean(0), x.std(0) + 1e-2
    features, targets = torch.from_numpy((x - mean) / spread), torch.from_numpy(np.array(y, np.int64))
    counts = torch.ones(len(x)) if weight is None else torch.from_numpy(np.array(weight / weight.mean(), np.float32))
    torch.manual_seed(0)
    model = torch.nn.Linear(x.shape[1], int(max(np.max(y), np.max(answers))) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(150):
        loss = (torch.nn.functional.cross_entropy(model(features), targets, reduction="none") * counts).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        guess = model(torch.from_numpy((test - mean) / spread)).argmax(1).numpy()
    return float((guess == answers).mean())
