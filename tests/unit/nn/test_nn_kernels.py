"""Fast kernels of the models against their slow twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.kernels.attention import Clock, Places, attend, attend_reference
from stepwell.kernels.pairs import score_pairs, score_pairs_reference
from stepwell.kernels.recurrent import gru_backward, gru_backward_reference, gru_forward


def attention_inputs(seed, targets, k, width, features, dropout):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, requires_grad=True)

    heads, rows, time, events = 2, 7, 3, 5
    places = Places(
        torch.randint(rows, (targets, k), generator=generator),
        torch.randint(events, (targets, k), generator=generator),
        torch.rand(targets, k, generator=generator) < 0.6,
        torch.rand(targets, k, generator=generator) * 3,
    )
    keep = torch.rand(targets, k, heads, generator=generator) * 2 if dropout else None
    u, h = normal(heads, targets, width + time + features), normal(rows, width)
    x = torch.randn(events, features, generator=generator)
    return u, h, Clock(normal(time), normal(time)), x, places, 0.3, keep


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 5), st.integers(0, 6), st.integers(0, 5), st.booleans())
def test_attention_kernel_is_its_reference_forward_and_backward(seed, targets, k, width, features, dropout):
    results = []
    for compute in (attend, attend_reference):
        inputs = attention_inputs(seed, targets, k, width, features, dropout)
        sums, total = compute(*inputs)
        (sums.square().sum() + total.square().sum()).backward()
        leaves = (inputs[0], inputs[1], *inputs[2])
        results.append([sums, total, *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_attention_gives_the_same_bits_for_any_number_of_threads():
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            inputs = attention_inputs(1, 3000, 5, 6, 5, dropout=False)
            sums, _ = attend(*inputs)
            sums.square().sum().backward()
            results.append([sums.detach(), inputs[0].grad, inputs[1].grad, inputs[2].omega.grad])
        finally:
            torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 20))
def test_gru_gates_differentiate_as_their_reference_and_as_torch(seed, rows, width):
    torch.manual_seed(seed)
    gi, gh, state, grad = (torch.randn(rows, n) for n in (3 * width, 3 * width, width, width))
    out, gates, candidate = gru_forward(gi, gh, state)
    fast = gru_backward(grad, gates, candidate, gh, state)
    for got, wanted in zip(fast, gru_backward_reference(grad, gates, candidate, gh, state), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    cell = torch.nn.GRUCell(3 * width, width)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.eye(3 * width))
        cell.weight_hh.zero_()
        cell.bias_ih.zero_()
        cell.bias_hh.copy_(gh[0])
    torch.testing.assert_close(cell(gi, state)[0], out[0], rtol=1e-4, atol=1e-5)


@given(st.integers(0, 999), st.integers(1, 20), st.integers(1, 30), st.integers(1, 40))
def test_pair_scores_are_those_of_one_source_at_a_time(seed, sources, candidates, width):
    rng = np.random.default_rng(seed)
    a, b, w = (torch.from_numpy(rng.standard_normal(s, np.float32)) for s in ((sources, width), (11, width), (width,)))
    rows = torch.from_numpy(rng.integers(0, 11, (sources, candidates)))
    got, wanted = score_pairs(a, b, rows, w), score_pairs_reference(a, b, rows, w)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", [0, 4])
def test_a_target_without_a_past_gets_zeros(features):
    u, h, clock, x, places, scale, _ = attention_inputs(0, 3, 2, 4, features, dropout=False)
    places = places._replace(mask=torch.zeros_like(places.mask))
    for compute in (attend, attend_reference):
        sums, total = compute(u, h, clock, x, places, scale)
        assert not sums.any()
        assert not total.any()
