"""Evaluate a model over batches: score, collect, observe; then pool all answers into the protocol's scores.

The model sees an event only after it has been scored, and nothing here needs gradients. Metrics are taken over all
answers at once; the field's mean over batches stands beside them under a protocol of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, runtime_checkable
from typing import Protocol as Shape

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from stepwell.core.batch import Batch, Ids
from stepwell.core.errors import InvalidValueError, ProtocolError, UnknownNameError
from stepwell.core.progress import progress
from stepwell.core.shapes import Model
from stepwell.evaluate.metrics import average_precision, hits_at, mean_reciprocal_rank, ranks, roc_auc
from stepwell.evaluate.protocols import Pooling, Protocol, Score

_Float64 = npt.NDArray[np.float64]


@runtime_checkable
class Streaming(Shape):
    """A model that can score each event of a batch against the state left by the event before it."""

    def stream(self, batch: Batch) -> torch.Tensor:
        """Return scores `[B, C]` and learn the batch's events, one after the other."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model answered, one row a scored event; `to_arrow` makes it a table for Parquet.

    Args:
        event: Positions in the log, int64 `[S]`.
        src: Sources, int64 `[S]`.
        dst: True destinations, int64 `[S]`.
        time: Times in the log's unit, int64 `[S]`.
        score: The true destination's score, float64 `[S]`.
        rank: Its rank among the candidates, from 1, ties in halves, float64 `[S]`.
        num_negatives: How many false candidates there were, int64 `[S]`.
        negative_mean: The mean of their scores, NaN where there were none, float64 `[S]`.
        negative_best: The highest of their scores, NaN where there were none, float64 `[S]`.
    """

    event: Ids
    src: Ids
    dst: Ids
    time: Ids
    score: _Float64
    rank: _Float64
    num_negatives: Ids
    negative_mean: _Float64
    negative_best: _Float64

    def __len__(self) -> int:
        return len(self.event)

    def to_arrow(self) -> pa.Table:
        """Return the columns as an Arrow table, in this order."""
        return pa.table({name: pa.array(getattr(self, name)) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class Report:
    """The scores of one evaluation, with every answer behind them.

    Args:
        protocol: How the scores were found.
        scores: Each metric pooled, and where the field does so also as mean over batches.
        predictions: The answers.
        seconds: Wall time of the pass.
        num_scores: How many candidates were scored.
    """

    protocol: Protocol
    scores: tuple[Score, ...]
    predictions: Predictions = field(repr=False)
    seconds: float
    num_scores: int

    def __getitem__(self, name: str) -> Score:
        return self.score(name)

    def score(self, name: str, pooling: Pooling = "pooled") -> Score:
        """Return one score.

        Raises:
            UnknownNameError: If the protocol has no such metric, or not pooled that way.
        """
        for score in self.scores:
            if score.name == name and score.protocol.pooling == pooling:
                return score
        raise UnknownNameError(f"{pooling} score", name, {s.name for s in self.scores if s.protocol.pooling == pooling})

    def __str__(self) -> str:
        rate = len(self.predictions) / self.seconds if self.seconds else float("inf")
        lines = [str(self.protocol), f"  {len(self.predictions)} events, {self.seconds:.2f} s, {rate:,.0f} events/s"]
        for score in self.scores:
            pooling = (
                "" if score.protocol.pooling == "pooled" else f"  (mean over batches of {self.protocol.batch_size})"
            )
            lines.append(f"  {score.name:<8} {score.value:.4f}{pooling}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is ranked against what, at which time: batches and the protocol that they follow. Call it with a model.

    Args:
        batches: A pipeline, or any iterable that gives the same batches each time. Each batch has `src`, `dst`,
            `time`, `event` and `candidate` with the true destination in column 0; a negative id pads a row.
        protocol: What the scores will name.
        unseen: Nodes absent from training; needed where the protocol scores only inductive events.

    Raises:
        InvalidValueError: If the protocol is inductive and `unseen` is missing.
    """

    batches: Iterable[Batch] = field(repr=False)
    protocol: Protocol
    unseen: Ids | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.protocol.events == "inductive" and self.unseen is None:
            raise InvalidValueError("unseen", None, "the nodes absent from training, for an inductive protocol")

    def __call__(self, model: Model) -> Report:
        """Return `evaluate(model, ...)` of these batches."""
        return evaluate(model, self.batches, self.protocol, unseen=self.unseen)


def evaluate(model: Model, batches: Iterable[Batch], protocol: Protocol, *, unseen: Ids | None = None) -> Report:
    """Score every event of the batches, then let the model observe it; continue from the model's present state.

    Guarantee: the model observes a batch only after all its answers are given (with streaming state: an event after
    its own answer). Its parameters and its training mode are as before; its state is that after the last batch.

    Args:
        model: Any model with `score` and `observe`; a module is set to `eval` meanwhile.
        batches: As in `Evaluation`.
        protocol: What the scores name. Batches must keep its batch size.
        unseen: Nodes absent from training; with an inductive protocol only events that touch one are scored.

    Raises:
        ProtocolError: If a batch is larger than the protocol says, or streaming state is asked of a model without
            `stream` in batches of more than one event.
        InvalidValueError: If there is nothing to score, or a score is NaN.

    Cost:
        The model's, and O(B C) a batch. Keeps one row a scored event; all candidates' scores only where the protocol
        asks for average precision or ROC AUC.

    Example:
        >>> from stepwell.access import AllDestinations, Pipeline
        >>> from stepwell.evaluate import p3
        >>> from stepwell.nn import EdgeBank
        >>> log = EventLog.from_arrays(src=[0, 0, 0], dst=[1, 2, 1], time=[1, 2, 3])
        >>> report = evaluate(EdgeBank(), Pipeline(log, negatives=AllDestinations()), p3(state="stream"))
        >>> report.predictions.rank  # nothing seen; then 1 seen before 2; then both
        array([1.5, 2. , 1.5])
    """
    started = time.perf_counter()
    collected = _Collected(protocol, None if unseen is None else np.unique(unseen))
    total = len(batches) if isinstance(batches, Sized) else None
    with _evaluating(model), torch.no_grad(), progress(f"evaluate {protocol.part}", total, "batches") as task:
        for batch in batches:
            answer = _answer(protocol, model, batch)
            collected.add(batch, answer(batch))
            task.advance()
    if not collected.columns:
        raise InvalidValueError("batches", "nothing to score", f"at least one event of {protocol.events!r} events")
    return collected.report(time.perf_counter() - started)


