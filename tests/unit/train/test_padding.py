"""Padded rows have no readers: the same loss, gradients and state as without them."""

from __future__ import annotations

import copy
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.errors import InvalidValueError
from stepwell.nn import TGAT, TGN, TGATSettings, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import link_loss
from stepwell.train.padding import Room, outline, pad_batch, refill

NODES, WIDTH = 30, 5


def log_of(num=240):
    draw = np.random.default_rng(0)
    src, dst = draw.integers(0, 15, num), draw.integers(15, NODES, num)
    features = draw.standard_normal((num, WIDTH), dtype=np.float32)
    return EventLog.from_arrays(src, dst, np.arange(num) * 7, features=features, num_nodes=NODES)


def batches_of(hops, size=40):
    return list(Pipeline(log_of(), FixedBatches(size), negatives=UniformNegatives(2), sampler=Recent(4), hops=hops))


def model_of(name, hops, idle="keep"):
    torch.manual_seed(0)
    shape = {"dim": 8, "time_dim": 6, "hops": hops, "k": 4, "dropout": 0.0}
    if name == "tgat":
        return TGAT(NODES, WIDTH, 0, TGATSettings(**shape))
    return TGN(NODES, WIDTH, 0, TGNSettings(memory_dim=7, idle=idle, **shape))


def tensors_of(batch):
    for name in batch:
        if name == "levels":
            for level in batch.levels_of():
                yield from (getattr(level, f.name) for f in fields(level) if f.name != "hood")
                yield from (v for f in fields(level.hood) if (v := getattr(level.hood, f.name)) is not None)
        elif isinstance(batch[name], torch.Tensor):
            yield batch[name]


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize(("name", "idle"), [("tgat", "keep"), ("tgn", "keep"), ("tgn", "update")])
def test_a_padded_batch_gives_the_loss_the_gradients_and_the_state_of_the_unpadded(name, idle, hops):
    plain = model_of(name, hops, idle)
    padded = copy.deepcopy(plain)
    for batch in batches_of(hops):
        room = Room().grown(Room.of(batch))
        for model, given_batch in ((plain, batch), (padded, pad_batch(batch, room))):
            model.zero_grad()
            loss = link_loss(model, given_batch)
            loss.backward()
            model.loss = loss.detach()
            model.observe(given_batch)
        torch.testing.assert_close(padded.loss, plain.loss, rtol=1e-5, atol=1e-6)
        for (key, one), two in zip(plain.named_parameters(), padded.parameters(), strict=True):
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
        for one, two in zip(plain.buffers(), padded.buffers(), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_a_padded_row_is_a_target_without_a_past():
    batch = batches_of(1)[3]
    had = Room.of(batch)
    made = pad_batch(batch, Room((had.targets[0] + 3,), had.nodes + 2, had.events + 1))

    hood = made.levels_of()[0].hood
    assert not hood.mask[-3:].any()
    assert (hood.node[-3:] == -1).all()
    assert (hood.event[-3:] == -1).all()
    assert made.tensor("event_feature")[-1].count_nonzero() == 0
    assert len(made.tensor("nodes")) == had.nodes + 2
    assert Room.of(batch) == had


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_buffers_refilled_hold_nothing_of_the_batch_before(order):
    batches = batches_of(2)
    room = Room()
    for batch in batches:
        room = room.grown(Room.of(batch))
    buffers = pad_batch(batches[0], room)
    for number in order:
        refill(buffers, batches[number])
        pairs = zip(tensors_of(buffers), tensors_of(pad_batch(batches[number], room)), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=8))
def test_room_grows_in_powers_of_two_and_never_shrinks(sizes):
    room = Room()
    for targets, nodes, events in sizes:
        asked = Room((targets,), nodes, events)
        bigger = room.grown(asked)
        assert bigger.holds(asked)
        assert all(rows & (rows - 1) == 0 for rows in bigger)
        if room.targets:
            assert bigger.holds(room)
            assert (bigger == room) == room.holds(asked)
        room = bigger
    assert all(rows < 2 * max(max(size), 1) for rows, size in zip(room, zip(*sizes, strict=True), strict=True))


def test_batches_of_one_size_share_an_outline_and_others_do_not():
    one, two = batches_of(1)[1:3]
    assert Room.of(one) != Room.of(two)
    assert outline(one) == outline(two)
    assert outline(one) != outline(batches_of(1, size=30)[1])
    assert outline(one) != outline(two.give(seconds=2.0))


def test_a_room_that_is_too_small_or_a_field_without_a_shape_is_refused():
    batch = batches_of(1)[1]
    with pytest.raises(InvalidValueError, match="room"):
        pad_batch(batch, Room((1,), 1, 1))
    with pytest.raises(InvalidValueError, match="batch field note"):
        outline(batch.give(note=object()))
