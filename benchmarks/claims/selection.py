"""Facility location beside submodlib, distances included, and a million rows in one pass."""

from __future__ import annotations

import importlib.util
import sys
import warnings

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Claim, Result, interleave, once
from benchmarks.private_memory import Peak
from stepwell.prepare.select import Coverage, Selector, Sieve, selectors

_WHAT = "a tenth of n rows of a Gaussian mixture (20 clusters, 64 dimensions) by lazy greedy facility location"
CLAIMS = [
    Claim(
        "selection",
        f"{_WHAT}: seconds of submodlib's LazyGreedy over ours, distances included in both, in the worst of "
        "n = 1000, 2000, 5000 and 10000",
        5.0,
        "x",
    ),
    Claim(
        "selection_objective",
        f"{_WHAT}: largest relative difference of our objective to submodlib's, n = 1000 to 10000",
        1e-5,
        "share",
        "<=",
    ),
    Claim(
        "selection_sieve",
        "peak private memory beyond the rows themselves while 100 of 1,000,000 rows (16 dimensions) are chosen by "
        "sieve streaming and every row is given to its nearest",
        256.0,
        "MiB",
        "<=",
    ),
]
_NEEDS = "this claim compares with submodlib; install it beside Stepwell: pip install --no-deps submodlib-py"


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Time both on the same rows; `quick` leaves out the two larger n and takes 100,000 rows for the sieve."""
    if importlib.util.find_spec("submodlib") is None:
        sys.exit(_NEEDS)
    warnings.simplefilter("ignore")
    sizes = (1000, 2000) if quick else (1000, 2000, 5000, 10_000)
    figures: dict[str, dict[str, float | str]] = {"stepwell": {}, "submodlib": {}}
    ratios, gaps, evaluations = list[float](), list[float](), dict[str, float | str]()
    for size in sizes:
        z, found = mixture(size, 64), dict[str, npt.NDArray[np.int64]]()

        def ours(z: npt.NDArray[np.float32] = z, found: dict[str, npt.NDArray[np.int64]] = found) -> None:
            chosen = selectors["camel"].select(z, None, len(z) // 10)
            found["stepwell"] = chosen.index
            evaluations[f"gains computed, n = {len(z)}"] = chosen.evaluations

        def theirs(z: npt.NDArray[np.float32] = z, found: dict[str, npt.NDArray[np.int64]] = found) -> None:
            found["submodlib"] = _submodlib(z, len(z) // 10)

        times = interleave({"stepwell": ours, "submodlib": theirs}, runs=3 if size < 5000 else 1)
        far = _far(z)
        goal = {name: far - _cover(z, index) for name, index in found.items()}
        for name, timing in times.items():
            figures[name][f"seconds, n = {size}"] = timing.wall_s
            figures[name][f"CPU seconds, n = {size}"] = timing.cpu_s
            figures[name][f"mean distance, n = {size}"] = far - goal[name]
        ratios.append(times["submodlib"].wall_s / times["stepwell"].wall_s)
        gaps.append(abs(goal["stepwell"] / goal["submodlib"] - 1))
    return [
        Result("selection", min(ratios), figures, evaluations, (0,), "Which n is short of it is in the list."),
        Result("selection_objective", max(gaps), figures, {}, (0,)),
        _sieve(100_000 if quick else 1_000_000),
    ]


def mixture(size: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return rows around 20 centres."""
    draw = np.random.default_rng(seed)
    centres = (3 * draw.normal(size=(20, width))).astype(np.float32)
    rows = draw.standard_normal((size, width), np.float32)
    rows += centres[draw.integers(0, 20, size)]
    return rows


def _submodlib(z: npt.NDArray[np.float32], budget: int) -> npt.NDArray[np.int64]:
    """Let submodlib choose, with distances by scikit-learn's product, the fastest way to its input."""
    from sklearn.metrics import euclidean_distances
    from submodlib import FacilityLocationFunction

    pair = euclidean_distances(z)
    function = FacilityLocationFunction(n=len(z), mode="dense", sijs=pair.max() - pair, separate_rep=False)
    chosen = function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
    return np.array([row for row, _ in chosen], np.int64)


def _cover(z: npt.NDArray[np.float32], index: npt.NDArray[np.int64]) -> float:
    """Return the mean distance to the nearest chosen row, in float64, from the definition."""
    from scipy.spatial.distance import cdist

    return float(np.mean([cdist(part, z[index]).min(1).mean() for part in np.array_split(z, 10)]))


def _far(z: npt.NDArray[np.float32]) -> float:
    from scipy.spatial.distance import cdist

    return max(float(cdist(part, z).max()) for part in np.array_split(z, 10))


def _sieve(size: int) -> Result:
    z = mixture(size, 16)
    selector, found = Selector(search=Coverage(Sieve())), dict[str, float]()
    selector.select(z[:20_000], None, 100)  # compile
    with Peak() as peak:

        def choose() -> None:
            chosen = selector.select(z, None, 100)
            found.update(cover=chosen.cover, rows=len(chosen), evaluations=chosen.evaluations)

        wall, cpu = once(choose)
    sample = np.random.default_rng(1).permutation(size)[:5000]
    quality: dict[str, float | str] = {
        "mean distance, sieve": found["cover"],
        "mean distance, greedy on 5,000 of the rows, all rows": _cover_of_sample(z, sample),
        "mean distance, random rows": selectors["random"].select(z, None, 100).cover,
        "rows": found["rows"],
        "gains computed": found["evaluations"],
        "seconds": wall,
        "CPU seconds": cpu,
    }
    return Result("selection_sieve", peak.bytes / 2**20, {"rows themselves": {"MiB": z.nbytes / 2**20}}, quality, (0,))


def _cover_of_sample(z: npt.NDArray[np.float32], sample: npt.NDArray[np.int64]) -> float:
    from stepwell.kernels.coverage import nearest_pick

    chosen = selectors["camel"].select(z[sample], None, 100)
    _, near = nearest_pick(z, np.zeros(len(z), np.int64), sample[chosen.index])
    return float(near.mean(dtype=np.float64))
