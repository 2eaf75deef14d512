"""Evaluation: order of scoring and observing, pooling, subsets, and what is kept of each answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from stepwell.core.batch import Batch, Slice
from stepwell.core.errors import InvalidValueError, ProtocolError, UnknownNameError
from stepwell.evaluate import Evaluation, evaluate, p1, p2, p3, split_for
from stepwell.evaluate.batches import GridBatches, evaluation_for
from stepwell.nn.baselines import EdgeBank, MostRecent
from stepwell.storage import EventLog


def small_log(num=60, seed=0):
    draw = np.random.default_rng(seed)
    src, dst = draw.integers(0, 6, num), draw.integers(6, 12, num)
    return EventLog.from_arrays(src, dst, np.sort(draw.integers(0, 40, num)), num_nodes=12)


class Recorder(torch.nn.Module):
    """A model that notes what it is asked, and answers with fixed numbers."""

    def __init__(self, scores=None):
        super().__init__()
        self.calls, self.scores = [], scores

    def score(self, batch):
        self.calls.append(("score", batch.slice.begin, self.training, torch.is_grad_enabled()))
        if self.scores is not None:
            return self.scores[batch.slice.begin : batch.slice.end]
        return torch.zeros(batch.candidate.shape)

    def observe(self, batch):
        self.calls.append(("observe", batch.slice.begin, self.training, torch.is_grad_enabled()))

    def forget(self):
        self.calls.clear()


def batches_of(log, size, width=3, seed=1):
    draw = np.random.default_rng(seed)
    others = draw.integers(6, 12, (len(log), width))
    for begin in range(0, len(log), size):
        batch = log.read(Slice(0, begin // size, begin, min(begin + size, len(log))))
        candidate = np.concatenate([batch.array("dst")[:, None], others[begin : begin + size]], axis=1)
        yield batch.give(candidate=candidate)


def test_a_batch_is_scored_before_it_is_observed_in_eval_and_without_gradients():
    model = Recorder()
    evaluate(model, batches_of(small_log(), 25), p1())
    assert [call[:2] for call in model.calls] == [(what, b) for b in (0, 25, 50) for what in ("score", "observe")]
    assert not any(training or grad for _, _, training, grad in model.calls)
    assert model.training


def test_pooled_metrics_take_all_answers_at_once_and_the_fields_form_stands_beside():
    scores = torch.from_numpy(np.random.default_rng(3).normal(size=(60, 4)))
    report = evaluate(Recorder(scores), batches_of(small_log(), 25), replace(p1(), batch_size=25))
    target = np.zeros((60, 4))
    target[:, 0] = 1
    assert report["ap"].value == pytest.approx(average_precision_score(target.ravel(), scores.numpy().ravel()))
    cuts = [(0, 25), (25, 50), (50, 60)]
    each = [average_precision_score(target[a:b].ravel(), scores[a:b].numpy().ravel()) for a, b in cuts]
    assert report.score("ap", "batches").value == pytest.approx(np.mean(each))
    with pytest.raises(ProtocolError):
        _ = report["ap"] > report.score("ap", "batches")
    assert "mean over batches" in str(report)


def test_predictions_hold_one_row_an_event_with_a_summary_of_its_negatives():
    scores = torch.tensor([[0.5, 0.1, 0.9, 0.0]]).repeat(60, 1)
    log = small_log()
    report = evaluate(Recorder(scores), batches_of(log, 30), p3())
    table = report.predictions.to_arrow()
    assert table.num_rows == 60
    assert table["event"].to_pylist() == list(range(60))
    assert table["dst"].to_pylist() == log.dst.tolist()
    assert set(table["rank"].to_pylist()) == {2.0}
    assert table["negative_best"][0].as_py() == pytest.approx(0.9)
    assert table["negative_mean"][0].as_py() == pytest.approx(1.0 / 3)
    assert report["mrr"].value == 0.5
    assert report.num_scores == 240


def test_padded_candidates_are_not_ranked():
    batch = Batch(
        Slice(0, 0, 0, 1),
        src=np.array([0]),
        dst=np.array([1]),
        time=np.array([0]),
        event=np.array([0]),
        candidate=np.array([[1, 2, -1]]),
    )
    report = evaluate(Recorder(torch.tensor([[0.5, 0.1, 9.0]])), [batch], p3())
    assert report.predictions.rank.tolist() == [1.0]
    assert report.predictions.num_negatives.tolist() == [1]


def test_inductive_protocols_score_only_events_of_unseen_nodes_but_observe_all():
    log = small_log()
    model = Recorder()
    unseen = np.array([3, 7])
    evaluation = Evaluation(list(batches_of(log, 20)), p1(events="inductive"), unseen)
    report = evaluation(model)
    kept = np.isin(log.src, unseen) | np.isin(log.dst, unseen)
    assert report.predictions.event.tolist() == np.flatnonzero(kept).tolist()
    assert sum(call[0] == "observe" for call in model.calls) == 3
    with pytest.raises(InvalidValueError, match="unseen"):
        Evaluation([], p1(events="inductive"))


def test_a_batch_larger_than_the_protocols_is_refused():
    with pytest.raises(ProtocolError, match="freezes state per 200"):
        evaluate(EdgeBank(), batches_of(small_log(300), 300), p3())


def test_streaming_state_needs_single_events_or_a_model_that_streams():
    log = small_log()
    by_one, at_once = MostRecent(), MostRecent()
    protocol = p3(state="stream")
    one = evaluate(_WithoutStream(by_one), batches_of(log, 1), protocol)
    many = evaluate(at_once, batches_of(log, 60), protocol)
    assert one.predictions.rank.tolist() == many.predictions.rank.tolist()
    assert one["mrr"] == many["mrr"]
    with pytest.raises(ProtocolError, match="batches of one event"):
        evaluate(_WithoutStream(MostRecent()), batches_of(log, 10), protocol)


class _WithoutStream:
    def __init__(self, model):
        self.score, self.observe, self.forget = model.score, model.observe, model.forget


def test_nothing_to_score_and_unknown_metrics_are_said_plainly():
    with pytest.raises(InvalidValueError, match="nothing to score"):
        evaluate(EdgeBank(), [], p1())
    with pytest.raises(UnknownNameError, match="metric"):
        evaluate(EdgeBank(), batches_of(small_log(), 60), replace(p1(), metrics=("accuracy",)))
    with pytest.raises(UnknownNameError, match="pooled score"):
        evaluate(EdgeBank(), batches_of(small_log(), 60), p1())["mrr"]


def test_withheld_nodes_never_occur_in_training_and_count_as_unseen():
    log = small_log(400)
    split = split_for(log, replace(p1(), withheld=0.25))
    assert len(split.withheld) == 3
    assert not np.isin(split.train.src, split.withheld).any()
    assert not np.isin(split.train.dst, split.withheld).any()
    assert set(split.withheld) <= set(split.unseen)
    whole = log.split().train
    touched = np.isin(whole.src, split.withheld) | np.isin(whole.dst, split.withheld)
    assert split.train.event_id.tolist() == np.flatnonzero(~touched).tolist()
    assert split.train.num_nodes == log.num_nodes
    assert len(split.train.index.event) == 2 * len(split.train)
    assert split.inductive(split.test).sum() > 0
    again = split_for(log, replace(p1(), withheld=0.25))
    assert again.withheld.tolist() == split.withheld.tolist()


def test_without_withheld_nodes_the_parts_are_views():
    log = small_log(200)
    split = split_for(log, p3())
    assert split.train.snapshot is log.snapshot
    assert len(split.train) + len(split.validation) + len(split.test) == 200


@pytest.mark.parametrize(
    "protocol", [p1(), p1("validation"), p2(), p2(negatives="inductive"), p3(), p3(state="stream")], ids=str
)
def test_batches_built_for_a_protocol_give_reproducible_reports(protocol):
    log = small_log(300)
    evaluation = evaluation_for(protocol, split_for(log, protocol), streams=True)
    first, second = evaluation(EdgeBank()), evaluation(EdgeBank())
    assert first.scores == second.scores
    assert first.protocol.data == "events"


def test_grid_batches_cut_at_multiples_of_the_logs_positions():
    log = small_log(50)[7:33]
    cuts = [(cut.begin + 7, cut.end + 7) for cut in GridBatches(10).cuts(log, 0)]
    assert cuts == [(7, 10), (10, 20), (20, 30), (30, 33)]
