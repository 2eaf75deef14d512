"""The T-PPR ranker: an ordinary baseline with two state modes, and the known ranking of a real stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.core.batch import Batch, Slice
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn.tppr_ranker import TPPRRanker


def batch_of(rows: list[tuple[int, int, int]], candidate: list[list[int]], begin: int = 0) -> Batch:
    src, dst, time = np.array(rows, np.int64).T
    event = np.arange(begin, begin + len(rows))
    cut = Slice(0, 0, begin, begin + len(rows))
    return Batch(cut, src=src, dst=dst, time=time, event=event, candidate=np.array(candidate))


EXAMPLE = [(2, 4, 1), (1, 4, 2), (3, 4, 3), (1, 2, 4), (1, 2, 5)]
QUERY = [[1, 2, 3, 4, 5, -1]]


def test_a_candidates_score_is_the_sum_of_its_places_in_the_running_example():
    ranker = TPPRRanker(100, 0.1, 0.5)
    ranker.observe(batch_of(EXAMPLE, [[0]] * 5))
    scores = ranker.score(batch_of([(1, 2, 6)], QUERY, 5))
    wanted = [0.030857, 0.051429 + 0.036566 + 0.025714, 0.0, 0.040629 + 0.038571, 0.0, 0.0]
    assert scores.tolist()[0] == pytest.approx(wanted, abs=2e-6)


def test_streaming_sees_the_events_of_its_own_batch_and_frozen_does_not():
    frozen, streaming = TPPRRanker(), TPPRRanker()
    batch = batch_of([(0, 1, 1), (0, 1, 2)], [[1, 2], [1, 2]])
    assert not frozen.score(batch).any()
    scores = streaming.stream(batch)
    assert not scores[0].any()
    assert scores[1, 0] > 0 == scores[1, 1]
    frozen.observe(batch)
    again = batch_of([(0, 1, 3)], [[1, 2]], 2)
    assert torch.equal(frozen.score(again), streaming.score(again))


def test_a_saved_ranker_scores_as_before_and_a_forgetful_one_like_a_new_one():
    ranker, other = TPPRRanker(), TPPRRanker()
    query = batch_of([(1, 2, 6)], QUERY, 5)
    ranker.observe(batch_of(EXAMPLE, [[0]] * 5))
    writer = StateWriter()
    ranker.save(writer)
    other.load(StateReader(writer.tensors, writer.values))
    assert ranker.score(query).any()
    assert torch.equal(other.score(query), ranker.score(query))
    ranker.forget()
    assert not ranker.score(query).any()
    assert repr(ranker) == "TPPRRanker(k=20, alpha=0.1, beta=0.5)"