def _answer(protocol: Protocol, model: Model, batch: Batch) -> Callable[[Batch], torch.Tensor]:
    """Return how this batch is answered and learnt, after checking that the protocol allows it."""

    def score_then_observe(batch: Batch) -> torch.Tensor:
        scores = model.score(batch)
        model.observe(batch)
        return scores

    if protocol.state == "stream":
        if isinstance(model, Streaming):
            return model.stream
        if len(batch) > 1:
            raise ProtocolError(
                f"Streaming state needs batches of one event for {type(model).__name__}, which has no `stream`; "
                f"got {len(batch)} events. Use FixedBatches(1), or a protocol with state='frozen'."
            )
    elif len(batch) > protocol.batch_size:
        raise ProtocolError(
            f"The protocol freezes state per {protocol.batch_size} events, but a batch has {len(batch)}. "
            f"Use FixedBatches({protocol.batch_size}), or a protocol with batch_size={len(batch)}."
        )
    return score_then_observe


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Set a module to `eval` while the block runs."""
    if not isinstance(model, torch.nn.Module):
        yield
        return
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Collected:
    """Answers as they come: one row an event, and all scores where a metric needs them."""

    def __init__(self, protocol: Protocol, unseen: Ids | None) -> None:
        self.protocol = protocol
        self.unseen = unseen if protocol.events == "inductive" else None
        self.columns: list[tuple[npt.NDArray[np.generic], ...]] = []
        self.targets: list[npt.NDArray[np.bool_]] = []
        self.scores: list[_Float64] = []
        self.num_scores = 0
        self._keeps_scores = bool({"ap", "auc"} & set(protocol.metrics))

    def add(self, batch: Batch, answer: torch.Tensor) -> None:
        score = answer.numpy(force=True)
        candidate = batch.array("candidate")
        if score.shape != candidate.shape:
            raise InvalidValueError("score", list(score.shape), f"one a candidate ({list(candidate.shape)})")
        src, dst = batch.array("src"), batch.array("dst")
        place, moment = batch.array("event"), batch.array("time")
        if self.unseen is not None:
            kept = np.isin(src, self.unseen) | np.isin(dst, self.unseen)
            if not kept.any():
                return
            score, candidate, src, dst = score[kept], candidate[kept], src[kept], dst[kept]
            place, moment = place[kept], moment[kept]
        valid = np.asarray(candidate, dtype=np.int64) >= 0
        rank = ranks(score, valid)
        self.num_scores += int(valid.sum())
        num, mean, best = _summary(score[:, 1:], valid[:, 1:])
        self.columns.append((place, src, dst, moment, score[:, 0].astype(np.float64), rank, num, mean, best))
        if self._keeps_scores:
            first = np.zeros(score.shape, bool)
            first[:, 0] = True
            self.targets.append(first[valid])
            self.scores.append(score[valid].astype(np.float64))

    def report(self, seconds: float) -> Report:
        predictions = Predictions(*(np.concatenate(column) for column in zip(*self.columns, strict=True)))
        scores = tuple(score for name in self.protocol.metrics for score in self._scores(name, predictions))
        return Report(self.protocol, scores, predictions, seconds, self.num_scores)

    def _scores(self, name: str, predictions: Predictions) -> Iterator[Score]:
        num = len(predictions)
        if name in _OF_ANSWERS:
            metric = _OF_ANSWERS[name]
            pooled = metric(np.concatenate(self.targets), np.concatenate(self.scores))
            yield Score(name, pooled, self.protocol, num)
            each = [metric(target, score) for target, score in zip(self.targets, self.scores, strict=True)]
            yield Score(name, float(np.mean(each)), replace(self.protocol, pooling="batches"), num)
        elif name == "mrr":
            yield Score(name, mean_reciprocal_rank(predictions.rank), self.protocol, num)
        elif name.startswith("hits@"):
            yield Score(name, hits_at(predictions.rank, int(name.removeprefix("hits@"))), self.protocol, num)
        else:
            raise UnknownNameError("metric", name, [*_OF_ANSWERS, "mrr", "hits@10"])


_OF_ANSWERS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {"ap": average_precision, "auc": roc_auc}


def _summary(score: npt.NDArray[np.floating[Any]], valid: npt.NDArray[np.bool_]) -> tuple[Ids, _Float64, _Float64]:
    """Return how many negatives each row has, their mean and their best score (NaN where there are none)."""
    num = valid.sum(axis=1)
    empty = num == 0
    mean = np.where(valid, score, 0.0).sum(axis=1, dtype=np.float64) / np.maximum(num, 1)
    best = np.where(valid, score, -np.inf).max(axis=1, initial=-np.inf).astype(np.float64)
    return num.astype(np.int64), np.where(empty, np.nan, mean), np.where(empty, np.nan, best)
