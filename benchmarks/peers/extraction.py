"""Sources for the claims about extraction: dictionaries of the training part, rules, and what their words suggest."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stepwell.core.settings import settings
from stepwell.prepare.extract import Dictionary, Extractor, Found, Grammar, Regex

Gold = dict[tuple[int, int, int], str]


class Part(NamedTuple):
    """Texts of one part and the spans that annotators marked."""

    texts: pa.Table
    gold: Gold


def read_part(folder: str, file: str, keep: slice = slice(None)) -> Part:
    """Read tokens and tags as texts with spans; tags are BIO or IO."""
    rows = pq.read_table((settings().data or Path()) / folder / f"{file}.parquet").to_pylist()[keep]
    texts, gold = [], {}
    for row, record in enumerate(rows):
        ends = np.cumsum([len(token) + 1 for token in record["tokens"]]) - 1
        begins = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        open_: list[int] | None = None
        before = "O"
        for i, tag in enumerate([*record["tags"], "O"]):
            if open_ is not None and (tag == "O" or tag.startswith("B-") or tag[2:] != before[2:]):
                gold[row, open_[0], open_[1]] = before[2:]
                open_ = None
            if tag != "O":
                open_ = [int(begins[i]), int(ends[i])] if open_ is None else [open_[0], int(ends[i])]
            before = tag
        texts.append(" ".join(record["tokens"]))
    return Part(pa.table({"_row": np.arange(len(texts)), "text": pa.array(texts, pa.string())}), gold)


def terms(train: Part, least: float, *, ignore_case: bool = False) -> dict[str, str]:
    """Return marked terms with their usual field, if at least a share of their places in the texts are marked."""
    texts = train.texts.column("text").to_pylist()
    marked: dict[str, Counter[str]] = defaultdict(Counter)
    for (row, begin, end), name in train.gold.items():
        term = texts[row][begin:end]
        marked[term.casefold() if ignore_case else term][name] += 1
    finder = Dictionary(dict.fromkeys(marked, "x"), ignore_case=ignore_case)
    seen = Counter(
        (found.value.casefold() if ignore_case else found.value) for finds in finder.find(texts) for found in finds
    )
    return {
        term: fields.most_common(1)[0][0]
        for term, fields in marked.items()
        if len(term) > 1 and fields.most_common(1)[0][1] >= least * max(seen[term], fields.total())
    }


def words_of(train: Part, field: str, place: int, least: int = 1) -> str:
    """Return the words that stand at a place (0 first, -1 last) of a field's spans of several words, as a pattern."""
    texts = train.texts.column("text").to_pylist()
    counted: Counter[str] = Counter()
    for (row, begin, end), name in train.gold.items():
        words = texts[row][begin:end].split()
        if name == field and len(words) > 1 and re.fullmatch(r"[A-Za-z]{3,}", words[place]):
            counted[words[place]] += 1
    return "|".join(sorted(re.escape(word) for word, count in counted.items() if count >= least)) or "(?!)"


@dataclass(frozen=True)
class Runs:
    """Runs of words that a word list knows, each named by what its words usually are.

    Args:
        known: Word (in lower case) to field.
        label: The extractor's name.
        capital: Only words that begin with a capital; the words around them then join in if they do too.
    """

    known: Mapping[str, str] = field(repr=False)
    label: str
    capital: bool = False

    @property
    def name(self) -> str:
        return self.label

    @property
    def version(self) -> str:
        return str(len(self.known))

    def find(self, texts: Sequence[str]) -> Iterator[list[Found]]:
        for text in texts:
            places = [(m[0], m.start(), m.end()) for m in re.finditer(r"\S+", text)]
            finds: list[Found] = []
            i = 0
            while i < len(places):
                end = i
                while end < len(places) and self._joins(places[end][0]):
                    end += 1
                names = Counter(self.known[w.lower()] for w, _, _ in places[i:end] if w.lower() in self.known)
                if names:
                    a, b = places[i][1], places[end - 1][2]
                    finds.append(Found(names.most_common(1)[0][0], text[a:b], a, b))
                i = max(end, i + 1)
            yield finds

    def _joins(self, word: str) -> bool:
        return word[0].isupper() if self.capital else word.lower() in self.known


