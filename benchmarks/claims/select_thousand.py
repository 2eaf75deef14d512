"""A study of a thousand configurations, killed on the way, run again, and looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness import Claim, Result
from stepwell.select import Integer, Study, StudySettings, Trainee, Uniform, search
from stepwell.select.log import read_log
from stepwell.select.space import Params

CLAIMS = [
    Claim(
        "select_thousand",
        "1,000 configurations of tiny models (ASHA, 9 epochs at most), the process killed by signal 9 on the way and "
        "the study run again: configurations or results lost, plus 1 if its page takes 2 s or more to write",
        0.0,
        "",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run it, kill it, run it again, write its page; `quick` with two hundred."""
    return [_thousand(200 if quick else 1_000)]


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 512 rows with two classes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(512, 6, generator=draw)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def tiny(params: Params) -> Trainee:
    """Build a small MLP."""
    width = int(params["width"] or 1)
    model = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))
    return Trainee(model, torch.optim.SGD(model.parameters(), lr=float(params["lr"] or 0.0), momentum=0.9))


def thousand(folder: Path, count: int) -> Study:
    """Run the study of a thousand, or go on with it."""
    return search(
        {"lr": Uniform(1e-3, 1.0, log=True), "width": Integer(2, 16)},
        blobs(),
        tiny,
        searcher="asha",
        configs=count,
        epochs=9,
        folder=folder,
        settings=StudySettings(partitions=2, slices=1, early=False),
    )


def _thousand(count: int) -> Result:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        code = (
            "from pathlib import Path\nfrom benchmarks.claims.select_speed import thousand\n"
            f"thousand(Path({str(folder)!r}), {count})"
        )
        child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        while child.poll() is None and (not (folder / "log.jsonl").exists() or _size(folder) < 400 * count):
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = list(read_log(folder / "log.jsonl"))
        begin = time.perf_counter()
        study = thousand(folder, count)
        took = time.perf_counter() - begin
        after = list(read_log(folder / "log.jsonl"))
        lost = count - sum(not one.parent for one in study.configs) + (after[: len(before)] != before)
        begin = time.perf_counter()
        size = study.to_html().stat().st_size
        page = time.perf_counter() - begin
    quality = {
        **{
            "page_s": page,
            "page_mib": size / 2**20,
            "seconds_after_the_kill": took,
            "events_before_the_kill": len(before),
        },
        **{"units": len(study.records.spans), "configurations": len(study.configs)},
    }
    return Result("select_thousand", lost + (page >= 2.0), quality=quality, seeds=(0,))


def _size(folder: Path) -> int:
    return os.stat(folder / "log.jsonl").st_size  # noqa: PTH116 - no exception wanted while it is being made
