"""A page is a title, a few leading figures and sections of blocks; it becomes one HTML file that needs nothing else.

Every block turns itself into markup and escapes what it was given, so a name out of somebody's data cannot
become script. The look, light and dark, is in `page.css`; charts are drawn by plotly.js, which stands in the file
once however many charts there are, and not at all if there are none.
"""

from __future__ import annotations

import html
import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from stepwell.core.errors import InvalidValueError

Cell = str | int | float | bool | None

# No request leaves the page, except to the server that it came from.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'"
)


@runtime_checkable
class Block(Protocol):
    """Anything that stands in a section."""

    def html(self) -> str:
        """Return the block's markup, with everything foreign escaped."""


@dataclass(frozen=True, slots=True)
class Text:
    """Prose; blank lines part paragraphs.

    Args:
        text: Plain text, no markup.
    """

    text: str

    def html(self) -> str:
        """Return one `<p>` a paragraph."""
        paragraphs = [" ".join(part.split()) for part in self.text.split("\n\n")]
        return "".join(f"<p>{html.escape(part)}</p>" for part in paragraphs if part)


@dataclass(frozen=True, slots=True)
class Preformatted:
    """Text whose spaces count: a plan tree, a command, a log.

    Args:
        text: Plain text.
        label: What it is, for readers who cannot see it.
        wrap: Break long lines, instead of letting them scroll sideways.
    """

    text: str
    label: str = "preformatted text"
    wrap: bool = False

    def html(self) -> str:
        """Return a `<pre>` that the keyboard can reach, so that it can be scrolled."""
        label = html.escape(self.label, quote=True)
        kind = ' class="wrap"' if self.wrap else ""
        return f'<pre{kind} tabindex="0" role="region" aria-label="{label}">{html.escape(self.text)}</pre>'


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; numbers stand to the right, a missing cell is a dash.

    Args:
        columns: Names of the columns.
        rows: Cells, one a column; floats are shown with four significant digits.
        caption: What the table says, above it.

    Raises:
        InvalidValueError: If a row has another length than `columns`.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise InvalidValueError(f"rows[{number}]", list(row), f"{len(self.columns)} cells, one a column")

    def html(self) -> str:
        """Return the table in a box that scrolls sideways."""
        numeric = [_is_numeric([row[i] for row in self.rows]) for i in range(len(self.columns))]
        kinds = [' class="number"' if yes else "" for yes in numeric]
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        head = "".join(
            f'<th scope="col"{kind}>{html.escape(name)}</th>' for name, kind in zip(self.columns, kinds, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td{kind}>{html.escape(show(cell))}</td>" for cell, kind in zip(row, kinds, strict=True))
            + "</tr>"
            for row in self.rows
        )
        return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure that a reader should see first.

    Args:
        name: What it is.
        value: The figure as it should be read.
        note: Protocol, unit or comparison, in a few words.
    """

    name: str
    value: Cell
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Figures side by side.

    Args:
        facts: The figures, the most important one first.
    """

    facts: Sequence[Fact]

    def html(self) -> str:
        """Return a list of definitions, drawn as tiles."""
        tiles = "".join(
            f'<div class="fact"><dt>{html.escape(fact.name)}</dt><dd>{html.escape(show(fact.value))}'
            + (f"<small>{html.escape(fact.note)}</small>" if fact.note else "")
            + "</dd></div>"
            for fact in self.facts
        )
        return f'<dl class="facts">{tiles}</dl>'


@dataclass(frozen=True, slots=True)
class Field:
    """One input of a form.

    Args:
        name: Key under which the action receives it.
        label: What the reader is asked.
        kind: `text`, `number`, `hidden`, or `choice` (one button each in `choices`).
        value: What stands there at first.
        choices: The answers of a `choice`.
        keys: The key that presses each button of a `choice`, as the browser names it (`"1"`, `"s"`); none by default.

    Raises:
        InvalidValueError: If there are keys, but not one for each choice.
    """

    name: str
    label: str = ""
    kind: Literal["text", "number", "hidden", "choice"] = "text"
    value: str = ""
    choices: Sequence[str] = ()
    keys: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.keys and len(self.keys) != len(self.choices):
            raise InvalidValueError("keys", list(self.keys), f"{len(self.choices)} keys, one a choice")

    def html(self) -> str:
        """Return the input with its label, or a group of buttons for a `choice`."""
        name, value = html.escape(self.name, quote=True), html.escape(self.value, quote=True)
        if self.kind == "choice":
            keys = [html.escape(key, quote=True) for key in self.keys]
            pressed = [f' data-key="{key}" aria-keyshortcuts="{key}"' for key in keys] or [""] * len(self.choices)
            shown = [f"<kbd>{key}</kbd> " for key in keys] or [""] * len(self.choices)
            buttons = "".join(
                f'<button name="{name}" value="{html.escape(choice, quote=True)}"{press}>{sign}{html.escape(choice)}'
                "</button>"
                for choice, press, sign in zip(self.choices, pressed, shown, strict=True)
            )
            return f"<fieldset><legend>{html.escape(self.label)}</legend>{buttons}</fieldset>"
        entry = f'<input type="{self.kind}" name="{name}" value="{value}" step="any">'
        return entry if self.kind == "hidden" else f"<label>{html.escape(self.label)}{entry}</label>"


@dataclass(frozen=True, slots=True)
class Form:
    """Inputs that are sent to an action of the live server; the page then shows itself anew.

    Args:
        action: Name under which the server knows the action.
        fields: The inputs.
        submit: Text of the button; none is drawn if a `choice` field brings its own.
    """

    action: str
    fields: Sequence[Field]
    submit: str = "Send"

    def html(self) -> str:
        """Return the form, with an `<output>` for the server's answer."""
        inner = "".join(field.html() for field in self.fields)
        if not any(field.kind == "choice" for field in self.fields):
            inner += f"<button>{html.escape(self.submit)}</button>"
        return f'<form data-action="{html.escape(self.action, quote=True)}">{inner}<output></output></form>'


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it.

    Args:
        title: The heading.
        blocks: Text, tables, charts and so on, in order.
    """

    title: str
    blocks: Sequence[Block] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Args:
        title: What the page is about.
        lead: One sentence below the title.
        facts: Figures that stand above all sections.
        sections: The rest, in order; from three on they are listed at the top.
        refresh_s: If set, a page of the live server renews itself so often, in seconds.

    Example:
        >>> page = Page("A run", sections=(Section("Plan", (Preformatted("-> sampler"),)),))
        >>> "-&gt; sampler" in page.html()
        True
    """

    title: str
    lead: str = ""
    facts: Sequence[Fact] = ()
    sections: Sequence[Section] = ()
    refresh_s: float | None = None

    def html(self, plotly_url: str | None = None) -> str:
        """Return the page as one HTML document.

        Args:
            plotly_url: Where plotly.js is served, or None to embed it (4.8 MB) if the page has charts.
        """
        main = self._main()
        plotly = ""
        if 'class="chart"' in main:
            plotly = f'<script src="{html.escape(plotly_url, quote=True)}"></script>' if plotly_url else _embedded()
        refresh = f' data-refresh="{self.refresh_s:g}"' if self.refresh_s else ""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>\n{_resource('page.css')}</style>\n{plotly}\n</head>\n"
            f"<body{refresh}>\n<main>\n{main}\n</main>\n<script>\n{_resource('page.js')}</script>\n</body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path` atomically, making its folder, and return the path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            aside.write_text(self.html(), encoding="utf-8")
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        return target

    def _main(self) -> str:
        lead = f'<p class="lead">{html.escape(self.lead)}</p>' if self.lead else ""
        facts = Facts(self.facts).html() if self.facts else ""
        links = "".join(f'<a href="#s{i}">{html.escape(part.title)}</a>' for i, part in enumerate(self.sections))
        contents = f'<nav aria-label="Sections">{links}</nav>' if len(self.sections) > 2 else ""
        sections = "\n".join(
            f'<section id="s{i}"><h2>{html.escape(part.title)}</h2>'
            + "".join(block.html() for block in part.blocks)
            + "</section>"
            for i, part in enumerate(self.sections)
        )
        return f"<header><h1>{html.escape(self.title)}</h1>{lead}</header>{contents}{facts}\n{sections}"


def show(cell: Cell) -> str:
    """Return a cell as text: whole numbers grouped, floats with four significant digits, None as a dash."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "\N{EN DASH}"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:#,.4g}".rstrip(".") if abs(cell) < 1e4 else f"{cell:,.0f}"
    return str(cell)


def plotly_js() -> str:
    """Return plotly.js from the installed `plotly` package."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _embedded() -> str:
    return f"<script>{plotly_js()}</script>"


def _is_numeric(cells: Sequence[Cell]) -> bool:
    present = [cell for cell in cells if cell is not None]
    return bool(present) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in present)


@cache
def _resource(name: str) -> str:
    return (files("stepwell.view") / name).read_text(encoding="utf-8")
