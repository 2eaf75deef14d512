"""Twenty row predicates on ten million generated rows, and keys and dependencies beside, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Claim, Result, interleave
from stepwell.prepare.clean.constraints import (
    Between,
    Check,
    Constraint,
    Determines,
    ForeignKey,
    Matches,
    NotNull,
    OneOf,
    RowConstraint,
    Unique,
)
from stepwell.prepare.clean.scan import check
from stepwell.storage.query import connect

_ROWS = "10 M generated rows of a zstd Parquet file, two threads"
CLAIMS = [
    Claim(
        "constraints_predicates",
        "CPU time of 20 row predicates (nulls, ranges, lists, two regular expressions over 5,000 and 50 distinct "
        "texts, a length, a prefix, two conditions on two columns), over a scan that sums every number and measures "
        f"every text of the same columns ({_ROWS})",
        1.5,
        "x",
        "<=",
    ),
    Claim(
        "constraints_keys",
        "wall time of listing violations of a key, a foreign key and two dependencies, over DuckDB's own aggregate or "
        f"anti-join that only counts them, the largest of the four ratios ({_ROWS})",
        1.0,
        "x",
        "<=",
    ),
    Claim(
        "constraints_memory",
        f"peak resident memory of a process that checks all 24 constraints, libraries included ({_ROWS})",
        2.0,
        "GiB",
        "<=",
    ),
]
_NUMBERS = ("order_id", "customer", "price", "quantity", "discount", "time")
_TEXTS = ("city", "country", "status", "code")
PREDICATES: list[RowConstraint] = [
    *(NotNull(column) for column in ("order_id", "customer", "city", "price", "quantity", "status", "time")),
    Between("order_id", 0),
    Between("customer", 0, 999_999),
    Between("price", 0, 10_000),
    Between("quantity", 1, 100),
    Between("discount", 0, 1),
    Between("time", 1_600_000_000, 1_800_000_000),
    OneOf("status", ("new", "paid", "sent", "back", "done")),
    Matches("country", "C[0-9][0-9]"),
    Matches("city", "city [0-9]+"),
    Check("strlen(code) = 11", ("code",)),
    Check("starts_with(code, 'AB-')", ("code",)),
    Check("price * quantity <= 1e6", ("price", "quantity")),
    Check("discount * price <= price", ("discount", "price")),
]
OTHERS: dict[str, tuple[Constraint, str]] = {  # for dependencies, the faster of min <> max and count(distinct)
    "key": (
        Unique(("order_id",)),
        "select count(*) from (select order_id from orders group by order_id having count(*) > 1)",
    ),
    "foreign key": (
        ForeignKey(("customer",), "customers", ("id",)),
        "select count(*) from orders anti join customers on orders.customer = customers.id",
    ),
    "dependency, 1 M groups": (
        Determines(("customer",), "city"),
        "select count(*) from (select customer from orders group by customer having min(city) <> max(city))",
    ),
    "dependency, 5,000 groups": (
        Determines(("city",), "country"),
        "select count(*) from (select city from orders group by city having count(distinct country) > 1)",
    ),
}
_KEYS_NOTE = (
    "Ours lists the rows, DuckDB's query only counts them. Ours compares hashes of a dependency's values instead "
    "of the texts, and looks a foreign key of whole numbers up in a map of their range; no row violates anything here."
)


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Write the rows once, then time both sides in turn."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "orders.parquet")
        write_rows(path, 1_000_000 if quick else 10_000_000)
        connection = connect("1GiB")
        connection.execute("set threads = 2")
        connection.execute("set enable_progress_bar = false")
        connection.execute(f"create view orders as from read_parquet('{path}')")
        connection.execute("create table customers as select i as id from range(1000000) t(i)")
        runs = 3 if quick else 5
        scan = "select " + ", ".join(
            [*(f"sum({column})" for column in _NUMBERS), *(f"max(strlen({column}))" for column in _TEXTS)]
        )
        everything = ", ".join((*_NUMBERS, *_TEXTS))
        assert check("orders", PREDICATES, connection=connection).holds
        times = interleave(
            {
                "predicates": lambda: check("orders", PREDICATES, connection=connection),
                "scan": lambda: connection.execute(f"{scan} from orders").fetchall(),
                "delivery to Arrow": lambda: _drain(connection.sql(f"select {everything} from orders")),
            },
            runs,
        )
        scanned = {name: {"cpu_s": one.cpu_s, "wall_s": one.wall_s} for name, one in times.items()}
        keyed: dict[str, dict[str, float | str]] = {}
        for name, (constraint, query) in OTHERS.items():
            both = interleave(
                {
                    "stepwell": lambda one=constraint: check("orders", [one], connection=connection),  # type: ignore[misc]
                    "duckdb": lambda one=query: connection.execute(one).fetchall(),  # type: ignore[misc]
                },
                runs,
            )
            keyed[name] = {f"{who} wall_s": both[who].wall_s for who in both}
            keyed[name] |= {f"{who} cpu_s": both[who].cpu_s for who in both}
        connection.close()
        peak = _peak(path)
    ratios = {name: float(row["stepwell wall_s"]) / float(row["duckdb wall_s"]) for name, row in keyed.items()}
    worst = max(ratios.values())
    note = "A regular expression over a text that is another in every row costs more: RE2 then runs on each."
    return [
        Result("constraints_predicates", times["predicates"].cpu_s / times["scan"].cpu_s, scanned, why=note),
        Result("constraints_keys", worst, keyed, ratios, why=_KEYS_NOTE),
        Result("constraints_memory", peak, {"stepwell": {"peak_gib": peak}}, why="DuckDB's own limit is 1 GiB."),
    ]


def _drain(relation: object) -> int:
    return sum(len(batch) for batch in pa.RecordBatchReader.from_stream(relation))


def write_rows(path: str, num_rows: int) -> None:
    """Write orders in which every constraint holds."""
    rng = np.random.default_rng(0)
    writer = None
    for begin in range(0, num_rows, 500_000):
        size = min(500_000, num_rows - begin)
        ids, customer = np.arange(begin, begin + size), rng.integers(0, 1_000_000, size)
        table = pa.table(
            {
                "_row": ids,
                "order_id": ids * 7 + 3,
                "customer": customer,
                "city": _text([f"city {i}" for i in range(5000)], customer % 5000),
                "country": _text([f"C{i:02d}" for i in range(50)], customer % 5000 % 50),
                "price": rng.gamma(2, 50, size).round(2),
                "quantity": rng.integers(1, 20, size).astype(np.int32),
                "discount": rng.random(size),
                "time": 1_600_000_000 + rng.integers(0, 100_000_000, size),
                "status": _text(["new", "paid", "sent", "back", "done"], rng.integers(0, 5, size)),
                "code": pa.array([f"AB-{i:08d}" for i in range(begin, begin + size)]),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()


def _text(names: list[str], codes: np.ndarray) -> pa.Array:
    return pa.array(names).take(pa.array(codes))


def _peak(path: str) -> float:
    """Return the peak memory in GiB of a process that checks everything."""
    code = (
        "import json, resource, sys\n"
        "from benchmarks.claims.constraints_scan import OTHERS, PREDICATES\n"
        "from stepwell.prepare.clean.scan import check\n"
        "from stepwell.storage.query import connect\n"
        "connection = connect('1GiB')\n"
        "connection.execute('set threads = 2')\n"
        "connection.execute(f\"create view orders as from read_parquet('{sys.argv[1]}')\")\n"
        "connection.execute('create table customers as select i as id from range(1000000) t(i)')\n"
        "found = check('orders', [*PREDICATES, *(one for one, _ in OTHERS.values())], connection=connection)\n"
        "print(json.dumps([found.holds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    holds, peak = json.loads(done.stdout.splitlines()[-1])
    assert holds
    return float(peak)
