"""Pages and charts as markup: whole, safe, and readable by plotly."""

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from stepwell.core.errors import InvalidValueError
from stepwell.view import Fact, Facts, Field, Form, Page, Preformatted, Section, Table, Text, charts
from stepwell.view.charts import MAX_POINTS, Series, Span
from stepwell.view.page import show

EVIL = "</script><script>alert(1)</script>&\"'"


def figure(chart):
    """Read a chart back out of its markup, checked by plotly's own validators."""
    spec = re.search(r'<script type="application/json">(.*?)</script>', chart.html(), re.S)
    return go.Figure(json.loads(spec.group(1)))


def every_chart(name="a"):
    return [
        charts.line(name, [Series(name, [1, 2], [0.5, 0.7], spread=[0.1, 0.1]), Series("b", ["p", "q"], [1, 2])]),
        charts.distribution(name, {name: np.arange(10), "b": np.ones(3)}, x=name),
        charts.bars(name, [Series(name, ["x", "y"], [1, 2])], y=name, bar=1.5),
        charts.timeline(name, [Span(name, "work", 0, 2), Span("b", "wait", 1, 3)]),
    ]


@pytest.mark.parametrize("chart", every_chart(), ids=["line", "distribution", "bars", "timeline"])
def test_plotly_accepts_every_chart(chart):
    assert len(figure(chart).data) >= 1


def test_foreign_text_never_becomes_markup():
    blocks = [
        Text(EVIL),
        Preformatted(EVIL, label=EVIL),
        Table([EVIL], [[EVIL]], caption=EVIL),
        Facts([Fact(EVIL, EVIL, EVIL)]),
        Form(EVIL, [Field(EVIL, EVIL, value=EVIL), Field("c", kind="choice", choices=[EVIL])], submit=EVIL),
        *every_chart(EVIL),
    ]
    text = Page(EVIL, EVIL, [Fact(EVIL, 1)], [Section(EVIL, blocks)]).html(plotly_url="/plotly.js")
    assert "<script>alert" not in text
    assert "onerror=" not in text


def test_a_page_embeds_the_chart_library_once_and_only_if_it_has_charts():
    assert Page("a", sections=[Section("b", every_chart())]).html().count("plotly.js v") == 1
    assert len(Page("a", sections=[Section("b", [Text("c")])]).html()) < 50_000


def test_a_page_refers_to_nothing_outside_itself():
    text = Page("a", sections=[Section("b", every_chart())]).html(plotly_url="/plotly.js")
    assert not re.findall(r'(?:src|href)="(?!#|data:,|/plotly\.js)', text)


def test_a_page_is_written_whole_and_leaves_nothing_beside_it(tmp_path):
    path = Page("first").write(tmp_path / "deep" / "page.html")
    Page("second").write(path)
    assert "second" in path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]


def test_values_that_are_not_finite_leave_a_gap():
    chart = charts.line("a", [Series("b", [1, 2, 3], [1.0, float("nan"), float("inf")])])
    assert chart.traces[0]["y"] == [1.0, None, None]
    shares = charts.distribution("a", {"b": [1.0, float("nan"), 3.0], "none": []}, bins=2).traces
    assert shares[0]["y"] == [0.5, 0.5, 0.5]
    assert shares[1]["y"] == [0.0, 0.0, 0.0]


def test_a_long_line_is_thinned_but_keeps_its_extremes():
    y = np.sin(np.arange(100_000) / 3000)
    y[777], y[91_234] = 9.0, -9.0
    trace = charts.line("a", [Series("b", np.arange(len(y)), y)]).traces[0]
    assert len(trace["x"]) <= MAX_POINTS
    assert max(trace["y"]) == 9.0
    assert min(trace["y"]) == -9.0


def test_a_distribution_holds_the_share_of_each_bin():
    chart = charts.distribution("a", {"b": [0.0, 0.1, 0.9, 1.0], "c": [0.0]}, bins=2)
    assert chart.traces[0]["y"][:2] == [0.5, 0.5]
    assert chart.traces[1]["y"][:2] == [1.0, 0.0]


def test_tables_show_numbers_alike_and_missing_cells_as_dashes():
    text = Table(["name", "value"], [["a", 1234567], ["b", 0.123456], ["c", None], ["d", float("nan")]]).html()
    assert ">1,234,567<" in text
    assert ">0.1235<" in text
    assert text.count(">\N{EN DASH}<") == 2
    assert 'class="number">value' in text


def test_floats_keep_four_digits_so_that_columns_line_up():
    assert [show(x) for x in (0.7, 0.05067, 123.0, 4321.0, 54321.0, 0.0, float("inf"))] == [
        *("0.7000", "0.05067", "123.0", "4,321", "54,321", "0.000", "inf"),
    ]


def test_rows_and_series_of_another_length_are_refused():
    with pytest.raises(InvalidValueError, match=r"rows\[1\]"):
        Table(["a", "b"], [[1, 2], [1]])
    with pytest.raises(InvalidValueError, match="series 'a'"):
        Series("a", [1, 2], [1])
    with pytest.raises(InvalidValueError, match="begin"):
        Span("a", "b", 2, 1)
    with pytest.raises(InvalidValueError, match="bins"):
        charts.distribution("a", {}, bins=0)


def test_a_choice_shows_the_key_of_each_button_and_refuses_too_few():
    markup = Field("label", "Which?", "choice", choices=["ham", "<spam>"], keys=["1", "2"]).html()
    assert 'value="ham" data-key="1" aria-keyshortcuts="1"><kbd>1</kbd> ham' in markup
    assert "<kbd>2</kbd> &lt;spam&gt;" in markup
    assert "data-key" not in Field("label", "Which?", "choice", choices=["ham"]).html()
    with pytest.raises(InvalidValueError, match="keys"):
        Field("label", "Which?", "choice", choices=["ham", "spam"], keys=["1"])
