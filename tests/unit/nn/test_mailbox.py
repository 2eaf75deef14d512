"""Mailboxes keep the newest mails of each node, one a batch, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.core.errors import InvalidValueError
from stepwell.nn.mailbox import Mailbox

NODES, SLOTS = 3, 2


def contents(box):
    """Return each node's mails as a set of (time, numbers), whatever slots they lie in."""
    mails = box(torch.arange(NODES))
    return [
        sorted((int(t), *map(float, m)) for t, m in zip(time[mask], mail[mask], strict=True))
        for mail, time, mask in zip(*mails[:3], strict=True)
    ]


def push_reference(boxes, receiver, mail, time):
    """State what `push` must do to plain lists of (time, numbers), oldest first."""
    for node in set(receiver):
        mine = [i for i, who in enumerate(receiver) if who == node]
        mean = torch.stack([mail[i] for i in mine]).mean(0)
        boxes[node].append((max(time[i] for i in mine), *map(float, mean)))
        del boxes[node][:-SLOTS]


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, NODES - 1), max_size=5), max_size=6))
def test_a_mailbox_holds_the_newest_means_of_each_batch(batches):
    box, boxes = Mailbox(NODES, SLOTS, 2), [[] for _ in range(NODES)]
    for number, receiver in enumerate(batches):
        mail = torch.arange(2.0 * len(receiver)).view(-1, 2) * 4 + number
        time = [10 * number + i for i in range(len(receiver))]
        box.push(torch.tensor(receiver, dtype=torch.int64), mail, torch.tensor(time, dtype=torch.int64))
        push_reference(boxes, receiver, mail, time)
    for found, expected in zip(contents(box), boxes, strict=True):
        assert [t for t, *_ in found] == [t for t, *_ in expected]
        assert found == [pytest.approx(mail) for mail in expected]


def test_a_snapshot_is_not_reached_by_later_mail():
    box = Mailbox(NODES, SLOTS, 1)
    box.push(torch.tensor([0]), torch.ones(1, 1), torch.tensor([5]))
    state, before = box.snapshot(), contents(box)
    box.push(torch.tensor([0, 1]), torch.zeros(2, 1), torch.tensor([6, 7]))
    assert contents(box) != before
    box.restore(state)
    assert contents(box) == before
    box.push(torch.tensor([0]), torch.zeros(1, 1), torch.tensor([6]))
    box.restore(state)
    assert contents(box) == before


def test_no_slots_is_no_mailbox():
    with pytest.raises(InvalidValueError, match="slots"):
        Mailbox(NODES, 0, 1)
