"""Pages in a real headless browser: charts are drawn, nothing is logged, dark differs from light, forms work."""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from stepwell.view import Fact, Field, Form, Page, Preformatted, Section, Server, Table, Text, charts
from stepwell.view.charts import Series, Span

PLAN = """plan                   rows     bytes   hit   seconds   why
step                  41.9k   120 MiB     -      2.31   TGN, 100 wide
  -> gather           41.9k    28 MiB   87%      0.12   features fit the host
    -> recent(10)     83.8k    13 MiB     -      0.03   newest events, 2 threads"""


FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


def report():
    rng = np.random.default_rng(0)
    epochs = np.arange(1, 13)
    curve = 0.95 - 0.25 * np.exp(-epochs / 3)
    return Page(
        "TGN on a generated stream",
        "Link prediction, chronological split 70/15/15, trained for 12 epochs on two cores.",
        [
            Fact("test AP", "92.4", "P1, transductive, mean over batches of 200"),
            Fact("test AUC", "93.1", "the same protocol"),
            Fact("test MRR", ".612", "P3, one against 999"),
            Fact("EdgeBank MRR", ".495", "no training at all"),
        ],
        [
            Section("Plan", [Text("What was expected stands beside what was found."), Preformatted(PLAN, "plan")]),
            Section(
                "Learning",
                [
                    charts.line(
                        "Average precision by epoch",
                        [Series("validation", epochs, curve), Series("train", epochs, curve + 0.02)],
                        x="epoch",
                        y="AP",
                    ),
                    charts.distribution(
                        "Scores on the test events",
                        {"happened": rng.normal(2, 1, 4000), "did not": rng.normal(-1, 1.2, 4000)},
                        x="score",
                    ),
                ],
            ),
            Section(
                "Time",
                [
                    charts.timeline(
                        "What ran when",
                        [Span("model", "step", i, i + 0.8) for i in range(6)]
                        + [Span("loader", "sample", i - 0.5, i) for i in range(1, 7)],
                    ),
                    charts.bars(
                        "Events a second",
                        [
                            Series("Stepwell", ["200", "2000"], [21e3, 60e3], [1e3, 2e3]),
                            Series("other", ["200"], [7e3]),
                        ],
                        y="events/s",
                        bar=17.5e3,
                    ),
                ],
            ),
            Section("Scores", [Table(["model", "AP", "events"], [["TGN", 0.924, 41912], ["EdgeBank", 0.904, None]])]),
        ],
    )


