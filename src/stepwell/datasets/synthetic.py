"""Seeded event streams that look like people: habits, sessions, drift and bursts.

A stream has `users` who act on `items`. Each user has an activity (a few act often, most rarely), lives through
sessions (short gaps inside, long ones between, few at night), returns to what was used lately (habit), explores
items of the current interest by popularity, and changes that interest now and then (drift). Some items become
popular for some hours and draw everybody (burst). Every choice is a counter-based draw, so the same settings give
the same stream on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core import Draw
from stepwell.core.draws import philox
from stepwell.core.errors import InvalidValueError

_DAY = 86_400
_Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Habits:
    """Settings of a generated stream.

    Args:
        users: Users, who are the sources of the events.
        items: Items, which are the destinations.
        events: Events in all.
        days: Length of the stream.
        topics: Interests; each item belongs to one, each user follows one at a time.
        repeat: Chance that an event returns to one of the user's recent items, 0 to 1.
        follow: Chance that an event during a burst goes to the bursting item, 0 to 1.
        bursts: How many bursts there are.
        features: Width of the event features (topic and in-session signals with noise); 0 for none.
        seed: The seed.

    Raises:
        InvalidValueError: If a size is not positive or a chance is outside [0, 1].
    """

    users: int = 1_000
    items: int = 400
    events: int = 30_000
    days: int = 60
    topics: int = 12
    repeat: float = 0.65
    follow: float = 0.15
    bursts: int = 40
    features: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("users", "items", "events", "days", "topics"):
            if getattr(self, name) < 1:
                raise InvalidValueError(name, getattr(self, name), "at least 1")
        for name in ("bursts", "features"):
            if getattr(self, name) < 0:
                raise InvalidValueError(name, getattr(self, name), "0 or more")
        for name in ("repeat", "follow"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidValueError(name, getattr(self, name), "between 0 and 1")


def habits(settings: Habits | None = None) -> pa.Table:
    """Generate a stream, sorted by time.

    The label is 1 on the events that a burst drew: a state that only the recent past of both ends tells.

    Returns:
        A table with `user` and `item` int64 (each numbered from 0), `time` int64 seconds, `label` int8, and
        `features` (a fixed-size list of float32) if there are any.

    Cost:
        O(events) time and memory; about 2 M events/s on one core.
    """
    chosen = settings or Habits()
    counts = _activity(chosen)
    user = np.repeat(np.arange(chosen.users, dtype=np.int64), counts)
    ends = np.cumsum(counts)
    order = _popularity(chosen)
    time = np.empty(chosen.events, np.int64)
    item = np.empty(chosen.events, np.int64)
    label = np.zeros(chosen.events, np.int8)
    topic = np.empty(chosen.events, np.int64)
    burst = _bursts(chosen)
    key = np.uint64(Draw(chosen.seed, "habits").key)
    chances = np.array([chosen.repeat, chosen.follow])
    for number, end in enumerate(ends.tolist()):
        rows = slice(end - int(counts[number]), end)
        own = (time[rows], item[rows], label[rows], topic[rows])
        _live(key, number, chosen.days, chosen.topics, chances, order, burst, *own)  # type: ignore[arg-type]
    sequence = np.argsort(time, kind="stable")
    columns: dict[str, pa.Array] = {
        "user": pa.array(user[sequence]),
        "item": pa.array(item[sequence]),
        "time": pa.array(time[sequence]),
        "label": pa.array(label[sequence]),
    }
    if chosen.features:
        columns["features"] = _features(chosen, topic[sequence], label[sequence])
    return pa.table(columns)


def uniform(
    events: int, nodes: int, *, seed: int = 0, begin: int = 0
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Generate `events` power-law events from global row `begin` on, in time order: for size tests, not for learning.

    Row r is the same whatever block it is generated in, so a stream of any length needs one block of memory.

    Returns:
        `src`, `dst` int32 and `time` int64 (one tick a row), each `[events]`.
    """
    rows = np.arange(begin, begin + events, dtype=np.int64)
    unit = Draw(seed, "uniform").uniform(rows, 2)
    ends = (unit**3 * nodes).astype(np.int32)
    return ends[:, 0], nodes - 1 - ends[:, 1], rows


