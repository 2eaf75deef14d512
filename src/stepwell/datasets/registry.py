"""Names to files: where a public stream comes from, what it must look like, and how its columns are called.

A data set is looked for in the local data folder (`STEPWELL_DATA/<name>/`), then in the cache
(`STEPWELL_HOME/datasets/<name>/`), then downloaded from its original source with its checksum tested. Without a
network the error says which file to put where.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stepwell.core.errors import DataError, StepwellError
from stepwell.core.log import logger
from stepwell.core.progress import progress
from stepwell.core.registry import Registry
from stepwell.core.settings import settings

if TYPE_CHECKING:
    from stepwell.storage import EventLog, Lake

_log = logger(__name__)


class DownloadError(StepwellError, OSError):
    """A data set is not here and could not be fetched."""


@dataclass(frozen=True, slots=True)
class File:
    """One file that holds a data set.

    Args:
        name: File name in the data set's folder.
        sha256: Its checksum, or "" if we never held the file (a download is then marked unverified).
        url: Where the original can be downloaded, or "" for files that are only ever put there by hand.
        layout: How to read it: `"parquet"`, `"csv"`, `"snap"` (blank-separated, no header), `"jodie"` (a header that
            names fewer columns than there are), `"ratings"` (comma-separated src, dst, rating, time without header),
            `"zip"` (the first `ml_*.csv` inside a zip archive).
    """

    name: str
    sha256: str = ""
    url: str = ""
    layout: str = "parquet"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A public event stream.

    Args:
        name: Its registered name.
        summary: One line: what it is, how many nodes and events.
        source: The publication that released it.
        files: Alternatives, best first: any one of them holds the whole stream.
        src: Column of the source, or (key space, column).
        dst: Column of the destination, or (key space, column).
        time: Column of the time.
        label: Column of a state label, or None.
        features: Columns of event features; a trailing `*` matches all that begin so.
        event_type: Column of the events' type, or None.
        unit: Unit in which times are kept; whole numbers and fractions of a second are scaled to it.
        folder: Folder below the data folder, if it is not the name.
    """

    name: str
    summary: str
    source: str
    files: tuple[File, ...]
    src: str | tuple[str, str] = "src"
    dst: str | tuple[str, str] = "dst"
    time: str = "ts"
    label: str | None = None
    features: tuple[str, ...] = ()
    event_type: str | None = None
    unit: str = "s"
    folder: str = ""

    def find(self) -> tuple[Path, File]:
        """Return a local file of the data set, downloading it if need be.

        Raises:
            DownloadError: If it is nowhere and cannot be fetched; says where to put which file.
            DataError: If a file is there but its checksum is another.
        """
        for folder in self.folders():
            for file in self.files:
                path = folder / file.name
                if path.exists():
                    _verify(path, file)
                    return path, file
        for file in self.files:
            if file.url:
                return self._download(file), file
        raise DownloadError(self._help("it has no download location"))

    def folders(self) -> list[Path]:
        """Return the folders that are searched, in order."""
        here = settings()
        name = self.folder or self.name
        local = [here.data / name] if here.data else []
        return [*local, here.home / "datasets" / name]

    def _help(self, reason: str) -> str:
        names = " or ".join(file.name for file in self.files)
        sources = ", ".join(file.url for file in self.files if file.url) or self.source
        return (
            f"Data set {self.name!r} is not on this machine and {reason}. Get {names} (from {sources}) "
            f"and put it into {self.folders()[0]}; set STEPWELL_DATA to use another folder."
        )

    def _download(self, file: File) -> Path:
        folder = self.folders()[-1]
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / (file.name or Path(urlparse(file.url).path).name)
        aside = target.with_name(target.name + ".part")
        _log.info("downloading %s", file.url)
        try:
            with urllib.request.urlopen(file.url, timeout=30) as reply, aside.open("wb") as out:
                total = int(reply.headers.get("Content-Length") or 0) or None
                with progress(f"download {self.name}", total, "bytes") as task:
                    while block := reply.read(1 << 20):
                        out.write(block)
                        task.advance(len(block))
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            aside.unlink(missing_ok=True)
            raise DownloadError(self._help(f"could not be downloaded ({error})")) from error
        _verify(aside, file)
        os.replace(aside, target)
        return target

    def batches(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the schema and a stream of the rows, in bounded memory."""
        path, file = self.find()
        return _read(path, file.layout)

    def ingest(self, lake: Lake, *, name: str | None = None, budget: str = "1GiB") -> EventLog:
        """Put the stream into a lake, or open it there if it is in already.

        Args:
            lake: The lake.
            name: Its name there; the data set's own by default.
            budget: Memory that the ingest may use.
        """
        chosen = name or self.name
        if chosen in lake.names():
            return lake.events(chosen)
        schema, stream = self.batches()
        return lake.events(
            chosen,
            pa.RecordBatchReader.from_batches(schema, stream),
            src=self.src,
            dst=self.dst,
            time=self.time,
            label=self.label if self.label in schema.names else None,
            features=_match(self.features, schema.names) or None,
            event_type=self.event_type if self.event_type in schema.names else None,
            unit=self.unit,
            budget=budget,
        )


datasets: Registry[Dataset] = Registry("data set")


def _match(patterns: tuple[str, ...], names: list[str]) -> list[str]:
    return [n for n in names if any(n == p or (p.endswith("*") and n.startswith(p[:-1])) for p in patterns)]


def _verify(path: Path, file: File) -> None:
    if not file.sha256:
        _log.warning("%s is unverified: its checksum was never recorded", path.name)
        return
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != file.sha256:
        if path.suffix == ".part":
            shutil.move(path, path.with_suffix(".bad"))
        raise DataError(
            str(path), f"its sha256 is {found}", f"the file with sha256 {file.sha256}", "delete it and fetch it again."
        )


def _read(path: Path, layout: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if layout == "parquet":
        table = pa.parquet.ParquetFile(path)
        return table.schema_arrow, table.iter_batches(1 << 17)
    if layout == "snap":
        read, parse, convert = _csv_options(["src", "dst", "ts"], " ")
    elif layout == "ratings":
        read, parse, convert = _csv_options(["src", "dst", "rating", "ts"], ",")
    elif layout == "zip":
        return _read_zip(path)
    elif layout == "jodie":
        with path.open() as handle:
            handle.readline()
            width = handle.readline().count(",") + 1
        names = ["user", "item", "ts", "state_label", *(f"f{i}" for i in range(width - 4))]
        read, parse, convert = _csv_options(names, ",", skip=1)
    else:
        read, parse, convert = pa.csv.ReadOptions(), pa.csv.ParseOptions(), pa.csv.ConvertOptions()
    reader = pa.csv.open_csv(path, read, parse, convert)
    return reader.schema, iter(reader)


def _read_zip(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    with zipfile.ZipFile(path) as archive:
        inside = next(
            (n for n in sorted(archive.namelist()) if Path(n).name.startswith("ml_") and n.endswith(".csv")), None
        )
        if inside is None:
            raise DataError(
                str(path), "no ml_*.csv inside", "an archive with one ml_<name>.csv", "fetch the original again."
            )
        table = pa.csv.read_csv(io.BytesIO(archive.read(inside)))
    return table.schema, iter(table.to_batches(1 << 17))


def _csv_options(
    names: list[str], delimiter: str, skip: int = 0
) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    types = {n: pa.float64() if n[0] == "f" or n in ("rating", "ts") else pa.int64() for n in names}
    return (
        pa.csv.ReadOptions(column_names=names, skip_rows=skip),
        pa.csv.ParseOptions(delimiter=delimiter),
        pa.csv.ConvertOptions(column_types=types),
    )
