"""A selector is a space and a search; Camel, CRAIG, k-centre, herding, active learning and others are such pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from stepwell.core import Draw, Ids
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.core.registry import Registry
from stepwell.kernels.coverage import Float32, nearest_pick
from stepwell.kernels.matching import Float64
from stepwell.prepare.select.gradients import Affinity, Bilevel, LastLayer, Matching
from stepwell.prepare.select.searches import Centres, Coverage, Herding, Leaders, RandomRows, Search
from stepwell.prepare.select.selection import Selection
from stepwell.prepare.select.solvers import Aim, Answer, Problem
from stepwell.prepare.select.spaces import RowLoss, Space, look, space

selectors: Registry[Selector] = Registry("selector")
"""Named selectors; each is a value, not a class: change one field with `dataclasses.replace`."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Chooses rows: in which space, by which search, and whether only rows of one class may stand for each other.

    Args:
        space: What distances are measured in.
        search: How rows are chosen.
        by_class: Whether a row only stands for rows of its class.
        equal_weight: Whether all rows count alike, `N / M` each: for rows drawn at random, or chosen for where a plain
            step on them leads.

    Example:
        >>> z = np.array([[0.0], [0.1], [5.0]], np.float32)
        >>> found = selectors["camel"].select(z, np.array([0, 0, 1]), budget=2)
        >>> sorted(found.index.tolist()), sorted(found.weight.tolist())
        ([0, 2], [1.0, 2.0])
    """

    space: Space = "raw"
    search: Search = field(default_factory=Coverage)
    by_class: bool = True
    equal_weight: bool = False

    def select(
        self,
        z: npt.NDArray[np.floating],
        y: Ids | None = None,
        budget: int | float = 0.1,
        weight: npt.NDArray[np.floating] | None = None,
        held: Float32 | None = None,
        seed: int = 0,
        aim: Aim | None = None,
    ) -> Selection:
        """Choose rows from their vectors.

        Args:
            z: One vector a row, `[N, D]`, finite.
            y: Labels `[N]`; None makes one class of all.
            budget: Rows to choose at most: a count, or a share between 0 and 1 (rounded up). Rows that would coincide
                with chosen ones are left out.
            weight: How often each row counts, above 0; once if None.
            held: Vectors that are covered already, `[H, D]`: labelled rows, for active learning. Classes are not told
                apart then.
            seed: For searches that draw.
            aim: For searches that choose for other rows (a validation set, a memory): where those would go.

        Raises:
            InvalidValueError: If an argument does not fit, with the way out.
        """
        z = _vectors(z)
        count = _count(budget, len(z))
        mass = np.ones(len(z)) if weight is None else np.asarray(weight, np.float64)
        if mass.shape != (len(z),) or not (mass > 0).all():
            raise InvalidValueError("weight", mass, f"{len(z)} numbers above 0")
        order, border = _groups(y if self.by_class and held is None else None, len(z))
        near = None if held is None else nearest_pick(np.concatenate([z, held]), *_held(len(z), len(held)))[1][: len(z)]
        problem = Problem(z[order], border, mass[order], count, Draw(seed, "selection"), near, aim)
        return self._selection(self.search(problem), problem, order)

    def _selection(self, found: Answer, problem: Problem, order: Ids) -> Selection:
        """Undo the order by group, add up what each chosen row stands for, and measure what was lost."""
        index, back = order[found.picks], np.full(len(order), -1, np.int64)
        back[order] = np.where(found.owner >= 0, order[found.owner], -1)
        mass = problem.weight
        covered = found.owner >= 0
        held = np.bincount(found.owner[covered], weights=mass[covered], minlength=len(order))
        count = held[found.picks].astype(np.float64)
        share = count if found.weight is None else found.weight
        if self.equal_weight:
            share = np.full(len(index), mass.sum() / max(1, len(index)))
        near = found.near.astype(np.float64)
        seen = np.isfinite(near)
        cover = float((near * mass).sum() / mass.sum()) if seen.all() else float("inf")
        moved = 0.0 if share is count else _moved(found.picks, count, share, problem)
        whole = mass @ problem.z / mass.sum()
        gap = share @ problem.z[found.picks] / max(float(share.sum()), 1e-300) - whole
        lengths = (cover, float(near[seen].max(initial=0.0)))
        return Selection(
            index, share.astype(np.float32), *lengths, back, found.evaluations, moved, float(np.linalg.norm(gap))
        )

    def select_rows(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        budget: int | float = 0.1,
        model: torch.nn.Module | None = None,
        loss: RowLoss | None = None,
        seed: int = 0,
        validation: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Selection:
        """Choose rows from what a model eats: `select` in this selector's space.

        Args:
            x: Rows `[N, ...]`.
            y: Labels.
            budget: As for `select`.
            model: For spaces that look through one.
            loss: Loss of each row; cross-entropy if None.
            seed: For searches that draw.
            validation: Rows and labels that the selection is for: needed by `"glister"`, heard by `"ocs"`.
        """
        labels = None if y is None or y.is_floating_point() else y.cpu().numpy().astype(np.int64)
        aim = None
        if validation is not None and model is not None and self.space in ("layer", "gradient"):
            aim = LastLayer(self.space, look(model, validation[0], features=True), validation[1], loss)
        return self.select(space(self.space, x, y, model, loss), labels, budget, seed=seed, aim=aim)


selectors.register("camel")(Selector("raw"))
selectors.register("craig")(Selector("gradient"))
selectors.register("gradmatch")(Selector("layer", Matching()))
selectors.register("glister")(Selector("layer", Bilevel(), by_class=False, equal_weight=True))
selectors.register("ocs")(Selector("layer", Affinity(), equal_weight=True))
selectors.register("k-centre")(Selector("features", Centres(), by_class=False))
selectors.register("herding")(Selector("features", Herding()))
selectors.register("active")(Selector("guess", by_class=False))
selectors.register("deduplicate")(Selector("raw", Leaders(0.0)))
selectors.register("random")(Selector("raw", RandomRows(), by_class=False, equal_weight=True))


def select_rows(
    table: pa.Table,
    budget: int | float,
    *,
    selector: Selector | str = "camel",
    columns: Sequence[str] | None = None,
    label: str | None = None,
    seed: int = 0,
) -> pa.Table:
    """Choose rows of a table by its number columns: a table of `_row`, `weight` and `rank`, never a copy of the rows.

    Columns are scaled to deviation 1 first, so that units do not decide.

    Args:
        table: Rows with a column `_row`.
        budget: Rows to choose: a count, or a share between 0 and 1.
        selector: A selector in the space `raw`, or its name.
        columns: Number columns to measure in; all numbers but `_row` and the label if None.
        label: The class of each row; None makes one class of all.
        seed: For searches that draw.

    Raises:
        UnknownNameError: If a column is not there.
        InvalidValueError: If there is no number column, a number is missing, or the selector needs a model.

    Cost:
        The table's numbers in memory as float32, and the search.
    """
    chosen = selectors[selector] if isinstance(selector, str) else selector
    if chosen.space != "raw":
        raise InvalidValueError(
            "selector", selector, "one of the space 'raw'; others need a model: Selector.select_rows"
        )
    for name in ("_row", *(columns or ()), *((label,) if label else ())):
        if name not in table.column_names:
            raise UnknownNameError("column", name, table.column_names)
    used = columns or [
        field.name
        for field in table.schema
        if field.name not in ("_row", label) and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
    ]
    if not used:
        raise InvalidValueError("columns", columns, "at least one number column")
    parts = [table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in used]
    z = np.stack([(part - part.mean()) / (part.std() or 1.0) for part in parts], 1)
    y = None if label is None else table[label].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return chosen.select(z, y, budget, seed=seed).table(table["_row"].to_numpy())


def _vectors(z: npt.NDArray[np.floating]) -> Float32:
    z = np.asarray(z)
    z = np.ascontiguousarray(z.reshape(len(z), -1), np.float32)
    if not len(z):
        raise InvalidValueError("z", z.shape, "at least one row")
    if not np.isfinite(z).all():
        row = int(np.flatnonzero(~np.isfinite(z).all(1))[0])
        raise InvalidValueError("z", f"a value that is not finite in row {row}", "finite; fill or quarantine such rows")
    return z


def _count(budget: int | float, size: int) -> int:
    count = ceil(budget * size) if isinstance(budget, float) and budget < 1 else int(budget)
    if not (0 < budget and count >= 1):
        raise InvalidValueError("budget", budget, "a share between 0 and 1, or at least 1 row")
    return min(count, size)


def _groups(y: Ids | None, size: int) -> tuple[Ids, Ids]:
    """Return the rows in the order of their class, and where each class begins."""
    if y is None:
        return np.arange(size), np.array([0, size], np.int64)
    if len(y) != size:
        raise InvalidValueError("y", f"{len(y)} labels", f"{size}, one a row")
    order = np.argsort(y, kind="stable")
    return order, np.concatenate([[0], np.flatnonzero(np.diff(y[order])) + 1, [size]]).astype(np.int64)


def _moved(picks: Ids, count: Float64, share: Float64, problem: Problem) -> float:
    """Bound the mean distance over which counts travel to become weights: half of what differs, across each group.

    Infinite where weight passes from one group to another: a loss is smooth within a class only.
    """
    group, total = problem.group[picks], 0.0
    for g in np.unique(group):
        here = group == g
        if abs(count[here].sum() - share[here].sum()) > 1e-6 * problem.weight.sum():
            return float("inf")
        rows = problem.z[picks[here]].astype(np.float64)
        across = 2 * float(np.linalg.norm(rows - rows.mean(0), axis=1).max(initial=0.0))
        total += 0.5 * float(np.abs(count[here] - share[here]).sum()) * across
    return total / float(problem.weight.sum())


def _held(size: int, count: int) -> tuple[Ids, Ids]:
    return np.zeros(size + count, np.int64), np.arange(size, size + count)
