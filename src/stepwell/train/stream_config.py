"""How a stream is learnt, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.select import selectors
from stepwell.train.drift import Reaction
from stepwell.train.prequential import Scores
from stepwell.train.replay import BufferConfig


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How a stream is learnt. The defaults are what measured best; `paper()` is Camel as published.

    Args:
        ratio: Share of each batch that is learnt, above 0 to 1; 1 learns every row and selects nothing.
        selector: Name of the selector: `"craig"` looks through the model at each row's gradient, `"camel"` at the raw
            rows and needs no model, `"random"` does not look. `"glister"` and `"ocs"` choose for rows of the buffer.
        weighted: Whether a row of the coreset counts as often as the rows that it stands for.
        buffer: How past rows are kept; None keeps none.
        replay_rows: Past rows learnt beside each optimiser step.
        replay_weight: How much their loss counts beside that of the new rows.
        step_rows: New rows of an optimiser step.
        clip: Largest norm of the gradient; weights make steps uneven. None leaves it alone.
        test: Whether every batch is answered before it is learnt. A selector that looks through the model answers
            in the same pass.
        passes: Times the chosen rows of a batch are learnt.
        reaction: What is done when a detector finds a change; None only reports it.
        seed: Seeds torch, NumPy and Python in `fit`, and all that is drawn.

    Raises:
        InvalidValueError: If a value is outside its range.
    """

    ratio: float = 0.2
    selector: str = "craig"
    weighted: bool = True
    buffer: BufferConfig | None = field(default_factory=BufferConfig)
    replay_rows: int = 20
    replay_weight: float = 1.0
    step_rows: int = 10
    clip: float | None = 5.0
    test: bool = True
    passes: int = 1
    reaction: Reaction | None = field(default_factory=Reaction)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InvalidValueError("ratio", self.ratio, "above 0 and at most 1")
        if self.replay_rows < 0 or self.replay_weight < 0:
            raise InvalidValueError("replay_rows, replay_weight", (self.replay_rows, self.replay_weight), "at least 0")
        if self.step_rows < 1:
            raise InvalidValueError("step_rows", self.step_rows, "at least 1")
        if self.passes < 1:
            raise InvalidValueError("passes", self.passes, "at least 1")
        if self.clip is not None and not self.clip > 0:
            raise InvalidValueError("clip", self.clip, "above 0, or None")
        _ = selectors[self.selector]

    @classmethod
    def paper(cls, ratio: float = 0.2, size_bytes: int = 1 << 20, seed: int = 0) -> StreamConfig:
        """Return Camel's own setting: distances between raw rows, and codes of equal rank in the buffer."""
        buffer = BufferConfig(size_bytes, coding="equal-rank", seed=seed)
        return cls(ratio, "camel", buffer=buffer, reaction=None, seed=seed)


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a stream gave so far.

    Args:
        scores: Test-then-train scores.
        batches: Batches learnt.
        rows: Rows that arrived.
        learnt: Rows learnt, replayed ones not counted.
        cover: Mean cover of the coresets, in the selector's space; 0 if nothing was selected.
        cover_bound: Mean distance, at most, of a row ever remembered to what stands for it now.
        buffered: Rows in the buffer.
        buffer_bytes: Bytes of the buffer.
        drifts: Batch and detector of each change found.
        forgotten: Rows dropped from the buffer in reaction to changes.
        seconds: Wall seconds of selection, training, remembering, and all.
    """

    scores: Scores
    batches: int
    rows: int
    learnt: int
    cover: float
    cover_bound: float
    buffered: int
    buffer_bytes: int
    drifts: tuple[tuple[int, str], ...]
    forgotten: int
    seconds: dict[str, float]

    def __str__(self) -> str:
        s = self.scores
        return (
            f"{self.rows:,} rows in {self.batches:,} batches, {self.learnt:,} learnt; accuracy {s.accuracy:.4f} "
            f"(recent {s.recent:.4f}, balanced {s.balanced:.4f}); {self.buffered:,} rows in {self.buffer_bytes:,} "
            f"bytes, cover at most {self.cover_bound:.4g}; {len(self.drifts)} drifts; "
            f"{self.seconds.get('all', 0.0):.1f} s"
        )
