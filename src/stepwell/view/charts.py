"""The charts: lines, distributions, bars and timelines, all in one look.

A chart is a plotly.js figure as plain JSON; colours come from the page when it is drawn, so that one file is
right in light and in dark. The palette is Okabe and Ito's, and lines differ in dash as well, so that no meaning
hangs on colour alone. Values that are not finite leave a gap.

References:
    Okabe and Ito, "Color universal design", 2008.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import InvalidValueError

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
Numbers: TypeAlias = "Sequence[float] | npt.NDArray[np.generic]"

MAX_POINTS = 4000
MARKERS_UP_TO = 40
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PATTERNS = ("", "/", ".", "x", "-", "|")


@dataclass(frozen=True, slots=True)
class Series:
    """One named run of points.

    Args:
        name: What it is called in the legend.
        x: Places on the horizontal axis: numbers or labels.
        y: Heights, one a place.
        spread: Half width of an interval around each height, or None.

    Raises:
        InvalidValueError: If the lengths differ.
    """

    name: str
    x: Sequence[str] | Numbers
    y: Numbers
    spread: Numbers | None = None

    def __post_init__(self) -> None:
        for what, values in (("y", self.y), ("spread", self.spread)):
            if values is not None and len(values) != len(self.x):
                raise InvalidValueError(f"{what} of series {self.name!r}", len(values), f"as long as x ({len(self.x)})")


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work in a timeline.

    Args:
        lane: Who does it; one row a lane.
        name: What is done; one colour a name.
        begin: When it starts.
        end: When it ends, not before `begin`.
    """

    lane: str
    name: str
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not self.end >= self.begin:
            raise InvalidValueError(f"end of span {self.name!r}", self.end, f"at least its begin ({self.begin})")


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure ready to be drawn by a page.

    Args:
        title: What it shows.
        traces: plotly.js traces without colours.
        layout: plotly.js layout without colours.
        height: Height in CSS pixels.
    """

    title: str
    traces: Sequence[Mapping[str, Json]]
    layout: Mapping[str, Json]
    height: int = 340

    def html(self) -> str:
        """Return the markup: a caption, a box to draw in, and the figure as JSON."""
        figure = json.dumps({"data": self.traces, "layout": self.layout}, allow_nan=False, separators=(",", ":"))
        safe = figure.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
        title = html.escape(self.title, quote=True)
        return (
            f'<figure class="chart"><figcaption>{title}</figcaption>'
            f'<div class="plot" role="img" aria-label="{title}" style="height:{self.height}px"></div>'
            f'<script type="application/json">{safe}</script></figure>'
        )


def line(title: str, series: Sequence[Series], *, x: str = "", y: str = "", log: bool = False) -> Chart:
    """Draw series as lines: a learning curve, a metric over time.

    A series of more than 4,000 points is thinned to the smallest and the largest value of each of 2,000 stretches, so
    that spikes stay.

    Args:
        title: What the chart shows.
        series: The lines; a spread becomes error bars.
        x: Name and unit of the horizontal axis.
        y: Name and unit of the vertical axis.
        log: Whether the vertical axis is logarithmic.
    """
    traces: list[dict[str, Json]] = []
    for number, one in enumerate(series):
        xs, ys, spread = _thin(one)
        mode = "lines+markers" if len(xs) <= MARKERS_UP_TO else "lines"
        dash = DASHES[number % len(DASHES)]
        trace: dict[str, Json] = {
            "type": "scatter",
            "mode": mode,
            "name": one.name,
            "x": xs,
            "y": ys,
            "line": {"dash": dash, "width": 2},
        }
        if spread is not None:
            trace["error_y"] = {"type": "data", "array": spread, "thickness": 1.2, "width": 3}
        traces.append(trace)
    layout = _layout(x, y, legend=len(series) > 1)
    if log:
        layout["yaxis"] = {"title": {"text": y}, "type": "log"}
    return Chart(title, traces, layout)


def distribution(title: str, groups: Mapping[str, Numbers], *, x: str = "", bins: int = 60) -> Chart:
    """Draw how the values of each group are distributed, over the same bins, as shares of the group.

    Only the counts enter the page, not the values. Values that are not finite are left out.

    Args:
        title: What the chart shows.
        groups: Values by group: scores of positives and negatives, say.
        x: Name and unit of the values.
        bins: How many bins span all groups.

    Raises:
        InvalidValueError: If `bins < 1`.

    Cost:
        O(values log bins).
    """
    if bins < 1:
        raise InvalidValueError("bins", bins, "at least 1")
    kept = {name: _finite(values) for name, values in groups.items()}
    edges = np.histogram_bin_edges(np.concatenate([*kept.values(), np.empty(0)]), bins=bins)
    traces: list[dict[str, Json]] = []
    for number, (name, values) in enumerate(kept.items()):
        share = np.histogram(values, bins=edges)[0] / max(len(values), 1)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": _list(edges),
                "y": _list(np.append(share, share[-1])),
                "fill": "tozeroy",
                "line": {"shape": "hv", "width": 1.8, "dash": DASHES[number % len(DASHES)]},
                "hovertemplate": "%{x:.4g}: %{y:.2%}",
            }
        )
    layout = _layout(x, "share", legend=len(kept) > 1)
    layout["yaxis"] = {"title": {"text": "share"}, "tickformat": ".0%", "rangemode": "tozero"}
    return Chart(title, traces, layout)


def bars(title: str, series: Sequence[Series], *, y: str = "", bar: float | None = None) -> Chart:
    """Draw heights side by side, one group a label.

    Args:
        title: What the chart shows.
        series: Labels as `x`, heights as `y`; a spread becomes error bars.
        y: Name and unit of the heights.
        bar: A level to draw across, such as the one a claim must reach.
    """
    traces: list[dict[str, Json]] = []
    for number, one in enumerate(series):
        trace: dict[str, Json] = {
            "type": "bar",
            "name": one.name,
            "x": [str(label) for label in one.x],
            "y": _list(one.y),
            "marker": {"pattern": {"shape": PATTERNS[number % len(PATTERNS)], "fillmode": "overlay", "size": 6}},
        }
        if one.spread is not None:
            trace["error_y"] = {"type": "data", "array": _list(one.spread), "thickness": 1.2, "width": 4}
        traces.append(trace)
    layout = _layout("", y, legend=len(series) > 1)
    layout["xaxis"] = {"type": "category", "showgrid": False}
    layout["barmode"] = "group"
    layout["bargap"] = 0.35
    if bar is not None:
        level: dict[str, Json] = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": bar, "y1": bar}
        layout["shapes"] = [{**level, "line": {"dash": "dash", "width": 1.5}}]
    return Chart(title, traces, layout)


def timeline(title: str, spans: Sequence[Span], *, x: str = "seconds") -> Chart:
    """Draw who did what when: one row a lane, one colour a name.

    Args:
        title: What the chart shows.
        spans: The pieces of work.
        x: Name and unit of the time axis.
    """
    lanes = list(dict.fromkeys(span.lane for span in spans))
    traces: list[dict[str, Json]] = []
    for name in dict.fromkeys(span.name for span in spans):
        mine = [span for span in spans if span.name == name]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [span.lane for span in mine],
                "base": _list([span.begin for span in mine]),
                "x": _list([span.end - span.begin for span in mine]),
                "hovertemplate": "%{base:.4g} to %{x:.4g}",
            }
        )
    layout = _layout(x, "", legend=len(traces) > 1)
    layout["barmode"] = "overlay"
    layout["yaxis"] = {"categoryorder": "array", "categoryarray": lanes, "autorange": "reversed", "type": "category"}
    return Chart(title, traces, layout, height=150 + 34 * max(len(lanes), 1))


def _layout(x: str, y: str, *, legend: bool) -> dict[str, Json]:
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "showlegend": legend}


def _list(values: Numbers) -> list[Json]:
    array = np.asarray(values, np.float64)
    return [float(f"{value:.7g}") if good else None for value, good in zip(array, np.isfinite(array), strict=True)]


def _finite(values: Numbers) -> npt.NDArray[np.float64]:
    array = np.asarray(values, np.float64).ravel()
    return array[np.isfinite(array)]


def _thin(one: Series) -> tuple[list[Json], list[Json], list[Json] | None]:
    """Return x, y and spread as lists of at most `MAX_POINTS`, keeping each stretch's extremes."""
    y = np.asarray(one.y, np.float64)
    keep = np.arange(len(y))
    if len(y) > MAX_POINTS:
        parts = np.array_split(keep, MAX_POINTS // 2)
        low = [part[np.argmin(np.nan_to_num(y[part], nan=np.inf))] for part in parts]
        high = [part[np.argmax(np.nan_to_num(y[part], nan=-np.inf))] for part in parts]
        keep = np.unique([*low, *high])
    labels = len(one.x) > 0 and isinstance(one.x[0], str)
    xs: list[Json] = [str(one.x[int(i)]) for i in keep] if labels else _list(np.asarray(one.x, np.float64)[keep])
    spread = None if one.spread is None else _list(np.asarray(one.spread, np.float64)[keep])
    return xs, _list(y[keep]), spread
