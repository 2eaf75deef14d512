"""From raw tables to training data: integrate, clean, extract, label, compress, select.

Every part can be used alone, over Arrow tables and arrays; `Preparation` puts them into one lazy, versioned pipeline.
Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.prepare.answers import diff, provenance
    from stepwell.prepare.asof import AsOf
    from stepwell.prepare.cache import clear_cache
    from stepwell.prepare.commit import Prepared, committed_fitted
    from stepwell.prepare.compressing import compressed
    from stepwell.prepare.labelling import Crowd
    from stepwell.prepare.page import report
    from stepwell.prepare.pipeline import Preparation
    from stepwell.prepare.sources import ingest

__all__ = [
    "AsOf",
    "Crowd",
    "Preparation",
    "Prepared",
    "clear_cache",
    "committed_fitted",
    "compressed",
    "diff",
    "ingest",
    "provenance",
    "report",
]

_HOME = {
    "AsOf": "asof",
    "Crowd": "labelling",
    "Preparation": "pipeline",
    "Prepared": "commit",
    "clear_cache": "cache",
    "committed_fitted": "commit",
    "compressed": "compressing",
    "diff": "answers",
    "ingest": "sources",
    "provenance": "answers",
    "report": "page",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
