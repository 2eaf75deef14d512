"""Draws what was measured: the figures of the guides, from the records alone, the same bytes each time.

`python -m benchmarks.plots` writes `docs/guides/figures/*.svg`; with `--check` it only says whether they are current.
A figure whose records are not there is not drawn, and pages leave it out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from benchmarks.harness import claims, read_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Contestants: TypeAlias = Mapping[str, Mapping[str, float | str]]

FOLDER = Path(__file__).parents[1] / "docs" / "guides" / "figures"
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6E6E6E"
MARKS = {BLUE: "o", ORANGE: "s", GREEN: "^", PINK: "D", GREY: "v"}
STYLE = {
    "svg.hashsalt": "stepwell",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure.

    Args:
        needs: Records without which it is not drawn.
        draw: Makes the figure from their contestants, in the order of `needs`.
        said: Says in a sentence what is to be seen, with figures from the same contestants.
    """

    needs: tuple[str, ...]
    draw: Callable[[Sequence[Contestants]], Figure]
    said: Callable[[Sequence[Contestants]], str]

    def found(self) -> list[Contestants] | None:
        """Return the contestants of all records, or None if one is missing."""
        records = [read_result(name) for name in self.needs]
        if not records or any(one is None for one in records):
            return None
        return [cast("Contestants", one["baseline"]) for one in records if one is not None]


def mrd(found: Sequence[Contestants]) -> Figure:
    """Draw hit shares over the rows kept."""
    figure, (axes,) = _panels(1, 1, 6.2, 3.4)
    rows = [int(name.split()[0]) for name in found[0]]
    ends = []
    for name, colour in (("MRD", BLUE), ("LRU", ORANGE), ("2Q", GREEN), ("LFU", GREY)):
        share = [100 * float(one[f"{name} hit rate"]) for one in found[0].values()]
        _line(axes, rows, share, colour)
        ends.append((share[-1], name, colour))
    best = [100 * float(one["optimum hit rate"]) for one in found[0].values()]
    axes.plot(rows, best, "o", markersize=9, markerfacecolor="none", markeredgecolor="black", linewidth=0)
    axes.annotate(
        "rings: optimum of the\nlinear programme",
        (rows[2], best[2]),
        (rows[2] - 60, best[2] - 10),
        ha="left",
        va="top",
        fontsize=8,
    )
    _label_ends(axes, rows[-1], ends, gap=5.5)
    axes.set(
        xlabel="embeddings kept (rows)", ylabel="distinct needs found (%)", ylim=(0, 105), xlim=(0, rows[-1] * 1.1)
    )
    return figure


def mrd_said(found: Sequence[Contestants]) -> str:
    """Say what MRD finds beside LRU where they differ most."""
    rows, one = max(found[0].items(), key=lambda item: float(item[1]["MRD hit rate"]) - float(item[1]["LRU hit rate"]))
    return (
        f"Share of neighbours' embeddings found among those kept. With {rows} MRD finds "
        f"{float(one['MRD hit rate']):.0%} and LRU {float(one['LRU hit rate']):.0%}; no policy finds more than MRD."
    )


STREAMS = ("jodie-wikipedia", "collegemsg", "sx-mathoverflow", "digg-reply")
FAMILIES = {"event_feature": "edge features", "node_feature": "node features"}
POLICIES = {
    "Interval": BLUE,
    "SIMPLE as published": PINK,
    "LRU": ORANGE,
    "2Q": GREEN,
    "StaticHot": GREY,
}


