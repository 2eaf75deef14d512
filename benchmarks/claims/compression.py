"""Bytes, declared errors, decoding while a batch is gathered, and products on tuple codes: where each pays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import Claim, Result, interleave
from benchmarks.peers import streams_of_labels as data
from stepwell.prepare.compress import CompressedRows, Tolerance, TupleCodes, compress

_SETS = "elec2, weather, outdoor, the six numbers of adult, 20,000 images of MNIST"
_GATHER = "a batch of 1,024 random rows, one thread, all in memory"
_WIDE = "adult one-hot (8 categories, 6 numbers in ten bins), mini-batches of 1,000 rows"
CLAIMS = [
    Claim(
        "compression_bytes",
        f"bytes as float32 over bytes of codes and codebooks, each column at a root mean squared error of at most 1 % "
        f"of its deviation, worst of {_SETS}",
        3.5,
        "x",
    ),
    Claim(
        "compression_error",
        f"root mean squared error over the one allowed, computed anew from the decoded rows, worst column of {_SETS}; "
        "the declared errors are the computed ones",
        1.0,
        "x",
        "<=",
    ),
    Claim(
        "compression_decode",
        f"seconds of gathering and decoding over those of gathering float32 rows (the faster of NumPy's and torch's "
        f"gather), {_GATHER}, worst of MNIST in exact codes and in 8 bits, 500,000 x 64 normal numbers in 8 bits",
        1.5,
        "x",
        "<=",
    ),
    Claim(
        "compression_fused",
        f"seconds of gathering codes and decoding them afterwards in NumPy over those of doing both in one pass, "
        f"{_GATHER}, worst of the same three",
        1.5,
        "x",
    ),
    Claim("compression_toc_bytes", f"bytes of sparse rows (scipy's CSR) over bytes of tuple codes, {_WIDE}", 3.0, "x"),
    Claim(
        "compression_toc_products",
        "seconds of the faster of dense BLAS and scipy's CSR over those of tuple codes, for the products of a linear "
        f"layer to 64 outputs and of its gradient, one thread, {_WIDE}",
        1.0,
        "x",
    ),
]
Float32: TypeAlias = npt.NDArray[np.float32]
_LIMIT = Tolerance(rmse=0.01)
_OUTPUTS = 64


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Code every set; time gathers and products on one thread. `quick` takes slices and fewer rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = 3 if quick else 9
        return [
            *_coded(quick),
            *_gathers(100_000 if quick else 500_000, 5_000 if quick else 20_000, rounds),
            *_tuples(rounds, 250 if quick else 1_000),
        ]
    finally:
        torch.set_num_threads(threads)


def _sets(quick: bool) -> dict[str, Float32]:  # noqa: FBT001
    names = ("elec2", "weather", "outdoor")
    found = {name: data.drift_stream(name)[0].numpy() for name in names}
    found["adult, numbers"] = adult()[0]
    found["MNIST"] = data.mnist("train", 2_000 if quick else 20_000)[0].numpy().reshape(-1, 784)
    return found


def adult() -> tuple[Float32, Float32]:
    """Return adult's six numbers, and all its columns one-hot, numbers in ten bins of equal rank."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(data.data_folder() / "adult" / "train.parquet").drop_columns(["income"])
    numbers, wide = list[npt.NDArray[np.float64]](), list[Float32]()
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            code = column.indices.to_numpy(zero_copy_only=False)
        else:
            values = column.to_numpy().astype(np.float64)
            numbers.append(values)
            code = np.searchsorted(np.unique(np.quantile(values, np.arange(1, 10) / 10)), values, side="right")
        code = np.unique(np.nan_to_num(code.astype(np.float64), nan=-1), return_inverse=True)[1]
        wide.append(np.eye(int(code.max()) + 1, dtype=np.float32)[code])
    return np.stack(numbers, 1).astype(np.float32), np.concatenate(wide, 1)


