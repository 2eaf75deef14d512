"""Published searches: each is a function that returns the whole configuration of a study, its data named.

`stepwell search NAME` runs one and goes on with it; `--set path=value` changes any part of it. Third parties add theirs
through the entry point group `stepwell.search_recipe`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stepwell.access import Recent
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.registry import Registry
from stepwell.core.settings import settings
from stepwell.nn import TGAT, TGN
from stepwell.nn.tgat import TGATSettings
from stepwell.nn.tgn import TGNSettings
from stepwell.recipes.text import (
    IGNORED,
    Head,
    entity_scores,
    pretrained,
    token_ids,
    token_loss,
    word_ids,
)
from stepwell.select import Study, StudySettings, Trainee, search
from stepwell.select.sampled import Sampling
from stepwell.select.space import Params
from stepwell.select.trainee import Build, Step
from stepwell.select.usual import Metric, usual_metric, usual_step
from stepwell.storage import EventLog

ACCURACY = usual_metric("accuracy")


class Material(NamedTuple):
    """What a search trains and validates on, and what it trains.

    Args:
        data: To train on; any kind that `stepwell.search` takes.
        validation: To validate on, of the same kind, or a share.
        build: Makes a model of parameters.
        step: Returns the loss of a batch.
        metric: What configurations are compared by.
    """

    data: object
    validation: object
    build: Build
    step: Step = usual_step
    metric: Metric = ACCURACY


@dataclass(frozen=True, slots=True)
class Search:
    """A whole study to be.

    Args:
        gather: Reads the data: `gather(rows, encoder)`.
        space: Names to lists of values or dimensions.
        epochs: Epochs of a configuration that is not stopped early.
        searcher: Name of the searcher.
        configs: How many configurations a drawing searcher begins with.
        rows: Most rows to train on, 0 for all.
        encoder: Folder of a pretrained encoder, for texts; empty takes the one that a package ships.
        settings: How the study is run.
    """

    gather: Callable[[int, str], Material]
    space: Mapping[str, object]
    epochs: int = 5
    searcher: str = "grid"
    configs: int | None = None
    rows: int = 0
    encoder: str = ""
    settings: StudySettings = field(default_factory=StudySettings)

    def run(self, folder: str | Path, *, workers: int = 1, budget: float | None = None) -> Study:
        """Run the study, or go on with the one in the folder."""
        found = self.gather(self.rows, self.encoder)
        return search(
            self.space,
            found.data,
            found.build,
            metric=found.metric,
            epochs=self.epochs,
            workers=workers,
            budget=budget,
            searcher=self.searcher,
            configs=self.configs,
            validation=found.validation,
            step=found.step,
            folder=folder,
            settings=self.settings,
        )


searches: Registry[Callable[[], Search]] = Registry("search recipe")


def _table(*parts: str) -> pa.Table:
    """Return a file of the local data folder.

    Raises:
        DataError: If it is not there.
    """
    folder = settings().data
    path = Path("." if folder is None else folder).joinpath(*parts)
    if not path.exists():
        raise DataError("/".join(parts), "no such file", "a local copy", "put it below the folder in STEPWELL_DATA")
    return pq.read_table(path)


def _rate(params: Params) -> float:
    return float(params.get("lr") or 1e-3)


# Images ------------------------------------------------------------------------------------------------------------


@searches.register("search_mnist")
def search_mnist() -> Search:
    """Sixteen small convolutional networks on mnist: width, rate, momentum."""
    space = {"width": [8, 16], "lr": [0.3, 0.1, 0.03, 0.01], "momentum": [0.0, 0.9]}
    return Search(_mnist, space)


def _mnist(rows: int, _: str) -> Material:
    return Material(_pictures("train.parquet", rows), _pictures("test.parquet", 0), convolutional)


def _pictures(name: str, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    table = _table("mnist", name)
    table = table.slice(0, rows or len(table)).combine_chunks()
    pixels = np.frombuffer(table["image"].chunk(0).buffers()[1], np.uint8)[: len(table) * 784]
    x = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    return x, torch.from_numpy(table["label"].to_numpy().astype(np.int64))


def convolutional(params: Params) -> Trainee:
    """Two convolutions of `width` and twice as many channels, a linear output, SGD."""
    width = int(params.get("width") or 8)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, width, 5, 2, 2), torch.nn.ReLU()),
        *(torch.nn.Conv2d(width, 2 * width, 3, 2, 1), torch.nn.ReLU()),
        *(torch.nn.Flatten(), torch.nn.Linear(2 * width * 49, 10)),
    )
    momentum = float(params.get("momentum") or 0.0)
    return Trainee(model, torch.optim.SGD(model.parameters(), lr=_rate(params), momentum=momentum))


# Tables ------------------------------------------------------------------------------------------------------------


@searches.register("search_adult")
def search_adult() -> Search:
    """Successive halving over perceptrons on the census table adult: width, depth, rate, decay, dropout."""
    from stepwell.select import Integer, Uniform

    space = {
        **{"width": Integer(16, 128), "depth": Integer(1, 3), "dropout": Uniform(0.0, 0.5)},
        **{"lr": Uniform(1e-4, 1e-1, log=True), "weight_decay": Uniform(1e-6, 1e-2, log=True)},
    }
    return Search(_adult, space, epochs=9, searcher="halving", configs=27, settings=StudySettings(batch_size=256))


def _adult(rows: int, _: str) -> Material:
    train, held = _table("adult", "train.parquet"), _table("adult", "test.parquet")
    train = train.slice(0, rows or len(train))
    numbers = [name for name in train.column_names if pa.types.is_integer(train.schema.field(name).type)]
    words = {name: train[name].unique().to_pylist() for name in train.column_names if name not in (*numbers, "income")}
    means = {name: (_floats(train, name).mean(), _floats(train, name).std() or 1.0) for name in numbers}

    def encoded(table: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [(_floats(table, name) - means[name][0]) / means[name][1] for name in numbers]
        for name, values in words.items():
            cells = np.asarray(table[name].to_pylist(), object)
            parts += [(cells == value).astype(np.float64) for value in values]
        y = np.asarray(table["income"].to_pylist(), object) == ">50K"
        return torch.from_numpy(np.stack(parts, 1).astype(np.float32)), torch.from_numpy(y.astype(np.int64))

    data = encoded(train)
    return Material(data, encoded(held), partial(perceptron, inputs=data[0].shape[1]))


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return cast("np.ndarray", table[name].to_numpy().astype(np.float64))


def perceptron(params: Params, inputs: int) -> Trainee:
    """A perceptron of `depth` hidden layers, AdamW."""
    width, parts = int(params.get("width") or 32), list[torch.nn.Module]()
    for layer in range(int(params.get("depth") or 1)):
        parts += [torch.nn.Linear(width if layer else inputs, width), torch.nn.ReLU()]
        parts.append(torch.nn.Dropout(float(params.get("dropout") or 0.0)))
    model = torch.nn.Sequential(*parts, torch.nn.Linear(width, 2))
    decay = float(params.get("weight_decay") or 0.0)
    return Trainee(model, torch.optim.AdamW(model.parameters(), lr=_rate(params), weight_decay=decay))


# Temporal graphs ---------------------------------------------------------------------------------------------------


@searches.register("search_collegemsg")
def search_collegemsg() -> Search:
    """Eight temporal networks on CollegeMsg, TGN and TGAT of one hop, four rates: one run of the sampler for all."""
    space = {"kind": ["tgn", "tgat"], "lr": [3e-3, 1e-3, 3e-4, 1e-4]}
    return Search(_collegemsg, space, settings=StudySettings(batch_size=200, slices=1, early=False))


def _collegemsg(rows: int, _: str) -> Material:
    table = _table("collegemsg", "interactions.parquet")
    table = table.slice(0, rows or len(table))
    src, dst, at = (table[name].to_numpy().astype(np.int64) for name in ("src", "dst", "ts"))
    nodes = int(max(src.max(), dst.max())) + 1
    return Material(
        EventLog.from_arrays(src, dst, at), 0.15, partial(temporal, num_nodes=nodes), metric=usual_metric("mrr")
    )


def temporal(params: Params, num_nodes: int, k: int = 10) -> Trainee:
    """A TGN or TGAT of one hop and `width`, Adam, over the `k` newest neighbours."""
    width, made = int(params.get("width") or 100), str(params.get("kind") or "tgn")
    model: torch.nn.Module
    if made == "tgn":
        model = TGN(num_nodes, settings=TGNSettings(width, width, width, k=k))
    elif made == "tgat":
        model = TGAT(num_nodes, settings=TGATSettings(width, width, hops=1, k=k))
    else:
        raise InvalidValueError("kind", made, "'tgn' or 'tgat'")
    return Trainee(model, torch.optim.Adam(model.parameters(), lr=_rate(params)), sampling=Sampling(Recent(k)))


# Texts -------------------------------------------------------------------------------------------------------------

_TUNING = {"lr": [1e-4, 3e-4, 1e-3], "layers": [1], "dropout": [0.0, 0.1]}


@searches.register("search_sentiment")
def search_sentiment() -> Search:
    """Twelve heads on one frozen transformer: does a film review praise?"""
    space = {**_TUNING, "pool": ["mean", "first"]}
    return Search(_sentiment, space, epochs=3, settings=StudySettings(batch_size=32))


def _sentiment(rows: int, encoder: str) -> Material:
    table = _table("film-snippets", "snippets.parquet")
    held = np.arange(len(table)) % 5 == 4
    train = np.flatnonzero(~held)[: rows or None]
    labels = (table["rating"].to_numpy() > 0).astype(np.int64)
    return texts_of(table["text"].to_pylist(), labels, (train, np.flatnonzero(held)), encoder)


def texts_of(
    texts: list[str], labels: np.ndarray, parts: tuple[np.ndarray, np.ndarray], encoder: str = "", length: int = 32
) -> Material:
    """Return texts with one label each as the material of a search.

    Args:
        texts: The texts.
        labels: Whole numbers from 0.
        parts: Rows to train and to validate on.
        encoder: Folder of a pretrained encoder, or empty.
        length: Tokens of a text; longer ones are cut.
    """
    ids = token_ids(pretrained(encoder), texts, length)
    y = labels.astype(np.int64)
    train, held = ((torch.from_numpy(ids[rows]), torch.from_numpy(y[rows])) for rows in parts)
    return Material(train, held, partial(fine_tuned, outputs=int(y.max()) + 1, encoder=encoder))


def fine_tuned(params: Params, outputs: int, encoder: str = "", pool: str = "mean") -> Trainee:
    """The last `layers` layers of the encoder and an output, AdamW; the layers before them are a frozen prefix."""
    whole = pretrained(encoder)
    tuned = params.get("layers")
    first = whole.layers - int(1 if tuned is None else tuned)
    drop = float(params.get("dropout") or 0.0)
    head = Head(whole, first, outputs, str(params.get("pool") or pool), drop)
    return Trainee(head, torch.optim.AdamW(head.parameters(), lr=_rate(params)), prefix=whole.body(first))


@searches.register("search_ner")
def search_ner() -> Search:
    """Twelve taggers on one frozen transformer: which words of a Wikipedia sentence name whom or what?"""
    space = {**_TUNING, "lr": [3e-4, 1e-3], "layers": [0, 1, 2]}
    return Search(_ner, space, epochs=3, settings=StudySettings(batch_size=32))  # fmt: skip


def _ner(rows: int, encoder: str) -> Material:
    table = _table("ner-wikigold", "wikigold.parquet")
    words, tags = table["tokens"].to_pylist(), table["tags"].to_pylist()
    held = np.arange(len(table)) % 5 == 4
    return tagged(words, tags, (np.flatnonzero(~held)[: rows or None], np.flatnonzero(held)), encoder)


def tagged(
    words: list[list[str]],
    tags: list[list[str]],
    parts: tuple[np.ndarray, np.ndarray],
    encoder: str = "",
    length: int = 48,
) -> Material:
    """Return texts with one tag a word (`B-x`, `I-x`, `O`) as the material of a search; scored by F1 of entities."""
    if any(len(one) != len(other) for one, other in zip(words, tags, strict=True)):
        raise InvalidValueError("tags", "another number of tags than of words", "one a word")
    names = tuple(sorted({tag for text in tags for tag in text}))
    number = {name: place for place, name in enumerate(names)}
    ids, begins = word_ids(pretrained(encoder), words, length)
    y = np.full_like(begins, IGNORED)
    for row, text in enumerate(tags):
        at = np.flatnonzero(begins[row] != IGNORED)
        y[row, at] = [number[text[word]] for word in begins[row, at]]
    train, held = ((torch.from_numpy(ids[rows]), torch.from_numpy(y[rows])) for rows in parts)
    build = partial(fine_tuned, outputs=len(names), encoder=encoder, pool="none")
    metric = Metric("entity_f1", partial(_entities, names=names), "max", (0.0, 1.0))
    return Material(train, held, build, token_loss, metric)


def _entities(model: torch.nn.Module, batch: object, names: tuple[str, ...]) -> torch.Tensor:
    hidden, target = cast("tuple[torch.Tensor, torch.Tensor]", batch)
    return entity_scores(model(hidden), target, names)
