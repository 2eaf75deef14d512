"""Extractors without a model: regular expressions, dictionaries, and a small grammar over words."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.extract.spans import Found

TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")

_EDGE = r"(?:(?<!\w)|(?!\w))"  # not inside a word


def tokens(text: str) -> list[tuple[str, int, int]]:
    """Return words and marks with their places; a word may hold an apostrophe."""
    return [(found[0], found.start(), found.end()) for found in TOKEN.finditer(text)]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Regex:
    """A regular expression of Python's `re`.

    Args:
        field: What it finds.
        pattern: The expression; if it has a group of that name (or a first group), that is the value.
        score: How sure a find is.
        label: The extractor's name; by default `regex <field>`.
    """

    field: str
    pattern: str
    score: float = 1.0
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or f"regex {self.field}"

    @property
    def version(self) -> str:
        return _digest(self.pattern, self.score)

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        try:
            return re.compile(self.pattern)
        except re.error as error:
            raise InvalidValueError("pattern", self.pattern, f"a regular expression ({error})") from error

    def find(self, texts: Sequence[str]) -> Iterator[list[Found]]:
        """Find it in each text."""
        group: int | str = self.field if self.field in self._compiled.groupindex else min(1, self._compiled.groups)
        for text in texts:
            hits = (hit for hit in self._compiled.finditer(text) if hit[group])
            yield [Found(self.field, hit[group], hit.start(group), hit.end(group), self.score) for hit in hits]


@dataclass(frozen=True)
class Dictionary:
    """Known terms, as whole words; of overlapping terms the longest that begins first is found.

    Args:
        terms: Term to field.
        ignore_case: Whether upper and lower case are alike.
        score: How sure a find is.
        label: The extractor's name.

    Cost: O(words of the text times words of the longest term).
    """

    terms: Mapping[str, str] = dataclasses.field(repr=False)
    ignore_case: bool = False
    score: float = 1.0
    label: str = "dictionary"

    @property
    def name(self) -> str:
        return self.label

    @cached_property
    def version(self) -> str:
        return _digest(sorted(self.terms.items()), self.ignore_case, self.score)

    @cached_property
    def _known(self) -> tuple[dict[tuple[str, ...], str], dict[str, int]]:
        """Return terms as words, and the longest term by first word."""
        known: dict[tuple[str, ...], str] = {}
        longest: dict[str, int] = {}
        for term, name in self.terms.items():
            words = tuple(word for word, _, _ in tokens(term.casefold() if self.ignore_case else term))
            if words:
                known[words] = name
                longest[words[0]] = max(longest.get(words[0], 0), len(words))
        return known, longest

    def find(self, texts: Sequence[str]) -> Iterator[list[Found]]:
        """Find the terms in each text."""
        known, longest = self._known
        for text in texts:
            places = tokens(text)
            words = [word.casefold() if self.ignore_case else word for word, _, _ in places]
            finds, i = [], 0
            while i < len(words):
                sizes = range(min(longest.get(words[i], 0), len(words) - i), 0, -1)
                size = next((n for n in sizes if tuple(words[i : i + n]) in known), 0)
                if size:
                    begin, end = places[i][1], places[i + size - 1][2]
                    finds.append(Found(known[tuple(words[i : i + size])], text[begin:end], begin, end, self.score))
                i += max(1, size)
            yield finds


@dataclass(frozen=True)
class Grammar:
    """A sequence of words, each of a class, such as `"NUMBER MONTH NUMBER?"`.

    Args:
        field: What it finds.
        rule: Names of classes and literal words in quotes, each with `?`, `*` or `+` after it if it may be missing or
            come again. What stands between `<` and `>` is the value; without them it is the whole.
        classes: Class to a regular expression that a whole word must match.
        score: How sure a find is.
        label: The extractor's name; by default `grammar <field>`.

    Example:
        >>> date = Grammar("date", "DAY MONTH YEAR?", {"DAY": "[0-9]{1,2}", "MONTH": "May|June", "YEAR": "[0-9]{4}"})
        >>> [found.value for found in next(date.find(["on 12 May 2024, not 13 May"]))]
        ['12 May 2024', '13 May']
    """

    field: str
    rule: str
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    score: float = 1.0
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or f"grammar {self.field}"

    @property
    def version(self) -> str:
        return _digest(self.rule, sorted(self.classes.items()), self.score)

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        """Return one expression over text in which words may be parted by blanks."""
        parts = re.findall(r"""<|>|"[^"]*"[?*+]?|\w+[?*+]?""", self.rule)
        if "".join(parts).replace(" ", "") != self.rule.replace(" ", "") or parts.count("<") != parts.count(">"):
            raise InvalidValueError(
                "rule", self.rule, 'classes and "words", with ?, * or + after one and < > around some'
            )
        pieces = []
        for part in parts:
            if part in "<>":
                pieces.append("(?P<value>" if part == "<" else ")")
                continue
            repeat = part[-1] if part[-1] in "?*+" else ""
            bare = part.removesuffix(repeat) if repeat else part
            if not bare.startswith('"') and bare not in self.classes:
                raise InvalidValueError("rule", bare, f"one of the classes {', '.join(self.classes)} or a quoted word")
            word = re.escape(bare.strip('"')) if bare.startswith('"') else self.classes[bare]
            pieces.append(rf"(?:\s*{_EDGE}(?:{word}){_EDGE}){repeat}")
        return re.compile("".join(pieces))

    def find(self, texts: Sequence[str]) -> Iterator[list[Found]]:
        """Find the sequence in each text."""
        group: int | str = "value" if "value" in self._compiled.groupindex else 0
        for text in texts:
            finds = []
            for hit in self._compiled.finditer(text):
                value = hit[group].strip()
                if value:
                    begin = hit.start(group) + hit[group].index(value)
                    finds.append(Found(self.field, value, begin, begin + len(value), self.score))
            yield finds
