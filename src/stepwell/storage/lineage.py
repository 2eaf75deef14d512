"""Where a version of a table comes from: its inputs with their versions, the step, its parameters, the code.

The record is written into the Delta commit that it describes, so data and origin appear together or not at all; a
table of the lake, `_lineage`, repeats it for queries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

import pyarrow as pa

from stepwell.core.state import Json

TABLE = "_lineage"
SCHEMA = pa.schema(
    [
        ("output", pa.string()),
        ("version", pa.int64()),
        ("inputs", pa.list_(pa.struct([("name", pa.string()), ("version", pa.int64())]))),
        ("step", pa.string()),
        ("parameters", pa.string()),
        ("code_version", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
    ]
)


def code_version() -> str:
    """Return the installed version of this package, or "unknown" when it runs from a bare folder."""
    try:
        return version("stepwell")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Input:
    """One thing a version was made from.

    Args:
        name: A table of the lake, or a file or object outside it.
        version: The table's version; None for what has none.
    """

    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Origin:
    """How a version is made, as far as it is known before the commit.

    Args:
        step: What was done (`"write"`, `"ingest"`, the name of a preparation step).
        inputs: What it was made from.
        parameters: The step's parameters, JSON values.
        code_version: The version of the code that did it.
    """

    step: str = "write"
    inputs: tuple[Input, ...] = ()
    parameters: Mapping[str, Json] = field(default_factory=dict)
    code_version: str = field(default_factory=code_version)

    def to_json(self) -> str:
        """Return the origin as text for a commit's metadata."""
        return json.dumps({**asdict(self), "parameters": dict(self.parameters)})

    @classmethod
    def from_json(cls, text: str) -> Origin:
        """Return the origin written by `to_json`."""
        found = json.loads(text)
        inputs = tuple(Input(**entry) for entry in found["inputs"])
        return cls(found["step"], inputs, found["parameters"], found["code_version"])


@dataclass(frozen=True)
class Lineage:
    """One row of a lake's lineage: an output, its version, and its origin.

    Args:
        output: The table.
        version: Its version.
        origin: How it was made.
        time: When it was committed.
    """

    output: str
    version: int
    origin: Origin
    time: datetime

    def __str__(self) -> str:
        inputs = ", ".join(map(str, self.origin.inputs)) or "nothing on record"
        return f"{self.output}@{self.version} <- {self.origin.step} <- {inputs}"

    def to_row(self) -> pa.RecordBatch:
        """Return the row of `_lineage`."""
        row = {
            "output": self.output,
            "version": self.version,
            "inputs": [asdict(entry) for entry in self.origin.inputs],
            "step": self.origin.step,
            "parameters": json.dumps(dict(self.origin.parameters)),
            "code_version": self.origin.code_version,
            "time": self.time,
        }
        return pa.RecordBatch.from_pylist([row], schema=SCHEMA)

    @classmethod
    def from_rows(cls, rows: pa.Table) -> list[Lineage]:
        """Return the lineage written by `to_row`, from rows of `_lineage`, oldest first."""
        found = []
        for row in rows.sort_by("time").to_pylist():
            inputs = tuple(Input(**entry) for entry in row["inputs"])
            origin = Origin(row["step"], inputs, json.loads(row["parameters"]), row["code_version"])
            found.append(cls(row["output"], row["version"], origin, row["time"]))
        return found
