"""Does a score depend on what had not happened yet? Perturb the future, and see.

The check runs a model over a log up to a *cut*, an event in the middle. Then it changes the log from the cut on
(partners, features, labels, times, existence) and runs again. Every query up to and including the cut must get the same
score, and the query of the cut itself must not notice that its own event has another partner or other features. Queries
of whole batches before the cut must agree to the bit; in the cut's own batch the changed rows may change the shapes of
matrix products, so rounding is allowed there, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.batch import Batch, Ids
from stepwell.core.errors import InvalidValueError, LeakError
from stepwell.core.shapes import Model
from stepwell.storage import EventLog

Batching: TypeAlias = Callable[[EventLog], Iterable[Batch]]


@dataclass(frozen=True, slots=True)
class LeakCheck:
    """What a passed check looked at.

    Args:
        cuts: Positions at which the future was changed.
        changes: How it was changed.
        num_compared: Scores that were compared and agreed.
    """

    cuts: tuple[int, ...]
    changes: tuple[str, ...]
    num_compared: int


def check_leak(
    model: Model,
    log: EventLog,
    batches: Batching | None = None,
    *,
    num_cuts: int = 3,
    rounding: float = 1e-5,
    seed: int = 0,
) -> LeakCheck:
    """Perturb the future of a log and demand unchanged scores of what came before; works for any model.

    The model itself is not touched: a copy runs, from the state before the first event.

    Args:
        model: Any model; it need not be trained.
        log: A few hundred to a few thousand events, starting at the log's first.
        batches: Builds the batches of a log, as in `lambda log: Pipeline(log, ...)`; the same way for every log. None:
            50 events a batch, 2 uniform negatives, and the newest neighbours that the model's `k`, `hops` and
            `keyed_by` ask for.
        num_cuts: At how many events the future is changed.
        rounding: Relative difference allowed in the cut's own batch.
        seed: Chooses cuts and changes.

    Returns:
        What was looked at.

    Raises:
        LeakError: At the first query whose score changed; names it, the change and both scores.
        InvalidValueError: If the log has fewer than four events, or no score could be compared.

    Cost:
        At most `5 num_cuts + 1` passes over the log.
    """
    if len(log) < 4:
        raise InvalidValueError("log", f"{len(log)} events", "at least 4 events")
    draw = np.random.default_rng(seed)
    inner = np.arange(log.begin + 1, log.end - 1)
    cuts = np.sort(draw.choice(inner, size=min(num_cuts, len(inner)), replace=False)).tolist()
    model = deepcopy(model)
    batches = batches or _usual(model)
    expected = _answers(model, batches(log), log.end)
    compared, names = 0, []
    for cut in cuts:
        for name, changed in _changes(log, cut, draw):
            found = _answers(model, batches(changed), cut)
            compared += _compare(expected, found, cut, _Change(name, rounding))
            names.append(name)
    if not compared:
        raise InvalidValueError(
            "batches", "no score of a same query", "a builder that gives the same batches each time"
        )
    return LeakCheck(tuple(cuts), tuple(dict.fromkeys(names)), compared)


def _usual(model: Model) -> Batching:
    k = getattr(model, "k", None)
    keyed_by: Literal["node", "node_time"] = getattr(model, "keyed_by", "node_time")

    def build(log: EventLog) -> Pipeline:
        return Pipeline(
            log,
            FixedBatches(50),
            negatives=UniformNegatives(2),
            sampler=None if k is None else Recent(k),
            hops=getattr(model, "hops", 1),
            as_of="batch" if keyed_by == "node" else "event",
            keyed_by=keyed_by,
            prefetch=0,
        )

    return build


@dataclass(frozen=True, slots=True)
class _Change:
    name: str
    rounding: float


@dataclass(frozen=True, slots=True)
class _Answer:
    """A batch's queries and what they scored."""

    event: Ids
    src: Ids
    time: Ids
    candidate: Ids
    score: npt.NDArray[np.float64]


def _answers(model: Model, batches: Iterable[Batch], last: int) -> list[_Answer]:
    """Return the answers of all batches up to the one that holds position `last`."""
    answers = []
    if isinstance(model, torch.nn.Module):
        model.eval()
    model.forget()
    with torch.no_grad():
        for batch in batches:
            score = model.score(batch).numpy(force=True).astype(np.float64)
            event, src, time, candidate = (batch.array(name).astype(np.int64) for name in _Answer.__slots__[:4])
            answers.append(_Answer(event, src, time, candidate, score))
            if answers[-1].event[-1] >= last:
                break
            model.observe(batch)
    return answers


