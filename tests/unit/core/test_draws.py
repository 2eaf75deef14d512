"""Counter-based draws: known answers, equal bits everywhere, independence of company."""

import numpy as np
import pytest
import torch

from stepwell.core import Draw
from stepwell.core.draws import below, philox
from stepwell.kernels import reference

KEYS = [0, 1, 2**32, 2**63 + 12345, 2**64 - 1]
COUNTERS = [(0, 0), (1, 0), (0, 1), (2**40 + 3, 2**48 + 9), (2**62, 2**63 - 1)]


def test_key_zero_and_counter_zero_give_the_published_words():
    bits = int(philox(np.uint64(0), np.uint64(0), np.uint64(0)))

    assert (bits & 0xFFFFFFFF, bits >> 32) == (0x6627E8D5, 0xE169C58D)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("row", "lane"), COUNTERS)
def test_numba_gives_the_bits_of_the_definition(key, row, lane):
    assert int(philox(np.uint64(key), np.uint64(row), np.uint64(lane))) == reference.philox(key, row, lane)


@pytest.mark.parametrize("epoch", [0, 1, 2**15 - 1])
def test_numpy_torch_and_the_definition_give_equal_bits(epoch):
    draw = Draw(seed=2**32 - 1, purpose="negatives", epoch=epoch)
    rows = np.array([0, 1, 7, 2**31, 2**45 + 1])

    bits = draw.bits(rows, 3)

    expected = [[reference.philox(draw.key, int(row), draw.lane(j)) for j in range(3)] for row in rows]
    np.testing.assert_array_equal(bits, np.array(expected, np.uint64))
    np.testing.assert_array_equal(draw.torch_bits(torch.from_numpy(rows), 3).numpy().view(np.uint64), bits)


def test_a_row_draws_the_same_in_any_company():
    draw = Draw(seed=1, purpose="shuffle")
    rows = np.array([9, 2, 5])

    np.testing.assert_array_equal(draw.bits(rows, 2)[2], draw.bits(np.array([5]), 2)[0])


@pytest.mark.parametrize(
    "other", [Draw(8, "negatives"), Draw(7, "shuffle"), Draw(7, "negatives", epoch=1)], ids=["seed", "purpose", "epoch"]
)
def test_seeds_purposes_and_epochs_do_not_share_bits(other):
    rows = np.arange(100)

    assert (Draw(7, "negatives").bits(rows, 4) != other.bits(rows, 4)).all()


def test_integers_and_uniforms_stay_in_range_and_are_even():
    draw, rows = Draw(seed=3, purpose="test"), np.arange(20_000)

    integers, uniforms = draw.integers(rows, 1, 10)[:, 0], draw.uniform(rows, 1)[:, 0]

    counts = np.bincount(integers, minlength=10)
    assert len(counts) == 10
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001
    assert 0 <= uniforms.min() < 0.001 and 0.999 < uniforms.max() < 1


def test_below_is_integers_for_numba():
    draw, rows = Draw(seed=3, purpose="test"), np.arange(50)
    bits = draw.bits(rows, 1)[:, 0]

    assert [below(b, 17) for b in bits] == draw.integers(rows, 1, 17)[:, 0].tolist()
