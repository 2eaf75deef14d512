"""Node state out of core: whatever the budget and the policy, a model trains, scores and resumes as in core."""

import copy
import gc
import os

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.buffer.belady import Belady
from stepwell.buffer.lru import LRU
from stepwell.buffer.policy import policies
from stepwell.core.errors import CheckpointError, DataError, InvalidValueError
from stepwell.core.state import StateWriter, read_state, write_state
from stepwell.evaluate import Evaluation, p1
from stepwell.nn.apan import APAN, APANSettings
from stepwell.nn.dyrep import DyRep, DyRepSettings
from stepwell.nn.jodie import JODIE, JODIESettings
from stepwell.nn.stored_memory import gather_state, memory_columns, trace_memory
from stepwell.nn.stored_rows import OutOfCore
from stepwell.nn.tgn import TGN, TGNSettings
from stepwell.nn.zebra import Zebra, ZebraSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig, link_loss
from stepwell.train.state import load_model, load_optimizer, save_model, save_optimizer

EVENTS, NODES, WIDTH = 240, 40, 3
ROW = 16 + 4 * (8 + WIDTH) + 4
BUDGETS = {"no row": 1, "one row": ROW, "some rows": 12 * ROW, "all rows": NODES * ROW}


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    return EventLog.from_arrays(
        rng.integers(0, 25, EVENTS),
        25 + rng.integers(0, 15, EVENTS),
        np.sort(rng.integers(0, EVENTS // 2, EVENTS)),
        features=rng.standard_normal((EVENTS, WIDTH)).astype(np.float32),
        num_nodes=NODES,
    )


def tgn(store=None, **settings):
    return TGN(NODES, WIDTH, 0, TGNSettings(8, 6, 8, k=3, **settings), store)


def apan(store=None, hops=1):
    return APAN(NODES, WIDTH, 0, APANSettings(8, 6, slots=3, k=3, hops=hops), store)


MODELS = {
    "tgn": tgn,
    "tgn of 2 hops": lambda store=None: tgn(store, hops=2),
    "tgn on memory age": lambda store=None: tgn(store, delta="memory", idle="update"),
    "jodie": lambda store=None: JODIE(NODES, WIDTH, 0, JODIESettings(8, 6), store),
    "dyrep": lambda store=None: DyRep(NODES, WIDTH, 0, DyRepSettings(8, 6, k=3), store),
    "zebra": lambda store=None: Zebra(NODES, WIDTH, 0, ZebraSettings(8, 6, 8, k=3, alpha=(0.3,), beta=(0.5,)), store),
    "apan": apan,
    "apan without neighbours": lambda store=None: apan(store, 0),
    "apan of 2 hops": lambda store=None: apan(store, 2),
}
MAIL_ROW = apan().mailbox.row_bytes


def pipeline(log, model, begin=0, end=EVENTS):
    return Pipeline(
        log[begin:end],
        FixedBatches(20),
        negatives=UniformNegatives(2),
        sampler=model.settings.sampler if isinstance(model, Zebra) else Recent(model.k),
        hops=model.hops,
        prefetch=0,
        seed=4,
    )


class Run:
    """A model and an optimiser from the same seed."""

    def __init__(self, build, store=None):
        torch.manual_seed(7)
        self.model = build(store)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)

    def train(self, batches, start=0):
        losses = []
        for number, batch in enumerate(batches, start):
            torch.manual_seed(number)  # dropout
            self.optimizer.zero_grad()
            loss = link_loss(self.model, batch)
            loss.backward()
            self.model.observe(batch)
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    @torch.no_grad()
    def evaluate(self, batches):
        self.model.eval()
        scores = []
        for batch in batches:
            scores.append(self.model.score(batch))
            self.model.observe(batch)
        self.model.train()
        return torch.cat(scores)

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]

    def save(self, writer):
        save_model(self.model, writer.child("model"))
        save_optimizer(self.optimizer, writer.child("optimizer"))

    def load(self, reader):
        load_model(self.model, reader.child("model"))
        load_optimizer(self.optimizer, reader.child("optimizer"))


def same(ones, others):
    return len(ones) == len(others) and all(
        one.shape == other.shape and torch.equal(one, other) for one, other in zip(ones, others, strict=True)
    )