def _changes(log: EventLog, cut: int, draw: np.random.Generator) -> Iterable[tuple[str, EventLog]]:
    """Yield the log with another future: each keeps source and time of every event up to the cut."""
    columns = log.snapshot
    dst, src = np.array(columns.dst), np.array(columns.src)
    dst[cut:] = _shuffled(dst[cut:], draw)
    src[cut + 1 :] = draw.permutation(src[cut + 1 :])
    yield "other partners from this event on", _like(log, replace(columns, src=src, dst=dst, open_index=None))

    times = np.array(columns.time)
    times[cut + 1 :] = times[cut]
    yield "all later events at this event's time", _like(log, replace(columns, time=times, open_index=None))

    if columns.event_feature is not None:
        feature = np.array(columns.event_feature)
        feature[cut:] = draw.normal(size=feature[cut:].shape, scale=10.0)
        yield "other features from this event on", _like(log, replace(columns, event_feature=feature))

    if columns.label is not None:
        label = np.array(columns.label)
        label[cut:] = draw.permutation(label[cut:])
        yield "other labels from this event on", _like(log, replace(columns, label=label))

    rest = {
        name: None if value is None else value[: cut + 1]
        for name, value in (
            ("src", columns.src),
            ("dst", columns.dst),
            ("time", columns.time),
            ("event_id", columns.event_id),
            ("label", columns.label),
            ("event_type", columns.event_type),
            ("event_feature", columns.event_feature),
        )
    }
    shorter = replace(columns, **rest, open_index=None)  # type: ignore[arg-type]
    yield "no later events", EventLog(shorter, log.begin, cut + 1)


def _like(log: EventLog, snapshot: object) -> EventLog:
    return replace(log, snapshot=snapshot)  # type: ignore[arg-type]


def _shuffled(values: npt.NDArray[np.int32], draw: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return the same values in another order, the first one changed if any differs from it."""
    mixed = draw.permutation(values)
    other = np.flatnonzero(mixed != values[0])
    if len(other) and mixed[0] == values[0]:
        mixed[[0, other[0]]] = mixed[[other[0], 0]]
    return mixed


def _compare(expected: list[_Answer], found: list[_Answer], cut: int, change: _Change) -> int:
    """Compare the same queries up to the cut; return how many scores agreed."""
    compared = 0
    for mine, other in zip(expected, found, strict=False):
        rows = min(len(mine.event), len(other.event))
        old, new = _head(mine, rows), _head(other, rows)
        same = (old.event == new.event) & (old.event <= cut) & (old.src == new.src) & (old.time == new.time)
        width = min(old.candidate.shape[1], new.candidate.shape[1])
        pairs = same[:, None] & (old.candidate[:, :width] == new.candidate[:, :width]) & (old.candidate[:, :width] >= 0)
        before, after = old.score[:, :width], new.score[:, :width]
        whole = pairs.all() and len(mine.event) == len(other.event) and old.candidate.shape == new.candidate.shape
        exact = whole and old.event[-1] < cut
        allowed = 0.0 if exact else change.rounding * np.maximum(1.0, np.abs(before))
        wrong = pairs & ~((np.abs(before - after) <= allowed) | (np.isnan(before) & np.isnan(after)))
        if wrong.any():
            _report(old, (before, after), np.argwhere(wrong)[0], cut, change)
        compared += int(pairs.sum())
    return compared


def _head(answer: _Answer, rows: int) -> _Answer:
    return _Answer(*(getattr(answer, name)[:rows] for name in _Answer.__slots__))


def _report(
    old: _Answer,
    scores: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    where: npt.NDArray[np.int64],
    cut: int,
    change: _Change,
) -> None:
    row, column = int(where[0]), int(where[1])
    raise LeakError(
        f"The score of event {old.event[row]} (source {old.src[row]}, candidate {old.candidate[row, column]}, "
        f"time {old.time[row]}) was {float(scores[0][row, column])!r} and became "
        f"{float(scores[1][row, column])!r} with "
        f"{change.name} (event {cut}). A score may use strictly earlier events only: look at what the model or the "
        "sampler reads at or after its query."
    )
