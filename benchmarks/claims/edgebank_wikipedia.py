"""The anchors of the ranking protocol: rules without parameters on jodie-wikipedia give the published numbers."""

from __future__ import annotations

import tempfile
from typing import Literal

from benchmarks.harness import Claim, Result
from benchmarks.ranking import rank
from stepwell import storage
from stepwell.datasets import datasets
from stepwell.nn import EdgeBank, MostRecent
from stepwell.storage import EventLog

_WHY = "The distance is the largest over validation and test."
_PUBLISHED: dict[str, tuple[type[EdgeBank] | type[MostRecent], Literal["frozen", "stream"], float, float]] = {
    "edgebank_wikipedia": (EdgeBank, "frozen", 0.527, 0.495),
    "most_recent_wikipedia": (MostRecent, "frozen", 0.753, 0.728),
    "most_recent_wikipedia_streaming": (MostRecent, "stream", 0.839, 0.817),
}

CLAIMS = [
    Claim(
        name,
        f"{make.__name__} with {'state frozen per 200 events' if state == 'frozen' else 'streaming state'} on "
        f"jodie-wikipedia, ranked against all 999 other pages (P3): MRR {validation} on validation and {test} on test; "
        "measured is the larger distance from these",
        0.001,
        "MRR",
        "<=",
    )
    for name, (make, state, validation, test) in _PUBLISHED.items()
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Evaluate each rule over validation and test; a quick run is the full one, because it takes seconds."""
    del quick
    with tempfile.TemporaryDirectory() as folder:
        log = datasets["jodie-wikipedia"].ingest(storage.open(folder))
        return [_measure(log, name) for name in _PUBLISHED]


def _measure(log: EventLog, name: str) -> Result:
    make, state, *published = _PUBLISHED[name]
    found = rank(log, make, state)
    validation, test = published
    distance = found.distance((validation, test))
    return Result(
        claim=name,
        measured=distance,
        baseline={
            "published": {"validation_mrr": validation, "test_mrr": test},
            "stepwell": found.figures,
        },
        quality={"protocol": found.protocol},
        why=_WHY if distance <= 0.001 else f"{_WHY} A public rule moved: look at split, grid of batches, or ties.",
    )