@pytest.fixture(scope="module")
def in_core(log):
    """Return what a model in core gives: losses, weights, state, scores and the state after them."""
    known = {}

    def results(name):
        if name not in known:
            run = Run(MODELS[name])
            losses = run.train(pipeline(log, run.model, 0, 160))
            weights, state = run.weights(), run.model.snapshot()
            scores = run.evaluate(pipeline(log, run.model, 160))
            known[name] = losses, weights, state, scores, run.model.snapshot()
        return known[name]

    return results


def check_equals_in_core(run, log, results):
    losses, weights, state, scores, last = results
    assert torch.equal(run.train(pipeline(log, run.model, 0, 160)), losses)
    assert same(run.weights(), weights)
    assert same(run.model.snapshot(), state)
    assert torch.equal(run.evaluate(pipeline(log, run.model, 160)), scores)
    assert same(run.model.snapshot(), last)


@pytest.mark.parametrize("budget", BUDGETS)
def test_losses_weights_state_and_scores_are_those_in_core_under_any_budget(tmp_path, log, in_core, budget):
    run = Run(tgn, OutOfCore(tmp_path, LRU(BUDGETS[budget])))
    check_equals_in_core(run, log, in_core("tgn"))

    stored = run.model.memory.stored
    assert stored.row_bytes == ROW
    assert stored.traffic.tier_bytes <= BUDGETS[budget]
    assert (stored.traffic.hits > 0) == (budget != "no row")
    if budget == "all rows":
        assert stored.traffic.misses <= NODES
        assert stored.traffic.written_bytes <= 2 * NODES * ROW  # two snapshots, each row once


@pytest.mark.parametrize("model", [name for name in MODELS if name != "tgn"])
def test_every_model_with_memory_works_out_of_core(tmp_path, log, in_core, model):
    check_equals_in_core(Run(MODELS[model], OutOfCore(tmp_path, LRU(9 * ROW))), log, in_core(model))


@pytest.mark.parametrize("policy", policies)
def test_every_policy_gives_the_same_bits(tmp_path, log, in_core, policy):
    run = Run(tgn, OutOfCore(tmp_path, policies[policy](memory=9 * ROW)))
    stored = run.model.memory.stored
    stored.foresee(trace_memory(pipeline(log, run.model, 0, 160), NODES, ROW))
    check_equals_in_core(run, log, in_core("tgn"))
    assert stored.traffic.hits > 0
    assert stored.traffic.tier_bytes <= 9 * ROW


@pytest.mark.parametrize("budget", [1, MAIL_ROW, 12 * MAIL_ROW, NODES * MAIL_ROW])
def test_mail_is_that_in_core_under_any_budget(tmp_path, log, in_core, budget):
    run = Run(apan, OutOfCore(tmp_path, LRU(budget)))
    check_equals_in_core(run, log, in_core("apan"))
    traffic = run.model.mailbox.stored.traffic
    assert traffic.tier_bytes <= budget
    assert (traffic.hits > 0) == (budget >= MAIL_ROW)


@pytest.mark.parametrize("policy", policies)
def test_every_policy_gives_the_same_mail(tmp_path, log, in_core, policy):
    run = Run(apan, OutOfCore(tmp_path, policies[policy](memory=9 * MAIL_ROW)))
    mailbox = run.model.mailbox
    mailbox.stored.foresee(mailbox.trace(pipeline(log, run.model, 0, 160)))
    check_equals_in_core(run, log, in_core("apan"))
    assert mailbox.stored.traffic.hits > 0
    assert mailbox.stored.traffic.tier_bytes <= 9 * MAIL_ROW


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_the_trace_of_mail_foresees_just_the_rows_that_training_reads_and_changes(tmp_path, log, hops):
    run = Run(lambda store=None: apan(store, hops), OutOfCore(tmp_path, Belady(NODES * MAIL_ROW)))
    mailbox = run.model.mailbox
    trace = mailbox.trace(pipeline(log, run.model))
    mailbox.stored.foresee(trace)
    run.train(pipeline(log, run.model))

    traffic = mailbox.stored.traffic
    assert traffic.hits + traffic.misses == len(trace.ids)
    assert traffic.misses == len(np.unique(trace.ids))
    changed = mailbox.snapshot()[3] > 0
    assert np.array_equal(np.unique(trace.ids[trace.writes]), np.flatnonzero(changed))