def _coded(quick: bool) -> list[Result]:  # noqa: FBT001
    """Return the results about bytes and errors."""
    table: dict[str, dict[str, float | str]] = {}
    saved, share, declared = dict[str, float](), dict[str, float | str](), dict[str, float | str]()
    for name, rows in _sets(quick).items():
        coded = compress(rows, _LIMIT)
        held = coded.packed.nbytes + coded.codebook_bytes
        saved[name] = rows.nbytes / held
        share[name], gap = _errors(rows, coded)
        declared[f"{name}, declared less computed, largest"] = gap
        kinds = [one.name for one in coded.fitted]
        used = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        table[name] = {
            "float32 bytes": float(rows.nbytes), "coded bytes": float(held), "x": saved[name], "codecs": used,
            "accuracy": coded.accuracy,
        }  # fmt: skip
    worst = max(float(value) for value in share.values())
    lossless: dict[str, float | str] = {f"{name}, x": value for name, value in saved.items()}
    return [
        Result("compression_bytes", min(saved.values()), table, lossless, (), _why_bytes(saved)),
        Result("compression_error", worst, {}, {**share, **declared}, ()),
    ]


def _why_bytes(saved: dict[str, float]) -> str:
    short = [name for name, value in saved.items() if value < 3.5]
    return f"Columns of {', '.join(short)} need more than 8 bits, or too few rows share a codebook." if short else ""


def _errors(rows: Float32, coded: CompressedRows) -> tuple[float, float]:
    """Return the worst column's error as a share of the one allowed, and how far declarations are from the truth."""
    exact = rows.astype(np.float64)
    off = np.concatenate([coded.take(part) for part in np.array_split(np.arange(len(rows)), 20)]) - exact
    rmse, deviation = np.sqrt((off**2).mean(0)), exact.std(0)
    allowed = _LIMIT.rmse * deviation
    share = np.where(allowed > 0, rmse / np.where(allowed > 0, allowed, 1), np.where(rmse > 0, np.inf, 0))
    gap = max(abs(error.rmse - found) for error, found in zip(coded.error, rmse, strict=True))
    return float(share.max()), float(gap)


def _gathers(size: int, images: int, rounds: int) -> list[Result]:
    """Time batches of random rows, whole, coded in one pass, and coded in two."""
    normal = np.random.default_rng(0).standard_normal((size, 64), np.float32)
    pictures = data.mnist("train", images)[0].numpy().reshape(-1, 784)
    table: dict[str, dict[str, float | str]] = {}
    slower, fused = dict[str, float](), dict[str, float]()
    sets = (("MNIST, exact", pictures, None), ("MNIST", pictures, "uniform-8"), ("normal numbers", normal, "uniform-8"))
    for name, rows, codec in sets:
        coded = compress(rows, Tolerance(0.0) if codec is None else None, codec=codec)
        batches = np.random.default_rng(1).integers(0, len(rows), (64, 1024))
        tensor = torch.from_numpy(rows)
        work: dict[str, Callable[[npt.NDArray[np.int64]], object]] = {
            "float32, numpy": partial(np.take, rows, axis=0),
            "float32, torch": lambda at, tensor=tensor: tensor[torch.from_numpy(at)],  # type: ignore[misc]
            "codes, one pass": coded.take,
            "codes, two passes": partial(_two_passes, coded),
        }
        assert np.allclose(_two_passes(coded, batches[0]), coded.take(batches[0]), atol=1e-5)
        times = interleave({key: partial(_all, one, batches) for key, one in work.items()}, rounds)
        table[name] = {
            **{f"{key}, us a batch": 1e6 * timing.cpu_s / len(batches) for key, timing in times.items()},
            "bytes, float32": float(rows.nbytes),
            "bytes, codes": float(coded.nbytes),
            "codecs": ", ".join(sorted({one.name for one in coded.fitted})),
        }
        whole = min(times[key].cpu_s for key in ("float32, numpy", "float32, torch"))
        slower[name] = times["codes, one pass"].cpu_s / whole
        fused[name] = times["codes, two passes"].cpu_s / times["codes, one pass"].cpu_s
    costs: dict[str, float | str] = {**slower}
    gains: dict[str, float | str] = {**fused}
    return [
        Result("compression_decode", max(slower.values()), table, costs, (), _WHY_DECODE),
        Result("compression_fused", min(fused.values()), table, gains, ()),
    ]


_WHY_DECODE = (
    "In memory a float32 gather is a copy; decoding reads a quarter of the bytes or less and adds a table look-up or a "
    "multiplication a value. It pays where rows are read from further away, or would not fit. CPU seconds."
)


def _all(work: Callable[[npt.NDArray[np.int64]], object], batches: npt.NDArray[np.int64]) -> None:
    for rows in batches:
        work(rows)