def browse(chromium, url, folder, *more):
    """Open `url` without a window and return what the browser wrote."""
    own = (f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=8000")
    command = [chromium, *FLAGS, *own, *more, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def console(done):
    return [text for text in done.stderr.splitlines() if "CONSOLE" in text]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report().write(tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.parametrize("theme", [1, 0], ids=["light", "dark"])
def test_every_chart_is_drawn_and_the_console_stays_silent(chromium, page, theme, tmp_path):
    done = browse(chromium, page.as_uri(), tmp_path, f"--blink-settings=preferredColorScheme={theme}", "--dump-dom")
    assert console(done) == []
    dom = done.stdout
    assert dom.count('class="main-svg"') >= 4 * 2
    assert len(re.findall(r'<g class="trace scatter', dom)) == 4
    assert len(re.findall(r'<g class="point', dom)) >= 12 + 3
    background = {1: "#0072b2", 0: "#56b4e9"}[theme]
    rgb = "rgb({}, {}, {})".format(*(int(background[i : i + 2], 16) for i in (1, 3, 5)))
    assert rgb in dom, "the first colour of the theme is in no chart"


def test_a_screenshot_is_light_in_light_and_dark_in_dark(chromium, page, tmp_path):
    image = pytest.importorskip("PIL.Image")
    means = []
    for theme in (1, 0):
        shot = tmp_path / f"{theme}.png"
        look = f"--blink-settings=preferredColorScheme={theme}"
        browse(chromium, page.as_uri(), tmp_path, look, "--window-size=1200,2100", f"--screenshot={shot}")
        with image.open(shot) as opened:
            means.append(float(np.asarray(opened.convert("L")).mean()))
    assert means[0] > 225
    assert means[1] < 60


class Tab:
    """One tab of a headless browser, driven over its debugging pipe."""

    def __init__(self, chromium, folder, url):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={folder / 'tab'}", "--remote-debugging-pipe", "about:blank"]
        command = f"exec {shlex.join([chromium, *flags])} 3<&{to_browser} 4>&{from_browser}"
        self.process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.replies, self.number, self.session = os.fdopen(self.read_end, "rb"), 0, None
        target = self.call("Target.createTarget", url=url)["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            reply = json.loads(b"".join(iter(lambda: self.replies.read(1), b"\0")))
            if reply.get("id") == self.number:
                return reply["result"]

    def wait_for(self, expression):
        """Evaluate a JavaScript expression until it is truthy and return its value."""
        for _ in range(200):
            value = self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}")

    def close(self):
        self.replies.close()
        os.close(self.write_end)
        self.process.terminate()
        self.process.wait(20)


def test_a_form_of_the_live_server_reaches_its_action_and_the_page_renews_itself(chromium, tmp_path):
    said = []

    def label(body):
        said.append(body)
        return {}

    def view():
        choice = Field("label", "Is it spam?", "choice", choices=["yes", "no"])
        form = Form("label", [Field("item", kind="hidden", value="7"), choice])
        chart = charts.bars("Labels so far", [Series("labels", ["all"], [len(said)])])
        return Page(f"{len(said)} labels", sections=[Section("Next", [form, chart])])

    with Server({"/": view}, {"label": label}) as server:
        tab = Tab(chromium, tmp_path, server.url)
        try:
            assert tab.wait_for("document.querySelector('.main-svg') && document.querySelector('h1').textContent")
            tab.wait_for("(document.querySelector('button[value=no]').click(), true)")
            assert tab.wait_for("document.querySelector('h1').textContent == '1 labels'")
            assert tab.wait_for("document.querySelectorAll('.main-svg').length >= 2")
        finally:
            tab.close()
    assert said == [{"item": "7", "label": "no"}]


def test_a_page_that_renews_itself_keeps_a_half_filled_form_and_clears_it_once_it_is_sent(chromium, tmp_path):
    said, looks = [], []

    def view():
        looks.append(1)
        form = Form("steer", [Field("name", "name"), Field("do", "", "choice", choices=["stop"])])
        sections = [Section("Steer", [form]), Section("Now", [Text(f"look {len(looks)}, sent {len(said)}")])]
        return Page("Live", sections=sections, refresh_s=0.2)

    with Server({"/": view}, {"steer": lambda body: said.append(body) or {}}) as server:
        tab = Tab(chromium, tmp_path, server.url)
        try:
            tab.wait_for("document.querySelector('input[name=name]') !== null")
            tab.wait_for("(document.querySelector('input[name=name]').value = 'c1', true)")
            seen = tab.wait_for("Number(document.body.textContent.match(/look (\\d+)/)[1])")
            assert tab.wait_for(f"Number(document.body.textContent.match(/look (\\d+)/)[1]) >= {seen + 3}")
            assert tab.wait_for("document.querySelector('input[name=name]').value") == "c1"
            assert tab.wait_for("document.querySelectorAll('main > section').length") == 2
            assert tab.wait_for("[...document.querySelectorAll('main h2')].map(one => one.textContent).join()") == (
                "Steer,Now"
            )
            tab.wait_for("(document.querySelector('button[value=stop]').click(), true)")
            assert tab.wait_for("document.body.textContent.includes('sent 1')")
            assert tab.wait_for("document.querySelector('input[name=name]').value == ''")
        finally:
            tab.close()
    assert said == [{"name": "c1", "do": "stop"}]


def test_the_style_names_no_colour_outside_its_two_palettes():
    folder = Path(charts.__file__).parent
    rules = (folder / "page.css").read_text().split("* { box-sizing", 1)[1].replace("#fff", "").replace("#ccc", "")
    assert not re.findall(r"#[0-9a-f]{3,6}\b", rules)
    assert not re.findall(r"#[0-9a-f]{6}\b", (folder / "charts.py").read_text() + (folder / "page.js").read_text())
