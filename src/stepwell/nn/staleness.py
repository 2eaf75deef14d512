"""How stale reused embeddings are, and what that can do to an output: measured on a sample of a training epoch.

Of a sampled batch some targets are embedded twice, without dropout and with the weights of the moment: as training
does, from embeddings made earlier, and anew from the ground up. So each neighbour's embedding that was read stands
beside the fresh one, with its age, and each output beside the exact one. The constants of Theorem 5 are taken over
these same pairs, so its bound holds for the sampled targets and for no others.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch

from stepwell.access.reuse import ReusedNeighbors
from stepwell.buffer.reuse import Reused
from stepwell.core.batch import Batch, Level
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Stage
from stepwell.nn.lipschitz import Constants, Rows, output_bound
from stepwell.nn.reading import column
from stepwell.nn.reuse import RowReuse

EVERY, TARGETS = 25, 16
"""Batches from one sampled batch to the next, and targets sampled in each."""


@runtime_checkable
class Layered(Protocol):
    """A model whose layers read what the layer below made, through one `RowReuse`."""

    reuse: RowReuse

    @property
    def hops(self) -> int:
        """Its layers."""

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of level 0's targets, float32 `[U, D]`."""


@runtime_checkable
class Bounded(Protocol):
    """A model that knows how far its layers carry a difference."""

    def constants(self, layer: int, batch: Batch, level: Level, at: torch.Tensor, rows: Rows) -> Constants:
        """Return the Lipschitz constants of a layer between two inputs.

        Args:
            layer: The layer that is read; the one above it reads.
            batch: The batch with the fresh rows.
            level: The level that reads them.
            at: Its targets, int64 `[S]`.
            rows: Their two inputs.
        """


@dataclass(frozen=True, slots=True)
class AgeGroup:
    """Reused embeddings of one layer that are about equally old.

    Args:
        layer: The layer that made them, from 1.
        youngest: Their least age in batches; 0: made in the batch that reads them.
        oldest: Their largest age.
        num: Places sampled.
        mean: Mean norm of the difference from the embedding computed anew.
        worst: Largest such norm.
        norm: Mean norm of the embeddings computed anew.
    """

    layer: int
    youngest: int
    oldest: int
    num: int
    mean: float
    worst: float
    norm: float

    def __str__(self) -> str:
        age = f"{self.youngest}" if self.oldest == self.youngest else f"{self.youngest} to {self.oldest}"
        old = "made in the same batch" if self.oldest == 0 else f"{age} batches old"
        return f"{old} {self.mean:.3g} off (worst {self.worst:.3g})"


@dataclass(frozen=True, slots=True)
class Outputs:
    """How far reuse moved the sampled outputs, and how far it could have.

    Args:
        num: Targets sampled.
        mean: Mean norm of the difference from the exact output.
        worst: Largest such norm.
        norm: Mean norm of the exact outputs.
        bound: Mean over the targets of the bound of Theorem 5; None if the model knows no constants.
        sharp: The same where the weights of one attention are known to sum to 1, so that neighbours need no factor k.
        held: Targets whose output was within the sharp bound.
    """

    num: int
    mean: float
    worst: float
    norm: float
    bound: float | None
    sharp: float | None
    held: int

    def __str__(self) -> str:
        text = f"{self.mean:.3g} off on average (worst {self.worst:.3g}), of norm {self.norm:.3g}"
        if self.bound is None or self.sharp is None:
            return f"{text}; no bound, as the model knows no constants"
        held = "all" if self.held == self.num else f"{self.held:,} of {self.num:,}"
        return (
            f"{text}; bound of Theorem 5 {self.bound:.3g}, {self.sharp:.3g} as attention weights sum to 1; "
            f"{held} within"
        )


