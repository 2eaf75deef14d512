"""Mailboxes out of core hold the bits of those in core, whatever the budget and the order of what is done to them."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.buffer.lru import LRU
from stepwell.buffer.sieve import SIEVE
from stepwell.core.state import StateWriter
from stepwell.nn.mailbox import Mailbox
from stepwell.nn.stored_rows import OutOfCore

NODES = 5
NODE = st.integers(0, NODES - 1)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(NODE, max_size=6)),
        st.tuples(st.just("push"), st.lists(NODE, max_size=6)),
        st.tuples(st.just("keep"), st.lists(NODE, max_size=4, unique=True)),
        st.tuples(st.just("forget"), st.just([])),
        st.tuples(st.just("resume"), st.just([])),
        st.tuples(st.just("return"), st.just([])),
    ),
    max_size=14,
)


def done(box, number, action, nodes):
    """Do one thing to a mailbox, and return what it shows."""
    random = torch.Generator().manual_seed(number)
    ids = torch.tensor(nodes, dtype=torch.int64)
    if action == "push":
        time = torch.randint(-9, 9, (len(ids),), generator=random)
        box.push(ids, torch.randn(len(ids), 3, generator=random), time)
    elif action == "keep":
        box.keep(ids, torch.randn(len(ids), 2, generator=random))
    elif action == "forget":
        box.forget()
    elif action == "resume":
        writer = StateWriter()
        box.save(writer)
        tensors = {name: value.clone() for name, value in box.state_dict().items()}
        box.push(torch.arange(NODES), torch.randn(NODES, 3, generator=random), torch.arange(NODES))
        box.load_state_dict(tensors)
        box.load(writer.reader())
    elif action == "return":
        state = box.snapshot()
        box.push(torch.arange(NODES), torch.randn(NODES, 3, generator=random), torch.arange(NODES))
        box.restore(state)
    return box(ids)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, rows=st.integers(0, NODES), policy=st.sampled_from([LRU, SIEVE]), slots=st.integers(1, 3))
def test_a_stored_mailbox_shows_the_bits_of_one_in_core_under_any_budget(actions, rows, policy, slots):
    core = Mailbox(NODES, slots, 3, 2)
    with TemporaryDirectory() as folder:
        stored = Mailbox(NODES, slots, 3, 2, store=OutOfCore(folder, policy(max(1, rows * core.row_bytes))))
        for number, (action, nodes) in enumerate(actions):
            shown = [done(box, number, action, nodes) for box in (core, stored)]
            assert all(torch.equal(one, other) for one, other in zip(*shown, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(core.snapshot(), stored.snapshot(), strict=True))
        assert stored.stored.traffic.tier_bytes <= rows * core.row_bytes
