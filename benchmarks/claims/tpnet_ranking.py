"""TPNet in ranking: jodie-wikipedia, each event against all other pages, state up to the previous event.

Settings and the best epoch were chosen by the reciprocal rank of the first 5,000 validation events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from benchmarks.harness import Claim, Result
from benchmarks.streams import stream
from stepwell.access import AllDestinations, FixedBatches, HistoricalNegatives, Pipeline, Recent, UniformNegatives
from stepwell.core import Batch, Draw, Ids
from stepwell.core.shapes import Model
from stepwell.evaluate import Evaluation, Report, p3, split_for
from stepwell.evaluate.split import InductiveSplit
from stepwell.nn import TGN, MostRecent, TPNet, TPNetSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig

CLAIMS = [
    Claim(
        "tpnet_wikipedia",
        "TPNet on jodie-wikipedia without features, with pair histories, ranked against all 999 other pages with "
        "streaming state (P3), MRR of the test, one seed",
        0.82,
        "MRR",
    ),
]
_SETTINGS = TPNetSettings(decay=(1e-6, 1e-4), dim=64, k=0, extras=True)
_HARD, _EASY = 10, 50
_VALIDATED, _TGN_EVENTS = 5_000, 500


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Train with early stopping by validation, then test once; the rule and TGN beside it."""
    torch.set_num_threads(2)
    log = stream("jodie-wikipedia", events=8_000 if quick else 0)
    split = split_for(log, p3())
    ours = _tpnet(log, split, quick=quick)
    rule = _after_training(MostRecent(), split)
    recent = _ranking(split, "test", 1)(rule)
    tgn = _tgn(log, split, quick=quick)
    first = {name: _mrr(report, len(tgn.predictions)) for name, report in (("TPNet", ours), ("MostRecent", recent))}
    mrr = ours["mrr"].value
    why = "" if mrr >= 0.82 else "The walks and histories of a pair tell little more than its recency."
    result = Result(
        "tpnet_wikipedia",
        mrr,
        {
            "TPNet": {"test_mrr": mrr, "hits@10": ours["hits@10"].value, "mrr_first_events": first["TPNet"]},
            "MostRecent": {"test_mrr": recent["mrr"].value, "mrr_first_events": first["MostRecent"]},
            "TGN": {"mrr_first_events": tgn["mrr"].value, "first_events": float(len(tgn.predictions))},
        },
        {"protocol": str(ours.protocol)},
        (0,),
        why,
    )
    return [result]


@dataclass(frozen=True)
class _HardAndEasy:
    """Some of the source's other destinations, and many of all."""

    hard: HistoricalNegatives
    easy: UniformNegatives = field(default_factory=lambda: UniformNegatives(_EASY))

    @property
    def width(self) -> int:
        """Negatives an event."""
        return self.hard.width + self.easy.width

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return the hard ones, then the easy ones."""
        return np.concatenate([self.hard.draw(log, batch, draw), self.easy.draw(log, batch, draw)], 1)


def _tpnet(log: EventLog, split: InductiveSplit, *, quick: bool) -> Report:
    """Train by cross-entropy over all pages, of which the easy negatives are a sample; return the test's report."""
    torch.manual_seed(0)
    model = TPNet(log.num_nodes, settings=_SETTINGS)
    shift = torch.zeros(1 + _HARD + _EASY)
    shift[1 + _HARD :] = math.log(max(len(log.destinations) / _EASY, 1.0))

    def ranking_loss(model: Model, batch: Batch) -> torch.Tensor:
        true = torch.zeros(len(batch), dtype=torch.int64)
        return torch.nn.functional.cross_entropy(model.score(batch) + shift, true)

    negatives = _HardAndEasy(HistoricalNegatives(split.train, _HARD))
    train = Pipeline(split.train, FixedBatches(200), negatives=negatives, sampler=Recent(1))
    config = LoopConfig(epochs=1 if quick else 4, learning_rate=1e-3, patience=2, monitor="mrr")
    loop = Loop(model, train, config, _ranking(split, "validation", 1, _VALIDATED), objective=ranking_loss)
    loop.fit()
    for batch in Pipeline(split.validation[_VALIDATED:], FixedBatches(200)):
        model.observe(batch)
    return _ranking(split, "test", 1)(model)


def _tgn(log: EventLog, split: InductiveSplit, *, quick: bool) -> Report:
    """Return the report of a TGN on the test's first events: with streaming state each event is a batch of its own."""
    torch.manual_seed(0)
    model = TGN(log.num_nodes)
    sampler = Recent(model.k)
    train = Pipeline(split.train, FixedBatches(200), negatives=UniformNegatives(1), sampler=sampler)
    events = 20 if quick else 400
    config = LoopConfig(epochs=1 if quick else 3, learning_rate=3e-4, patience=2, monitor="mrr")
    loop = Loop(model, train, config, _ranking(split, "validation", model.k, events, size=1))
    loop.fit()
    for batch in Pipeline(split.validation[events:], FixedBatches(200)):
        model.observe(batch)
    return _ranking(split, "test", model.k, 20 if quick else _TGN_EVENTS, size=1)(model)


def _after_training(model: MostRecent, split: InductiveSplit) -> MostRecent:
    for view in (split.train, split.validation):
        for batch in Pipeline(view, FixedBatches(5_000)):
            model.observe(batch)
    return model


def _ranking(
    split: InductiveSplit, part: Literal["validation", "test"], k: int, events: int = 0, size: int = 50
) -> Evaluation:
    """Return the ranking of a part's events, or of its first so many, against all other pages."""
    view = split.validation if part == "validation" else split.test
    batches = Pipeline(
        view[:events] if events else view,
        FixedBatches(size),
        negatives=AllDestinations(exclude_true=True),
        sampler=Recent(k),
    )
    return Evaluation(batches, replace(p3(part, state="stream"), data="jodie-wikipedia"))


def _mrr(report: Report, events: int) -> float:
    """Return the reciprocal rank of the first so many events."""
    return float(np.mean(1 / report.predictions.rank[:events]))
