"""Files as texts: plain text, HTML, JSON and PDF become rows of one table; no file is left out in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa

from stepwell.core.errors import DataError, MissingExtraError

TEXTS = pa.schema([("_row", pa.int64()), ("source", pa.string()), ("part", pa.string()), ("text", pa.string())])
_HIDDEN = {"script", "style", "template", "noscript", "head"}
_BLOCKS = {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table", "ul", "ol"}


def read_texts(paths: Sequence[str | Path], *, fields: Sequence[str] = ()) -> pa.Table:
    """Read files as texts.

    Args:
        paths: Files, or folders whose files are read in the order of their names. What a file is, its ending says:
            `.txt` and `.md` as they are; `.html`; `.json` and `.jsonl`; `.pdf`, a row a page.
        fields: Of JSON records, the dotted names of the texts (`"body.text"`), a row each; by default all texts.

    Returns:
        `_row` (from 0), `source` (the file), `part` (page or record and field; "" if there is one), `text`.

    Raises:
        DataError: If a file has another ending or cannot be read.
        MissingExtraError: If there is a PDF file and pypdf is absent.

    Cost: all texts in memory.
    """
    rows = []
    for path in _files(paths):
        try:
            rows += [(str(path), part, text) for part, text in _parts(path, fields)]
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(
                str(path), f"cannot be read ({error})", "UTF-8", "save it as UTF-8 or leave it out"
            ) from error
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    ids = pa.array(range(len(rows)), pa.int64())
    return pa.table([ids, *(pa.array(column, pa.string()) for column in columns)], schema=TEXTS)


def html_text(page: str) -> str:
    """Return what a reader of a page sees: blocks on lines of their own, no scripts and styles."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


def _files(paths: Sequence[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.is_file())
        else:
            yield path


def _parts(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    kind = path.suffix.lower()
    if kind in (".txt", ".md"):
        yield "", path.read_text(encoding="utf-8")
    elif kind in (".html", ".htm"):
        yield "", html_text(path.read_text(encoding="utf-8"))
    elif kind == ".json":
        loaded = json.loads(path.read_text(encoding="utf-8"))
        for number, record in enumerate(loaded if isinstance(loaded, list) else [loaded]):
            yield from _texts(record, f"{number}", fields)
    elif kind == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if line.strip():
                yield from _texts(json.loads(line), f"{number}", fields)
    elif kind == ".pdf":
        yield from _pages(path)
    else:
        allowed = ".txt, .md, .html, .json, .jsonl or .pdf"
        raise DataError(str(path), f"is of an unknown kind {kind!r}", allowed, "convert it or leave it out")


def _texts(record: object, place: str, fields: Sequence[str], name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(record, dict):
        for key, value in record.items():
            yield from _texts(value, place, fields, f"{name}.{key}".lstrip("."))
    elif isinstance(record, list):
        for number, value in enumerate(record):
            yield from _texts(value, f"{place}[{number}]", fields, name)
    elif isinstance(record, str) and (not fields or name in fields):
        yield f"{place} {name}".strip(), record


def _pages(path: Path) -> Iterator[tuple[str, str]]:
    try:
        from pypdf import PdfReader  # type: ignore[import-not-found, unused-ignore]
        from pypdf.errors import PyPdfError  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("Reading PDF files", "pypdf", "documents") from error
    try:
        for number, page in enumerate(PdfReader(path).pages, 1):
            yield f"page {number}", page.extract_text()
    except PyPdfError as error:
        raise DataError(str(path), f"cannot be read ({error})", "a PDF file", "mend it or leave it out") from error


class _Reader(HTMLParser):
    """Collects the visible text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line at a block, and hide what no reader sees."""
        self._hidden += tag in _HIDDEN
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """End what was begun."""
        self._hidden -= tag in _HIDDEN and self._hidden > 0
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        """Keep visible text; line breaks of the source are blanks."""
        if not self._hidden:
            self.pieces.append(data.replace("\n", " "))
