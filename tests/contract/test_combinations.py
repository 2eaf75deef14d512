"""Every pair of plugs works together: it trains, is transparent where it promises to be, and resumes exactly.

The options come from the registries. A few settings that hold every pair of options of two axes are drawn greedily;
each trains a small TGN. An option with no example below fails the test that says so, not silently the matrix.
"""

from itertools import combinations, islice, product

import numpy as np
import pytest
import torch

from stepwell.access import Pipeline, UniformNegatives, batchers, samplers
from stepwell.access.repeat import Repeat
from stepwell.access.tppr_stream import TPPRStream
from stepwell.buffer.lru import LRU
from stepwell.buffer.policy import policies
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Cost
from stepwell.core.errors import CheckpointError
from stepwell.core.state import StateReader, StateWriter, read_state
from stepwell.nn import TGN, OutOfCore, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig, link_loss
from stepwell.train.state import load_model, load_optimizer, save_model, save_optimizer

BATCHERS = {"fixed": {"size": 12}, "time": {"width": 4}, "adaptive": {"max_loss": 14}}
SAMPLERS = {"recent": {"k": 4}, "uniform": {"k": 4}, "window": {"k": 4, "width": 9}, "tppr": {"k": 4}}
MEMORY = 400
"""Bytes of a placement: room for some of the rows and not for all."""
ROWS = 4
"""Embeddings that reuse keeps a layer: fewer than the nodes."""
AXES = {
    "batches": tuple(batchers),
    "sampler": tuple(samplers),
    "reuse": ("none", "mrd", "lru"),
    "placement": ("none", *policies),
    "prefetch": (0, 2),
    "dedup": ("on", "off"),
    "staleness": (0, 2),
}
CHANGING = ("batches", "sampler", "reuse", "dedup", "staleness")
"""Axes whose options may change values; the others promise not to."""
HOPS = 2


def allowed(setting):
    """Say whether a setting makes sense: placement and reuse are told distinct rows, so there must be such."""
    return setting["dedup"] == "on" or setting["placement"] == setting["reuse"] == "none"


def covering(axes):
    """Return settings that hold every pair of options of two axes: each time one that holds the most new pairs."""
    names = list(axes)
    every = [dict(zip(names, values, strict=True)) for values in product(*axes.values())]
    every = [setting for setting in every if allowed(setting)]
    pairs = [frozenset(combinations(sorted(setting.items(), key=str), 2)) for setting in every]
    left, chosen = frozenset().union(*pairs), []
    while left:
        best = max(range(len(every)), key=lambda i: len(pairs[i] & left))
        chosen.append(every[best])
        left -= pairs[best]
    return chosen


SETTINGS = covering(AXES)


def each_once(settings):
    """Return some of the settings that hold every option of every axis."""
    left, chosen = {(name, value) for name, values in AXES.items() for value in values}, []
    while left:
        chosen.append(max(settings, key=lambda setting: len(left & set(setting.items()))))
        left -= set(chosen[-1].items())
    return chosen


def named(setting):
    return "-".join(f"{value}" for value in setting.values())


@pytest.fixture(scope="module")
def log():
    random = np.random.default_rng(1)
    return EventLog.from_arrays(
        src=random.integers(0, 9, 70),
        dst=random.integers(9, 16, 70),
        time=np.sort(random.integers(0, 40, 70)),
        features=random.standard_normal((70, 3)),
        node_features=random.standard_normal((16, 2)),
        num_nodes=16,
    )


class Remembered:
    """A stage that reads the model's node memory: how much each source has lived through."""

    needs, gives = frozenset({"src"}), frozenset({"lived"})
    reads, writes = frozenset({"memory"}), frozenset()
    accuracy = "same"

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def __call__(self, batch):
        nodes, row = torch.unique(batch.tensor("src"), return_inverse=True)
        return batch.give(lived=self.model.memory(nodes).row.norm(dim=1)[row])

    def cost(self, stats, machine):
        return Cost(rows=stats.num_rows)

    def __str__(self):
        return "Remembered()"


def remembering_loss(model, batch):
    return link_loss(model, batch) + (batch.tensor("lived")[:, None] * model.score(batch)).mean()


