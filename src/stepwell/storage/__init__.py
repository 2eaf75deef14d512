"""The lake and what is read from it: tables, event logs, and the indexes derived from them.

Names load on first use, so importing the package loads neither the table format nor the SQL engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.storage.columns import Codes, Dictionary, Ragged
    from stepwell.storage.events import EventLog, Split
    from stepwell.storage.index import TemporalCSR
    from stepwell.storage.lake import Lake, open
    from stepwell.storage.rows import TableRows
    from stepwell.storage.snapshot import Snapshot
    from stepwell.storage.sources import open_source
    from stepwell.storage.table import Table

__all__ = [
    "Codes",
    "Dictionary",
    "EventLog",
    "Lake",
    "Ragged",
    "Snapshot",
    "Split",
    "Table",
    "TableRows",
    "TemporalCSR",
    "open",
    "open_source",
]

_HOME = {
    "Codes": "columns",
    "Dictionary": "columns",
    "EventLog": "events",
    "Lake": "lake",
    "Ragged": "columns",
    "Snapshot": "snapshot",
    "Split": "events",
    "Table": "table",
    "TableRows": "rows",
    "TemporalCSR": "index",
    "open": "lake",
    "open_source": "sources",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
