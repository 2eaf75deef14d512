"""Node state goes out of core where memory does not hold it, and graphs are chosen where a device has them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.buffer.belady import Belady
from stepwell.buffer.lru import LRU
from stepwell.core import Machine, PlanNode
from stepwell.core.errors import InvalidValueError
from stepwell.core.overrides import override
from stepwell.jobs import Experiment, link_prediction
from stepwell.nn import APAN, TGN, APANSettings, OutOfCore, TGNSettings
from stepwell.plan import Plan, Setting, plan
from stepwell.plan.predict import STEP
from stepwell.plan.state import STATE, memory_of
from stepwell.storage import EventLog
from stepwell.train import link_loss

NODES = 6_000
SETTING = Setting(k=5, batch_size=50)


@pytest.fixture(scope="module")
def wide() -> EventLog:
    """A short log of many nodes: the state of a model over it is larger than all else."""
    random = np.random.default_rng(3)
    ends = random.integers(0, NODES // 2, 600), random.integers(NODES // 2, NODES, 600)
    return EventLog.from_arrays(*ends, np.arange(600), num_nodes=NODES)


@pytest.fixture
def model(wide: EventLog) -> TGN:
    torch.manual_seed(0)
    return TGN(NODES, 0, 0, TGNSettings(32, 8, 8, k=5))


def choice(found: Plan, place: str) -> tuple[str, str]:
    return next((one.name, str(one)) for one in found.choices if one.place == place)


def line(found: Plan) -> PlanNode | None:
    return next((node for _, node in found.tree.rows() if node.name == STATE), None)


def asked(wide: EventLog, model: TGN | APAN, **options: object) -> Plan:
    return plan(wide, model, setting=SETTING, machine=Machine(threads=1), probe=False, **options)  # type: ignore[arg-type]


def test_state_stays_in_host_memory_where_it_fits(wide: EventLog, model: TGN) -> None:
    for memory, why in ((None, "no memory was named"), ("64MiB", "it fits beside weights and index")):
        found = asked(wide, model, memory=memory)
        name, text = choice(found, "state")
        assert name == "host" and why in text
        assert line(found) is None


def test_state_goes_out_of_core_where_it_does_not_fit_and_the_plan_says_why_and_what_it_costs(
    wide: EventLog, model: TGN
) -> None:
    found = asked(wide, model, memory="600KiB")
    name, text = choice(found, "state")
    assert name != "host" and "do not fit beside" in text and "next best" in text
    node = line(found)
    assert node is not None and node.predicted.rows and node.predicted.size_bytes and node.predicted.seconds
    assert node.predicted.hit_rate is not None and 0 < node.predicted.hit_rate < 1
    assert {one.names[5] for one in found.alternatives}.isdisjoint({"host", "belady", "interval"})
    assert found.seconds > asked(wide, model, memory="64MiB").seconds
    assert found.what_if(memory="64MiB").names["state"] == "host"
    assert found.planner.state_room_bytes is not None and found.planner.state_room_bytes < 600 << 10


def test_less_room_is_never_predicted_to_read_less(wide: EventLog, model: TGN) -> None:
    lines = [line(asked(wide, model, state=LRU(memory=room))) for room in (64 << 10, 16 << 10, 1)]
    read = [node.predicted.size_bytes for node in lines if node is not None]
    assert len(read) == 3 and read[0] <= read[1] <= read[2] and read[0] < read[2]  # type: ignore[operator]


def test_the_predicted_rows_are_those_that_a_run_reads(wide: EventLog, model: TGN) -> None:
    done = asked(wide, model, state=LRU(memory=24 << 10), batches="fixed", prefetch=0).analyze()
    node = line(done)
    assert node is not None and node.measured is not None and node.measured.rows is not None
    assert node.measured.hit_rate == pytest.approx(node.predicted.hit_rate, abs=0.05)
    assert model.memory.stored is None and len(model.memory.memory) == NODES


def test_mail_goes_out_of_core_where_it_does_not_fit_and_the_rows_read_are_those_predicted(wide: EventLog) -> None:
    torch.manual_seed(0)
    model = APAN(NODES, settings=APANSettings(16, 8, slots=3, k=5))
    found = asked(wide, model, memory="600KiB")
    assert (
        choice(found, "state")[0] != "host" and f"its {model.mailbox.core_bytes:,} bytes" in choice(found, "state")[1]
    )
    assert choice(asked(wide, model, memory="64MiB"), "state")[0] == "host"
    done = asked(wide, model, state=LRU(memory=24 << 10), batches="fixed", prefetch=0).analyze()
    node = line(done)
    assert node is not None and node.measured is not None and node.measured.rows is not None
    assert node.measured.rows == node.predicted.rows
    assert node.measured.hit_rate == pytest.approx(node.predicted.hit_rate)
    assert model.mailbox.stored is None and len(model.mailbox.mail) == NODES


def test_a_model_whose_state_is_elsewhere_already_is_planned_as_it_is(wide: EventLog, tmp_path: Path) -> None:
    stored = TGN(NODES, 0, 0, TGNSettings(32, 8, 8, k=5), OutOfCore(tmp_path, LRU(memory="100KiB")))
    found = asked(wide, stored)
    name, text = choice(found, "state")
    assert name == "lru" and "the model keeps it there" in text and line(found) is None


def test_state_that_cannot_be_elsewhere_stays_and_a_pin_is_refused(wide: EventLog) -> None:
    found = plan(wide, "graphmixer", setting=SETTING, machine=Machine(threads=1), probe=False, memory="1KiB")
    assert choice(found, "state")[0] == "host" and "no node state" in choice(found, "state")[1]
    with pytest.raises(InvalidValueError, match="node state"):
        plan(wide, "graphmixer", setting=SETTING, machine=Machine(threads=1), probe=False, state="lru")


@pytest.mark.parametrize("pin", ["belady", Belady(memory=1)])
def test_a_policy_that_needs_the_future_is_refused(wide: EventLog, model: TGN, pin: str | Belady) -> None:
    with pytest.raises(InvalidValueError, match="without foresight"):
        asked(wide, model, state=pin)


def batches(wide: EventLog) -> Pipeline:
    return Pipeline(wide, FixedBatches(50), negatives=UniformNegatives(), sampler=Recent(5), prefetch=0)


def trained(model: TGN, wide: EventLog) -> list[float]:
    losses = []
    for batch in batches(wide):
        loss = link_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        model.observe(batch)
        losses.append(float(loss.detach()))
    return losses


def test_a_moved_state_and_a_copy_of_it_give_the_bits_of_one_in_core(
    wide: EventLog, model: TGN, tmp_path: Path
) -> None:
    moved = copy.deepcopy(model)
    trained(model.eval(), wide)
    trained(moved.eval(), wide)
    moved.memory.move(OutOfCore(tmp_path, LRU(memory="20KiB")))
    twin = copy.deepcopy(moved)
    wanted = trained(model, wide)
    assert trained(moved, wide) == wanted
    assert trained(twin, wide) == wanted  # what the first did since is its own
    assert all(torch.equal(a, b) for a, b in zip(twin.snapshot(), moved.snapshot(), strict=True))
    path = twin.memory.stored.path  # type: ignore[union-attr]
    assert path.exists() and path != moved.memory.stored.path  # type: ignore[union-attr]


def find_step(tree: PlanNode) -> float:
    return next(node.predicted.seconds or 0.0 for _, node in tree.rows() if node.name == STEP)


def test_graphs_are_chosen_on_a_device_for_fixed_exact_batches_alone(wide: EventLog, model: TGN) -> None:
    planner = asked(wide, model, accuracy="changed").planner
    here = replace(planner, setting=replace(SETTING, device="cuda"))  # type: ignore[type-var]
    measured = replace(planner, machine=Machine(threads=1, device_step_s=3e-3, replay_s=1e-3))  # type: ignore[type-var]
    every = {one.names for one in here.combinations()}  # type: ignore[attr-defined]
    assert {names[0] for names in every if names[6] == "graphed"} == {"fixed"}
    assert {names[0] for names in every if names[6] == "eager"} > {"fixed"}
    plain = [one for one in here.combinations() if one.names[6] == "eager"]  # type: ignore[attr-defined]
    usual = next(one for one in plain if one.prefetch.value == 0)
    graphed = usual._replace(steps=next(one for one in here.options[6] if one.value))  # type: ignore[attr-defined]
    for there, saved in ((planner, 0.0), (measured, 2e-3)):  # only launches that were measured are saved
        found = [find_step(there.tree(one)) for one in (usual, graphed)]  # type: ignore[attr-defined]
        assert found[1] == pytest.approx(max(0.0, found[0] - 12 * saved))


def test_there_are_no_graphs_without_a_device_or_with_state_out_of_core(wide: EventLog, model: TGN) -> None:
    found = asked(wide, model)
    assert choice(found, "steps")[0] == "eager" and "no CUDA device" in choice(found, "steps")[1]
    with pytest.raises(InvalidValueError, match="steps"):
        asked(wide, model, steps="graphed")


def test_reuse_is_considered_only_when_bounded_values_are_allowed(wide: EventLog) -> None:
    deep = TGN(NODES, 0, 0, TGNSettings(8, 8, 8, k=5, hops=2))
    options = {"setting": replace(SETTING, hops=2, hop_time="root"), "machine": Machine(threads=1), "probe": False}
    for accuracy, wanted in (("exact", {"none"}), ("bounded", {"none", "mrd"})):
        found = plan(wide, deep, accuracy=accuracy, **options)  # type: ignore[arg-type]
        assert {one.names[2] for one in found.alternatives} == wanted


@pytest.mark.parametrize(("name", "memory"), [("tgn", "350KiB"), ("apan", "1MiB")])
def test_a_job_puts_state_where_the_plan_says_and_trains_the_same_there(
    wide: EventLog, tmp_path: Path, name: str, memory: str
) -> None:
    small = ["model.dim=8", "loop.epochs=1", "evaluation.ranking=20", "batches.size=50", "sampling.k=4"]
    chosen = override(Experiment(), [*small, f"model.name={name}"])
    here = link_prediction(wide, experiment=chosen)
    there = link_prediction(wide, experiment=chosen, memory=memory, folder=tmp_path)
    assert there.experiment.state.policy != "host"
    assert Experiment.from_json(there.experiment.to_json()) == there.experiment
    results = [here.fit(), there.fit()]
    moved = memory_of(there.model)
    assert moved is not None and moved.stored is not None
    assert [score.value for score in results[0].scores] == [score.value for score in results[1].scores]
    node = next(node for _, node in results[1].plan.rows() if node.name == "Model step")
    assert node.measured is not None


def test_a_job_refuses_state_out_of_core_for_a_model_that_cannot(wide: EventLog) -> None:
    chosen = override(Experiment(), ["model.name=graphmixer", "state.policy=lru"])
    with pytest.raises(InvalidValueError, match="graphmixer"):
        _ = link_prediction(wide, experiment=chosen).model
    with pytest.raises(InvalidValueError, match="without foresight"):
        _ = link_prediction(wide, experiment=override(Experiment(), ["state.policy=belady"])).model