class Run:
    """A pipeline, a model and an optimiser under one setting."""

    def __init__(self, log, setting, stages=(), store=None):
        torch.manual_seed(3)
        place, reuse = setting["placement"], setting["reuse"]
        self.model = TGN(log.num_nodes, 3, 2, TGNSettings(8, 8, 8, hops=HOPS, k=4, dropout=0.0), store)
        self.pipeline = Pipeline(
            log[8:],
            batchers[setting["batches"]](**BATCHERS[setting["batches"]]),
            negatives=UniformNegatives(1),
            sampler=samplers[setting["sampler"]](**SAMPLERS[setting["sampler"]]),
            hops=HOPS,
            reuse=None if reuse == "none" else EmbeddingReuse(rows=ROWS, policy=reuse),
            placement=None if place == "none" else policies[place](memory=MEMORY),
            stages=[Remembered(self.model), *stages, *([Repeat()] if setting["dedup"] == "off" else [])],
            prefetch=setting["prefetch"],
            staleness=setting["staleness"],
            seed=5,
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)

    def train(self, batches):
        """Train on batches and return their losses."""
        losses = []
        for batch in batches:
            self.optimizer.zero_grad()
            loss = remembering_loss(self.model, batch)
            loss.backward()
            with torch.no_grad():
                self.model.observe(batch)
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    def save(self):
        """Return the state of all."""
        writer = StateWriter()
        self.pipeline.save(writer.child("pipeline"))
        save_model(self.model, writer.child("model"))
        save_optimizer(self.optimizer, writer.child("optimizer"))
        return StateReader(writer.tensors, writer.values)

    def load(self, reader):
        """Continue from a state."""
        self.pipeline.load(reader.child("pipeline"))
        load_model(self.model, reader.child("model"))
        load_optimizer(self.optimizer, reader.child("optimizer"))


@pytest.fixture(scope="module")
def reference(log):
    """Return the losses of a setting's epoch with all that promises to be transparent at its plainest."""
    known = {}

    def losses(setting):
        key = tuple(setting[name] for name in CHANGING)
        if key not in known:
            run = Run(log, {**setting, "placement": "none", "prefetch": 0})
            known[key] = run.train(run.pipeline.epoch(1))
        return known[key]

    return losses


def test_every_registered_option_has_an_example():
    assert set(batchers) == set(BATCHERS)
    assert set(samplers) == set(SAMPLERS)


