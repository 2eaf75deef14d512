"""The live page of a study in a real headless browser: charts are drawn, and its buttons steer."""

import json

from stepwell.cli.search import live_server
from stepwell.select.searching import StudySettings, search
from tests.equivalence.select import selected
from tests.unit.view.test_in_a_browser import Tab


def test_a_study_is_drawn_and_its_buttons_steer(chromium, tmp_path):
    study = search(
        {"lr": [0.1, 0.01], "width": [8, 12]},
        selected.data(),
        selected.with_momentum,
        epochs=2,
        folder=tmp_path / "study",
        settings=StudySettings(partitions=2, slices=2),
    )
    with live_server(study) as server:
        tab = Tab(chromium, tmp_path, server.url)
        try:
            assert tab.wait_for("document.querySelectorAll('.main-svg').length >= 4")
            assert tab.wait_for("document.body.textContent.includes('Who leads')")
            tab.wait_for("(document.querySelector('input[name=name]').value = 'c1', true)")
            tab.wait_for("(document.querySelector('input[name=params]').value = 'lr=0.05', true)")
            tab.wait_for("(document.querySelector('button[value=clone]').click(), true)")
            assert tab.wait_for("document.body.textContent.length > 100")
            for _ in range(100):
                if (tmp_path / "study" / "commands.jsonl").exists():
                    break
                tab.wait_for("true")
        finally:
            tab.close()
    sent = json.loads((tmp_path / "study" / "commands.jsonl").read_text())
    assert (sent["do"], sent["config"], sent["params"]) == ("clone", "c1", {"lr": 0.05})