@dataclass(frozen=True)
class Beside:
    """Runs of capitalised words, named by the word before or after them.

    Args:
        known: Word (in lower case) to field.
        label: The extractor's name.
        side: -1 for the word before, 1 for the word after.
    """

    known: Mapping[str, str] = field(repr=False)
    label: str
    side: int

    @property
    def name(self) -> str:
        return self.label

    @property
    def version(self) -> str:
        return str(len(self.known))

    def find(self, texts: Sequence[str]) -> Iterator[list[Found]]:
        run = re.compile(r"(?<!\S)[A-Z]\S*(?: [A-Z]\S*)*")
        for text in texts:
            finds = []
            for hit in run.finditer(text):
                around = text[: hit.start()].split()[-1:] if self.side < 0 else text[hit.end() :].split()[:1]
                if around and around[0].lower() in self.known:
                    finds.append(Found(self.known[around[0].lower()], hit[0], hit.start(), hit.end()))
            yield finds


def inside(train: Part, least: float, *, more: int = 1) -> dict[str, str]:
    """Return words with the field inside which they usually stand, if at least a share of their places are in one."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for word, name in _tagged(train):
        counted[word.lower()][name] += 1
    return _usual(counted, least, more)


def beside(train: Part, side: int, least: float) -> dict[str, str]:
    """Return words with the field of the capitalised run that usually stands beside them."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    tagged = list(_tagged(train))
    for (word, name), (other, name2) in pairwise(tagged if side < 0 else tagged[::-1]):
        if name == "O" and other[0].isupper():
            counted[word.lower()][name2] += 1
    return _usual(counted, least, 2)


def _usual(counted: Mapping[str, Counter[str]], least: float, more: int) -> dict[str, str]:
    out = {}
    for word, names in counted.items():
        inner = Counter({name: count for name, count in names.items() if name != "O"})
        if inner and inner.total() >= more and inner.most_common(1)[0][1] >= least * names.total():
            out[word] = inner.most_common(1)[0][0]
    return out


def _tagged(train: Part) -> Iterator[tuple[str, str]]:
    """Yield each word with the field that it stands in, or "O"; a full stop stands between texts."""
    fields: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for (row, begin, end), name in train.gold.items():
        fields[row].append((begin, end, name))
    for row, text in enumerate(train.texts.column("text").to_pylist()):
        for m in re.finditer(r"\S+", text):
            yield m[0], next((name for a, b, name in fields[row] if a <= m.start() < b), "O")
        yield ".", "O"


_CAP = r"[A-Z][\w.'-]*"


def news_sources(train: Part) -> list[Extractor]:
    """Return sources for persons, places, organisations and the rest, whatever a data set calls them."""
    fields = sorted(set(train.gold.values()))
    person = next(field for field in fields if field.upper().startswith("PER"))
    place = next(field for field in fields if field.upper().startswith("LOC"))
    firm = next((field for field in fields if field.upper().startswith(("ORG", "CORP"))), person)
    cap = {"CAP": _CAP}
    sources: list[Extractor] = [
        Dictionary(terms(train, 0.6), label="terms"),
        Dictionary(terms(train, 0.9, ignore_case=True), ignore_case=True, label="terms in any case"),
        Grammar(person, "FIRST CAP+", {"FIRST": words_of(train, person, 0), **cap}, label="first names"),
        Regex(person, rf"(?:Mr|Mrs|Ms|Dr|Sir|President|King|Queen|Prince|Lord|Captain) \.? ?({_CAP}(?: {_CAP})*)"),
        Regex(person, rf"\b({_CAP}(?: [A-Z]\.)(?: {_CAP})+)", label="initials"),
        Regex(place, rf"\b(?:in|at|near|from|to) ({_CAP}(?: {_CAP})*)", label="prepositions"),
        Regex(place, rf"\b({_CAP}(?: {_CAP})* (?:River|Island|Islands|County|City|Lake|Street|Park|Bay|Valley))\b"),
        Grammar(firm, "CAP+ LAST", {"LAST": words_of(train, firm, -1, 2), **cap}, label="last words of firms"),
    ]
    sources += [
        Runs(inside(train, 0.5), "known words"),
        Runs(inside(train, 0.5), "capitals with a known word", capital=True),
        Beside(beside(train, -1, 0.5), "word before", -1),
        Beside(beside(train, 1, 0.5), "word after", 1),
    ]
    return [*sources, Regex(place, rf", ({_CAP}(?: {_CAP})?) [.,]", label="after a comma")]


_HEADS = (
    "disease|diseases|syndrome|syndromes|cancer|cancers|tumor|tumors|tumour|tumours|carcinoma|carcinomas|deficiency|"
    "dystrophy|disorder|disorders|leukemia|lymphoma|anemia|ataxia|neuropathy|retardation|dysplasia|hypoplasia"
)


