"""Writes what was measured into README and docs, between two marks; nobody types a figure by hand.

`python -m benchmarks.render` rewrites the blocks; with `--check` it only says whether they are current.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from benchmarks.harness import claims, read_result

Record: TypeAlias = Mapping[str, object]

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"


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


PAGES: dict[str, Callable[[list[Record]], str]] = {"README.md": table, "docs/reference/measurements.md": details}


def rendered(text: str, block: str) -> str:
    """Return `text` with what stands between the marks replaced by `block`."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"The page has no block between {BEGIN} and {END}.")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{block}\n\n{END}", text)


def main(arguments: list[str] | None = None) -> int:
    check = "--check" in (sys.argv[1:] if arguments is None else arguments)
    found, stale = records(), []
    for name, write in PAGES.items():
        path = ROOT / name
        old = path.read_text()
        new = rendered(old, write(found))
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new)
    print(f"{'stale' if check else 'rewritten'}: {', '.join(stale)}" if stale else "all current")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
