"""TPNet sees exactly what its queries may see, however the stream is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.access import AllDestinations, FixedBatches, Pipeline, Recent
from stepwell.core.errors import InvalidValueError
from stepwell.evaluate import check_leak, evaluate, p3
from stepwell.nn import TPNet, TPNetSettings
from stepwell.storage import EventLog

SMALL = {"projection_dim": 16, "dim": 8, "time_dim": 4}


def log_of(num=80, nodes=8):
    draw = np.random.default_rng(1)
    src, dst = draw.integers(0, nodes, num), draw.integers(0, nodes, num)
    return EventLog.from_arrays(src, dst, np.sort(draw.integers(0, num // 2, num)), num_nodes=nodes)


def model_of(k=3, *, extras=True, **settings):
    torch.manual_seed(0)
    decay = settings.pop("decay", (0.01, 0.3))
    return TPNet(8, settings=TPNetSettings(k=k, extras=extras, decay=decay, **SMALL, **settings)).eval()


def batches_of(log, size, as_of="event", k=3):
    return Pipeline(log, FixedBatches(size), negatives=AllDestinations(), sampler=Recent(k), as_of=as_of, prefetch=0)


def scores_of(model, batches):
    found = []
    with torch.no_grad():
        for batch in batches:
            found.append(model.score(batch).masked_fill(batch.tensor("candidate") < 0, 0.0))
            model.observe(batch)
    return torch.cat(found)


@pytest.mark.parametrize("k", [0, 3])
def test_how_a_stream_is_cut_into_batches_shows_in_no_score(k):
    log = log_of()
    whole = scores_of(model_of(k), batches_of(log, len(log), k=max(k, 1)))
    for size in (1, 7, 30):
        torch.testing.assert_close(
            scores_of(model_of(k), batches_of(log, size, k=max(k, 1))), whole, rtol=1e-4, atol=1e-5
        )


def test_queries_as_of_the_batch_see_none_of_its_events():
    log = log_of()
    frozen = model_of()
    batch = next(iter(batches_of(log, 40, as_of="batch")))
    unborn = frozen.walks.products(frozen.walks.queries(batch), batch.array("src")[:, None], batch.array("candidate"))
    levels = unborn.reshape(*unborn.shape[:2], 2, 4, 4)
    assert levels[..., 0, 0].any()
    assert not levels[..., 1:, 1:].any()


def test_events_of_the_same_time_see_each_other_neither_within_a_batch_nor_across_its_border():
    log = EventLog.from_arrays([0, 0, 0, 0], [1, 1, 1, 1], [5, 5, 5, 6], num_nodes=8)
    model, seen = model_of(k=0), []
    for batch in batches_of(log, 2, k=1):
        src, candidate = batch.array("src").astype(np.int64), batch.array("dst").astype(np.int64)[:, None]
        seen.append(model.walks.histories(model.walks.queries(batch), src, candidate)[:, 0, 0])
        model.observe(batch)
    assert np.concatenate(seen).tolist() == [0, 0, 0, 1]


def test_streaming_is_scoring_event_by_event():
    log = log_of()
    model = model_of()
    report = evaluate(model, batches_of(log, 20), p3(state="stream"))
    other = model_of()
    assert report["mrr"].value == pytest.approx(evaluate(other, batches_of(log, 1), p3(state="stream"))["mrr"].value)


@pytest.mark.parametrize("as_of", ["event", "batch"])
def test_extras_look_into_no_future(as_of):
    check = check_leak(model_of(), log_of(), lambda log: batches_of(log, 20, as_of), num_cuts=3)
    assert check.num_compared > 500


def test_the_longest_meeting_pair_is_the_closest():
    """Two nodes that met three times, then one by chance: one-step walks count the meetings, decayed."""
    log = EventLog.from_arrays([0, 0, 0, 2, 0], [1, 1, 1, 3, 1], [1, 2, 3, 4, 5], num_nodes=4)
    model = TPNet(4, settings=TPNetSettings(k=0, decay=(0.0,), projection_dim=4096, dim=8))
    found = []
    for batch in batches_of(log, 5, k=1):
        queries = model.walks.queries(batch)
        left, right = np.zeros((5, 3), np.int64), np.tile([1, 2, 3], (5, 1))
        found = model.walks.products(queries, left, right).reshape(5, 3, 4, 4)
    np.testing.assert_allclose(found[:, 0, 1, 0], [0, 1, 2, 3, 3], atol=0.2)
    np.testing.assert_allclose(found[:, 1:, 1, 0], 0, atol=0.2)


def test_a_model_moved_or_made_double_keeps_its_state():
    log = log_of()
    model, other = model_of(), model_of().double().float()
    assert torch.equal(scores_of(model, batches_of(log, 20)), scores_of(other, batches_of(log, 20)))


def test_settings_out_of_range_are_refused():
    for wrong in ({"decay": ()}, {"decay": (-1.0,)}, {"dropout": 1.0}, {"projection_dim": 0}, {"k": -1}):
        with pytest.raises(InvalidValueError):
            TPNetSettings(**wrong)


def test_walks_stay_in_host_memory_wherever_the_model_goes():
    model = model_of().to("meta")

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in model.walks.buffers()} == {"cpu"}
    assert model.walks.row.dtype == torch.float32
    assert model.double().walks.row.dtype == torch.float32
