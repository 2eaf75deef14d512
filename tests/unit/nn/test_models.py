"""Rules that every model keeps, and those of the memory."""

import copy

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.errors import InvalidValueError
from stepwell.nn import TGN, TGATSettings, TGNSettings, models
from stepwell.nn.memory import NodeMemory
from stepwell.nn.time import TimeEncoding
from stepwell.storage import EventLog

USERS, ITEMS, EVENTS, FEATURES = 15, 10, 200, 4


def small_log(event_dim=FEATURES, node_dim=0):
    rng = np.random.default_rng(5)
    return EventLog.from_arrays(
        rng.integers(0, USERS, EVENTS),
        USERS + rng.integers(0, ITEMS, EVENTS),
        np.sort(rng.integers(0, 150, EVENTS)),
        features=rng.standard_normal((EVENTS, event_dim)).astype(np.float32) if event_dim else None,
        node_features=rng.standard_normal((USERS + ITEMS, node_dim)).astype(np.float32) if node_dim else None,
    )


def batches_for(model, log):
    return Pipeline(
        log, FixedBatches(40), negatives=UniformNegatives(3), sampler=Recent(model.k), hops=model.hops, prefetch=0
    )


def run(model, log, learn=True):
    """One epoch; returns the losses."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for batch in batches_for(model, log):
        logits = model.score(batch)
        target = torch.zeros_like(logits)
        target[:, 0] = 1.0
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        if learn:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.observe(batch)
        losses.append(loss.item())
    return losses


@pytest.fixture(params=list(models))
def name(request):
    return request.param


@pytest.mark.parametrize("node_dim", [0, 3])
@pytest.mark.parametrize("event_dim", [0, FEATURES])
def test_every_model_trains_with_and_without_features(name, event_dim, node_dim):
    torch.manual_seed(0)
    model = models[name](USERS + ITEMS, event_dim, node_dim)
    assert np.isfinite(run(model, small_log(event_dim, node_dim))).all()


def test_every_model_repeats_its_run_bit_for_bit(name):
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        runs.append(run(models[name](USERS + ITEMS, FEATURES), small_log()))
    assert runs[0] == runs[1]


def test_scoring_changes_no_state_and_a_restored_snapshot_scores_the_same(name):
    model = models[name](USERS + ITEMS, FEATURES).eval()
    batches = list(batches_for(model, small_log()))
    for batch in batches[:2]:
        model.score(batch)
        model.observe(batch)
    state = model.snapshot()
    first = model.score(batches[2]).detach()
    assert torch.equal(model.score(batches[2]), first)
    model.observe(batches[2])
    model.observe(batches[3])
    model.restore(state)
    assert torch.equal(model.score(batches[2]), first)


def test_a_state_dict_holds_pending_messages_too(name):
    model = models[name](USERS + ITEMS, FEATURES).eval()
    batches = list(batches_for(model, small_log()))
    for batch in batches[:2]:
        model.score(batch)
        model.observe(batch)
    other = models[name](USERS + ITEMS, FEATURES).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(model.score(batches[2]), other.score(batches[2]))


def test_forgetting_returns_to_the_first_epoch(name):
    model = models[name](USERS + ITEMS, FEATURES).eval()
    log = small_log()
    first = run(model, log, learn=False)
    model.forget()
    assert run(model, log, learn=False) == first


def test_observing_without_a_forward_pass_gives_the_same_memory():
    log = small_log()
    model = TGN(USERS + ITEMS, FEATURES).eval()
    twin = copy.deepcopy(model)
    for batch in batches_for(model, log):
        model.score(batch)
        model.observe(batch)
        twin.observe(batch)
    for one, two in zip(model.snapshot(), twin.snapshot(), strict=True):
        torch.testing.assert_close(one, two)


def test_candidate_scores_without_gradient_equal_those_with_it(name):
    model = models[name](USERS + ITEMS, FEATURES).eval()
    batch = next(iter(batches_for(model, small_log())))
    batch = batch.give(candidate_row=batch.candidate_row.repeat(1, 40))
    with torch.no_grad():
        fast = model.score(batch)
    torch.testing.assert_close(fast, model.score(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tgn", "jodie"])
def test_double_precision_takes_the_slow_twins_to_the_same_scores(name):
    torch.manual_seed(0)
    model = models[name](USERS + ITEMS, FEATURES).eval()
    precise = copy.deepcopy(model).double()
    for batch in batches_for(model, small_log()):
        got, wanted = model.score(batch), precise.score(batch)
        assert wanted.dtype == torch.float64
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
        model.observe(batch)
        precise.observe(batch)


def test_embeddings_have_one_row_a_target(name):
    model = models[name](USERS + ITEMS, FEATURES).eval()
    batch = next(iter(batches_for(model, small_log())))
    width = 300 if name == "zebra" else 100  # its own state beside one sum a list
    assert model.embed(batch).shape == (len(batch.levels[0].node), width)


def memory(**options):
    torch.manual_seed(0)
    return NodeMemory(5, 4, 2, TimeEncoding(3), **options)


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_the_last_event_of_a_node_wins_in_either_role():
    m = memory()
    m.post(ids(0, 1, 2), ids(1, 3, 0), ids(5, 5, 6), torch.arange(6.0).view(3, 2))
    assert m.pending_partner.tolist() == [2, 3, 0, 1, -1]
    assert m.pending_time.tolist() == [6, 5, 6, 5, 0]
    assert m.pending_feature[0].tolist() == [4.0, 5.0]
    assert m.pending_feature[3].tolist() == [2.0, 3.0]


def test_a_self_loop_is_its_own_partner():
    m = memory()
    m.post(ids(2), ids(2), ids(1), torch.ones(1, 2))
    assert m.pending_partner.tolist() == [-1, -1, 2, -1, -1]


def test_reading_the_memory_leaves_it_as_it_was():
    m = memory()
    m.post(ids(0), ids(1), ids(3), torch.ones(1, 2))
    before = m.snapshot()
    row, last_update = m(ids(0, 1, 2))
    assert row[:2].abs().sum() > 0
    assert last_update.tolist() == [3, 3, 0]
    for one, two in zip(before, m.snapshot(), strict=True):
        assert torch.equal(one, two)


def test_an_idle_node_keeps_zeros_or_takes_one_step_of_the_updater():
    assert not memory()(ids(3, 4)).row.any()
    m = memory(idle="update")
    cell = torch.nn.GRUCell(13, 4)
    weights = (m.input, m.state, m.input_bias, m.state_bias)
    for theirs, ours in zip(cell.parameters(), weights, strict=True):
        theirs.data.copy_(ours)
    torch.testing.assert_close(m(ids(3, 4)).row, cell(torch.zeros(2, 13), torch.zeros(2, 4)))


def test_time_encoding_is_one_at_age_zero():
    assert torch.equal(TimeEncoding(7)(torch.zeros(2)), torch.ones(2, 7))
    assert not list(TimeEncoding(7, learned=False).parameters())


@pytest.mark.parametrize(
    "build",
    [
        lambda: TGNSettings(hops=4),
        lambda: TGNSettings(hops=2, delta="memory"),
        lambda: TGNSettings(delta="edge"),
        lambda: TGATSettings(hops=0),
        lambda: TGN(3, settings=TGNSettings(heads=3)),
        lambda: TGN(0),
        lambda: memory(updater="lstm"),
        lambda: memory(idle="skip"),
        lambda: TimeEncoding(0),
        lambda: TGN(3, settings=TGNSettings(dropout=1.0)),
    ],
)
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(InvalidValueError):
        build()
