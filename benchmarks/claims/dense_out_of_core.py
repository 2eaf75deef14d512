"""A table larger than the memory allowed: 4 GiB under an enforced limit of 1 GiB, batches of 256."""

from __future__ import annotations

from benchmarks.harness import Claim, Result

LIMIT = 1 << 30
_WHAT = (
    "shuffled batches of 256 from a generated 4 GiB table (62 float32 and a label a row) under a limit of 1 GiB of "
    "private memory a process, rows/s against "
)
CLAIMS = [
    Claim(
        "dense_out_of_core",
        _WHAT
        + "the best of torch DataLoader (also around a hand-written gather), webdataset and Hugging Face datasets",
        3.0,
        "x",
    ),
    Claim(
        "dense_out_of_core_own_shuffle",
        _WHAT + "the best of the same where each loader shuffles and batches itself",
        3.0,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time every contestant in processes of their own, each under the limit, the files in the page cache."""
    from benchmarks.peers import dense_compare, dense_data
    from benchmarks.peers.dense import measure_once

    folder = dense_data.generated((64 << 20) if quick else (4 << 30))
    dense_data.read_all(folder)
    figures = dense_compare.compare(folder, ("stepwell",), quick=quick, seconds=4.0, limit=LIMIT)
    quality = {
        **dense_compare.check_shuffle_and_resume(folder),
        **dense_compare.ratios(figures, "stepwell"),
        "limit": "RLIMIT_DATA of 1 GiB on each process; the page cache is not part of it and held the files",
        "webdataset": "read 100,000 rows of it: one sample a row takes six times the bytes in tar files",
    }
    if not quick:
        for contestant in ("stepwell", "torch-index"):
            cold = measure_once(folder, contestant, batch=dense_compare.BATCH, seconds=5.0, limit=LIMIT, cold=True)
            quality[f"first 5 s with nothing in the page cache, {contestant}, rows/s"] = cold.get(
                "rows_per_s", "failed"
            )
    return dense_compare.two_results("dense_out_of_core", float(figures["stepwell"]["rows_per_s"]), figures, quality)