def test_mail_moved_out_of_core_in_the_middle_goes_on_with_the_same_bits_and_so_does_its_copy(tmp_path, log, in_core):
    losses, weights, state, scores, _ = in_core("apan")
    run = Run(apan)
    batches = list(pipeline(log, run.model, 0, 160))
    run.train(batches[:5])
    whole = run.model.mailbox.core_bytes
    run.model.mailbox.move(OutOfCore(tmp_path, LRU(3 * MAIL_ROW)))
    assert NODES * (MAIL_ROW - 8) < whole <= NODES * MAIL_ROW and run.model.mailbox.core_bytes == 0
    twin = copy.deepcopy(run.model)
    assert torch.equal(run.train(batches[5:], 5), losses[5:])
    assert same(run.weights(), weights)
    assert same(run.model.snapshot(), state)
    before = twin.snapshot()
    assert not same(before, state)  # what the first did since is its own
    for one in (run.model, twin):
        one.restore(state)
        one.load_state_dict(run.model.state_dict())
        assert torch.equal(Run(lambda store=None, one=one: one).evaluate(pipeline(log, one, 160)), scores)


def test_mail_forgotten_gives_the_disk_back(tmp_path, log):
    run = Run(apan, OutOfCore(tmp_path, LRU(9 * MAIL_ROW)))
    run.train(pipeline(log, run.model, 0, 160))
    run.model.snapshot()
    assert (tmp_path / "memory.rows").stat().st_blocks > 0
    run.model.forget()
    assert (tmp_path / "memory.rows").stat().st_blocks == 0
    assert same(run.model.snapshot(), apan().snapshot())


def test_the_trace_foresees_just_the_rows_that_training_reads(tmp_path, log):
    run = Run(tgn, OutOfCore(tmp_path, Belady(NODES * ROW)))
    trace = trace_memory(pipeline(log, run.model), NODES, ROW)
    run.model.memory.stored.foresee(trace)
    run.train(pipeline(log, run.model))

    traffic = run.model.memory.stored.traffic
    assert traffic.hits + traffic.misses == len(trace.ids)
    assert traffic.misses == len(np.unique(trace.ids))
    ends = [np.unique([batch.array("src"), batch.array("dst")]) for batch in pipeline(log, run.model)]
    for number, nodes in enumerate(ends):
        written = trace.writes[trace.indptr[number] : trace.indptr[number + 1]]
        assert np.array_equal(trace.batch(number)[written], nodes)


def test_a_policy_with_foresight_keeps_nobody_before_it_has_a_trace(tmp_path, log, in_core):
    run = Run(tgn, OutOfCore(tmp_path, Belady(NODES * ROW)))
    check_equals_in_core(run, log, in_core("tgn"))
    assert run.model.memory.stored.traffic.hits == run.model.memory.stored.traffic.tier_bytes == 0