def test_every_pair_of_options_is_in_some_setting():
    for (one, firsts), (other, seconds) in combinations(AXES.items(), 2):
        for first, second in product(firsts, seconds):
            if {one: first, other: second}.get("dedup") == "off" and {"placement", "reuse"} & {one, other}:
                continue
            assert any(setting[one] == first and setting[other] == second for setting in SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_placement_and_prefetch_change_no_bit_of_any_loss(log, setting, reference):
    run = Run(log, setting)
    losses = run.train(run.pipeline.epoch(1))
    assert len(losses) > 3
    assert np.isfinite(losses).all()
    assert losses == reference(setting)


@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_a_run_that_was_cut_off_in_an_epoch_goes_on_with_the_same_bits(log, setting, reference):
    first = Run(log, setting)
    walk = first.pipeline.epoch(1)
    losses = first.train(islice(walk, 2))
    saved = first.save()
    walk.close()
    second = Run(log, setting)
    second.load(saved)
    assert losses + second.train(second.pipeline.epoch(1)) == reference(setting)


class Ranks:
    """A stage with a state of its own: T-PPR lists that follow the batches handed out, and rank their candidates."""

    needs, gives = frozenset({"src", "dst", "time", "candidate"}), frozenset({"rank"})
    reads = writes = frozenset({"lists"})
    accuracy = "same"

    def __init__(self):
        self.stream = TPPRStream(k=3)

    def __call__(self, batch):
        if batch.slice.index == 0:
            self.stream.forget()
        ends = (batch.array(name).astype(np.int64) for name in ("src", "dst", "time", "candidate"))
        return batch.give(rank=self.stream.score_then_observe(*ends))

    def cost(self, stats, machine):
        return Cost(rows=stats.num_rows)

    def save(self, writer):
        self.stream.save(writer)

    def load(self, reader):
        self.stream.load(reader)


class Killed(Exception):
    """The run is over at once."""


class Kill:
    """Ends a run at a step."""

    def __init__(self, at):
        self.at = at

    def on_batch(self, state, batch):
        if state.step == self.at:
            raise Killed

    def on_epoch(self, state, epoch):
        pass


def loop_of(log, setting, folder, *, lists=True):
    """Return a loop whose stages, model and node state out of core all have a state."""
    run = Run(log, setting, stages=[Ranks()] if lists else [], store=OutOfCore(folder / "rows", LRU(memory=300)))
    config = LoopConfig(epochs=1, learning_rate=1e-2, save_every=3, patience=None)

    def ranked_loss(model, batch):
        rank = batch.tensor("rank").to(torch.float32) if lists else 0.0
        return remembering_loss(model, batch) + (torch.as_tensor(rank) * model.score(batch)).mean()

    return Loop(run.model, run.pipeline, config, folder=folder, objective=ranked_loss)


def bits(loop):
    """Return all that a run is to end with: losses, weights, node state."""
    return [epoch.loss for epoch in loop.state.history], [*loop.model.parameters(), *loop.model.snapshot()]


@pytest.fixture(scope="module")
def trained(log, tmp_path_factory):
    """Return what a loop ends with that was never killed, with all that promises to be transparent at its plainest."""
    known = {}

    def result(setting):
        key = tuple(setting[name] for name in CHANGING)
        if key not in known:
            loop = loop_of(log, {**setting, "placement": "none", "prefetch": 0}, tmp_path_factory.mktemp("whole"))
            loop.fit()
            known[key] = bits(loop)
        return known[key]

    return result


@pytest.mark.parametrize("setting", each_once(SETTINGS), ids=named)
def test_a_loop_killed_in_an_epoch_ends_in_the_same_bits_with_every_stages_state(log, setting, trained, tmp_path):
    with pytest.raises(Killed):
        loop_of(log, setting, tmp_path).fit(callbacks=[Kill(4)])
    again = loop_of(log, setting, tmp_path)
    again.fit(resume=True)
    losses, tensors = bits(again)
    wanted_losses, wanted = trained(setting)
    assert losses == wanted_losses
    assert all(torch.equal(one, other) for one, other in zip(tensors, wanted, strict=True))


def test_a_checkpoint_holds_the_state_of_a_stage_and_without_it_the_bits_differ(log, trained, tmp_path):
    setting = SETTINGS[0]
    with pytest.raises(Killed):
        loop_of(log, setting, tmp_path).fit(callbacks=[Kill(4)])
    saved = read_state(tmp_path / "last")
    assert saved.has("batches/Ranks/time") and saved.has("model/part/memory/row")
    again = loop_of(log, setting, tmp_path)
    again.train.load = lambda reader: None
    again.fit(resume=True)
    assert bits(again)[0] != trained(setting)[0]


def test_a_checkpoint_of_other_batches_is_refused(log, tmp_path):
    setting = {**SETTINGS[0], "batches": "fixed", "sampler": "recent", "reuse": "none"}
    with pytest.raises(Killed):
        loop_of(log, setting, tmp_path).fit(callbacks=[Kill(4)])
    with pytest.raises(CheckpointError, match="other batches"):
        loop_of(log, {**setting, "sampler": "uniform"}, tmp_path).fit(resume=True)


@pytest.mark.parametrize("batches", batchers)
@pytest.mark.parametrize("sampler", samplers)
def test_distinct_rows_change_losses_by_rounding_alone(reference, batches, sampler):
    setting = {"batches": batches, "sampler": sampler, "reuse": "none", "staleness": 0}
    once, repeated = (reference({**setting, "dedup": dedup}) for dedup in ("on", "off"))
    assert np.allclose(once, repeated, rtol=1e-3)


def test_staleness_changes_values_only_behind_its_first_batches(reference):
    plain = {"batches": "fixed", "sampler": "recent", "reuse": "none", "dedup": "on"}
    fresh, stale = (reference({**plain, "staleness": staleness}) for staleness in (0, 2))
    assert fresh[0] == stale[0]
    assert fresh != stale
