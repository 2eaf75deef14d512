"""A small table of numbers and categories: UCI Adult, batches of 256."""

from __future__ import annotations

from benchmarks.harness import Claim, Result

CLAIMS = [
    Claim(
        "dense_adult",
        "shuffled batches of 256 from UCI Adult (6 numbers, 8 categories, label), rows/s against the best of torch "
        "DataLoader, webdataset and Hugging Face datasets, whose data were encoded beforehand",
        3.0,
        "x",
    )
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time epochs of every contestant in processes of their own."""
    from benchmarks.peers import dense_compare, dense_data

    folder = dense_data.adult()
    figures = dense_compare.compare(folder, ("stepwell", "stepwell-uncached"), quick=quick, seconds=2.0)
    name, rate = dense_compare.best_peer(figures)
    measured = float(figures["stepwell"]["rows_per_s"]) / rate
    quality = {
        **dense_compare.check_shuffle_and_resume(folder),
        **dense_compare.ratios(figures, "stepwell"),
        "encoding strings and numbers in every epoch / best peer": float(figures["stepwell-uncached"]["rows_per_s"])
        / rate,
        "cache": "256 MiB budget, all rows held after one epoch",
    }
    why = f"Best peer: {name}. {dense_compare.MOSAIC}"
    if name.startswith("torch-index"):
        why += (
            " `torch-index` is a hand-written gather from tensors in memory, for which the loader does nothing; what "
            "remains is the fixed cost of a batch, and our groups share it among batches."
        )
    return [Result("dense_adult", measured, figures, quality, [0], why)]
