"""A protocol names everything that a score depends on; a score carries it, and different ones do not compare.

On the same stream, the choice between frozen and streaming state alone moves a trivial rule from .728 to .817 MRR. So
a number without its protocol says nothing, and two numbers of different protocols say nothing about each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from stepwell.core.errors import InvalidValueError, ProtocolError

Part = Literal["train", "validation", "test"]
Events = Literal["all", "inductive"]
Negative = Literal["uniform", "historical", "inductive", "all", "file"]
State = Literal["frozen", "stream"]
Pooling = Literal["pooled", "batches"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is ranked against what, when, and how the answers become one number. Prints itself in one line.

    Args:
        name: The family, as the literature knows it.
        metrics: What is computed of the answers.
        part: Which part of the split is scored.
        train: Share of the time quantiles that is trained on.
        validation: Share that is validated on; the test takes the rest.
        withheld: Share of nodes kept out of training.
        withheld_seed: Seed of their choice.
        events: "all" events of the part (the field's *transductive*), or those that touch a node absent from
            training (*inductive*).
        negatives: Where false destinations come from: "uniform" over destinations, "historical" (pairs of training
            not active now), "inductive" (pairs of the test not in training), "all" destinations, a "file".
        per_positive: Negatives for each true event; None for all.
        filtered: Whether other true destinations of the same source and time are left out of the candidates.
        seed: Seed of the negatives.
        state: "frozen" within a batch, or "stream": up to the previous event.
        as_of: Which events a neighbourhood query sees: strictly earlier ones ("event"), or those of earlier batches.
        batch_size: Events a batch: it decides how old a frozen state is.
        grid: Whether batches are counted from the first event of the "log" or of the "part".
        pooling: Whether a metric is taken over all answers, or is the mean of its values over the batches.
        data: The data set, `name@version`.
        reuse: Which embeddings below the last layer served again while answers were scored; empty: none, all were
            computed for their own query, as the field does.
    """

    name: str
    metrics: tuple[str, ...]
    part: Part = "test"
    train: float = 0.70
    validation: float = 0.15
    withheld: float = 0.0
    withheld_seed: int = 2020
    events: Events = "all"
    negatives: Negative = "uniform"
    per_positive: int | None = 1
    filtered: bool = False
    seed: int = 0
    state: State = "frozen"
    as_of: Literal["event", "batch"] = "event"
    batch_size: int = 200
    grid: Literal["log", "part"] = "part"
    pooling: Pooling = "pooled"
    data: str = ""
    reuse: str = ""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InvalidValueError("batch_size", self.batch_size, "at least 1")
        if self.per_positive is not None and self.per_positive < 1:
            raise InvalidValueError("per_positive", self.per_positive, "at least 1, or None for all")
        if not 0 <= self.withheld < 1:
            raise InvalidValueError("withheld", self.withheld, "at least 0 and below 1")

    def __str__(self) -> str:
        split = f"time {self.train:g}/{self.train + self.validation:g}"
        if self.withheld:
            split += f", {self.withheld:.0%} of nodes withheld (seed {self.withheld_seed})"
        count = "all" if self.per_positive is None else str(self.per_positive)
        kind = "destinations" if self.negatives == "all" else f"{self.negatives} negatives"
        negatives = f"{count} {kind}" if self.negatives == "all" else f"{count} {kind} (seed {self.seed})"
        if self.filtered:
            negatives += " without other true ones"
        state = "state up to the previous event"
        if self.state == "frozen":
            state = f"state frozen per {self.batch_size} events from the start of the {self.grid}"
        parts = [
            self.name + (f" on {self.data}" if self.data else ""),
            f"{self.part}, {self.events} events",
            split,
            negatives,
            state,
            f"queries see as of {self.as_of}",
            "pooled" if self.pooling == "pooled" else f"mean over batches of {self.batch_size}",
        ]
        if self.reuse:
            parts.append(f"embeddings reused ({self.reuse})")
        return "; ".join(parts)

    def on(self, part: Part, *, seed: int | None = None) -> Protocol:
        """Return the same protocol for another part of the split, by default with that part's usual seed."""
        return replace(self, part=part, seed=_usual_seed(part, self.events) if seed is None else seed)

    def differences(self, other: Protocol) -> tuple[str, ...]:
        """Return what differs, one `field: mine, theirs` each."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return tuple(f"{name}: {mine!r} here, {theirs!r} there" for name, mine, theirs in pairs if mine != theirs)


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One number with the protocol that it was found under.

    Scores of the same metric and protocol can be ordered, subtracted and compared; with plain numbers any score can.

    Args:
        name: The metric.
        value: Its value.
        protocol: How it was found.
        num: Over how many positive answers.

    Raises:
        ProtocolError: By `<`, `>`, `-`, `==` and their kin between scores of different metrics or protocols.

    Example:
        >>> mine = Score("mrr", 0.5, p3(), num=100)
        >>> mine > 0.4
        True
        >>> mine - Score("mrr", 0.4, p3(state="stream"), num=100)
        Traceback (most recent call last):
        ...
        stepwell.core.errors.ProtocolError: mrr and mrr do not compare: state: 'frozen' here, 'stream' there. Rerun ...
    """

    name: str
    value: float
    protocol: Protocol = field(repr=False)
    num: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} ({self.protocol}; {self.num} events)"

    def __float__(self) -> float:
        return self.value

    def __hash__(self) -> int:
        return hash((self.name, self.value, self.protocol))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Score | float | int):
            return NotImplemented
        return self.value == self._comparable(other)

    def __lt__(self, other: Score | float) -> bool:
        return self.value < self._comparable(other)

    def __le__(self, other: Score | float) -> bool:
        return self.value <= self._comparable(other)

    def __gt__(self, other: Score | float) -> bool:
        return self.value > self._comparable(other)

    def __ge__(self, other: Score | float) -> bool:
        return self.value >= self._comparable(other)

    def __sub__(self, other: Score | float) -> float:
        return self.value - self._comparable(other)

    def _comparable(self, other: Score | float) -> float:
        if not isinstance(other, Score):
            return float(other)
        different = self.protocol.differences(other.protocol)
        if self.name != other.name:
            different = (f"metric: {self.name!r}, {other.name!r}", *different)
        if different:
            raise ProtocolError(
                f"{self.name} and {other.name} do not compare: {'; '.join(different)}. "
                "Rerun one of them under the other's protocol, or compare `.value` if you know why that is fair."
            )
        return other.value


