"""The label engine beside Snorkel and crowd-kit, on real crowds and real labelling functions."""

from __future__ import annotations

import logging
import warnings

import numpy as np

from benchmarks.harness import Claim, Result, interleave, once
from benchmarks.peers import label_peers
from benchmarks.peers.label_peers import SETS, Task
from stepwell.prepare.label import LabelModel, NumberModel, Votes

_PEERS = "Snorkel's LabelModel and crowd-kit's Dawid-Skene, one-coin and GLAD"
_WHERE = "sms-spam, trec-questions, youtube-spam (rules), crowd-duck, -product and -face (answers), covered items"
CLAIMS = [
    Claim(
        "label_engine",
        f"accuracy of the label engine above the best of {_PEERS}, plus 0.2 points (or one item, where that is "
        f"more), in the worst of six sets: {_WHERE}",
        0.0,
        "points",
    ),
    Claim(
        "label_engine_speed",
        f"CPU seconds of the fastest of {_PEERS} over those of the label engine, in the worst of six sets: {_WHERE}",
        4.0,
        "x",
    ),
    Claim(
        "label_engine_numbers",
        "RMSE on crowd-emotion (7,000 numbers from 38 workers) below the best of mean, median and CATD, plus 0.2",
        0.0,
        "points",
    ),
    Claim(
        "label_engine_likelihood",
        "smallest step of the penalised log likelihood in a fit, by all settings of the label engine on seven sets",
        -1e-6,
        "nats",
    ),
]
_OURS = "stepwell"
_SLOW = "crowd-kit GLAD"  # timed once, while it is scored: it takes seconds
_LESSONS = (
    "youtube-spam came without rules: its 31 labelling functions were written from comments without their labels and "
    "committed before any score. Majority vote is shown beside, not among the engines of the claim"
)


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Fit every contestant on every set; `quick` leaves out the three largest sets and takes one seed."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    names = SETS[3:4] + SETS[5:] if quick else SETS
    tasks = {name: label_peers.load(name) for name in names}
    seeds = (0,) if quick else (0, 1, 2)
    found, seconds = {}, {}
    for name, task in tasks.items():
        found[name], slow = _scores(task, seeds)
        seconds[name] = {**_seconds(task, runs=2 if quick else 5), _SLOW: slow}
    margin, ratio = {}, {}
    for name, task in tasks.items():
        scores = found[name]
        best = max(score for peer, score in scores.items() if peer not in (_OURS, "majority"))
        margin[name] = scores[_OURS] - best + max(0.2, 100 / task.covered.sum())
        ratio[name] = min(cpu for peer, cpu in seconds[name].items() if peer != _OURS) / seconds[name][_OURS]
    shown = {name: {f"{peer} accuracy": round(score, 2) for peer, score in found[name].items()} for name in tasks}
    times = {name: {f"{peer} cpu_s": round(cpu, 5) for peer, cpu in seconds[name].items()} for name in tasks}
    worst, slowest = min(margin.values()), min(ratio.values())
    return [
        Result("label_engine", worst, shown, {"note": _LESSONS}, seeds, _why(margin, 0.0)),
        Result(
            "label_engine_speed",
            slowest,
            times,
            {f"{name} ratio": r for name, r in ratio.items()},
            seeds,
            _why(ratio, 4.0),
        ),
        _numbers(),
        _likelihood(tasks),
    ]


def _scores(task: Task, seeds: tuple[int, ...]) -> tuple[dict[str, float], float]:
    """Return the accuracy of each contestant, of Snorkel the mean over seeds, and the CPU seconds of the slow one."""
    scores, slow = {_OURS: task.accuracy(LabelModel().fit(task.votes).probabilities)}, 0.0
    for peer in label_peers.peers():
        tries = []
        for seed in seeds if peer.startswith("Snorkel") else (0,):
            run = label_peers.contestant(peer, task, seed)
            _, cpu = once(lambda run=run, tries=tries: tries.append(task.accuracy(run())))
            slow = cpu if peer == _SLOW else slow
        scores[peer] = float(np.mean(tries))
    return scores, slow


def _seconds(task: Task, runs: int) -> dict[str, float]:
    """Return the median CPU seconds of each contestant; ours include sorting the votes."""
    votes = task.votes
    shuffled = np.random.default_rng(0).permutation(len(votes))
    item, source, label = votes.item[shuffled], votes.source[shuffled], votes.label[shuffled]

    def ours() -> object:
        return LabelModel().fit(
            Votes.from_arrays(item, source, label, classes=votes.classes, sources=votes.sources, rows=votes.rows)
        )

    left_out = ("majority", _SLOW, "Snorkel, balance")  # the last takes as long as without
    contestants = {peer: label_peers.contestant(peer, task) for peer in label_peers.peers() if peer not in left_out}
    timings = interleave({_OURS: ours, **contestants}, runs)
    return {name: timing.cpu_s for name, timing in timings.items()}


def _why(figures: dict[str, float], bar: float) -> str:
    missed = ", ".join(f"{name} ({figure:.2f})" for name, figure in figures.items() if figure < bar)
    return f"missed on {missed}" if missed else ""


def _numbers() -> Result:
    votes, truth = label_peers.numbers()
    by_item = np.split(votes.number, votes.indptr[1:-1])
    contestants = {
        _OURS: NumberModel().fit(votes).values,
        "mean": np.array([one.mean() for one in by_item]),
        "median": np.array([np.median(one) for one in by_item]),
        "CATD": _catd(votes),
    }
    errors = {name: float(np.sqrt(np.mean((values - truth) ** 2))) for name, values in contestants.items()}
    ahead = min(error for name, error in errors.items() if name != _OURS) - errors[_OURS] + 0.2
    shown = {name: {"RMSE": round(error, 3)} for name, error in errors.items()}
    return Result("label_engine_numbers", ahead, shown, why="" if ahead >= 0 else "a plain estimate is better here")


def _catd(votes: Votes) -> np.ndarray:
    """Return values by confidence-aware truth discovery (Li et al., PVLDB 8(4), 2014)."""
    from scipy.stats import chi2

    sources, items = len(votes.sources), len(votes.rows)
    quantile = chi2.ppf(0.025, votes.per_source)
    value = np.bincount(votes.item, votes.number, items) / np.diff(votes.indptr)
    for _ in range(100):
        errors = np.bincount(votes.source, (votes.number - value[votes.item]) ** 2, sources)
        weight = (quantile / np.maximum(errors, 1e-9))[votes.source]
        value = np.bincount(votes.item, weight * votes.number, items) / np.bincount(votes.item, weight, items)
    return value


def _likelihood(tasks: dict[str, Task]) -> Result:
    steps = {}
    for name, task in tasks.items():
        for source in ("auto", "one-coin", "confusion"):
            for balance in ("learned", "uniform"):
                trace = LabelModel(source, balance).fit(task.votes).likelihoods  # type: ignore[arg-type]
                steps[f"{name}, {source}, {balance}"] = float(np.diff(trace).min(initial=np.inf))
    steps["crowd-emotion"] = float(np.diff(NumberModel().fit(label_peers.numbers()[0]).likelihoods).min(initial=np.inf))
    least = min(steps.values())
    why = "" if least >= -1e-6 else f"it fell on {min(steps, key=lambda name: steps[name])}"
    return Result("label_engine_likelihood", least, {}, {"fits": len(steps)}, why=why)
