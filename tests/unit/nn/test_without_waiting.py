"""What a device computes without waiting to count is what the CPU computes of the rows that count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepwell.nn.memory import NodeMemory, last_places
from stepwell.nn.time import TimeEncoding
from stepwell.train.losses import masked_mean_of_false, mean_of_false

NODES, WIDTH = 12, 3


def memory_of(updater, idle):
    torch.manual_seed(0)
    memory = NodeMemory(NODES, 6, WIDTH, TimeEncoding(4), updater, idle)
    for begin in (0, 10):
        src, dst = torch.randint(0, 4, (5,)), torch.randint(4, 8, (5,))
        nodes = torch.cat([src, dst])
        memory.write(nodes, memory(nodes))
        memory.post(src, dst, torch.arange(begin, begin + 5), torch.randn(5, WIDTH))
    return memory


def outcome(memory, recalled):
    memory.zero_grad()
    (recalled.row * torch.linspace(-1, 1, recalled.row.numel()).view_as(recalled.row)).sum().backward()
    return [recalled.row.detach(), recalled.last_update, *(p.grad.clone() for p in memory.parameters())]


@pytest.mark.parametrize("updater", ["gru", "rnn"])
@pytest.mark.parametrize("idle", ["keep", "update"])
@pytest.mark.parametrize("nodes", [range(NODES), range(8, NODES), range(4)])
def test_digesting_every_node_gives_the_rows_and_gradients_of_digesting_the_waiting_ones(updater, idle, nodes):
    memory, asked = memory_of(updater, idle), torch.tensor([*nodes])

    few = outcome(memory, memory(asked, 0.5))
    all_of_them = outcome(memory, memory._digest_all(memory._state_of(asked)[0], asked, 0.5))

    for one, two in zip(few, all_of_them, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_the_last_place_of_a_node_is_that_of_its_last_occurrence(ends):
    expected = [max(place for place, other in enumerate(ends) if other == node) for node in ends]

    assert last_places(torch.tensor(ends)).tolist() == expected


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_the_masked_mean_is_the_mean_of_what_is_valid_with_its_gradient(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator)
    valid = torch.rand(rows, columns, generator=generator) < 0.7
    valid[0, 0] = True
    found = []
    for mean in (mean_of_false, masked_mean_of_false):
        leaf = logits.clone().requires_grad_()
        loss = mean(leaf, valid)
        loss.backward()
        found.append((loss.detach(), leaf.grad))

    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_a_logit_that_is_no_number_does_not_count_where_it_is_padding():
    logits = torch.tensor([[0.0, float("inf")], [1.0, float("nan")]], requires_grad=True)
    valid = torch.tensor([[True, False], [True, False]])

    loss = masked_mean_of_false(logits, valid)
    loss.backward()

    torch.testing.assert_close(loss.detach(), mean_of_false(logits.detach(), valid))
    assert torch.isfinite(logits.grad).all()
