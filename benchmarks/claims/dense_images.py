"""Encoded images: MNIST as PNG files, batches of 256. Decoding is the floor."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

from benchmarks.harness import Claim, Result

CLAIMS = [
    Claim(
        "dense_images",
        "shuffled batches of 256 from MNIST as PNG files, every image decoded in every epoch, images/s against the "
        "best of torch DataLoader, webdataset and Hugging Face datasets with Pillow",
        1.0,
        "x",
    )
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time epochs of every contestant in processes of their own, and decoding alone."""
    from benchmarks.peers import dense_compare, dense_data

    folder = dense_data.images(8192 if quick else None)
    figures = dense_compare.compare(folder, ("stepwell-uncached", "stepwell"), quick=quick, seconds=3.0)
    name, rate = dense_compare.best_peer(figures)
    own = float(figures["stepwell-uncached"]["rows_per_s"])
    kernel, pillow = floors(folder)
    quality = {
        **dense_compare.check_shuffle_and_resume(folder),
        **dense_compare.ratios(figures, "stepwell-uncached"),
        "decoding alone, our kernel on all threads, images/s": kernel,
        "decoding alone, Pillow on one thread, images/s": pillow,
        "share of our decoding floor": own / kernel,
        "kept decoded in 256 MiB / best peer": float(figures["stepwell"]["rows_per_s"]) / rate,
    }
    why = f"Best peer: {name}. {dense_compare.MOSAIC}"
    return [Result("dense_images", own / rate, figures, quality, [0], why)]


def floors(folder: Path) -> tuple[float, float]:
    """Return the images/s of decoding alone: 4,096 files in memory, best of five."""
    import numpy as np

    from benchmarks.peers.dense import decode_with_pillow
    from stepwell.kernels.dense import decode_png

    offset = np.load(folder / "offset.npy")[:4097]
    data = np.fromfile(folder / "image.bin", np.uint8)[: offset[-1]]
    out = np.empty((len(offset) - 1, 28, 28), np.uint8)
    files = [data[a:b].tobytes() for a, b in pairwise(offset)]
    taken: dict[str, list[float]] = {"kernel": [], "pillow": []}
    for _ in range(6):
        begin = time.perf_counter()
        decode_png(offset, data, out)
        middle = time.perf_counter()
        decode_with_pillow(files)
        taken["kernel"].append(middle - begin)
        taken["pillow"].append(time.perf_counter() - middle)
    return len(files) / min(taken["kernel"]), len(files) / min(taken["pillow"])
