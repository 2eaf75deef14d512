"""The page of a prepared table in a real headless browser: charts are drawn, and no text becomes markup."""

import numpy as np
import pyarrow as pa

from stepwell.prepare import Preparation, report
from stepwell.prepare.clean.constraints import Between
from stepwell.prepare.label import Pattern
from stepwell.storage import open as open_lake
from tests.unit.view.test_in_a_browser import Tab

TITLES = [
    "What was done",
    "What was taken out",
    "What was violated",
    "Who labelled",
    "What was repeated, far out, or leaked",
    "How numbers are held",
    "What the data look like",
    "Where it comes from",
    "What changed",
]


def test_the_page_is_drawn_and_says_what_became_of_the_rows(chromium, tmp_path):
    lake = open_lake(tmp_path / "lake")
    text = ["free <b id=bad>cash</b>", "see you", "free stuff", "hello", "hello"] * 20
    price = np.arange(100) - 10.0
    lake.write("raw", pa.table({"id": range(100), "price": price, "half": price // 2, "text": text}))
    rules = [Pattern("free", "text", "free", "spam"), Pattern("greet", "text", "you|hello", "ham")]
    base = Preparation(lake, "raw", key="id").expect(Between("price", low=0)).deduplicate("half")
    base.commit("mail")
    whole = base.label(rules, classes=("ham", "spam")).split(by="id").outliers("price", share=0.1).compress("half")
    done = whole.commit("mail")
    page = report(lake, "mail", tmp_path / "mail.html")
    tab = Tab(chromium, tmp_path, page.as_uri())
    try:
        assert tab.wait_for("document.querySelectorAll('.main-svg').length >= 4")
        titles = tab.wait_for("JSON.stringify([...document.querySelectorAll('h2')].map(e => e.textContent))")
        assert [title for title in TITLES if title not in titles] == []
        assert tab.wait_for("document.querySelector('#bad') === null")
        words = tab.wait_for("document.body.textContent")
        for word in (
            "deduplicate half",
            "price >= 0",
            "greet",
            "raw@0",
            "free <b id=bad>cash</b>",
            "column codes: added",
        ):
            assert word in words
        outside = (
            "[...document.querySelectorAll('[src], link[href]')].every(e => !(e.src || e.href).startsWith('http'))"
        )
        assert tab.wait_for(outside)
        taken = sum(sum(one.dropped.values()) for one in done.reports)
        assert tab.wait_for(f"[...document.querySelectorAll('td')].some(e => e.textContent == '{len(done.table)}')")
        assert taken > 0
    finally:
        tab.close()
