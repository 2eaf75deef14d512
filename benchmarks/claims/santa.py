"""What a T-PPR list costs to keep: microseconds an event, certificates included, against lists kept in dictionaries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.harness import Claim, Result, interleave
from benchmarks.streams import stream
from stepwell.kernels.tppr import Lists, Versions, advance

K, ALPHA, BETA = 20, 0.1, 0.5
CLAIMS = [
    Claim(
        "santa_event",
        "One event of jodie-wikipedia in the T-PPR lists of both ends (20 places, both certificates), one thread, CPU "
        "time, mean over the stream",
        5.0,
        "us",
        "<=",
    ),
    Claim(
        "santa_vs_dictionaries",
        "The same lists kept in compiled dictionaries, without certificates: CPU time an event over ours",
        10.0,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Keep the lists of the stream from its first event; say what writing every version to memory adds."""
    log = stream("jodie-wikipedia", events=20_000 if quick else 0)
    ends = np.stack([log.src, log.dst], axis=1).astype(np.int32)
    per_event = 1e6 / len(ends)
    contestants: dict[str, Callable[[], object]] = {
        "stepwell": lambda: _keep(ends, log.num_nodes),
        "stepwell, every version written": lambda: _keep(ends, log.num_nodes, written=True),
        "dictionaries": lambda: _dictionaries(ends, log.num_nodes),
    }
    timing = interleave(contestants, 1 if quick else 3)
    lists = _keep(ends, log.num_nodes)
    active = lists.length > 0
    baseline = {
        name: {"cpu_us_per_event": t.cpu_s * per_event, "wall_us_per_event": t.wall_s * per_event}
        for name, t in timing.items()
    }
    quality = {
        "bytes a node": sum(array.nbytes for array in lists) / log.num_nodes,
        "mean bound": float(lists.bound[active].mean()),
        "mean share of the mass listed": _listed_share(lists, active),
    }
    ours = timing["stepwell"].cpu_s * per_event
    ratio = timing["dictionaries"].cpu_s / timing["stepwell"].cpu_s
    return [
        Result("santa_event", ours, baseline, quality),
        Result("santa_vs_dictionaries", ratio, baseline, {"same lists": str(_same(ends[:2_000], log.num_nodes))}),
    ]


def _keep(ends: np.ndarray, num_nodes: int, *, written: bool = False) -> Lists:
    lists = Lists.empty(num_nodes, K)
    advance(lists, ends, 0, ALPHA, BETA, versions=Versions.empty(len(ends), K) if written else None)
    return lists


def _listed_share(lists: Lists, active: np.ndarray) -> float:
    shown = np.arange(K) < lists.length[:, None]
    listed = np.where(shown, lists.weight, 0.0).sum(axis=1)
    return float((listed[active] / lists.mass[active]).mean())


def _dictionaries(ends: np.ndarray, num_nodes: int) -> object:
    from benchmarks.peers.tppr_dictionaries import keep_in_dictionaries

    return keep_in_dictionaries(ends, num_nodes, K, ALPHA, BETA)


def _same(ends: np.ndarray, num_nodes: int) -> bool:
    """Say whether both ways keep the same lists."""
    lists, others = _keep(ends, num_nodes), _dictionaries(ends, num_nodes)
    found = [dict(zip(k[:n].tolist(), w[:n].tolist(), strict=True)) for k, w, n in zip(*lists[:3], strict=True)]
    return found == [dict(other) for other in others]  # type: ignore[call-overload]
