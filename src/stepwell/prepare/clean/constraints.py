"""What must hold of a table, as frozen objects that know how to say it in SQL.

A constraint on one row is a boolean expression, and any number of them share one scan. The others compare rows with
each other (`Unique`, `Determines`), with another table (`ForeignKey`) or a whole column with a reference (`NoDrift`).
A missing value violates `NotNull` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from stepwell.core.errors import InvalidValueError
from stepwell.storage.query import quoted

Scalar: TypeAlias = str | int | float | bool


@runtime_checkable
class RowConstraint(Protocol):
    """Holds or not for each row by itself."""

    @property
    def name(self) -> str:
        """How the violation table calls it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads; their values stand in the violation table."""

    def violated(self) -> str:
        """Return SQL that is true where a row violates it, and false or null elsewhere."""


def literal(value: Scalar) -> str:
    """Return a value as SQL writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value) if abs(value) != float("inf") else f"'{value}'::double"


@dataclass(frozen=True, slots=True)
class NotNull:
    """Every row has a value.

    Args:
        column: The column.
    """

    column: str

    @property
    def name(self) -> str:
        return f"{self.column} not null"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def violated(self) -> str:
        return f"{quoted(self.column)} is null"


@dataclass(frozen=True, slots=True)
class OfType:
    """Every value, usually text, can be read as a type.

    Args:
        column: The column.
        type: A DuckDB type: `"integer"`, `"double"`, `"date"`, `"timestamp"`, `"decimal(9,2)"`.
    """

    column: str
    type: str

    def __post_init__(self) -> None:
        if not self.type.replace("(", "").replace(")", "").replace(",", "").replace(" ", "").replace("_", "").isalnum():
            raise InvalidValueError("type", self.type, "the name of a DuckDB type, such as 'double'")

    @property
    def name(self) -> str:
        return f"{self.column} is {self.type}"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def violated(self) -> str:
        column = quoted(self.column)
        return f"({column} is not null and try_cast({column} as {self.type}) is null)"


@dataclass(frozen=True, slots=True)
class Between:
    """Every value lies in a closed range; NaN does not.

    Args:
        column: A numeric column, or text that holds numbers.
        low: Least value, or None for no bound.
        high: Greatest value, or None for no bound.
    """

    column: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise InvalidValueError("low and high", (None, None), "not both None")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise InvalidValueError("low and high", (self.low, self.high), "in order")

    @property
    def name(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.column} >= {self.low:g}" if self.low is not None else f"{self.column} <= {self.high:g}"
        return f"{self.column} between {self.low:g} and {self.high:g}"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def violated(self) -> str:
        column = quoted(self.column)
        high = float("inf") if self.high is None else self.high  # NaN is above every number in DuckDB
        low = "" if self.low is None else f"{column} < {literal(self.low)} or "
        return f"({low}{column} > {literal(high)})"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Every value is one of a few.

    Args:
        column: The column.
        values: The allowed values.
    """

    column: str
    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InvalidValueError("values", self.values, "at least one value")

    @property
    def name(self) -> str:
        shown = ", ".join(map(str, self.values[:3])) + (", ..." if len(self.values) > 3 else "")
        return f"{self.column} in ({shown})"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def violated(self) -> str:
        return f"{quoted(self.column)} not in ({', '.join(map(literal, self.values))})"


@dataclass(frozen=True, slots=True)
class Matches:
    """Every text matches a regular expression from its begin to its end.

    Args:
        column: A text column.
        pattern: The expression, in RE2's syntax.

    Cost:
        Once for each distinct value of a block where the file is dictionary-encoded: the expression is written with
        `regexp_extract`, which DuckDB runs on the dictionary; it runs `regexp_full_match` on every row.
    """

    column: str
    pattern: str

    @property
    def name(self) -> str:
        return f"{self.column} matches {self.pattern}"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def violated(self) -> str:
        column, pattern = quoted(self.column), literal(self.pattern)
        whole = literal(rf"\A(?:{self.pattern})\z")
        return f"(regexp_extract({column}, {whole}) = '' and ({column} <> '' or not regexp_full_match('', {pattern})))"


@dataclass(frozen=True, slots=True)
class Check:
    """A condition in SQL over the columns of one row.

    Args:
        condition: What must hold, such as `"begin <= end"`; null counts as holding.
        columns: The columns whose values stand in the violation table.
        label: How the violation table calls it; by default the condition.
    """

    condition: str
    columns: tuple[str, ...]
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or self.condition

    def violated(self) -> str:
        return f"not ({self.condition})"


@dataclass(frozen=True, slots=True)
class Unique:
    """No two rows have the same values; rows with a missing one are not compared.

    Args:
        columns: The key.
    """

    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"unique {', '.join(self.columns)}"


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Every value stands in another table; rows with a missing one are not looked up.

    Args:
        columns: Columns of this table.
        table: The other table's name.
        keys: Its columns, in the same order; by default of the same names.
    """

    columns: tuple[str, ...]
    table: str
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.keys and len(self.keys) != len(self.columns):
            raise InvalidValueError("keys", self.keys, f"{len(self.columns)} columns, one for each of {self.columns}")

    @property
    def name(self) -> str:
        return f"{', '.join(self.columns)} in {self.table}"


@dataclass(frozen=True, slots=True)
class Determines:
    """A functional dependency: rows that agree on some columns agree on another.

    Where they do not, the rows without the group's most frequent value violate it, or all rows if there is a tie.

    Args:
        columns: What determines.
        column: What is determined.
    """

    columns: tuple[str, ...]
    column: str

    @property
    def name(self) -> str:
        return f"{', '.join(self.columns)} -> {self.column}"


@dataclass(frozen=True, slots=True)
class NoDrift:
    """A column is distributed as in a reference table, by the population stability index.

    Numbers are compared over the reference's deciles, text over the reference's 50 most frequent values and the rest;
    missing values are a class of their own.

    Args:
        column: The column.
        table: The reference table's name.
        most: The index that is still accepted; .1 is a usual warning, .2 a usual alarm.

    References:
        Siddiqi, "Credit Risk Scorecards", 2006.
    """

    column: str
    table: str
    most: float = 0.2

    def __post_init__(self) -> None:
        if not self.most > 0:
            raise InvalidValueError("most", self.most, "above 0")

    @property
    def name(self) -> str:
        return f"{self.column} as in {self.table}"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)


Constraint: TypeAlias = RowConstraint | Unique | ForeignKey | Determines | NoDrift
