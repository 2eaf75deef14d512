"""A plan says what it chose, what that takes, why, and what else there was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import stepwell as sw
from stepwell.access import FixedBatches, Recent, Uniform
from stepwell.core import Cost, Machine, PlanNode
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.nn import TGN
from stepwell.plan import Plan, Setting, largest_miss, plan
from stepwell.plan.predict import EPOCH, STEP
from stepwell.storage import EventLog

SETTING = Setting(k=5, batch_size=100)


@pytest.fixture
def planned(log: EventLog, tgn: TGN, here: Machine) -> Plan:
    return plan(log, tgn, setting=SETTING, machine=here, accuracy="changed", price_per_core_hour=0.1)


def test_a_plan_prints_stages_totals_and_the_next_best_of_each_choice(planned: Plan) -> None:
    text = str(planned)
    for word in (
        EPOCH,
        STEP,
        "Neighbors",
        "Gather",
        "Read",
        "core-hours",
        "at 0.1 a core-hour",
        "next best",
        "of pairs repeat",
    ):
        assert word in text
    assert len(planned.table.splitlines()) == len(planned.alternatives) + 1
    assert sum(one.chosen for one in planned.alternatives) == 1


def test_the_choice_is_about_as_fast_as_the_fastest_alternative(planned: Plan) -> None:
    assert planned.seconds <= 1.031 * planned.alternatives[0].seconds
    assert [one.seconds for one in planned.alternatives] == sorted(one.seconds for one in planned.alternatives)


def test_the_planned_pipeline_is_built(planned: Plan, log: EventLog) -> None:
    assert sum(len(batch) for batch in planned.pipeline()) == len(log)


@pytest.mark.parametrize(("asked", "kept"), [("exact", {"same"}), ("bounded", {"same", "bounded"})])
def test_a_plan_keeps_the_accuracy_it_was_asked_for(
    log: EventLog, tgn: TGN, here: Machine, asked: str, kept: set[str]
) -> None:
    found = plan(log, tgn, setting=SETTING, machine=here, accuracy=asked, probe=False)  # type: ignore[arg-type]
    assert {choice.accuracy for choice in found.choices} <= kept
    assert all(stage.accuracy in kept for stage in found.pipeline().stages)
    assert "adaptive" not in found.table


def test_changed_batches_are_considered_where_they_are_allowed(planned: Plan) -> None:
    assert "adaptive" in planned.table and "fixed" in planned.table


def test_what_the_user_pins_is_kept(log: EventLog, tgn: TGN, here: Machine) -> None:
    pins = {"batches": FixedBatches(50), "sampler": Uniform(5), "prefetch": 0}
    found = plan(log, tgn, setting=SETTING, machine=here, probe=False, **pins)  # type: ignore[arg-type]
    pipeline = found.pipeline()
    assert pipeline.batches == FixedBatches(50) and pipeline.prefetch == 0
    assert "Uniform(k=5)" in str(pipeline) and "you chose it" in str(found)
    named = plan(log, tgn, setting=SETTING, machine=here, probe=False, batches="adaptive", sampler="window")
    assert named.names["batches"] == "adaptive" and named.names["sampler"] == "window"


@pytest.mark.parametrize("pin", [{"batches": "fixd"}, {"sampler": "recnt"}, {"accuracy": "roughly"}])
def test_an_unknown_name_is_refused(log: EventLog, tgn: TGN, here: Machine, pin: dict[str, str]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(pin))):
        plan(log, tgn, machine=here, probe=False, **pin)  # type: ignore[arg-type]


def test_an_unknown_model_is_refused_and_an_empty_log_too(log: EventLog, tgn: TGN, here: Machine) -> None:
    with pytest.raises(UnknownNameError, match="tgn"):
        plan(log, "tgm", machine=here)
    with pytest.raises(InvalidValueError, match="log"):
        plan(log[:0], tgn, machine=here)


def test_a_probe_changes_neither_the_model_nor_the_random_generator(log: EventLog, tgn: TGN, here: Machine) -> None:
    before = {name: value.clone() for name, value in tgn.state_dict().items()}
    state = torch.get_rng_state()
    plan(log, tgn, setting=SETTING, machine=here)
    assert all(torch.equal(value, before[name]) for name, value in tgn.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_formulas_predict_more_seconds_for_more_events(log: EventLog, tgn: TGN, here: Machine) -> None:
    seconds = [plan(log[:n], tgn, setting=SETTING, machine=here, probe=False).seconds for n in (500, 1_000, 3_000)]
    assert seconds == sorted(seconds) and seconds[0] < seconds[2] / 3


def test_formulas_predict_more_seconds_for_more_hops(log: EventLog, here: Machine) -> None:
    one, two = (plan(log, "tgn", hops=hops, machine=here, probe=False).seconds for hops in (1, 2))
    assert one < two


def test_another_question_reuses_the_probes(planned: Plan) -> None:
    exact = planned.what_if(accuracy="exact", prefetch=0, price_per_core_hour=0.2)
    assert exact.names["batches"] == "fixed" and exact.names["prefetch"] == "0"
    assert exact.planner.probes is planned.planner.probes  # type: ignore[attr-defined]
    assert planned.what_if().names == planned.names
    assert planned.what_if(batches=FixedBatches(10)).seconds > exact.seconds


def test_an_analysed_plan_has_a_measured_column_for_every_stage(planned: Plan) -> None:
    done = planned.analyze()
    missing = [node.name for _, node in done.tree.rows() if node.measured is None]
    assert missing == [] and "measured" in str(done) and "furthest off" in str(done)
    whole = done.tree.measured
    assert whole is not None and whole.rows == 3_000


def test_a_page_shows_a_bar_a_stage(planned: Plan, tmp_path: Path) -> None:
    text = planned.to_html(tmp_path / "plan.html")
    assert (tmp_path / "plan.html").read_text() == text
    assert "Neighbors" in text and "next best" in text and text.count('<script type="application/json">') == 1
    assert "measured" in planned.measured({STEP: Cost(seconds=1.0)}).to_html()


@pytest.fixture
def stored(log: EventLog, tmp_path: Path) -> EventLog:
    """Return the log with wide features that lie in a file."""
    np.save(tmp_path / "x.npy", np.ones((len(log), 512), np.float32))
    features = np.load(tmp_path / "x.npy", mmap_mode="r")
    return EventLog.of(replace(log.snapshot, event_feature=features))


def test_rows_that_do_not_fit_are_placed_and_what_if_they_did(stored: EventLog, here: Machine) -> None:
    small = plan(stored, "tgn", memory="3MiB", machine=here, probe=False)
    assert small.names["placement"] != "none"
    gather = next(node for _, node in small.tree.rows() if node.name == "Gather")
    assert gather.predicted.hit_rate is not None and 0 < gather.predicted.hit_rate < 1
    large = small.what_if(memory="8GiB")
    assert large.names["placement"] == "none" and "all rows fit" in str(large) and large.seconds < small.seconds
    assert small.what_if(placement="lru").names["placement"] == "lru"


def test_more_memory_never_reads_more(stored: EventLog, here: Machine) -> None:
    first = plan(stored, "tgn", memory="3MiB", machine=here, probe=False, placement="belady", prefetch=0)
    sizes = []
    for memory in ("3MiB", "4MiB", "5MiB", "6MiB"):
        tree = first.what_if(memory=memory).tree
        sizes.append(next(node.predicted.size_bytes or 0.0 for _, node in tree.rows() if node.name == "Gather"))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_rows_in_memory_need_no_placement(log: EventLog, tgn: TGN, here: Machine) -> None:
    found = plan(log, tgn, memory="100kB", machine=here, probe=False)
    assert found.names["placement"] == "none" and "in memory already" in str(found)


def test_the_package_itself_answers(log: EventLog, tgn: TGN, here: Machine) -> None:
    assert sw.plan(log, tgn, machine=here, probe=False).names["sampler"] == "recent"


def test_the_stage_that_was_furthest_off_is_named() -> None:
    def node(name: str, predicted: float, measured: float | None, *children: PlanNode) -> PlanNode:
        found = None if measured is None else Cost(seconds=measured)
        return PlanNode(name, "", Cost(seconds=predicted), found, children)

    tree = node("root", 10, 14, node("step", 9, 10, node("gather", 1, 4)))
    miss = largest_miss(tree)
    assert miss is not None and miss.name == "gather" and miss.share == pytest.approx(0.4)
    assert "gather" in str(miss) and "40% more" in str(miss)
    assert largest_miss(node("root", 1, None, node("step", 1, None))) is None


def test_the_recent_sampler_takes_as_many_neighbours_as_the_model(log: EventLog, tgn: TGN, here: Machine) -> None:
    found = plan(log, tgn, machine=here, probe=False).pipeline()
    assert str(Recent(5)) in str(found)
