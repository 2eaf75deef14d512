"""The data of the dense benchmarks, in each contestant's own best form, made once in a cache folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.generic]]
WIDTH = 62
ROW_BYTES = 4 * WIDTH + 8
TAR_ROWS = 100_000


def cache_folder() -> Path:
    """Return where the files go: `STEPWELL_BENCH_CACHE`, or a folder below the system's temporary one."""
    return Path(os.environ.get("STEPWELL_BENCH_CACHE", Path(tempfile.gettempdir()) / "stepwell-bench"))


def made(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of files, made by `make` if it is not there; a killed run leaves no half-made one."""
    folder = cache_folder() / name
    if not folder.exists():
        aside = folder.with_name(f".{name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        make(aside)
        os.replace(aside, folder)
    return folder


def adult(count: int | None = None) -> Path:
    """UCI Adult, training part: 6 numbers, 8 categories, income."""

    def make(folder: Path) -> None:
        import stepwell as sw
        from stepwell.core import Slice

        table = sw.open(folder / "lake").write("rows", _data("adult", "train").slice(0, count))
        encoded = sw.Encode.fit(table, label="income")(table.read(Slice(0, 0, 0, len(table))))
        arrays = {"x": encoded.array("x"), "codes": encoded.array("codes"), "label": encoded.array("y")}
        (folder / "kind").write_text("adult")
        _write_arrays(folder, arrays)
        _write_arrow(folder, lambda: iter([arrays]))
        rows = [x.tobytes() + codes.tobytes() for x, codes in zip(arrays["x"], arrays["codes"], strict=True)]
        _write_tar(folder, rows, arrays["label"])

    return made(f"adult-{count or 'all'}", make)


def images(rows: int | None = None) -> Path:
    """MNIST, training part, each image a PNG file written by Pillow with its default settings."""

    def make(folder: Path) -> None:
        import pyarrow as pa
        from PIL import Image

        import stepwell as sw

        found = _data("mnist", "train").slice(0, rows)
        files = []
        for raw in found["image"].to_pylist():
            file = io.BytesIO()
            Image.frombytes("L", (28, 28), raw).save(file, "PNG")
            files.append(file.getvalue())
        label = found["label"].to_numpy().astype(np.int64)
        sw.open(folder / "lake").write("rows", pa.table({"image": pa.array(files, pa.binary()), "label": label}))
        (folder / "kind").write_text("images")
        np.save(folder / "offset.npy", np.cumsum([0, *map(len, files)]))
        np.save(folder / "label.npy", label)
        (folder / "image.bin").write_bytes(b"".join(files))
        (folder / "widths.json").write_text("[]")
        _save_dataset(folder, pa.table({"image": pa.array(files, pa.binary()), "label": label}))
        _write_tar(folder, files, label)

    return made(f"images-{rows or 'all'}", make)


def generated(size_bytes: int) -> Path:
    """A table of 62 normal float32 values and an int64 label a row (256 bytes), of about `size_bytes`."""
    rows = size_bytes // ROW_BYTES

    def make(folder: Path) -> None:
        import pyarrow as pa

        import stepwell as sw

        def batches() -> Iterator[pa.RecordBatch]:
            for part in _parts(rows):
                x = pa.FixedSizeListArray.from_arrays(pa.array(part["x"].reshape(-1)), WIDTH)
                yield pa.RecordBatch.from_arrays([x, pa.array(part["label"])], names=["x", "label"])

        schema = pa.schema([("x", pa.list_(pa.float32(), WIDTH)), ("label", pa.int64())])
        table = sw.open(folder / "lake").write("rows", pa.RecordBatchReader.from_batches(schema, batches()))
        assert len(table.row_index) == rows
        (folder / "kind").write_text("table")
        x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, WIDTH))
        label = np.lib.format.open_memmap(folder / "label.npy", "w+", np.int64, (rows,))
        at = 0
        for part in _parts(rows):
            x[at : at + len(part["x"])], label[at : at + len(part["x"])] = part["x"], part["label"]
            at += len(part["x"])
        x.flush()
        label.flush()
        (folder / "arrays.json").write_text(json.dumps(["x", "label"]))
        (folder / "widths.json").write_text(json.dumps([["float32", WIDTH]]))
        _write_arrow(folder, lambda: _parts(rows))
        first = next(_parts(min(rows, TAR_ROWS)))
        _write_tar(folder, [row.tobytes() for row in first["x"]], first["label"])

    return made(f"generated-{size_bytes}", make)


def read_all(folder: Path) -> None:
    """Read every file once, so that the page cache holds what fits."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".parquet":
            with path.open("rb") as handle:
                while handle.read(8 << 20):
                    pass


def _parts(rows: int) -> Iterator[Arrays]:
    rng = np.random.default_rng(0)
    for begin in range(0, rows, TAR_ROWS):
        count = min(TAR_ROWS, rows - begin)
        yield {"x": rng.standard_normal((count, WIDTH), np.float32), "label": rng.integers(0, 2, count)}


def _data(name: str, part: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - an Arrow table
    import pyarrow.parquet as pq

    from stepwell.core.settings import settings

    folder = settings().data
    if folder is None:
        raise SystemExit(f"Set STEPWELL_DATA to a folder that holds {name}/{part}.parquet.")
    return pq.read_table(folder / name / f"{part}.parquet")


def _write_arrays(folder: Path, arrays: Arrays) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "arrays.json").write_text(json.dumps(list(arrays)))
    widths = [[str(a.dtype), a.shape[1]] for name, a in arrays.items() if name != "label"]
    (folder / "widths.json").write_text(json.dumps(widths))


def _write_arrow(folder: Path, parts: Callable[[], Iterator[Arrays]]) -> None:
    """Write a data set that `datasets` maps into memory: fixed-size lists, which its formats read without copies."""
    import pyarrow as pa
    from datasets import Dataset, Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    first = next(parts())
    features = Features({
        name: Value(str(a.dtype)) if a.ndim == 1 else List(Value(str(a.dtype)), length=a.shape[1])
        for name, a in first.items()
    })  # fmt: skip
    folder_path = folder / "arrow"
    folder_path.mkdir()
    with ArrowWriter(path=str(folder_path / "data-00000-of-00001.arrow"), features=features) as writer:
        for part in parts():
            columns = [
                pa.array(a) if a.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(a.reshape(-1)), a.shape[1])
                for a in part.values()
            ]
            writer.write_table(pa.Table.from_arrays(columns, names=list(part)))
        writer.finalize()
    rows = Dataset.from_file(str(folder_path / "data-00000-of-00001.arrow"))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0", "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip
    (folder_path / "state.json").write_text(json.dumps(state))
    rows.info.write_to_directory(str(folder_path))


def _save_dataset(folder: Path, table) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - an Arrow table
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    Dataset(table).save_to_disk(str(folder / "arrow"))


def _write_tar(folder: Path, payloads: list[bytes], label: npt.NDArray[np.generic], shards: int = 8) -> None:
    """Write tar shards with one sample a row: `<row>.bin` and `<row>.cls`."""
    (folder / "shards").mkdir()
    order = np.random.default_rng(0).permutation(len(payloads))
    for shard in range(shards):
        with tarfile.open(folder / "shards" / f"{shard:03}.tar", "w") as tar:
            for row in order[shard::shards].tolist():
                for name, raw in (("bin", payloads[row]), ("cls", str(int(label[row])).encode())):
                    info = tarfile.TarInfo(f"{row:09}.{name}")
                    info.size = len(raw)
                    tar.addfile(info, io.BytesIO(raw))
