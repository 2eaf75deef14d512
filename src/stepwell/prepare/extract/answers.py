"""Any function or model as an extractor, with every answer kept on disk so that a run can be replayed exactly."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from stepwell.core.errors import DataError, InvalidValueError, StepwellError
from stepwell.core.log import logger
from stepwell.prepare.extract.spans import Found

Answer: TypeAlias = Sequence[Found]
log = logger(__name__)


class NotAnsweredError(StepwellError, LookupError):
    """A replay met a text that was never answered."""


@dataclass(frozen=True)
class Answered:
    """A function over texts whose answers are looked up before it is called.

    Guarantee: a text is asked at most once for one name and version, across runs and processes that do not ask at the
    same moment; with `replay`, never. An answer is on disk before it is used.

    Args:
        function: Takes a list of texts, returns the finds of each. A find whose place is unknown has `begin = -1`: it
            is put where its value first stands in the text, and goes into quarantine if it does not.
        name: Which extractor it is.
        version: Of the model and its prompt; another version is asked anew.
        path: A file for the answers (SQLite), or "" to keep none.
        batch: Texts a call gets at most.
        retries: Further calls after a failed one.
        replay: Only look up, never call.
    """

    function: Callable[[list[str]], Sequence[Answer]] = field(repr=False)
    name: str
    version: str
    path: str = ""
    batch: int = 16
    retries: int = 2
    replay: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.retries < 0:
            raise InvalidValueError("batch, retries", (self.batch, self.retries), "at least 1 and 0")
        if self.replay and not self.path:
            raise InvalidValueError("path", self.path, "the file of answers to replay")

    def find(self, texts: Sequence[str]) -> Iterator[list[Found]]:
        """Return the kept answers, asking for those that are not there.

        Raises:
            NotAnsweredError: If `replay` is set and an answer is missing.
            DataError: If the function fails more often than `retries` allows, or answers for another number of texts.
        """
        known = self._kept(texts)
        asked = [text for text in dict.fromkeys(texts) if text not in known]
        if asked and self.replay:
            problem = f"{self.path} has no answer of {self.name} {self.version} to {asked[0][:60]!r}"
            raise NotAnsweredError(f"{problem} and {len(asked) - 1} others. Run without replay=True to ask.")
        for begin in range(0, len(asked), self.batch):
            some = asked[begin : begin + self.batch]
            answers = self._ask(some)
            self._keep(some, answers)
            known |= dict(zip(some, answers, strict=True))
        for text in texts:
            yield [_placed(found, text) for found in known[text]]

    def _ask(self, texts: list[str]) -> list[list[Found]]:
        for attempt in range(self.retries + 1):
            try:
                answers = [[Found(*found) for found in finds] for finds in self.function(texts)]
            except Exception as error:
                if attempt == self.retries:
                    problem = f"failed {attempt + 1} times ({type(error).__name__}: {error}) on {texts[0][:60]!r}"
                    fix = "mend it or raise `retries`; answers so far are kept"
                    raise DataError(f"extractor {self.name}", problem, "an answer a text", fix) from error
                log.warning("%s failed and is asked again: %s", self.name, error)
                continue
            if len(answers) != len(texts):
                problem = f"answered for {len(answers)} of {len(texts)} texts"
                raise DataError(f"extractor {self.name}", problem, "one list a text", "return an empty list for none")
            return answers
        raise AssertionError("unreachable")

    def _key(self, text: str) -> str:
        return hashlib.sha256("\0".join((self.name, self.version, text)).encode()).hexdigest()

    def _open(self) -> sqlite3.Connection:
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(self.path, timeout=60)
        store.execute("create table if not exists answers (key text primary key, name text, version text, answer text)")
        return store

    def _kept(self, texts: Sequence[str]) -> dict[str, list[Found]]:
        if not self.path:
            return {}
        found = {}
        with closing(self._open()) as store:
            for text in dict.fromkeys(texts):
                row = store.execute("select answer from answers where key = ?", (self._key(text),)).fetchone()
                if row:
                    found[text] = [Found(*parts) for parts in json.loads(row[0])]
        return found

    def _keep(self, texts: Sequence[str], answers: Sequence[list[Found]]) -> None:
        if self.path:
            rows = [
                (self._key(text), self.name, self.version, json.dumps(answer))
                for text, answer in zip(texts, answers, strict=True)
            ]
            with closing(self._open()) as store, store:
                store.executemany("insert or ignore into answers values (?, ?, ?, ?)", rows)


def _placed(found: Found, text: str) -> Found:
    if found.begin != -1:
        return found
    at = text.find(found.value)
    return found if at < 0 or not found.value else found._replace(begin=at, end=at + len(found.value))
