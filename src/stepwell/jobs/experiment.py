"""The whole configuration of one run: what a recipe returns, what is saved with the results, what `--set` changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_type_hints

from stepwell.buffer.reuse import Gradient
from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.train import LoopConfig

T = TypeVar("T")
ProtocolName = Literal["p1", "p2", "p3"]


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is trained on.

    Args:
        name: A registered data set, the name of a log in the lake, or `"generated"` for the seeded stream.
        lake: Folder or object-store prefix of the lake.
        budget: Memory that an ingest may use.
    """

    name: str = "generated"
    lake: str = "lake"
    budget: str = "1GiB"


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """Which past a query sees.

    Args:
        sampler: `"recent"`, `"uniform"`, `"window"`, or `"tppr"`: the places of largest temporal personalised PageRank.
        k: Events a query.
        hops: Layers, 1 to 3.
        as_of: `"event"`: events strictly before the query's time; `"batch"`: events of earlier batches only.
        hop_time: From the second hop on, the time of the `"edge"` or that of the `"root"`.
        window_s: Length of the window in seconds, for `"window"` alone.
        alpha: Chance of the walk to stop, one a list, for `"tppr"` alone.
        beta: Decay of the walk from event to older event, one a list, for `"tppr"` alone.
    """

    sampler: Literal["recent", "uniform", "window", "tppr"] = "recent"
    k: int = 10
    hops: int = 1
    as_of: Literal["event", "batch"] = "event"
    hop_time: Literal["edge", "root"] = "edge"
    window_s: float = 86_400.0
    alpha: tuple[float, ...] = (0.1,)
    beta: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InvalidValueError("sampling.k", self.k, "at least 1")
        if not 1 <= self.hops <= 3:
            raise InvalidValueError("sampling.hops", self.hops, "1, 2 or 3")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how wide.

    Args:
        name: A registered model (`"tgn"`, `"tgat"`, `"jodie"`, `"graphmixer"`, `"zebra"`, ...), or one of a plug-in.
        dim: Width of memory, time encoding and embedding.
        heads: Attention heads, where there are any.
        dropout: Share of attention or hidden units dropped in training, 0 to below 1.
        seed: Seed of the initial weights.
        options: More of the model's own settings, each as `name=value`.
    """

    name: str = "tgn"
    dim: int = 100
    heads: int = 2
    dropout: float = 0.1
    seed: int = 0
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How events become batches.

    Args:
        size: Events a training batch.
        kind: `"fixed"`, or `"adaptive"`: as long as no batch loses more node updates than a fixed one of `size` would.
            Evaluation batches are fixed in any case.
        chunks: With more than 1, each epoch starts at a random multiple of `size / chunks`, so that borders move; for
            fixed batches alone.
        negatives: False destinations drawn for each event in training.
        prefetch: Batches made ahead on a background thread; 0 makes them in the loop.
    """

    size: int = 200
    chunks: int = 1
    negatives: int = 1
    prefetch: int = 2
    kind: Literal["fixed", "adaptive"] = "fixed"

    def __post_init__(self) -> None:
        if self.kind == "adaptive" and self.chunks > 1:
            raise InvalidValueError("batches.chunks", self.chunks, "1 with adaptive batches")


@dataclass(frozen=True, slots=True)
class PlacementConfig:
    """Which rows of the features stay near, where they do not all fit. Values never change.

    Args:
        policy: A registered policy (`"lru"`, `"interval"`, ...), or `"none"`: all rows are read where they lie.
        memory: Budget for the rows kept, as `"2GiB"`.
    """

    policy: str = "none"
    memory: str = "1GiB"


@dataclass(frozen=True, slots=True)
class StateConfig:
    """Where the model's node state lies. Values never change.

    Args:
        policy: `"host"`: in host memory. Else the policy, without foresight (`"lru"`, ...), of the rows that stay there
            while the others are in a file of the run's folder.
        memory: Budget for these rows, as `"2GiB"`.
    """

    policy: str = "host"
    memory: str = "1GiB"


@dataclass(frozen=True, slots=True)
class ReuseConfig:
    """Which embeddings below the last layer serve again in training.

    Evaluation computes all of them, unless `evaluation.reuse` asks for the same there.

    For models of two hops or more that reuse, best with `sampling.hop_time="root"`. See `buffer.reuse.EmbeddingReuse`.

    Args:
        rows: Embeddings kept a layer; 0: none, and all are computed.
        policy: Who stays, the name of a policy.
        max_age: Kept embeddings older than so many batches are computed anew; None: none is too old.
        causal: A target reads no embedding of a later time than its own.
        gradient: Whether neighbours computed in the same batch pass gradient on.
        measure_every: Of one training batch in so many, the staleness of what it reuses is sampled, for the report;
            that takes about half a step's time. 0: never.
    """

    rows: int = 0
    policy: str = "mrd"
    max_age: int | None = None
    causal: bool = True
    gradient: Gradient = "block"
    measure_every: int = 25

    def __post_init__(self) -> None:
        if self.measure_every < 0:
            raise InvalidValueError("reuse.measure_every", self.measure_every, "at least 1, or 0 for never")


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """How a run is judged.

    Args:
        protocol: What decides during training: `"p1"` (one uniform negative), `"p2"` (historical negatives) or
            `"p3"` (rank all destinations). The final table holds P1 and P3.
        batch_size: Events an evaluation batch, fixed however training is batched.
        ranking: Events that the final one-vs-many ranking covers at most; 0 for all.
        reuse: Whether answers are scored with reused embeddings, as training is. The scores then say so, and do not
            compare with others.
    """

    protocol: ProtocolName = "p1"
    batch_size: int = 200
    ranking: int = 0
    reuse: bool = False


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run, whole.

    Args:
        task: What is learned.
        data: What is trained on.
        model: Which model.
        sampling: Which past a query sees.
        batches: How events become batches.
        reuse: Which embeddings serve again.
        placement: Which rows stay near.
        state: Where node state lies.
        evaluation: How it is judged.
        loop: How it is trained.
    """

    task: Literal["link_prediction", "node_classification"] = "link_prediction"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    reuse: ReuseConfig = field(default_factory=ReuseConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    state: StateConfig = field(default_factory=StateConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def to_json(self) -> str:
        """Return the configuration as JSON text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Experiment:
        """Read back what `to_json` wrote."""
        return _build(cls, json.loads(text))


def read_experiment(folder: Path) -> Experiment:
    """Return the configuration that a run's folder was made with.

    Raises:
        CheckpointError: If the folder holds none.
    """
    path = folder / "experiment.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} holds no run: {path.name} is missing. Train one with: stepwell train RECIPE --out {folder}"
        )
    return Experiment.from_json(path.read_text())


def _build(kind: type[T], values: dict[str, object]) -> T:
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    chosen: dict[str, object] = {}
    for name, value in values.items():
        if name not in known:
            continue
        inner = hints[name]
        if is_dataclass(inner) and isinstance(value, dict):
            chosen[name] = _build(inner, value)  # type: ignore[arg-type]
        else:
            chosen[name] = tuple(value) if isinstance(value, list) else value
    return kind(**chosen)
