"""A small table of numbers and categories: UCI Adult, batches of 256."""

from __future__ import annotations

from benchmarks.harness import Claim, Result

_WHAT = "shuffled batches of 256 from UCI Adult (6 numbers, 8 categories, label), rows/s against "
CLAIMS = [
    Claim(
        "dense_adult",
        _WHAT
        + "the best of torch DataLoader (also around a hand-written gather), webdataset and Hugging Face datasets",
        3.0,
        "x",
    ),
    Claim(
        "dense_adult_own_shuffle",
        _WHAT + "the best of the same where each loader shuffles and batches itself",
        3.0,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time epochs of every contestant in processes of their own."""
    from benchmarks.peers import dense_compare, dense_data

    folder = dense_data.adult()
    figures = dense_compare.compare(folder, ("stepwell", "stepwell-uncached"), quick=quick, seconds=2.0)
    _, rate = dense_compare.best_peer(figures, by_hand=False)
    own, afresh = (float(figures[one]["rows_per_s"]) for one in ("stepwell", "stepwell-uncached"))
    quality = {
        **dense_compare.check_shuffle_and_resume(folder),
        **dense_compare.ratios(figures, "stepwell"),
        "encoding strings and numbers in every epoch / best peer": afresh / rate,
        "cache": "256 MiB budget, all rows held after one epoch",
    }
    return dense_compare.two_results("dense_adult", own, figures, quality)
