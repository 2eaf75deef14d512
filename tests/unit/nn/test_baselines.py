"""Baselines: each fast table against its obviously right twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.core.batch import Batch, Slice
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn.baselines import EdgeBank, MostRecent, PopTrack


def batches_of(events, size, num_candidates=4):
    """Cut (src, dst, time) triples into batches with a few candidates each."""
    draw = np.random.default_rng(len(events))
    out = []
    for begin in range(0, len(events), size):
        rows = np.array(events[begin : begin + size], dtype=np.int64)
        candidate = draw.integers(-1, 6, size=(len(rows), num_candidates))
        candidate[:, 0] = rows[:, 1]
        cut = Slice(0, begin // size, begin, begin + len(rows))
        event = np.arange(begin, begin + len(rows))
        out.append(Batch(cut, src=rows[:, 0], dst=rows[:, 1], time=rows[:, 2], event=event, candidate=candidate))
    return out


def expected_pairs(batches, value_of, score_of, *, streaming):
    """State one candidate at a time what a pair table must answer."""
    last, out = {}, []
    for batch in batches:
        scores = []
        for row in range(len(batch)):
            src, dst = int(batch.src[row]), int(batch.dst[row])
            scores.append([score_of(last.get((src, int(c))), batch, row) for c in batch.candidate[row]])
            if streaming:
                last[src, dst] = value_of(batch, row)
        for row in range(len(batch)):
            last[int(batch.src[row]), int(batch.dst[row])] = value_of(batch, row)
        out.append(scores)
    return out


def answers(model, batches, *, streaming):
    out = []
    for batch in batches:
        if streaming:
            out.append(model.stream(batch).tolist())
        else:
            out.append(model.score(batch).tolist())
            model.observe(batch)
    return out


events = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40).map(
    lambda rows: [(s, d, t) for (s, d, _), t in zip(rows, np.cumsum([t for _, _, t in rows]).tolist(), strict=True)]
)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("window", [None, 1, 4])
@settings(max_examples=25, deadline=None)
@given(events=events, size=st.integers(1, 7))
def test_edgebank_scores_exactly_the_pairs_seen_within_its_window(streaming, window, events, size):
    batches = batches_of(events, size)

    def score_of(last, batch, row):
        fresh = last is not None and (window is None or int(batch.time[row]) - last < window)
        return 1.0 if fresh else 0.0

    expected = expected_pairs(batches, lambda b, row: int(b.time[row]), score_of, streaming=streaming)
    assert answers(EdgeBank(window), batches, streaming=streaming) == expected


@pytest.mark.parametrize("streaming", [False, True])
@settings(max_examples=25, deadline=None)
@given(events=events, size=st.integers(1, 7))
def test_most_recent_scores_the_position_of_the_last_event_of_a_pair(streaming, events, size):
    batches = batches_of(events, size)

    def score_of(last, batch, row):
        return -1.0 if last is None else float(last)

    expected = expected_pairs(batches, lambda b, row: int(b.event[row]), score_of, streaming=streaming)
    assert answers(MostRecent(), batches, streaming=streaming) == expected


@pytest.mark.parametrize("streaming", [False, True])
@settings(max_examples=25, deadline=None)
@given(events=events, size=st.integers(1, 7))
def test_poptrack_sums_decayed_counts_of_destinations(streaming, events, size):
    decay = 0.8
    batches = batches_of(events, size)
    found = answers(PopTrack(decay), batches, streaming=streaming)
    for batch, scores in zip(batches, found, strict=True):
        for row, line in enumerate(scores):
            n = batch.slice.begin + (row if streaming else 0)
            for candidate, score in zip(batch.candidate[row].tolist(), line, strict=True):
                popularity = sum(decay ** (n - 1 - i) for i in range(n) if events[i][1] == candidate)
                floor = n * math.log(decay) - 1
                assert score == pytest.approx(math.log(popularity) if popularity else floor)
                assert not popularity or score > floor


@pytest.mark.parametrize("model", [EdgeBank(), EdgeBank(3), MostRecent(), PopTrack(0.9)], ids=repr)
def test_a_saved_baseline_answers_as_before_and_a_forgetful_one_as_new(model):
    events = [(i % 5, (i * i) % 6, i // 2) for i in range(3000)]
    *past, last = batches_of(events, 600)
    fresh = model.score(last)
    for batch in past:
        model.observe(batch)
    before = model.score(last)
    writer = StateWriter()
    model.save(writer)
    model.forget()
    assert torch.equal(model.score(last), fresh)
    model.load(StateReader(writer.tensors, writer.values))
    assert torch.equal(model.score(last), before)
    model.observe(last)
    model.forget()


def test_tables_grow_past_their_first_size():
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, 400, size=(5000, 2))
    model = EdgeBank()
    for begin in range(0, 5000, 500):
        rows = pairs[begin : begin + 500]
        time = np.zeros(500, np.int64)
        model.observe(Batch(Slice(0, 0, 0, 500), src=rows[:, 0], dst=rows[:, 1], time=time, event=time))
    src = np.repeat(np.arange(400), 400)
    candidate = np.tile(np.arange(400), 400)[:, None]
    zero = np.zeros(len(src), np.int64)
    found = model.score(Batch(Slice(0, 0, 0, len(src)), src=src, candidate=candidate, time=zero))
    assert int(found.sum()) == len(np.unique(pairs, axis=0))


@pytest.mark.parametrize("make", [lambda: EdgeBank(0), lambda: PopTrack(0.0), lambda: PopTrack(1.5)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InvalidValueError):
        make()
