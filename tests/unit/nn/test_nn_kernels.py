"""Fast kernels of the models against their slow twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import vectorize

from stepwell.kernels.attention import Clock, Places, attend, attend_reference
from stepwell.kernels.pairs import score_pairs, score_pairs_reference
from stepwell.kernels.products import linear, product
from stepwell.kernels.recurrent import (
    Pending,
    clock_gradient,
    clock_gradient_reference,
    compose,
    compose_reference,
    gru_backward,
    gru_backward_reference,
    gru_forward,
    gru_forward_reference,
)
from stepwell.kernels.smooth import cosine, sigmoid, sine, tangent


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
    u, h = normal(targets, heads, width + time + features), normal(rows, width)
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


@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 20), st.integers(0, 5))
def test_gru_gates_are_their_reference_forward_and_backward(seed, rows, width, padding):
    torch.manual_seed(seed)
    g, hn, state = (torch.randn(rows + padding, n) * 3 for n in (3 * width, width, width + 2))
    grad = torch.randn(rows, width)
    row, gates = gru_forward(g, hn, state)
    for got, wanted in zip((row, gates), gru_forward_reference(g, hn, state), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    slow = gru_backward_reference(grad, gates, hn, state)
    for got, wanted in zip(gru_backward(grad, gates, hn, state), slow, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 999), st.integers(0, 30), st.integers(0, 5), st.integers(0, 40))
def test_messages_and_the_gradient_of_the_clock_are_their_references(seed, rows, features, padding):
    torch.manual_seed(seed)
    memory, feature, clock = torch.randn(9, 4), torch.randn(9, features), Clock(torch.randn(3), torch.randn(3))
    pending = Pending(torch.randint(9, (rows,)), torch.randint(9, (rows,)), torch.rand(rows) * 9)
    inputs = memory, feature, pending, clock, rows + padding
    torch.testing.assert_close(compose(*inputs), compose_reference(*inputs), rtol=1e-5, atol=1e-5)
    g_phi = torch.randn(rows, 3)
    slow = clock_gradient_reference(g_phi, pending.dt, clock)
    for got, wanted in zip(clock_gradient(g_phi, pending.dt, clock), slow, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@vectorize(nopython=True)
def _cosine(x):
    return cosine(x)


@vectorize(nopython=True)
def _sine(x):
    return sine(x)


@vectorize(nopython=True)
def _sigmoid(x):
    return sigmoid(x)


@vectorize(nopython=True)
def _tangent(x):
    return tangent(x)


def test_large_products_have_the_gradients_of_torch():
    results = []
    for compute in (linear, torch.nn.functional.linear):
        torch.manual_seed(0)
        leaves = [torch.randn(shape, requires_grad=True) for shape in ((300, 90), (80, 90), (80,))]
        out = compute(*leaves)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-2)


@given(st.lists(st.floats(-1e7, 1e7, width=32), min_size=1))
def test_smooth_functions_are_those_of_numpy(values):
    x = np.array(values, np.float32)
    wide = x.astype(np.float64)
    logistic = 1 / (1 + np.exp(-np.clip(wide, -500, 500)))
    pairs = ((_cosine, np.cos(wide)), (_sine, np.sin(wide)), (_sigmoid, logistic), (_tangent, np.tanh(wide)))
    for fast, wanted in pairs:
        np.testing.assert_allclose(fast(x), wanted, atol=1e-6)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_products_are_those_of_torch_for_any_strides(rows, inner, columns, transposed):
    torch.manual_seed(rows)
    a = torch.randn(inner, rows).t() if transposed else torch.randn(rows, inner + 3)[:, :inner]
    b, bias = torch.randn(inner, columns).t(), torch.randn(columns)
    torch.testing.assert_close(product(a, b, bias), a @ b.t() + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(product(a, b), a @ b.t(), rtol=1e-4, atol=1e-4)


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