def _two_passes(coded: CompressedRows, rows: npt.NDArray[np.int64]) -> Float32:
    """Gather packed rows, then decode by NumPy, column by column where codecs differ."""
    packed, layout = coded.packed[rows], coded.layout
    if (layout.bits == 8).all() and (layout.kind == 0).all():
        return (layout.low + layout.step * packed[:, layout.place >> 3]).astype(np.float32)
    out = np.empty((len(rows), len(coded.fitted)), np.float32)
    for f, one in enumerate(coded.fitted):
        byte, bits = int(layout.place[f]) >> 3, int(layout.bits[f])
        if bits <= 8:
            code = (packed[:, byte] >> (int(layout.place[f]) & 7)) & ((1 << bits) - 1)
        else:
            code = np.ascontiguousarray(packed[:, byte : byte + bits // 8]).view(f"<u{bits // 8}")[:, 0]
        out[:, f] = one.decode(code.astype(np.uint32))
    return out


def _tuples(rounds: int, batch: int) -> list[Result]:
    """Time both products of a linear layer on coded, sparse and dense mini-batches of several kinds of rows."""
    draw = np.random.default_rng(0)
    wide = adult()[1]
    wide = wide[draw.permutation(len(wide))]
    few = wide[draw.integers(0, 50, 8 * batch)]
    pictures = data.mnist("train", 8 * batch)[0].numpy().reshape(-1, 784)
    dense = data.drift_stream("outdoor")[0].numpy()
    kinds = {"adult one-hot": wide, "50 rows of it, repeated": few, "MNIST": pictures, "outdoor": dense}
    table: dict[str, dict[str, float | str]] = {}
    for name, rows in kinds.items():
        table[name] = _products(rows[: 8 * batch], batch, rounds)
    own = table["adult one-hot"]
    size = float(own["CSR bytes"]) / float(own["tuple bytes"])
    speed = min(float(own["BLAS us"]), float(own["CSR us"])) / float(own["tuple us"])
    pays = ", ".join(name for name, row in table.items() if float(row["x sooner than the faster"]) >= 1) or "none"
    note = f"Products on tuple codes are the faster on: {pays}. "
    note += "They win additions, but those of BLAS and of CSR run wide and ours walk a tree." if speed < 1 else ""
    sooner: dict[str, float | str] = {name: row["x sooner than the faster"] for name, row in table.items()}
    smaller: dict[str, float | str] = {
        name: float(row["CSR bytes"]) / float(row["tuple bytes"]) for name, row in table.items()
    }
    return [
        Result("compression_toc_bytes", size, table, smaller, (), "" if size >= 3 else note),
        Result("compression_toc_products", speed, table, sooner, (), note),
    ]


def _products(rows: Float32, batch: int, rounds: int) -> dict[str, float | str]:
    from scipy.sparse import csr_matrix

    parts = [rows[at : at + batch] for at in range(0, len(rows) - batch + 1, batch)]
    sparse, coded = [csr_matrix(part) for part in parts], [TupleCodes.of(part) for part in parts]
    draw = np.random.default_rng(2)
    weight = draw.standard_normal((rows.shape[1], _OUTPUTS), np.float32)
    slope = draw.standard_normal((batch, _OUTPUTS), np.float32)
    for part, one in zip(parts, coded, strict=True):
        assert np.allclose(part @ weight, one.times(weight), atol=1e-2)
    torch_parts, torch_weight, torch_slope = map(torch.from_numpy, (np.stack(parts), weight, slope))
    work: dict[str, Callable[[], object]] = {
        "BLAS": lambda: [(part @ torch_weight, part.T @ torch_slope) for part in torch_parts],
        "CSR": lambda: [(part @ weight, part.T @ slope) for part in sparse],
        "tuple": lambda: [(one.times(weight), one.transposed_times(slope)) for one in coded],
    }
    found = {key: timing.cpu_s / len(parts) for key, timing in interleave(work, rounds).items()}
    return {
        **{f"{key} us": 1e6 * value for key, value in found.items()},
        "x sooner than the faster": min(found["BLAS"], found["CSR"]) / found["tuple"],
        "dense bytes": float(sum(part.nbytes for part in parts)),
        "CSR bytes": float(sum(part.data.nbytes + part.indices.nbytes + part.indptr.nbytes for part in sparse)),
        "tuple bytes": float(sum(one.nbytes for one in coded)),
        "fewer additions than CSR, x": float(np.mean([one.saved for one in coded])),
    }
