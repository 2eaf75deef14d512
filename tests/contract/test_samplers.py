"""Every registered sampler keeps the rules; a new one is tested by being registered."""

import numpy as np
import pytest

from stepwell.access import samplers
from stepwell.core.errors import UnknownNameError
from stepwell.core.shapes import Sampler
from stepwell.testing import check_sampler


@pytest.mark.parametrize("name", samplers)
def test_a_sampler_shows_only_the_visible_past_and_answers_alike_in_any_company(name):
    newest_first = getattr(samplers[name], "newest_first", True)
    check_sampler(lambda: samplers[name](k=3), newest_first=newest_first, max_examples=20)


@pytest.mark.parametrize("name", samplers)
def test_a_sampler_is_frozen_hashable_and_printable(name):
    sampler = samplers[name](k=3)
    assert isinstance(sampler, Sampler)
    assert hash(sampler) == hash(samplers[name](k=3))
    assert "k=3" in str(sampler)
    with pytest.raises(AttributeError):
        sampler.k = 4
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        samplers[name](k=0)


def test_an_unknown_sampler_is_met_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'recent'"):
        samplers["recnt"]


def test_a_uniform_draw_differs_between_seeds_and_epochs_and_covers_the_past(event_log):
    from stepwell.core import Draw

    log = event_log(num_events=400, num_nodes=4, seed=1)
    nodes = np.zeros(64, np.int64)
    query = (nodes, np.full(64, log.time[-1] + 1), np.full(64, 400))
    seen = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        hood = samplers["uniform"](k=5)(log.index, *query, Draw(seed, "x", epoch), np.arange(64))
        seen[seed, epoch] = np.asarray(hood.event)
    assert not np.array_equal(seen[0, 0], seen[0, 1])
    assert not np.array_equal(seen[0, 0], seen[1, 0])
    assert len(np.unique(seen[0, 0])) > 100
