"""What APAN sends to whom, and what a DyRep's message tells of the partner's neighbourhood."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.errors import InvalidValueError
from stepwell.nn import APAN, APANSettings, DyRep, DyRepSettings
from stepwell.storage import EventLog

NODES = 6


def chain():
    """0-1, then 1-2, then 2-3 and 4-5."""
    feature = np.arange(4, dtype=np.float32)[:, None]
    return EventLog.from_arrays([0, 1, 2, 4], [1, 2, 3, 5], [1, 2, 3, 4], features=feature, num_nodes=NODES)


def batches_of(log, model, size=1):
    return Pipeline(
        log,
        FixedBatches(size),
        negatives=UniformNegatives(1),
        sampler=Recent(model.k),
        hops=model.hops,
        prefetch=0,
    )


def apan(hops):
    torch.manual_seed(0)
    return APAN(NODES, 1, settings=APANSettings(dim=4, time_dim=3, slots=3, k=2, hops=hops)).eval()


@pytest.mark.parametrize(
    ("hops", "received"), [(0, [1, 2, 2, 1, 1, 1]), (1, [2, 3, 2, 1, 1, 1]), (2, [3, 3, 2, 1, 1, 1])]
)
def test_mail_reaches_the_neighbours_from_before_the_event_and_no_one_else(hops, received):
    model = apan(hops)
    for batch in batches_of(chain(), model):
        model.observe(batch)
    assert model.mailbox.received.tolist() == received


def test_a_mail_is_the_sum_of_both_ends_beside_the_events_features():
    model = apan(0)
    batch = next(iter(batches_of(chain()[1:], model)))
    z = model.embed(batch)
    model.observe(batch)
    expected = torch.cat([z[batch.src_row[0]] + z[batch.candidate_row[0, 0]], torch.tensor([1.0])])
    for node in (1, 2):
        torch.testing.assert_close(model.mailbox.mail[node, 0], expected)
        assert model.mailbox.mail_time[node, 0] == 2
    torch.testing.assert_close(model.mailbox.state[1], z[batch.src_row[0]])
    assert not model.mailbox.state[[0, 3, 4, 5]].any()


def test_an_empty_mailbox_leaves_the_state_alone_and_a_mail_changes_the_embedding():
    model = apan(1)
    batch = list(batches_of(chain(), model))[1]
    untouched = model.embed(batch)
    row = int(batch.candidate_row[0, 0])
    torch.testing.assert_close(untouched[row], model.merge(model.norm(torch.zeros(4))))
    model.mailbox.push(torch.tensor([2]), torch.ones(1, 5), torch.tensor([0]))
    assert not torch.allclose(model.embed(batch)[row], untouched[row])


@pytest.mark.parametrize("make", [lambda: apan(2), lambda: DyRep(NODES, 1, settings=DyRepSettings(dim=4, k=2)).eval()])
def test_observing_without_a_forward_pass_gives_the_same_state(make):
    model = make()
    twin = copy.deepcopy(model)
    for batch in batches_of(chain(), model, 2):
        model.score(batch)
        model.observe(batch)
        twin.observe(batch)
    assert any(part.any() for part in model.snapshot())
    for one, two in zip(model.snapshot(), twin.snapshot(), strict=True):
        torch.testing.assert_close(one, two)


def test_mail_goes_two_hops_at_most():
    with pytest.raises(InvalidValueError, match="hops"):
        APANSettings(hops=3)


def test_a_message_tells_of_the_partners_neighbours_and_not_of_the_own():
    torch.manual_seed(0)
    model = DyRep(NODES, 1, settings=DyRepSettings(dim=4, time_dim=3, k=2)).eval()
    batches = list(batches_of(chain(), model))
    model.observe(batches[0])
    model.memory.memory[:2] = torch.randn(2, 4)
    batch = batches[1]  # 1 has met 0; 2 has met no one
    digested = model.memory(torch.arange(NODES)).row
    model.observe(batch)
    assert model.memory.pending_partner[[1, 2]].tolist() == [2, 1]
    assert not model.memory.pending_feature[1, 1:].any()
    torch.testing.assert_close(model.memory.pending_feature[2, 1:], digested[0])
    assert model.memory.pending_feature[[1, 2], 0].tolist() == [1.0, 1.0]


def test_the_attention_of_an_end_is_a_softmax_over_its_neighbours_memory():
    torch.manual_seed(0)
    log = EventLog.from_arrays([1, 1, 1], [0, 2, 3], [1, 2, 3], num_nodes=NODES)
    model = DyRep(NODES, settings=DyRepSettings(dim=4, time_dim=3, k=5)).eval()
    batch = list(batches_of(log, model))[2]
    model.memory.memory[:] = torch.randn(NODES, 4)
    # no message is pending, so what is digested is zero; take the attention over chosen rows instead
    rows = torch.randn(len(batch.tensor("nodes")), 4)
    place = {int(node): row for node, row in zip(batch.tensor("nodes"), rows, strict=True)}
    target = torch.stack([batch.src_row, batch.candidate_row[:, 0]], 1)
    around = model._around(batch, rows, target)
    near = torch.stack([place[2], place[0]])
    share = torch.softmax(near @ place[1] / 2, 0)
    torch.testing.assert_close(around[0, 0], share @ near)
    assert not around[0, 1].any()


def test_gradients_reach_the_updaters_weights_for_the_partners_neighbourhood():
    torch.manual_seed(0)
    model = DyRep(NODES, 1, settings=DyRepSettings(dim=4, time_dim=3, k=2))
    batches = list(batches_of(chain(), model))
    for batch in batches:
        model.observe(batch)
        model.memory.memory[:] = torch.randn(NODES, 4)
    model.embed(batches[2]).pow(2).sum().backward()
    around = slice(4 + 4 + 1, 4 + 4 + 1 + 4)
    assert model.memory.pending_feature[:, 1:].any()
    assert model.memory.input.grad[:, around].any()
