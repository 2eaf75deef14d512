"""The benchmark harness: fair turns, honest records, figures that only come from records."""

import json

import pytest

from benchmarks import harness, render
from benchmarks.harness import Claim, Result, interleave, watched_hardware, write_result

SPEED = Claim("speed", "Ten events, against walking.", 2.0, "x")
MEMORY = Claim("memory", "Ten events in little memory.", 1.0, "GiB", "<=")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    return tmp_path


def test_contestants_take_turns_and_every_second_round_runs_backwards():
    order = []
    taken = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=3, warmup=1)
    assert "".join(order) == "abbaabba"
    assert [len(taken[name].walls) for name in "ab"] == [3, 3]


def test_wall_and_processor_seconds_are_told_apart():
    import time

    taken = interleave({"sleep": lambda: time.sleep(0.05), "work": lambda: sum(range(1_000_000))}, runs=3)
    assert taken["sleep"].wall_s >= 0.05
    assert taken["sleep"].cpu_s < 0.03
    assert taken["work"].cpu_s > 0


def test_a_claim_holds_on_the_right_side_of_its_bar():
    assert [SPEED.holds(x) for x in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [MEMORY.holds(x) for x in (0.9, 1.0, 1.1)] == [True, True, False]


def test_a_record_has_every_field_that_a_reader_needs(folder):
    with watched_hardware() as hardware:
        pass
    result = Result("speed", 3.0, {"ours": {"wall_s": 1.0}, "walking": {"wall_s": 3.0}}, {"AP": 0.9}, [0, 1])
    record = json.loads(write_result(SPEED, result, hardware, quick=False).read_text())
    wanted = "claim sentence bar measured unit holds baseline quality seeds hardware versions command date why quick"
    assert set(wanted.split()) <= set(record)
    assert record["holds"] is True
    assert record["hardware"]["cores"] >= 1
    assert 0 <= record["hardware"]["steal"] <= 1
    assert "speed" in render.details([record])
    assert "| 3 x | yes |" in render.table([record])


def test_a_claim_that_misses_its_bar_must_say_why_and_is_shown(folder):
    with pytest.raises(ValueError, match="say `why`"):
        write_result(SPEED, Result("speed", 1.0), harness.hardware(), quick=False)
    path = write_result(SPEED, Result("speed", 1.0, why="the road was wet"), harness.hardware(), quick=False)
    record = json.loads(path.read_text())
    assert record["holds"] is False
    assert "**no**: the road was wet" in render.table([record])


def test_a_quick_run_never_replaces_a_full_one(folder):
    full = write_result(SPEED, Result("speed", 3.0), harness.hardware(), quick=False)
    quick = write_result(SPEED, Result("speed", 1.0), harness.hardware(), quick=True)
    assert full != quick
    assert harness.read_result("speed")["measured"] == 3.0


def test_only_the_marked_blocks_of_a_page_are_rewritten():
    page = "before\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nafter\n"
    new = render.rendered(page, [], lambda found: "new")
    assert new == "before\n<!-- claims:begin -->\n\nnew\n\n<!-- claims:end -->\nafter\n"
    assert render.rendered("no marks", [], lambda found: "new") == "no marks"


def test_a_block_that_names_claims_holds_these_alone():
    found = [{"claim": name} for name in ("etc_rate", "etc_counts", "santa_event", "mrd_optimal")]
    page = "<!-- claims:begin etc_* mrd_optimal -->\n<!-- claims:end -->"
    new = render.rendered(page, found, lambda some: " ".join(one["claim"] for one in some))
    assert new == "<!-- claims:begin etc_* mrd_optimal -->\n\netc_rate etc_counts mrd_optimal\n\n<!-- claims:end -->"


def test_every_claim_has_a_name_of_its_own_and_a_known_unit():
    names = [claim.name for _, claim in harness.claims()]
    assert len(names) == len(set(names))
