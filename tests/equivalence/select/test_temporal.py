"""Temporal models on one log share index, sampled batches and T-PPR lists, and each is bit for bit what it is alone."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import stepwell as sw
from stepwell.access import TPPR, FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.errors import InvalidValueError
from stepwell.evaluate.metrics import average_precision
from stepwell.nn import TGAT, TGN, Zebra
from stepwell.nn.tgat import TGATSettings
from stepwell.nn.tgn import TGNSettings
from stepwell.nn.zebra import ZebraSettings
from stepwell.select.sampled import Sampling
from stepwell.select.searching import StudySettings, search
from stepwell.select.trainee import Trainee, as_trainee, seed_all
from stepwell.train.losses import link_loss
from tests.equivalence.select.test_bitwise import assert_same, states

K, SIZE, EPOCHS = 4, 30, 2
SETTINGS = StudySettings(partitions=3, slices=2, batch_size=SIZE, early=False)
SPACE = {"kind": ["tgn", "tgat"], "lr": [0.01, 0.001, 0.0001]}
CALLS = []


@dataclass(frozen=True)
class Counted:
    """The newest neighbours, counting how often they are asked for."""

    inner: Recent = field(default_factory=lambda: Recent(K))
    k: int = K

    def __call__(self, *query):
        CALLS.append(len(query[1]))
        return self.inner(*query)


def log(events=300):
    draw = np.random.default_rng(0)
    src, dst = draw.integers(0, 12, events), 12 + draw.integers(0, 6, events)
    return sw.EventLog.from_arrays(src, dst, np.arange(events))


def build(params, sampler=None):
    num_nodes = 18
    kind = params["kind"]
    if kind == "tgn":
        model = TGN(num_nodes, settings=TGNSettings(8, 8, 8, k=K))
    elif kind == "tgat":
        model = TGAT(num_nodes, settings=TGATSettings(8, 8, hops=1, k=K))
    else:
        model = Zebra(num_nodes, settings=ZebraSettings(8, 8, 8, k=K))
        sampler = model.settings.sampler
    rate = 1e30 if params.get("diverges") else params["lr"]
    return Trainee(
        model, torch.optim.Adam(model.parameters(), lr=rate), clip=1.0, sampling=Sampling(sampler or Recent(K))
    )


def counting(params):
    return build(params, Counted())


def run(folder, space=SPACE, model=build, **more):
    return search(
        space, log(), model, metric="mrr", epochs=EPOCHS, validation=0.2, folder=folder, settings=SETTINGS, **more
    )


def test_configurations_side_by_side_are_bitwise_those_of_separate_studies(tmp_path):
    together = run(tmp_path / "together")
    assert {len(span.configs) for span in together.records.spans} == {6}
    shared = states(together)
    for config in together.configs:
        single = {name: [value] for name, value in config.params.items()}
        alone = run(tmp_path / config.name, single)
        assert_same({"c0": shared[config.name]}, states(alone))
        assert [one.value for one in alone["c0"].scores] == [one.value for one in config.scores]


def test_a_configuration_is_the_model_that_a_plain_loop_trains_with_equal_average_precision(tmp_path):
    study = run(tmp_path)
    data = log()
    train, held = data[:240], data[240:]
    torch.set_num_threads(1)
    for config in study.configs:
        seed_all(0)
        trainee = as_trainee(build(config.params), config.params)
        model = trainee.model
        for epoch in range(EPOCHS):
            model.forget()
            model.train()
            for part in (train[:80], train[80:160], train[160:]):
                for batch in Pipeline(
                    part, FixedBatches(SIZE), negatives=UniformNegatives(), sampler=Recent(K), prefetch=0
                ).epoch(epoch):
                    trainee.optimizer.zero_grad()
                    link_loss(model, batch).backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    with torch.no_grad():
                        model.observe(batch)
                    trainee.optimizer.step()
        found = study.model(config.name)
        for name, value in model.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), (config.name, name)
        assert precision(found, held) == precision(model, held)


def precision(model, held):
    model.eval()
    target, score = [], []
    with torch.no_grad():
        for batch in Pipeline(held, FixedBatches(SIZE), negatives=UniformNegatives(), sampler=Recent(K), prefetch=0):
            logits = model.score(batch)
            target += [1] * len(logits) + [0] * len(logits)
            score += [*logits[:, 0].tolist(), *logits[:, 1].tolist()]
            model.observe(batch)
    return average_precision(target, score)


def test_the_sampler_is_asked_once_a_batch_for_all_configurations(tmp_path):
    CALLS.clear()
    study = run(tmp_path, model=counting)
    assert all(config.status == "finished" for config in study.configs)
    batches = EPOCHS * (3 * math.ceil(80 / SIZE) + 2 * math.ceil(30 / SIZE))
    assert len(CALLS) == batches


def test_other_samplings_make_other_groups_and_t_ppr_lists_are_built_once(tmp_path, monkeypatch):
    from stepwell.access import tppr

    built = []
    usual = tppr.TPPRIndex.build.__func__
    monkeypatch.setattr(
        tppr.TPPRIndex, "build", classmethod(lambda cls, *what: built.append(what[1:]) or usual(cls, *what))
    )
    study = run(tmp_path, {"kind": ["tgn", "zebra"], "lr": [0.01, 0.001]})
    groups = {frozenset(study[name].params["kind"] for name in span.configs) for span in study.records.spans}
    assert groups == {frozenset({"tgn"}), frozenset({"zebra"})}
    assert sorted(built) == sorted((K, alpha, beta) for alpha, beta in TPPR(2 * K, (0.3, 0.1), (0.5, 0.95)).pairs)


def test_one_that_diverges_ends_and_leaves_the_others_as_they_are(tmp_path):
    space = {"kind": "tgn", "lr": [0.01, 0.001], "diverges": [False, True]}
    mixed = run(tmp_path / "mixed", space)
    status = {config.params["diverges"]: config.status for config in mixed.configs}
    assert status == {False: "finished", True: "failed"}
    clean = run(tmp_path / "clean", {**space, "diverges": False})
    kept = [one for one in mixed.configs if one.status == "finished"]
    assert len(kept) == len(clean.configs) == 2
    for one, other in zip(kept, clean.configs, strict=True):
        mine, theirs = mixed.model(one.name).state_dict(), clean.model(other.name).state_dict()
        assert all(torch.equal(mine[name], value) for name, value in theirs.items())


@pytest.mark.distributed
def test_two_processes_map_one_index_and_give_the_same_bits(tmp_path):
    space = {"kind": ["tgn", "zebra"], "lr": [0.01, 0.001]}
    one, two = run(tmp_path / "one", space), run(tmp_path / "two", space, workers=2)
    assert_same(states(one), states(two))
    assert max(len(span.configs) for span in two.records.spans) == 1, "each process takes half of two"


def test_a_sampling_needs_an_event_log(tmp_path):
    arrays = (torch.zeros(60, 3), torch.zeros(60))
    study = search({"kind": "tgn", "lr": 0.1}, arrays, build, metric="mrr", folder=tmp_path, settings=SETTINGS)
    assert study["c0"].status == "failed"
    assert "event log" in study["c0"].reason
    with pytest.raises(InvalidValueError, match="sampling"):
        from stepwell.select.usual import usual_metric

        usual_metric("mrr").score(torch.nn.Linear(1, 1), arrays)
