"""Cuts of a log that keep nodes out of training, so that what a model makes of strangers can be measured."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.evaluate.protocols import Protocol
from stepwell.storage import EventLog


@dataclass(frozen=True, slots=True, eq=False)
class InductiveSplit:
    """A split in time whose training never meets some of the nodes.

    Args:
        train: Events up to the first quantile that touch no withheld node; a log of its own, whose index knows
            nothing else, with positions of its own and the events' permanent ids.
        validation: All events between the quantiles; a view of the whole log.
        test: All events after.
        withheld: Nodes kept out of training on purpose, sorted.
        unseen: All nodes absent from `train`, sorted; an event is inductive if it touches one.
    """

    train: EventLog
    validation: EventLog
    test: EventLog
    withheld: Ids
    unseen: Ids

    def inductive(self, log: EventLog) -> npt.NDArray[np.bool_]:
        """Say which events of a view touch a node absent from training, `[E]`."""
        return np.isin(log.src, self.unseen) | np.isin(log.dst, self.unseen)


def split_for(log: EventLog, protocol: Protocol) -> InductiveSplit:
    """Cut a log as a protocol says.

    The withheld nodes are a seeded sample, as large as the protocol's share of all nodes that occur, of those that
    occur after the first quantile. The sample is drawn from a sorted list, hence the same on every version of Python.

    Args:
        log: The events.
        protocol: Its `train`, `validation`, `withheld` and `withheld_seed` count.

    Raises:
        InvalidValueError: If nothing is left to train on, or fewer nodes occur late than are to be withheld.

    Cost:
        O(E); without withheld nodes the parts are views, else the training events and their features are copied.

    References:
        Xu et al., ICLR 2020, arXiv:2002.07962, section 4 and its released preprocessing.
    """
    parts = log.split(train=protocol.train, validation=protocol.validation)
    train, withheld = parts.train, np.zeros(0, np.int64)
    if protocol.withheld:
        withheld = _withheld(log, len(train), protocol)
        kept = ~(np.isin(train.src, withheld) | np.isin(train.dst, withheld))
        train = _only(train, kept)
    if not len(train):
        raise InvalidValueError("protocol", str(protocol), "one that leaves events to train on")
    seen = np.zeros(log.num_nodes, bool)
    seen[train.src] = True
    seen[train.dst] = True
    return InductiveSplit(train, parts.validation, parts.test, withheld, np.flatnonzero(~seen))


def _withheld(log: EventLog, num_train: int, protocol: Protocol) -> Ids:
    late = np.union1d(log.src[num_train:], log.dst[num_train:]).astype(np.int64)
    num_nodes = len(np.union1d(log.src, log.dst))
    count = int(protocol.withheld * num_nodes)
    if count > len(late):
        raise InvalidValueError("withheld", protocol.withheld, f"at most {len(late) / num_nodes:.3f} for this log")
    chosen = random.Random(protocol.withheld_seed).sample(late.tolist(), count)
    return np.sort(np.array(chosen, dtype=np.int64))


def _only(view: EventLog, kept: npt.NDArray[np.bool_]) -> EventLog:
    """Return the kept events of a view as a log of their own with the same node ids."""
    columns = view.snapshot
    own = slice(view.begin, view.end)
    typed = columns.event_type
    feature = columns.event_feature
    return EventLog.of(
        replace(
            columns,
            src=view.src[kept],
            dst=view.dst[kept],
            time=view.time[kept],
            event_id=view.event_id[kept],
            label=None if view.label is None else view.label[kept],
            event_type=None if typed is None else typed[own][kept],
            event_feature=None if feature is None else np.asarray(feature[own])[kept],
            open_index=None,
        )
    )
