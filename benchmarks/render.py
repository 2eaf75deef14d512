"""Writes what was measured into README and docs, between two marks; nobody types a figure by hand.

`python -m benchmarks.render` rewrites the blocks; with `--check` it only says whether they are current. README and the
page of measurements hold all claims; any other page may hold the claims of a topic, named by patterns in the opening
mark, as in `<!-- claims:begin etc_* santa_* -->`, and drawn figures, as in `<!-- figure:begin mrd_hits -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

from benchmarks.harness import claims, read_result
from benchmarks.plots import FOLDER, plots

Record: TypeAlias = Mapping[str, object]

ROOT = Path(__file__).parents[1]
DETAILS = "docs/reference/measurements.md"
BLOCK = re.compile(r"<!-- (claims|figure):begin( [\w* -]*?)? -->.*?<!-- \1:end -->", re.DOTALL)


def records() -> list[Record]:
    """Return the record of every claim that was measured, in the order of the claims."""
    found = [read_result(claim.name) for _, claim in claims()]
    return [record for record in found if record is not None]


def table(found: list[Record]) -> str:
    """Return the claims as one Markdown table."""
    if not found:
        return "Nothing has been measured yet."
    lines = ["| claim | bar | measured | holds |", "| --- | --- | --- | --- |"]
    for one in found:
        unit = one["unit"]
        verdict = "yes" if one["holds"] else f"**no**: {one['why']}"
        lines.append(
            f"| {one['sentence']} | {one['direction']} {_figure(one['bar'])} {unit} "
            f"| {_figure(one['measured'])} {unit} | {verdict} |"
        )
    return "\n".join([*lines, "", *_machines(found)])


def details(found: list[Record]) -> str:
    """Return one section a claim: contestants, quality, machine, command."""
    if not found:
        return "Nothing has been measured yet."
    return "\n\n".join(_section(one) for one in found)


def _section(one: Record) -> str:
    unit = one["unit"]
    lines = [
        f"## {one['claim']}",
        "",
        f"{one['sentence']}",
        "",
        f"Bar: {one['direction']} {_figure(one['bar'])} {unit}. Measured: **{_figure(one['measured'])} {unit}**, "
        f"which {'holds' if one['holds'] else 'does not hold'}. {one['why']}".rstrip(),
        "",
        *_figures(one),
        f"Seeds: {', '.join(map(str, _list(one['seeds']))) or 'nothing here is random'}. "
        f"Measured on {one['date']} with `{one['command']}`; {_machine(one)}; {_versions(one)}.",
    ]
    return "\n".join(lines)


def _figures(one: Record) -> list[str]:
    lines = []
    contestants = _mapping(one["baseline"])
    if contestants:
        lines += ["| contestant | figures |", "| --- | --- |"]
        for name, figures in contestants.items():
            lines.append(f"| {name} | {_pairs(_mapping(figures))} |")
        lines.append("")
    quality = _mapping(one["quality"])
    return [*lines, f"Quality: {_pairs(quality)}.", ""] if quality else lines


def _pairs(figures: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in figures.items())


def _figure(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _machines(found: list[Record]) -> list[str]:
    lines = sorted({f"Measured on {one['date']}: {_machine(one)}; {_versions(one)}." for one in found})
    return lines if len(lines) <= 2 else ["Machines, versions and commands: see the page of measurements in the docs."]


def _machine(one: Record) -> str:
    host = _mapping(one["hardware"])
    device = "" if host["accelerator"] == "none" else f", {host['accelerator']}"
    return f"{host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB{device}"


def _versions(one: Record) -> str:
    found = _mapping(one["versions"])
    return ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "torch_geometric") if name in found)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def rendered(text: str, found: list[Record], write: Callable[[list[Record]], str] = table) -> str:
    """Return a page with what stands between its marks written anew.

    Args:
        text: The page.
        found: All records.
        write: How its claims are written.
    """

    def block(match: re.Match[str]) -> str:
        kind, names = match[1], (match[2] or "").split()
        if kind == "figure":
            inside = "\n\n".join(_figure_of(name) for name in names)
        else:
            inside = write([one for one in found if not names or _named(one, names)])
        return f"<!-- {kind}:begin{match[2] or ''} -->\n\n{inside}\n\n<!-- {kind}:end -->"

    return BLOCK.sub(block, text)


def _named(one: Record, patterns: list[str]) -> bool:
    return any(fnmatchcase(str(one["claim"]), pattern) for pattern in patterns)


def _figure_of(pattern: str) -> str:
    """Return the figures of this name that were drawn, each above what it shows."""
    lines = []
    for name, plot in plots().items():
        found = plot.found() if fnmatchcase(name, pattern) and (FOLDER / f"{name}.svg").exists() else None
        if found is not None:
            said = plot.said(found)
            lines.append(f"![{said}](figures/{name}.svg)\n\n*{said}*")
    return "\n\n".join(lines) or "Not measured yet."


def pages() -> list[Path]:
    """Return the pages with such blocks."""
    docs = (page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)
    return [page for page in (ROOT / "README.md", *sorted(docs)) if BLOCK.search(page.read_text())]


def main(arguments: list[str] | None = None) -> int:
    """Write the blocks of all pages, or with `--check` say which are not current."""
    check = "--check" in (sys.argv[1:] if arguments is None else arguments)
    found, stale = records(), []
    for path in pages():
        name, old = path.relative_to(ROOT).as_posix(), path.read_text()
        new = rendered(old, found, details if name == DETAILS else table)
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new)
    print(f"{'stale' if check else 'rewritten'}: {', '.join(stale)}" if stale else "all current")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