def test_a_snapshot_is_deep_and_restoring_it_returns_to_it(tmp_path, log, in_core):
    _, _, state, scores, last = in_core("tgn")
    run = Run(tgn, OutOfCore(tmp_path, LRU(9 * ROW)))
    run.train(pipeline(log, run.model, 0, 160))
    kept = run.model.snapshot()
    for _ in range(2):
        assert torch.equal(run.evaluate(pipeline(log, run.model, 160)), scores)
        assert same(run.model.snapshot(), last)
        assert same(kept, state)
        run.model.restore(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.rows"]


def test_a_snapshot_goes_from_core_to_a_file_and_back(tmp_path, log, in_core):
    _, weights, state, scores, _ = in_core("tgn")
    run, core = Run(tgn, OutOfCore(tmp_path, LRU(9 * ROW))), Run(tgn)
    for one in (run, core):
        for parameter, value in zip(one.model.parameters(), weights, strict=True):
            parameter.data.copy_(value)
    run.model.restore(state)
    core.model.restore(run.model.snapshot())
    for one in (run, core):
        assert torch.equal(one.evaluate(pipeline(log, one.model, 160)), scores)


def test_forgetting_returns_to_the_empty_memory_and_gives_the_disk_back(tmp_path, log, in_core):
    run = Run(tgn, OutOfCore(tmp_path, LRU(9 * ROW)))
    run.train(pipeline(log, run.model, 0, 160))
    run.model.snapshot()
    assert (tmp_path / "memory.rows").stat().st_blocks > 0
    run.model.forget()
    assert (tmp_path / "memory.rows").stat().st_blocks == 0
    assert same(run.model.snapshot(), tgn().snapshot())

    again = Run(tgn)
    again.model.load_state_dict({**again.model.state_dict(), **dict(run.model.named_parameters())})
    assert torch.equal(
        run.evaluate(pipeline(log, run.model, 0, 160)), again.evaluate(pipeline(log, again.model, 0, 160))
    )


@pytest.mark.parametrize("model", ["tgn", "jodie", "dyrep", "apan"])
def test_a_run_saved_in_the_middle_of_an_epoch_continues_with_the_same_bits(tmp_path, log, in_core, model):
    losses, weights, state, _, _ = in_core(model)
    stopped = Run(MODELS[model], OutOfCore(tmp_path / "a", LRU(9 * ROW)))
    batches = list(pipeline(log, stopped.model, 0, 160))
    stopped.train(batches[:5])
    write_state(tmp_path / "state", stopped.save)
    in_memory = StateWriter()
    stopped.save(in_memory)
    stopped.train(batches[5:], 5)  # what happens after a save changes nothing of it

    resumed = Run(MODELS[model], OutOfCore(tmp_path / "b", LRU(2 * ROW)))
    resumed.train(batches[:2])
    for reader in (read_state(tmp_path / "state"), in_memory.reader()):
        resumed.load(reader)
        assert torch.equal(resumed.train(batches[5:], 5), losses[5:])
        assert same(resumed.weights(), weights)
        assert same(resumed.model.snapshot(), state)


def test_a_loop_with_validation_ends_as_in_core_and_restores_its_best_state(tmp_path, log):
    found = []
    for store in (None, OutOfCore(tmp_path, LRU(9 * ROW))):
        torch.manual_seed(7)
        model = tgn(store)
        config = LoopConfig(epochs=2, learning_rate=1e-2, patience=None)
        loop = Loop(
            model, pipeline(log, model, 0, 160), config, Evaluation(pipeline(log, model, 160), p1("validation"))
        )
        result = loop.fit()
        found.append([[(e.loss, dict(e.scores)) for e in result.history], model.snapshot()])
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


def test_a_checkpoint_of_another_shape_or_of_a_memory_in_core_is_refused(tmp_path):
    run = Run(tgn, OutOfCore(tmp_path / "a", LRU(9 * ROW)))
    write_state(tmp_path / "state", run.save)
    stored = read_state(tmp_path / "state").child("model").child("part/memory")
    other = OutOfCore(tmp_path / "b", LRU(9 * ROW))
    with pytest.raises(CheckpointError, match="Use the model it was made with"):
        other.open(NODES, memory_columns(8, WIDTH + 2)).load(stored)
    with pytest.raises(CheckpointError, match=r"expected .* in"):
        other.open(NODES + 1, memory_columns(8, WIDTH)).load(stored)

    write_state(tmp_path / "core", Run(tgn).save)
    with pytest.raises(CheckpointError, match="does not fit TGN"):
        run.load(read_state(tmp_path / "core"))
    with pytest.raises(CheckpointError, match="no file 'rows'"):
        run.model.memory.stored.load(StateWriter().reader())


def test_errors_of_the_file_say_which_file_and_what_to_do(tmp_path, log):
    kept = OutOfCore(tmp_path / "a", LRU(ROW)).open(NODES, memory_columns(8, WIDTH))
    with pytest.raises(DataError, match=r"memory\.rows: another memory uses it.*choose another"):
        OutOfCore(tmp_path / "a", LRU(ROW)).open(NODES, memory_columns(8, WIDTH))
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"memory\.rows: it cannot be made"):
        OutOfCore(tmp_path / "taken", LRU(ROW)).open(NODES, memory_columns(8, WIDTH))
    with pytest.raises(InvalidValueError, match="memory"):
        OutOfCore(tmp_path / "b", LRU("lots")).open(NODES, memory_columns(8, WIDTH))

    none = torch.full((NODES,), -1)
    os.truncate(tmp_path / "a" / "memory.rows", 5 * ROW)
    with pytest.raises(DataError, match=r"memory\.rows.*could not be read"):
        gather_state(kept, torch.arange(NODES), none)


def test_the_file_is_gone_when_the_memory_is(tmp_path):
    kept = OutOfCore(tmp_path, LRU(ROW)).open(NODES, memory_columns(8, WIDTH))
    assert [path.name for path in tmp_path.iterdir()] == ["memory.rows"]
    del kept
    gc.collect()
    assert not list(tmp_path.iterdir())