def disease_sources(train: Part) -> list[Extractor]:
    """Return sources for the names of diseases."""
    field = next(iter(train.gold.values()))
    words = [Runs(inside(train, least, more=2), f"words mostly inside ({least:.0%})") for least in (0.5, 0.8)]
    before = {"BEFORE": words_of(train, field, 0, 2), "HEAD": _HEADS, "WORD": "[a-z]{4,}(?:al|ic|ary|ous|ed|ar)"}
    return [
        *words,
        Dictionary(terms(train, 0.5), label="terms"),
        Dictionary(terms(train, 0.8, ignore_case=True), ignore_case=True, label="terms in any case"),
        Grammar(field, "BEFORE HEAD", before, label="first word and head"),
        Grammar(field, "WORD+ HEAD", before, label="adjectives and head"),
        Regex(field, r"\b[A-Za-z]{4,}(?:oma|omas|itis|emia|aemia|plegia|opathy|dystrophy|trophy)\b", label="endings"),
        Regex(field, rf"\b[A-Z][\w-]+(?: -? ?[A-Z][\w-]+)* (?:{_HEADS})\b", label="names and head"),
    ]


RELATION_RULES: Mapping[str, str] = {
    "Cause-Effect(e1,e2)": r"caus|led to|leads to|results? in|resulted in|trigger|generat|provok|inflict",
    "Cause-Effect(e2,e1)": r"caused by|from the|due to|triggered by|resulting from|result of|after the|induced by",
    "Component-Whole(e1,e2)": r"^of the$|^of a$|^of an$|part of|^in the$",
    "Component-Whole(e2,e1)": r"^has (a|an|its)?|^with (a|an)?$|comprises|^'s$|consists of|^contains$",
    "Member-Collection(e2,e1)": r"^of$",
    "Entity-Destination(e1,e2)": r"\binto\b|\bto the\b|\bonto\b|inside the",
    "Entity-Origin(e1,e2)": r"\bfrom\b|made of|away from|derived from|left the|out of",
    "Message-Topic(e1,e2)": r"about|on the|describ|concern|regarding|discuss|explain|reflect|relat",
    "Message-Topic(e2,e1)": r"(was|is|are|were) (discussed|described|explained|the topic|the subject)|subject of",
    "Content-Container(e1,e2)": r"(was|were|is|are) in|inside|contained in|stored in|enclosed in|in a",
    "Content-Container(e2,e1)": r"contain|full of|filled with|held|with",
    "Product-Producer(e1,e2)": r"(made|built|produced|created|written|founded|constructed|developed|prepared) by|^by ",
    "Product-Producer(e2,e1)": r"(made|makes|built|builds|produc|creat|wrote|found|construct|develop|prepar)",
    "Instrument-Agency(e2,e1)": r"\buses?\b|\bused\b|\bwith (a|an|the|his|her)\b|\busing\b|by means of",
    "Instrument-Agency(e1,e2)": r"used by|operated by|handled by",
}


class Sentence(NamedTuple):
    """Two marked words with what stands between them, and the relation that annotators saw."""

    first: str
    between: str
    second: str
    relation: str


def read_relations(file: str) -> list[Sentence]:
    """Read a part of SemEval-2010 task 8."""
    rows = pq.read_table((settings().data or Path()) / "re-semeval2010-task8" / f"{file}.parquet").to_pylist()
    marked = re.compile(r"<e1>(.*?)</e1>(.*?)<e2>(.*?)</e2>")
    found = ((marked.search(row["sentence"]), row["relation"]) for row in rows)
    parts = (
        ([part.strip().lower() for part in hit.groups()] if hit else [""] * 3, relation) for hit, relation in found
    )
    return [Sentence(first, between, second, relation) for (first, between, second), relation in parts]


def relation_votes(train: Sequence[Sentence], some: Sequence[Sentence]) -> dict[str, list[str | None]]:
    """Return what each source says of each sentence; None where it says nothing."""
    keys: dict[str, Callable[[Sentence], str]] = {
        "phrase between": lambda s: s.between,
        "last words between": lambda s: " ".join(s.between.split()[-2:]),
        "first words between": lambda s: " ".join(s.between.split()[:2]),
        "first noun": lambda s: "1 " + s.first,
        "second noun": lambda s: "2 " + s.second,
    }
    out: dict[str, list[str | None]] = {}
    for name, key in keys.items():
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for sentence in train:
            seen[key(sentence)][sentence.relation] += 1
        usual = {
            k: c.most_common(1)[0][0]
            for k, c in seen.items()
            if c.total() > 1 and c.most_common(1)[0][1] >= c.total() / 2
        }
        out[name] = [usual.get(key(sentence)) for sentence in some]
    for relation, pattern in RELATION_RULES.items():
        rule = re.compile(pattern)
        out[f"rule {relation}"] = [relation if rule.search(sentence.between) else None for sentence in some]
    return out