@dataclass(frozen=True, slots=True)
class Staleness:
    """What reuse did to the values of an epoch, as far as was sampled. Print it.

    Args:
        groups: By layer, then age.
        outputs: What became of the outputs.
        batches: Batches sampled.
        every: From one to the next.
        seconds: What the sampling took, all in all.
    """

    groups: tuple[AgeGroup, ...]
    outputs: Outputs
    batches: int
    every: int
    seconds: float

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are reused, from the first up."""
        return tuple(sorted({group.layer for group in self.groups}))

    def of(self, layer: int) -> tuple[AgeGroup, ...]:
        """Return the groups of one layer, the youngest first."""
        return tuple(group for group in self.groups if group.layer == layer)

    def about(self, layer: int) -> str:
        """Say how stale one layer was, in one line."""
        groups = self.of(layer)
        num = sum(group.num for group in groups)
        norm = sum(group.norm * group.num for group in groups) / max(1, num)
        return f"of norm {norm:.3g}: " + ", ".join(map(str, groups))

    @property
    def conditions(self) -> str:
        """Say what the figures hold for."""
        return (
            f"Sampled: {self.outputs.num:,} targets of {self.batches:,} batches, one batch of {self.every}, in "
            f"{self.seconds:.2g} s; without dropout, both sides with the weights and state of that moment. The bound "
            "wants the same sampled neighbours on both sides and exact rows below the first layer; its constants and "
            "its largest error are those of the sampled targets, for which alone it is proven."
        )

    def __str__(self) -> str:
        lines = [f"layer {layer}, {self.about(layer)}" for layer in self.layers]
        return "\n".join([*lines, f"output: {self.outputs}", self.conditions])


class StalenessMeter:
    """Samples the batches of a training epoch just before the model learns them.

    Guarantee: training goes on with the same bits as without: no generator is drawn from, no state changes. Node state
    out of core is read for the sampled targets too, which may change what its policy keeps, never a value.

    Args:
        model: A model that reuses.
        stage: The stage that says what it reuses.
        every: Batches from one sample to the next.
        targets: Targets sampled in a batch.
        seed: Keys which.

    Raises:
        InvalidValueError: If a number is out of range.

    Cost:
        One forward pass over each sampled batch and one, exact, over its sampled targets: with the usual numbers below
        3 % of an epoch.

    References:
        Li et al., SIGMOD 2023, Theorem 5. Differs: the constants are taken between the two inputs of each sampled
        target, because attention has none over all inputs; a row's own way through the query counts to lambda 1.
    """

    def __init__(
        self, model: Layered, stage: ReusedNeighbors, every: int = EVERY, targets: int = TARGETS, seed: int = 0
    ) -> None:
        for name, number in (("every", every), ("targets", targets)):
            if number < 1:
                raise InvalidValueError(name, number, "at least 1")
        self.model, self.stage, self.every, self.targets, self.seed = model, stage, every, targets, seed
        self.clear()

    def clear(self) -> None:
        """Forget what was sampled, as an epoch begins."""
        self.batches, self.seconds = 0, 0.0
        self._groups: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0, 0, 0, 0, 1 << 62, 0])
        self._outputs: list[torch.Tensor] = []

    def see(self, batch: Batch) -> None:
        """Sample a batch that the model is about to learn, if it is its turn."""
        if batch.slice.index % self.every != self.every // 2:
            return
        begin = time.perf_counter()
        rows = _some(batch.levels_of()[0], self.targets, (self.seed, batch.slice.epoch, batch.slice.index))
        if len(rows):
            with torch.no_grad(), _evaluating(cast("torch.nn.Module", self.model)):
                self._compare(batch, rows)
            self.batches += 1
        self.seconds += time.perf_counter() - begin

    def report(self) -> Staleness | None:
        """Return what was found since `clear`; None if nothing was sampled."""
        if not self._outputs:
            return None
        error, norm, bound, sharp = torch.cat(self._outputs, 1).double()
        known = bool(torch.isfinite(bound).all())
        within = error <= sharp * (1 + 1e-4) + 1e-5 * norm
        outputs = Outputs(
            len(error),
            float(error.mean()),
            float(error.max()),
            float(norm.mean()),
            float(bound.mean()) if known else None,
            float(sharp.mean()) if known else None,
            int(within.sum()) if known else 0,
        )
        groups = []
        for (layer, _), (num, off, worst, size, low, high) in sorted(self._groups.items()):
            groups.append(AgeGroup(layer, int(low), int(high), int(num), off / num, worst, size / num))
        return Staleness(tuple(groups), outputs, self.batches, self.every, self.seconds)

    def _compare(self, batch: Batch, rows: torch.Tensor) -> None:
        exact = self.stage.exact(batch, rows.cpu().numpy()).to(rows.device)
        with self.model.reuse.watched() as fresh:
            wanted = self.model.embed(exact)
        with self.model.reuse.watched() as read:
            found = self.model.embed(batch)[rows]
        errors, constants = [], []
        own, anew = rows, torch.arange(len(rows), device=rows.device)
        for depth in range(self.model.hops - 1):
            layer = self.model.hops - 1 - depth
            level, other = batch.levels_of()[depth], exact.levels_of()[depth]
            place = -1 - depth
            pair = Rows(
                column(level.hood.mask)[own], *_taken(read[place], level, own), *_taken(fresh[place], other, anew)
            )
            off = (pair.read - pair.fresh).norm(dim=2)
            errors.append(off.masked_fill(~pair.mask, 0).max(1).values)
            age = _ages(batch, depth, column(level.neighbor_row)[own])
            self._add(layer, age[pair.mask], off[pair.mask], pair.fresh.norm(dim=2)[pair.mask])
            if isinstance(self.model, Bounded):
                constants.append(self.model.constants(layer, exact, other, anew, pair))
            own, anew = column(level.self_row)[own], column(other.self_row)[anew]
        k = column(batch.levels_of()[0].hood.mask)[rows].sum(1)
        bounds = [output_bound(errors, constants, many) for many in (k, torch.ones_like(k))]
        self._outputs.append(torch.stack([(found - wanted).norm(dim=1), wanted.norm(dim=1), *bounds]).cpu())

    def _add(self, layer: int, age: torch.Tensor, off: torch.Tensor, norm: torch.Tensor) -> None:
        """Count places by age, in groups of doubling width."""
        kind = torch.ceil(torch.log2(age.double() + 1)).to(torch.int64)
        for one in sorted(set(kind.tolist())):
            here = kind == one
            group = self._groups[layer, one]
            group[0] += int(here.sum())
            group[1] += float(off[here].sum())
            group[2] = max(group[2], float(off[here].max()))
            group[3] += float(norm[here].sum())
            group[4], group[5] = min(group[4], int(age[here].min())), max(group[5], int(age[here].max()))


def meter_for(model: object, stages: Sequence[Stage], every: int = EVERY, seed: int = 0) -> StalenessMeter | None:
    """Return what samples the staleness of a model trained over these stages; None if nothing is reused.

    Args:
        model: The model.
        stages: Those of its training pipeline.
        every: Batches from one sample to the next.
        seed: Keys which targets are sampled.
    """
    reusing = (stage for stage in stages if isinstance(stage, ReusedNeighbors) and stage.find.hops > 1)
    stage = next(reusing, None)
    return None if stage is None or not isinstance(model, Layered) else StalenessMeter(model, stage, every, seed=seed)


def _some(level: Level, many: int, key: tuple[int, ...]) -> torch.Tensor:
    """Return some rows of a level that have neighbours, int64 `[S]`, ascending."""
    rows = np.flatnonzero(column(level.hood.mask).any(1).numpy(force=True))
    chosen = np.random.default_rng(key).choice(rows, min(many, len(rows)), replace=False)
    return torch.from_numpy(np.sort(chosen)).to(column(level.node).device)


def _taken(below: torch.Tensor, level: Level, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return below[column(level.neighbor_row)[rows]], below[column(level.self_row)[rows]]


def _ages(batch: Batch, depth: int, row: torch.Tensor) -> torch.Tensor:
    """Return how many batches ago what a level's neighbours read was made, int64 `[S, K]`; 0: in this one."""
    reused = cast("tuple[Reused, ...]", batch["reuse"])[depth]
    computed = len(batch.levels_of()[depth + 1].node)
    age = torch.cat([column(reused.pull_age).new_zeros(1), column(reused.pull_age)])
    return age[(row - computed + 1).clamp(min=0)]


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