def _activity(settings: Habits) -> npt.NDArray[np.int64]:
    """Return how many events each user gets: Zipf-like, at least one where there are enough, exact in sum."""
    share = 1.0 / (np.arange(settings.users) + 5.0) ** 0.9
    base = min(1, settings.events // settings.users)
    counts = base + np.floor(share / share.sum() * (settings.events - base * settings.users)).astype(np.int64)
    counts[: settings.events - int(counts.sum())] += 1
    place = Draw(settings.seed, "activity").bits(np.arange(settings.users), 1)[:, 0].argsort(kind="stable")
    shuffled: npt.NDArray[np.int64] = counts[place]
    return shuffled


def _popularity(settings: Habits) -> npt.NDArray[np.int64]:
    """Return the items in a random order; item order[i] has topic i mod topics and popularity rank i // topics."""
    order: npt.NDArray[np.int64] = (
        Draw(settings.seed, "popularity").bits(np.arange(settings.items), 1)[:, 0].argsort(kind="stable")
    )
    return order


def _bursts(settings: Habits) -> npt.NDArray[np.int64]:
    """Return (begin, end, item) of each burst, int64 `[bursts, 3]`, by begin."""
    unit = Draw(settings.seed, "bursts").uniform(np.arange(settings.bursts), 3)
    begin = np.sort((unit[:, 0] * settings.days * _DAY).astype(np.int64))
    length = ((2 + 22 * unit[:, 1]) * 3600).astype(np.int64)
    return np.stack([begin, begin + length, (unit[:, 2] * settings.items).astype(np.int64)], axis=1)


@numba.njit(cache=True, nogil=True)
def _unit(key: int, user: int, lane: int) -> float:
    """Return a float in [0, 1) for one user's draw number `lane`."""
    return float(philox(key, user, lane) >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True, nogil=True)
def _starts(key: int, user: int, days: int, sessions: int) -> _Array:
    """Return when the user's sessions begin, sorted; most by day, few at night."""
    starts = np.empty(sessions, np.int64)
    for s in range(sessions):
        day = int(_unit(key, user, 8 * s + 1) * days)
        hour = 7.0 + 17.0 * (_unit(key, user, 8 * s + 2) + _unit(key, user, 8 * s + 3)) / 2.0
        starts[s] = day * 86_400 + int(hour * 3600.0)
    starts.sort()
    return starts


@numba.njit(cache=True, nogil=True)
def _bursting(bursts: _Array, now: int) -> int:
    """Return the item of the newest burst at `now`, or -1."""
    chosen = -1
    for b in range(len(bursts)):
        if bursts[b, 0] <= now < bursts[b, 1]:
            chosen = bursts[b, 2]
    return chosen


@numba.njit(cache=True, nogil=True)
def _remember(habit: _Array, item: int) -> None:
    """Move `item` to the front of the user's recent items."""
    slot = len(habit) - 1
    for h in range(len(habit)):
        if habit[h] == item:
            slot = h
            break
    for h in range(slot, 0, -1):
        habit[h] = habit[h - 1]
    habit[0] = item


@numba.njit(cache=True, nogil=True)
def _choose(
    key: int, user: int, lane: int, repeat: float, habit: _Array, interest: int, topics: int, order: _Array
) -> int:
    """Return a recent item with chance `repeat`, else one of the present interest by popularity."""
    if _unit(key, user, lane + 4) < repeat:
        place = int(-3.0 * np.log(1.0 - _unit(key, user, lane + 5)))
        known = habit[min(place, len(habit) - 1)]
        if known >= 0:
            return int(known)
    shelf = (len(order) - interest + topics - 1) // topics
    rank = int(_unit(key, user, lane + 6) ** 3 * max(shelf, 1))
    return int(order[min(rank * topics + interest, len(order) - 1)])


@numba.njit(cache=True, nogil=True)
def _live(
    key: int,
    user: int,
    days: int,
    topics: int,
    chances: npt.NDArray[np.float64],
    order: _Array,
    bursts: _Array,
    time: _Array,
    item: _Array,
    label: npt.NDArray[np.int8],
    topic: _Array,
) -> None:
    """Write one user's events in time order; the last four arrays are the user's part of the stream."""
    events = len(time)
    sessions = max(1, events // 6)
    starts = _starts(key, user, days, sessions)
    habit = np.full(16, -1, np.int64)
    interest = int(_unit(key, user, 4) * topics)
    session, now = -1, 0
    for e in range(events):
        lane = (1 << 32) + 8 * e
        if e * sessions // events != session:
            session = e * sessions // events
            now = max(now, starts[session])
            if _unit(key, user, lane) < 0.03:
                interest = int(_unit(key, user, lane + 1) * topics)
        now = now + 5 + int(-60.0 * np.log(1.0 - _unit(key, user, lane + 2)))
        chosen = -1
        if _unit(key, user, lane + 3) < chances[1]:
            chosen = _bursting(bursts, now)
            label[e] = chosen >= 0
        if chosen < 0:
            chosen = _choose(key, user, lane, chances[0], habit, interest, topics, order)
        _remember(habit, chosen)
        time[e], item[e], topic[e] = now, chosen, interest


def _features(settings: Habits, topic: npt.NDArray[np.int64], label: npt.NDArray[np.int8]) -> pa.Array:
    rows = np.arange(settings.events)
    noise = Draw(settings.seed, "features").uniform(rows, settings.features).astype(np.float32) - 0.5
    angle = 2 * np.pi * topic[:, None] / settings.topics * (1 + np.arange(settings.features) // 2)[None]
    signal = np.where(np.arange(settings.features)[None] % 2 == 0, np.cos(angle), np.sin(angle)).astype(np.float32)
    signal += label[:, None] * 0.25
    return pa.FixedSizeListArray.from_arrays(pa.array((signal + noise).ravel()), settings.features)
