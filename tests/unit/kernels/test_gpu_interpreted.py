"""Triton kernels against their twins: on the device where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell import kernels
from stepwell.core import Draw
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.attention import Clock, Places, attend_reference

triton = pytest.importorskip("triton", reason="needs triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a device, or TRITON_INTERPRET=1 from the start", allow_module_level=True)

from stepwell.kernels.gpu import attention as fused  # noqa: E402
from stepwell.kernels.gpu import pinned, sample  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
few = settings(max_examples=12)


def case(seed, queries):
    """Return an index, queries of it, and both as tensors."""
    generator = np.random.default_rng(seed)
    nodes, events = 12, 150
    ends = generator.integers(0, nodes, (2, events))
    index = kernels.build_tcsr(*ends, np.sort(generator.integers(0, 60, events)), nodes)
    asked = (
        generator.integers(-2, nodes + 2, queries),
        generator.integers(0, 80, queries),
        generator.integers(0, events + 1, queries),
        generator.integers(-(2**62), 2**62, queries),
    )
    on_device = sample.DeviceIndex(*(torch.tensor(array, device=DEVICE) for array in index))
    return index, asked, on_device, sample.Queries(*(torch.tensor(array, device=DEVICE) for array in asked))


def assert_equal(found, expected):
    for got, wanted in zip(found, expected, strict=True):
        assert np.array_equal(got.cpu().numpy(), wanted)


@few
@given(st.integers(0, 999), st.integers(0, 70), st.sampled_from([1, 2, 5, 10]))
def test_the_newest_events_are_those_of_the_kernel_for_the_cpu(seed, queries, k):
    index, (nodes, times, before, _), on_device, asked = case(seed, queries)

    found = sample.recent_neighbors(on_device, asked, k)

    assert_equal(found, kernels.recent_neighbors(*index, nodes, times, before, k))


@few
@given(st.integers(0, 999), st.sampled_from([1, 5, 16]), st.integers(0, 40))
def test_a_window_is_that_of_the_kernel_for_the_cpu(seed, k, width):
    index, (nodes, times, before, _), on_device, asked = case(seed, 40)

    found = sample.recent_neighbors(on_device, asked, k, width)

    slots = kernels.window_before(index[0], index[2], index[3], nodes, times, before, k, width)
    assert_equal(found, kernels.read_slots(*index[1:], times, slots))


@few
@given(st.integers(0, 999), st.sampled_from([1, 3, 8, 20]), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1))
def test_a_uniform_draw_has_the_bits_of_the_kernel_for_the_cpu(seed, k, key, epoch):
    index, (nodes, times, before, rows), on_device, asked = case(seed, 40)
    draw = Draw(key, "neighbors", epoch)

    found = sample.uniform_neighbors(on_device, asked, k, draw)

    slots = kernels.uniform_before(index[0], index[2], nodes, before, k, draw.key, draw.lane(0), rows)
    assert_equal(found, kernels.read_slots(*index[1:], times, slots))


@pytest.mark.parametrize("draw", [None, Draw(3, "neighbors", 1)])
def test_looking_ahead_gives_each_batch_what_it_would_get_alone(draw):
    batches = [case(0, queries)[3] for queries in (7, 0, 20, 3, 11)]
    index = case(0, 1)[2]
    alone = [next(iter(sample.LookAhead(index, 4, 1, draw)([batch]))) for batch in batches]

    together = list(sample.LookAhead(index, 4, 3, draw)(batches))

    assert len(together) == len(batches)
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_queries_that_cannot_be_answered_are_refused():
    _, _, index, asked = case(0, 4)

    with pytest.raises(InvalidValueError, match="`k` must be at least 1"):
        sample.recent_neighbors(index, asked, 0)
    with pytest.raises(InvalidValueError, match="`width`"):
        sample.recent_neighbors(index, asked, 1, -1)
    with pytest.raises(InvalidValueError, match="at most 128"):
        sample.uniform_neighbors(index, asked, 129, Draw(0, "x"))
    with pytest.raises(InvalidValueError, match="`rows`"):
        sample.uniform_neighbors(index, asked._replace(rows=None), 2, Draw(0, "x"))
    with pytest.raises(InvalidValueError, match="of one length"):
        sample.recent_neighbors(index, asked._replace(times=asked.times[:2]), 1)


def attention_inputs(seed, targets, k, width, features, dropout):
    generator = torch.Generator().manual_seed(seed)
    heads, rows, time, events = 2, 7, 3, 5

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE).requires_grad_()

    places = Places(
        torch.randint(rows, (targets, k), generator=generator).to(DEVICE),
        torch.randint(events, (targets, k), generator=generator).to(DEVICE),
        (torch.rand(targets, k, generator=generator) < 0.6).to(DEVICE),
        (torch.rand(targets, k, generator=generator) * 3).to(DEVICE),
    )
    keep = (torch.rand(targets, k, heads, generator=generator) * 2).to(DEVICE) if dropout else None
    u, h = normal(targets, heads, width + time + features), normal(rows, width)
    x = torch.randn(events, features, generator=generator).to(DEVICE)
    return u, h, Clock(normal(time), normal(time)), x, places, 0.3, keep


@few
@given(st.integers(0, 999), st.integers(0, 40), st.integers(1, 32), st.integers(0, 6), st.integers(0, 5), st.booleans())
def test_fused_attention_is_its_reference_forward_and_backward(seed, targets, k, width, features, dropout):
    results = []
    for compute in (fused.attend, attend_reference):
        inputs = attention_inputs(seed, targets, k, width, features, dropout)
        assert fused.fits(*inputs[:5])
        sums, total = compute(*inputs)
        (sums.square().sum() + total.square().sum()).backward()
        leaves = (inputs[0], inputs[1], *inputs[2])
        results.append([sums, total, *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_a_target_without_neighbours_gets_zeros_and_passes_no_gradient():
    u, h, clock, x, places, scale, _ = attention_inputs(0, 3, 4, 5, 2, dropout=False)
    places = places._replace(mask=torch.zeros_like(places.mask), dt=places.dt * float("nan"))

    sums, total = fused.attend(u, h, clock, x, places, scale)
    (sums.sum() + total.sum()).backward()

    assert not sums.any() and not total.any()
    assert not any(leaf.grad.any() for leaf in (u, h, *clock))


def test_a_row_that_very_many_targets_read_gets_the_sum_of_their_gradients():
    results = []
    for compute in (fused.attend, attend_reference):
        inputs = attention_inputs(4, 50, 3, 4, 0, dropout=True)
        inputs[4].neighbor_row.fill_(6)
        compute(*inputs)[0].square().sum().backward()
        results.append(inputs[1].grad)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    assert not results[0][:6].any()


def test_inputs_that_would_not_fit_in_registers_are_left_to_the_reference():
    u, h, clock, x, places, *_ = attention_inputs(0, 2, 32, 5, 2, dropout=False)
    wide = torch.zeros(7, 1200, device=DEVICE)

    assert fused.fits(u, h, clock, x, places)
    assert not fused.fits(u, wide, clock, x, places)
    assert not fused.fits(u.double(), h, clock, x, places)


@few
@given(
    st.sampled_from([torch.float32, torch.float16, torch.int64, torch.uint8]), st.integers(0, 300), st.integers(0, 9)
)
def test_pinned_rows_are_gathered_as_bytes_and_zeros_stand_for_none(dtype, width, asked):
    table = (torch.rand(11, width) * 200).to(dtype)
    table = table.pin_memory() if DEVICE.type == "cuda" else table
    rows = np.random.default_rng(asked).integers(-1, 11, asked)

    found = pinned.gather_pinned(table, torch.tensor(rows, device=DEVICE))

    assert np.array_equal(found.cpu().numpy(), kernels.gather_rows(table.numpy(), rows))


def test_pinned_rows_outside_the_table_are_zeros():
    rows = torch.tensor([5, -7, 1], device=DEVICE)

    found = pinned.gather_pinned(torch.ones(2, 3, device=DEVICE), rows)

    assert found.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]


def test_a_strided_table_is_refused():
    with pytest.raises(InvalidValueError, match="contiguous"):
        pinned.gather_pinned(torch.ones(4, 4).t(), torch.tensor([0], device=DEVICE))


def test_every_kernel_compiles_for_real_devices_without_one():
    script = Path(__file__).with_name("gpu_kernels_for_a_device.py")

    ended = subprocess.run(
        [sys.executable, script], env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True
    )

    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 18


@pytest.mark.gpu
def test_attention_on_a_device_runs_fused_and_agrees_with_the_cpu():
    from stepwell.kernels.attention import attend

    inputs = attention_inputs(1, 3000, 10, 60, 20, dropout=True)
    on_cpu = [t.cpu() for t in (inputs[0], inputs[1])]
    clock, places = Clock(*(t.cpu() for t in inputs[2])), Places(*(t.cpu() for t in inputs[4]))

    fast, _ = attend(*inputs)
    slow, _ = attend(*on_cpu, clock, inputs[3].cpu(), places, 0.3, inputs[6].cpu())

    assert "_Attend" in type(fast.grad_fn).__name__
    torch.testing.assert_close(fast.cpu(), slow, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_attention_gives_the_same_bits_in_every_run_on_a_device():
    results = []
    for _ in range(2):
        inputs = attention_inputs(2, 3000, 10, 60, 20, dropout=True)
        fused.attend(*inputs)[0].square().sum().backward()
        results.append((inputs[0].grad, inputs[1].grad, inputs[2].omega.grad))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
