"""Rows of a file: runs are those of the slow twin, and what is read is what an array would give."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.kernels.file_rows import merge_runs, merge_runs_reference
from stepwell.storage.row_reads import DiskRows


@given(
    rows=st.lists(st.integers(0, 200), max_size=40),
    row_bytes=st.integers(1, 60),
    offset=st.integers(0, 100),
    align=st.sampled_from([1, 16]),
    gap=st.integers(0, 100),
    limit=st.integers(92, 400),
)
def test_runs_are_those_of_the_slow_twin(
    rows: list[int], row_bytes: int, offset: int, align: int, gap: int, limit: int
) -> None:
    ordered = np.sort(np.array(rows, np.int64))
    first, start, stop = merge_runs(ordered, row_bytes, offset, align, gap, limit)
    assert list(zip(first, start, stop, strict=False)) == merge_runs_reference(
        ordered, row_bytes, offset, align, gap, limit
    )
    assert first[-1] == len(rows)
    assert (stop - start <= limit).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    width=st.sampled_from([0, 1, 7, 43, 3_000]),
    depth=st.integers(1, 5),
    gap=st.sampled_from([0, 100, 1 << 20]),
    direct=st.booleans(),
)
def test_a_file_gives_what_its_array_gives(seed: int, width: int, depth: int, gap: int, *, direct: bool) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 256, (rng.integers(1, 300), width)).astype(np.uint8)
    rows = rng.integers(0, len(table), rng.integers(0, 200))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        path.write_bytes(b"head" + table.tobytes())
        disk = DiskRows(path, np.uint8, table.shape, 4, direct=direct, depth=depth, gap_bytes=gap)
        np.testing.assert_array_equal(disk.read(rows), table[rows])
        disk.close()
