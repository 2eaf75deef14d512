"""A query against a real PostgreSQL server streams into the lake."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from stepwell.core.errors import DataError
from stepwell.storage.lake import Input, open
from stepwell.storage.sources import open_source, sql_source


def command(binary: Path, *arguments: str) -> list[str]:
    """PostgreSQL refuses to run as root, so root borrows the account of Debian's package."""
    call = [str(binary), *arguments]
    return ["runuser", "-u", "postgres", "--", *call] if os.geteuid() == 0 else call


@pytest.fixture(scope="module")
def server(postgres_binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server on a free loopback port, and stop it; gives its address."""
    folder = Path("/tmp" if os.geteuid() == 0 else tmp_path_factory.getbasetemp()) / f"stepwell-postgres-{os.getpid()}"
    folder.mkdir(mode=0o777)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    run = {"check": True, "capture_output": True, "cwd": "/", "timeout": 60}
    control = postgres_binaries / "pg_ctl"
    subprocess.run(command(postgres_binaries / "initdb", "-D", data, "-A", "trust", "-U", "owner", "-N"), **run)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    # The server inherits our pipes, so its output must not go to one that we would wait for.
    start = command(control, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=60)
    try:
        yield f"postgresql://owner:unused@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(command(control, "-D", data, "-m", "immediate", "stop"), **run)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def orders(server: str) -> str:
    """Fill a table of 200,000 rows and give the server's address."""
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
    with dbapi.connect(server) as connection, connection.cursor() as cursor:
        cursor.execute(
            "create table orders as select i as item, 'user ' || i % 100 as buyer, i * 0.5::float8 as price, "
            "timestamp '2020-01-01' + i * interval '1 second' as at, case when i % 2 = 0 then i end as maybe "
            "from generate_series(0, 199999) as i"
        )
        connection.commit()
    return server


def test_a_query_streams_in_several_batches_with_exact_types(orders):
    rows = open_source(sql_source(orders, "select * from orders order by item"))
    assert rows.schema.names == ["item", "buyer", "price", "at", "maybe"]
    assert rows.schema.types[:3] == [pa.int32(), pa.string(), pa.float64()]
    batches = list(rows.batches())
    assert sum(map(len, batches)) == 200_000
    assert batches[0].slice(0, 3).to_pylist()[1] | {"at": None} == {
        "item": 1, "buyer": "user 1", "price": 0.5, "at": None, "maybe": None,
    }  # fmt: skip


def test_a_query_is_written_to_a_lake_and_its_lineage_names_the_server(orders, tmp_path):
    lake = open(tmp_path)
    table = lake.write("orders", sql_source(orders, "select item, price, at from orders"))
    assert len(table) == 200_000
    assert lake.sql("select sum(price) as total from orders").to_pylist() == [{"total": 0.5 * 199_999 * 100_000}]
    assert lake.lineage("orders")[0].origin.inputs == (Input(orders.replace("unused", "***")),)


def test_a_wrong_query_and_a_server_that_is_not_there_are_named(orders):
    with pytest.raises(DataError, match="nothing"):
        open_source(sql_source(orders, "select * from nothing"))
    with pytest.raises(DataError, match=r"127.0.0.1:1/") as caught:
        open_source(sql_source("postgresql://owner:secret@127.0.0.1:1/postgres", "select 1"))
    assert "secret" not in str(caught.value)