def p1(part: Part = "test", *, events: Events = "all", seed: int | None = None, batch_size: int = 200) -> Protocol:
    """Return the protocol of JODIE, TGAT and TGN: one uniform negative an event, average precision and ROC AUC.

    Split at the .70 and .85 quantiles of time. A tenth of the nodes, drawn among those that appear after the first
    quantile, is withheld from training together with its events. Usual seeds: validation 0, test 2, inductive test 3.

    Args:
        part: What is scored.
        events: "all" (transductive, as the field counts it) or "inductive".
        seed: Seed of the negatives; None takes the usual one.
        batch_size: Events a batch.

    References:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", ICLR 2020, and Rossi et al.,
        arXiv:2006.10637. *Differs:* draws are counter-based, so the same seed names other negatives than there; the
        state observes all events of the part also when only inductive ones are scored.
    """
    return Protocol(
        name="P1",
        metrics=("ap", "auc"),
        part=part,
        withheld=0.1,
        events=events,
        seed=_usual_seed(part, events) if seed is None else seed,
        batch_size=batch_size,
    )


def p2(
    part: Part = "test",
    *,
    negatives: Literal["historical", "inductive"] = "historical",
    events: Events = "all",
    seed: int | None = None,
    batch_size: int = 200,
) -> Protocol:
    """Return P1 with harder negatives.

    Args:
        part: What is scored.
        negatives: "historical": pairs that met in training, but not at this time; "inductive": pairs that meet in the
            part only, but not at this time.
        events: As in `p1`.
        seed: As in `p1`.
        batch_size: Events a batch.

    References:
        Poursafaei et al., "Towards Better Evaluation for Dynamic Link Prediction", NeurIPS 2022, arXiv:2207.10128.
    """
    easy = p1(part, events=events, seed=seed, batch_size=batch_size)
    return replace(easy, name="P2", negatives=negatives)


def p3(
    part: Part = "test",
    *,
    state: State = "frozen",
    negatives: Literal["all", "file", "uniform", "historical"] = "all",
    per_positive: int | None = None,
    batch_size: int = 200,
    grid: Literal["log", "part"] = "log",
) -> Protocol:
    """Return TGB's protocol: each event is ranked against many fixed candidates; mean reciprocal rank.

    Split at the .70 and .85 quantiles of time, no node withheld; other true destinations of the same source and time
    are no candidates.

    Args:
        part: What is scored.
        state: "frozen" within a batch, or "stream".
        negatives: "all" other destinations (tgbl-wiki v2), or a "file" of fixed ones (tgbl-review).
        per_positive: How many, None for all.
        batch_size: Events a batch.
        grid: Where batches are counted from.

    References:
        Huang et al., "Temporal Graph Benchmark", NeurIPS 2023, arXiv:2307.01026.
    """
    return Protocol(
        name="P3",
        metrics=("mrr", "hits@1", "hits@10"),
        part=part,
        negatives=negatives,
        per_positive=per_positive,
        filtered=True,
        state=state,
        as_of="batch" if state == "frozen" else "event",
        batch_size=batch_size if state == "frozen" else 1,
        grid=grid,
    )


def _usual_seed(part: Part, events: Events) -> int:
    return {"train": 0, "validation": 0, "test": 2}[part] + (1 if events == "inductive" else 0)