def placement(hops: int) -> Callable[[Sequence[Contestants]], Figure]:
    """Return what draws bytes fetched over the budget, a column a stream, a row a family."""

    def draw(found: Sequence[Contestants]) -> Figure:
        figure, panels = _panels(len(FAMILIES), len(STREAMS), 9.4, 4.6)
        for place, axes in enumerate(panels):
            family, name = list(FAMILIES)[place // len(STREAMS)], STREAMS[place % len(STREAMS)]
            cells = _cells(found[0], f"{name} {hops} hop {family} ")
            for policy, colour in POLICIES.items():
                fetched = [float(cells[share][policy]) / 2**20 for share in cells]
                _line(axes, list(cells), fetched, colour)
            axes.set(ylim=(0, None), xticks=list(cells), xlim=(0, 21.5))
            if place < len(STREAMS):
                axes.set_title(name)
            else:
                axes.set_xlabel("tier (% of all rows)")
            if place % len(STREAMS) == 0:
                axes.set_ylabel(f"{FAMILIES[family]}\nfetched (MiB an epoch)")
        figure.legend(
            handles=panels[0].lines,
            labels=list(POLICIES),
            loc="outside upper center",
            ncols=len(POLICIES),
            frameon=False,
        )
        return figure

    return draw


def placement_said(hops: int) -> Callable[[Sequence[Contestants]], str]:
    """Return what says how much less is fetched, from where least is gained to where most is."""

    def said(found: Sequence[Contestants]) -> str:
        gains = {}
        for name in STREAMS:
            for family, text in FAMILIES.items():
                for share, one in _cells(found[0], f"{name} {hops} hop {family} ").items():
                    where = f"{text} of {name}, room for {share} %"
                    gains[where] = 1 - float(one["Interval"]) / float(one["LRU"])
        best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
        return (
            f"Bytes that a tier must fetch in one epoch, {hops} hop{'s' * (hops > 1)}. `Interval` fetches "
            f"{gains[best]:.0%} less than LRU at best ({best}) and {gains[worst]:.0%} less at worst ({worst})."
        )

    return said


def _cells(found: Contestants, prefix: str) -> dict[int, Mapping[str, float | str]]:
    return {int(name.removeprefix(prefix)[:-1]): one for name, one in found.items() if name.startswith(prefix)}


def _counts(found: Contestants) -> dict[str, dict[int, tuple[int, int]]]:
    """Return (fixed, adaptive) batches by stream and size."""
    counts: dict[str, dict[int, tuple[int, int]]] = {}
    for name, one in found.items():
        for key, value in one.items():
            if key.startswith("like ") and (match := re.search(r": (\d+) -> (\d+)", str(value))):
                counts.setdefault(name, {})[int(key[5:])] = (int(match[1]), int(match[2]))
    return counts


def etc(found: Sequence[Contestants]) -> Figure:
    """Draw how much longer batches become within the bound of fixed ones, and how many there are."""
    counts = _counts(found[0])
    figure, panels = _panels(1, len(counts), 0.8 + 3.4 * len(counts), 2.4, sharey=True)
    longest = max(fixed / new - 1 for sizes in counts.values() for fixed, new in sizes.values())
    for axes, (name, sizes) in zip(panels, counts.items(), strict=True):
        for row, (fixed, adaptive) in enumerate(sizes.values()):
            longer = 100 * (fixed / adaptive - 1)
            axes.barh(row, longer, color=BLUE, height=0.68)
            axes.annotate(
                f"{fixed} to {adaptive} batches" if adaptive < fixed else f"{fixed} batches, as before",
                (longer, row),
                (4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set(xlabel="longer batches (%)", xlim=(0, 165 * longest), ylim=(len(sizes) - 0.5, -0.5), title=name)
        axes.set_yticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    panels[0].set_ylabel("fixed batches that\nset the bound (events)")
    return figure


def etc_said(found: Sequence[Contestants]) -> str:
    """Say how much longer batches become."""
    longer = [fixed / new - 1 for sizes in _counts(found[0]).values() for fixed, new in sizes.values()]
    return (
        f"How much longer batches become when they may lose as much as the worst fixed one: from {min(longer):.0%} "
        f"to {max(longer):.0%} on these streams."
    )


def bars(measure: str, label: str, *, bar: float | None = None) -> Callable[[Sequence[Contestants]], Figure]:
    """Return what draws one bar a contestant that has the measure, a panel a record."""

    def draw(found: Sequence[Contestants]) -> Figure:
        rows = [{name: float(one[measure]) for name, one in each.items() if measure in one} for each in found]
        figure, panels = _panels(len(found), 1, 6.6, 0.9 + 0.34 * sum(map(len, rows)))
        for axes, values in zip(panels, rows, strict=True):
            best = max(values.values())
            for row, (name, value) in enumerate(values.items()):
                axes.barh(row, value, color=GREY if _rival(name) else BLUE, height=0.68)
                axes.annotate(
                    f"{value:,.3g}" if value < 1e3 else f"{value:,.0f}",
                    (value, row),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                )
            axes.set_yticks(range(len(values)), [_wrapped(name) for name in values])
            axes.set(xlim=(0, best * 1.16), ylim=(len(values) - 0.5, -0.5), xlabel=label)
            if bar is not None:
                axes.axvline(bar, color="black", linewidth=1, linestyle=(0, (4, 3)))
                axes.annotate(f"bar: {bar:g}", (bar, -0.5), (3, 3), textcoords="offset points", fontsize=8)
        return figure

    return draw


def _rival(name: str) -> bool:
    """Say whether a contestant is not what the figure is about."""
    ours = ("stepwell", "Zebra", "Orca", "all together", "adaptive, distinct, prefetch 2", "reuse")
    return not name.startswith(ours)


def _wrapped(name: str) -> str:
    return name.replace(", every version", ",\nevery version")


def ratio_said(measure: str, ours: str, theirs: str, said: str) -> Callable[[Sequence[Contestants]], str]:
    """Return what says how many times the measure of one contestant is that of another, in the first record."""

    def sentence(found: Sequence[Contestants]) -> str:
        times = float(found[0][ours][measure]) / float(found[0][theirs][measure])
        return said.format(times)

    return sentence


def together(found: Sequence[Contestants]) -> Figure:
    """Draw events a second of each way, a panel a stream."""
    return bars("events_per_s", "events/s of training")([dict(each) for each in found])


PLOTS: dict[str, Plot] = {
    "mrd_hits": Plot(("mrd_optimal",), mrd, mrd_said),
    "placement_bytes": Plot(("placement_vs_lru",), placement(1), placement_said(1)),
    "placement_bytes_two_hops": Plot(("placement_vs_lru",), placement(2), placement_said(2)),
    "etc_batches": Plot(("etc_batch_counts",), etc, etc_said),
    "etc_ablation": Plot(
        ("etc_ablation",),
        bars("events_per_s", "events/s of training"),
        ratio_said(
            "events_per_s",
            "adaptive, distinct, prefetch 2",
            "fixed, distinct, prefetch 2",
            "ETC's three parts, each on and off. With the other two on, adaptive batches alone give {:.2f}x.",
        ),
    ),
    "santa": Plot(
        ("santa_event",),
        bars("cpu_us_per_event", "CPU time an event (µs)", bar=5.0),
        ratio_said(
            "cpu_us_per_event",
            "dictionaries",
            "stepwell",
            "What an event costs in the T-PPR lists of both its ends. Dictionaries take {:.1f} times as long.",
        ),
    ),
    "zebra_speed": Plot(
        ("zebra_vs_two_hops",),
        bars("events_per_s", "events/s of training"),
        ratio_said(
            "events_per_s",
            "Zebra",
            "2-hop TGN, exact dedup",
            "Training steps of Zebra and of the 2-hop TGN whose place it takes: {:.2f}x with exact dedup on both.",
        ),
    ),
    "together": Plot(
        ("together_jodie_wikipedia_2_hops",),
        together,
        ratio_said(
            "events_per_s",
            "all together",
            "2 hops",
            "Training on jodie-wikipedia, all together against 2 hops: {:.2f}x.",
        ),
    ),
}


def _orca() -> dict[str, Plot]:
    """Return a figure for each record of reuse in training that gives the CPU time of its contestants."""
    names = [claim.name for file, claim in claims() if file.startswith("orca")]
    found: dict[str, Plot] = {}
    seen: list[object] = []
    for name in names:
        record = read_result(name)
        contestants = cast("Contestants", record["baseline"]) if record else {}
        speeds = [one for one in contestants.values() if "cpu_us_an_event" in one]
        if len(speeds) > 1 and contestants not in seen:
            seen.append(contestants)
            draw = bars("cpu_us_an_event", "CPU time of training, an event (µs)")
            found[name] = Plot((name,), draw, lambda _, name=name: _sentence(name))  # type: ignore[misc]
    return found


def _sentence(name: str) -> str:
    return next(claim.sentence for _, claim in claims() if claim.name == name) + "."


def plots() -> dict[str, Plot]:
    """Return every figure by name."""
    return PLOTS | _orca()


def _panels(rows: int, columns: int, width: float, height: float, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure as New

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = New(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(axes.ravel())


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    axes.plot(x, y, color=colour, marker=MARKS[colour], markersize=4, linewidth=1.6)


def _label_ends(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Name lines at their right ends, at least `gap` apart."""
    below = float("inf")
    for y, name, colour in sorted(ends, reverse=True):
        below = min(y, below - gap)
        axes.annotate(name, (x, below), (8, 0), textcoords="offset points", va="center", color=colour, weight="bold")


def drawn(plot: Plot, found: Sequence[Contestants]) -> bytes:
    """Return the SVG of a figure."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure, out = plot.draw(found), BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return b"\n".join(line.rstrip() for line in out.getvalue().splitlines()) + b"\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the figures, or with `--check` say which are not current."""
    check = "--check" in (sys.argv[1:] if arguments is None else arguments)
    stale = []
    for name, plot in plots().items():
        found, path = plot.found(), FOLDER / f"{name}.svg"
        if found is None:
            continue
        new = drawn(plot, found)
        if not path.exists() or path.read_bytes() != new:
            stale.append(name)
            if not check:
                FOLDER.mkdir(parents=True, exist_ok=True)
                path.write_bytes(new)
    print(f"{'stale' if check else 'drawn'}: {', '.join(stale)}" if stale else "all figures current")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
