"""Eight temporal models on one log: one index and one run of the sampler for all, against separate runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch

import stepwell as sw
from benchmarks.harness import Claim, Result
from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.core.batch import Batch
from stepwell.evaluate.metrics import average_precision
from stepwell.nn import TGAT, TGN
from stepwell.nn.tgat import TGATSettings
from stepwell.nn.tgn import TGNSettings
from stepwell.select import StudySettings, Trainee, search
from stepwell.select.data import cut
from stepwell.select.lake_data import LogData
from stepwell.select.sampled import Sampling
from stepwell.select.space import Params
from stepwell.select.trainee import as_trainee, seed_all
from stepwell.train.losses import link_loss

K, BATCH, DIM, EPOCHS = 10, 200, 32, 2
GRID: dict[str, list[str | float]] = {"kind": ["tgn", "tgat"], "lr": [3e-3, 1e-3, 3e-4, 1e-4]}
_WHAT = (
    f"4 TGN and 4 TGAT of one hop (ten newest neighbours, {DIM} wide, four rates) on the first 20,000 events of "
    f"collegemsg, {EPOCHS} epochs in batches of {BATCH}"
)
CLAIMS = [
    Claim(
        "select_temporal",
        f"{_WHAT}: one study in one process against eight separate runs, wall time with all start-up",
        2.0,
        "x",
    ),
    Claim(
        "select_temporal_equal",
        f"{_WHAT}: largest difference of average precision on the last fifth between a configuration of the study and "
        "its separate run",
        0.0,
        "AP",
        "<=",
    ),
]


def events(count: int) -> sw.EventLog:
    """Return the first events of collegemsg."""
    import pyarrow.parquet as pq

    from stepwell.core.settings import settings

    folder = settings().data
    if folder is None:
        raise FileNotFoundError("set STEPWELL_DATA to a folder that has collegemsg/interactions.parquet")
    table = pq.read_table(folder / "collegemsg" / "interactions.parquet").slice(0, count)
    src, dst, at = (table[name].to_numpy().astype(np.int64) for name in ("src", "dst", "ts"))
    return sw.EventLog.from_arrays(src, dst, at)


def build(params: Params, num_nodes: int = 1_900) -> Trainee:
    """Build a TGN or TGAT with Adam."""
    model: torch.nn.Module
    if params["kind"] == "tgn":
        model = TGN(num_nodes, settings=TGNSettings(DIM, DIM, DIM, k=K))
    else:
        model = TGAT(num_nodes, settings=TGATSettings(DIM, DIM, hops=1, k=K))
    optimizer = torch.optim.Adam(model.parameters(), lr=float(params["lr"] or 0))
    return Trainee(model, optimizer, sampling=Sampling(Recent(K)))


def configurations() -> list[Params]:
    """Return the grid in the order of the study."""
    return [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]


def together(count: int) -> list[float]:
    """Train all as a study and return the precision of each."""
    log = events(count)
    settings = StudySettings(partitions=2, slices=1, batch_size=BATCH, early=False)
    with tempfile.TemporaryDirectory() as folder:
        study = search(GRID, log, build, metric="mrr", epochs=EPOCHS, folder=folder, settings=settings)
        return [precision(study.model(one.name), log) for one in study.configs]


def alone(number: int, count: int) -> float:
    """Train one by a plain loop and return its precision."""
    torch.set_num_threads(1)
    log, params = events(count), configurations()[number]
    source = cut(log, partitions=2, slices=1)
    assert isinstance(source, LogData)
    seed_all(0)
    made = as_trainee(build(params), params)
    model, optimizer = made.model, made.optimizer
    assert optimizer is not None
    for epoch in range(EPOCHS):
        model.forget()  # type: ignore[operator]
        model.train()
        for begin, end in source.parts:
            for batch in _batches(log[begin:end], epoch):
                optimizer.zero_grad()
                link_loss(model, batch).backward()  # type: ignore[arg-type, no-untyped-call]
                with torch.no_grad():
                    model.observe(batch)  # type: ignore[operator]
                optimizer.step()
    return precision(model, log)


def _batches(log: sw.EventLog, epoch: int) -> Iterator[Batch]:
    made = Pipeline(log, FixedBatches(BATCH), negatives=UniformNegatives(), sampler=Recent(K), prefetch=1)
    return made.epoch(epoch)


def precision(model: torch.nn.Module, log: sw.EventLog) -> float:
    """Return the average precision on the last fifth, one negative an event."""
    source = cut(log, partitions=2, slices=1)
    assert isinstance(source, LogData)
    begin, end = source.slices[0]
    target, score = list[int](), list[float]()
    model.eval()
    with torch.no_grad():
        for batch in _batches(log[begin:end], 0):
            logits = model.score(batch)  # type: ignore[operator]
            target += [1] * len(logits) + [0] * len(logits)
            score += [*logits[:, 0].tolist(), *logits[:, 1].tolist()]
            model.observe(batch)  # type: ignore[operator]
    return float(average_precision(np.array(target), np.array(score)))


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run both ways, each run in a process of its own; `quick` on 3,000 events."""
    count = 3_000 if quick else 20_000
    events(100)
    separate, wall = list[float](), list[float]()
    for number in range(len(configurations())):
        found, seconds = _in_process(f"alone({number}, {count})")
        separate.append(float(found))  # type: ignore[arg-type]
        wall.append(seconds)
    found, mine = _in_process(f"together({count})")
    study: list[float] = found  # type: ignore[assignment]
    gap = max(abs(one - other) for one, other in zip(study, separate, strict=True))
    begin = time.perf_counter()
    for number in range(len(separate)):
        alone(number, count)
    warm = time.perf_counter() - begin
    begin = time.perf_counter()
    together(count)
    warm_mine = time.perf_counter() - begin
    figures: dict[str, dict[str, float | str]] = {
        "study": {"wall_s": mine, "without_start_up_s": warm_mine},
        "separate runs": {"wall_s": sum(wall), "without_start_up_s": warm},
    }
    quality: dict[str, float | str] = {
        f"AP, {one['kind']}, lr {one['lr']}": ap for one, ap in zip(configurations(), study, strict=True)
    }
    quality["ratio without start-up"] = warm / warm_mine
    why = "the models' own arithmetic is not shared, and is most of a step on a CPU"
    return [
        Result("select_temporal", sum(wall) / mine, figures, quality, (0,), why),
        Result("select_temporal_equal", gap, {}, quality, (0,)),
    ]


def _in_process(call: str) -> tuple[object, float]:
    """Return what a call of this module gives in a fresh process, and its wall seconds, start-up included."""
    code = f"import json\nfrom benchmarks.claims import select_temporal as one\nprint(json.dumps(one.{call}))"
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1]), time.perf_counter() - begin
