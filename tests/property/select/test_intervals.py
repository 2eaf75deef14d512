"""Intervals hold as often as they say, also when everything is right, and however often one looks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.core.errors import InvalidValueError
from stepwell.select.intervals import at_look, interval, paired

POPULATIONS = {
    "all correct": lambda draw, n: np.ones(n),
    "all wrong": lambda draw, n: np.zeros(n),
    "nearly all correct": lambda draw, n: (draw.random(n) < 0.98).astype(float),
    "half": lambda draw, n: (draw.random(n) < 0.5).astype(float),
    "graded": lambda draw, n: draw.beta(0.3, 0.6, n),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("method", ["bernstein", "hoeffding", "betting", "wilson"])
def test_a_finite_population_is_covered(name, method):
    if method == "wilson" and name == "graded":
        pytest.skip("Wilson's interval is for zeros and ones")
    draw, missed, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        values = POPULATIONS[name](draw, 200)
        seen = draw.permutation(values)[: int(draw.integers(1, 200))]
        found = interval(seen, 0.1, population=200, method=method)
        missed += not found.low - 1e-12 <= values.mean() <= found.high + 1e-12
        assert found.high > found.low or method in ("bernstein", "betting"), "something unseen is left"
    assert missed <= 0.1 * trials


def test_a_width_of_zero_is_given_only_when_everything_has_been_seen():
    for method in ("bernstein", "hoeffding", "betting", "wilson"):
        assert interval(np.ones(4), population=100, method=method).low < 1
        assert interval(np.ones(4), method=method).low < 1
    assert interval(np.ones(4), population=4).spread == 0


def test_looking_after_every_part_and_stopping_at_will_stays_within_alpha():
    draw, missed, trials = np.random.default_rng(1), 0, 300
    for _ in range(trials):
        values = (draw.random(400) < 0.7).astype(float)
        order = draw.permutation(values)
        looks = [interval(order[: 40 * k], at_look(0.1, k), population=400) for k in range(1, 10)]
        missed += any(not one.low <= values.mean() <= one.high for one in looks)
    assert missed <= 0.1 * trials
    assert sum(at_look(0.1, k) for k in range(1, 10_000)) <= 0.1


def test_paired_differences_are_much_tighter_than_two_intervals():
    draw = np.random.default_rng(2)
    easy = draw.random(8000) < 0.9
    first, second = easy.astype(float), np.where(draw.random(8000) < 0.02, 0.0, easy)
    both = paired(first, second)
    assert both.low > 0, "the pairs decide"
    assert interval(first).low < interval(second).high, "the intervals alone do not"


def test_betting_is_tighter_and_holds_for_endless_populations():
    draw, missed = np.random.default_rng(3), 0
    for _ in range(300):
        values = (draw.random(300) < 0.8).astype(float)
        bet, sure = interval(values, 0.1, method="betting"), interval(values, 0.1)
        missed += not bet.low <= 0.8 <= bet.high
        assert bet.high - bet.low < sure.high - sure.low
    assert missed <= 30


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=60), st.integers(0, 50))
def test_an_interval_holds_its_mean_and_grows_with_confidence(values, more):
    population = len(values) + more
    for method in ("bernstein", "hoeffding"):
        loose, tight = (interval(values, alpha, population=population, method=method) for alpha in (0.01, 0.2))
        assert 0 <= loose.low <= tight.low <= tight.mean <= tight.high <= loose.high <= 1


def test_what_makes_no_sense_is_refused():
    for arguments in ({"values": []}, {"values": [2.0]}, {"values": [0.5], "alpha": 0.0}):
        with pytest.raises(InvalidValueError):
            interval(**arguments)
    with pytest.raises(InvalidValueError):
        interval([0.5, 0.5], population=1)
    with pytest.raises(InvalidValueError):
        paired([0.0], [0.0, 1.0])
