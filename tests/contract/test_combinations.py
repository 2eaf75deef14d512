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
from stepwell.buffer.policy import policies
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import link_loss
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
}
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


class Run:
    """A pipeline, a model and an optimiser under one setting."""

    def __init__(self, log, setting):
        torch.manual_seed(3)
        place, reuse = setting["placement"], setting["reuse"]
        self.pipeline = Pipeline(
            log[8:],
            batchers[setting["batches"]](**BATCHERS[setting["batches"]]),
            negatives=UniformNegatives(1),
            sampler=samplers[setting["sampler"]](**SAMPLERS[setting["sampler"]]),
            hops=HOPS,
            reuse=None if reuse == "none" else EmbeddingReuse(rows=ROWS, policy=reuse),
            placement=None if place == "none" else policies[place](memory=MEMORY),
            stages=[Repeat()] if setting["dedup"] == "off" else [],
            prefetch=setting["prefetch"],
            seed=5,
        )
        self.model = TGN(log.num_nodes, 3, 2, TGNSettings(8, 8, 8, hops=HOPS, k=4, dropout=0.0))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)

    def train(self, batches):
        """Train on batches and return their losses."""
        losses = []
        for batch in batches:
            self.optimizer.zero_grad()
            loss = link_loss(self.model, batch)
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
        key = (setting["batches"], setting["sampler"], setting["reuse"], setting["dedup"])
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


@pytest.mark.parametrize("batches", batchers)
@pytest.mark.parametrize("sampler", samplers)
def test_distinct_rows_change_losses_by_rounding_alone(reference, batches, sampler):
    setting = {"batches": batches, "sampler": sampler, "reuse": "none"}
    once, repeated = (reference({**setting, "dedup": dedup}) for dedup in ("on", "off"))
    assert np.allclose(once, repeated, rtol=1e-3)
