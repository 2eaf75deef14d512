"""Temporal attention over raw neighbour rows in one kernel each way: gather, time encoding and attention fused.

The mathematics is that of `kernels.attention`: queries carried back through the key projection meet the raw rows
`[h | phi(dt) | x]`. A program holds the rows of one target as three tiles in registers and goes through the heads.
The gradient of `h` is gathered, not scattered: the places are sorted by the row they read, and one program sums a
row's.

Symbols beside the usual ones: `R` rows of the level below, `D` their width, `T` width of the time encoding,
`H` heads, `P = D + T + F`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from stepwell.kernels.attention import Clock, Places
from stepwell.kernels.gpu.grid import power_of_two, start

_CELLS = 32768  # cells of a target's tiles: 128 registers a thread of eight warps
_STEP = 16  # places a program sums at once in the gradient of `h`


def fits(u: torch.Tensor, h: torch.Tensor, clock: Clock, x: torch.Tensor, places: Places) -> bool:
    """Say whether the kernels take these inputs: single precision, and a target's rows fit in registers."""
    widths = (h.shape[1], len(clock.omega), x.shape[1])
    cells = power_of_two(places.mask.shape[1]) * sum(power_of_two(width) for width in widths)
    return all(t.dtype == torch.float32 for t in (u, h, *clock, x)) and 0 < cells <= _CELLS


def attend(
    u: torch.Tensor,
    h: torch.Tensor,
    clock: Clock,
    x: torch.Tensor,
    places: Places,
    scale: float,
    keep: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute what `kernels.attention.attend` does, on a device.

    Guarantee: the same bits in every run on the same device: nothing is added up by atomics. Nothing waits for the
    device, so the call may stand in a CUDA graph.

    Args:
        u: Queries carried back, float32 `[U, H, P]`.
        h: Rows of the level below, float32 `[R, D]`.
        clock: The time encoding, `[T]` each.
        x: Event features, float32 `[E, F]`; get no gradient.
        places: The sampled neighbours.
        scale: Factor of the scores.
        keep: Dropout factors of the weights, float32 `[U, K, H]`, or None.

    Returns:
        Sums `[U, H, P]` and total weights `[U, H]`; both are 0 for a target without neighbours.

    Cost:
        One launch forward; three backward, and a sort of U K row numbers. Each raw row is read once forward and once
        backward; 2 U K H + 2 U T floats of memory beside the results.
    """
    return _Attend.apply(u, h, *clock, x, *places, scale, keep)  # type: ignore[no-untyped-call]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        u: torch.Tensor,
        h: torch.Tensor,
        omega: torch.Tensor,
        phase: torch.Tensor,
        x: torch.Tensor,
        neighbor_row: torch.Tensor,
        event_row: torch.Tensor,
        mask: torch.Tensor,
        dt: torch.Tensor,
        scale: float,
        keep: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        factor = u.new_empty(0) if keep is None else keep
        saved = [t.contiguous() for t in (u, h, omega, phase, x, neighbor_row, event_row, mask, dt, factor)]
        u = saved[0]
        weight = u.new_empty(*mask.shape, u.shape[1])
        out, total = torch.empty_like(u), u.new_empty(u.shape[:2])
        constants = _constants(u, h, omega, x, mask, keep=keep is not None)
        start(_forward, len(u), u, *saved, weight, out, total, scale, **constants)
        ctx.save_for_backward(*saved, weight)
        ctx.scale, ctx.constants = scale, constants  # type: ignore[attr-defined]
        return out, total

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, g_out: torch.Tensor, g_total: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        u, h, omega, _, _, neighbor_row, _, mask, _, factor, weight = saved
        needs, constants = ctx.needs_input_grad, ctx.constants  # type: ignore[attr-defined]
        g_out, g_total = g_out.contiguous(), g_total.contiguous()
        g_u, g_score = torch.empty_like(u), torch.empty_like(weight)
        timed = needs[2] or needs[3]
        g_clock = u.new_empty(len(u), 2, len(omega)) if timed else u.new_empty(0, 2, len(omega))
        grads = (g_out, g_total, g_u, g_score, g_clock)
        start(_backward, len(u), u, *saved, *grads, ctx.scale, TIMED=timed, **constants)  # type: ignore[attr-defined]
        g_omega, g_phase = g_clock.sum(0) if timed else (None, None)
        g_h = None
        if needs[1]:
            g_h = torch.empty_like(h)
            owned, begin = _by_row(neighbor_row, mask, len(h))
            arrays = (owned, begin, u, factor, weight, g_out, g_score, g_h)
            numbers = (u.shape[2], mask.shape[1], h.shape[1])
            tile = {"H": u.shape[1], "TILE_D": power_of_two(h.shape[1]), "KEEP": constants["KEEP"], "STEP": _STEP}
            start(_backward_rows, len(h) if h.shape[1] else 0, u, *arrays, *numbers, **tile)
        return g_u, g_h, g_omega, g_phase, None, None, None, None, None, None, None


def _constants(
    u: torch.Tensor, h: torch.Tensor, omega: torch.Tensor, x: torch.Tensor, mask: torch.Tensor, *, keep: bool
) -> dict[str, int | bool]:
    widths = {"K": mask.shape[1], "D": h.shape[1], "T": len(omega), "F": x.shape[1]}
    tiles = {f"TILE_{name}": power_of_two(width) for name, width in widths.items()}
    cells = tiles["TILE_K"] * (tiles["TILE_D"] + tiles["TILE_T"] + tiles["TILE_F"])
    return {"H": u.shape[1], **widths, **tiles, "KEEP": keep, "num_warps": 4 if cells <= _CELLS // 4 else 8}


def _by_row(neighbor_row: torch.Tensor, mask: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places sorted by the row they read, those of padding last, and where each row's begin, `[R + 1]`."""
    key, owned = torch.where(mask, neighbor_row, num_rows).flatten().sort(stable=True)
    return owned, torch.searchsorted(key, torch.arange(num_rows + 1, device=key.device))


# Below this line stands Triton code, typed by Triton; its arguments are those of the functions above.
# ruff: noqa: ANN001, ANN202


@triton.jit
def _row_tiles(  # type: ignore[no-untyped-def]
    i, h, omega, phase, x, neighbor_row, event_row, mask, dt, K: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
    F: tl.constexpr, TILE_K: tl.constexpr, TILE_D: tl.constexpr, TILE_T: tl.constexpr, TILE_F: tl.constexpr,
):  # fmt: skip
    """Return a target's raw rows as three tiles `[K, width]`, zero where padded; angles, ages and the mask."""
    k = tl.arange(0, TILE_K)
    real = tl.load(mask + i * K + k, mask=k < K, other=0) != 0
    source = tl.load(neighbor_row + i * K + k, mask=real, other=0)
    event = tl.load(event_row + i * K + k, mask=real, other=0)
    age = tl.load(dt + i * K + k, mask=real, other=0.0)
    d, t, f = tl.arange(0, TILE_D), tl.arange(0, TILE_T), tl.arange(0, TILE_F)
    below = tl.load(h + source[:, None] * D + d[None, :], mask=real[:, None] & (d < D)[None, :], other=0.0)
    feature = tl.load(x + event[:, None] * F + f[None, :], mask=real[:, None] & (f < F)[None, :], other=0.0)
    angle = age[:, None] * tl.load(omega + t, mask=t < T, other=0.0)[None, :]
    angle += tl.load(phase + t, mask=t < T, other=0.0)[None, :]
    phi = tl.where(real[:, None] & (t < T)[None, :], tl.cos(angle), 0.0)
    return below, phi, feature, angle, age, real


@triton.jit
def _parts(  # type: ignore[no-untyped-def]
    row, D: tl.constexpr, T: tl.constexpr, F: tl.constexpr,
    TILE_D: tl.constexpr, TILE_T: tl.constexpr, TILE_F: tl.constexpr,
):  # fmt: skip
    """Return the three parts of a vector `[D + T + F]`, zero beyond their widths."""
    d, t, f = tl.arange(0, TILE_D), tl.arange(0, TILE_T), tl.arange(0, TILE_F)
    one = tl.load(row + d, mask=d < D, other=0.0)
    two = tl.load(row + D + t, mask=t < T, other=0.0)
    three = tl.load(row + D + T + f, mask=f < F, other=0.0)
    return one, two, three


@triton.jit
def _dots(below, phi, feature, one, two, three):  # type: ignore[no-untyped-def]
    """Return the product of each row with a vector."""
    found = tl.sum(below * one[None, :], axis=1) + tl.sum(phi * two[None, :], axis=1)
    return found + tl.sum(feature * three[None, :], axis=1)


@triton.jit
def _store_sum(  # type: ignore[no-untyped-def]
    out, factor, below, phi, feature, D: tl.constexpr, T: tl.constexpr, F: tl.constexpr, TILE_D: tl.constexpr,
    TILE_T: tl.constexpr, TILE_F: tl.constexpr,
):  # fmt: skip
    """Write the sum of the rows, each by its factor."""
    d, t, f = tl.arange(0, TILE_D), tl.arange(0, TILE_T), tl.arange(0, TILE_F)
    tl.store(out + d, tl.sum(below * factor[:, None], axis=0), mask=d < D)
    tl.store(out + D + t, tl.sum(phi * factor[:, None], axis=0), mask=t < T)
    tl.store(out + D + T + f, tl.sum(feature * factor[:, None], axis=0), mask=f < F)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    u, h, omega, phase, x, neighbor_row, event_row, mask, dt, keep, weight, out, total, scale,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, T: tl.constexpr, F: tl.constexpr,
    TILE_K: tl.constexpr, TILE_D: tl.constexpr, TILE_T: tl.constexpr, TILE_F: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    below, phi, feature, _angle, _age, real = _row_tiles(
        i, h, omega, phase, x, neighbor_row, event_row, mask, dt, K, D, T, F, TILE_K, TILE_D, TILE_T, TILE_F
    )
    k = tl.arange(0, TILE_K)
    for head in range(H):
        at = i * H + head
        one, two, three = _parts(u + at * (D + T + F), D, T, F, TILE_D, TILE_T, TILE_F)
        score = tl.where(real, _dots(below, phi, feature, one, two, three) * scale, -1e30)
        raised = tl.where(real, tl.exp(score - tl.max(score, axis=0)), 0.0)
        norm = tl.sum(raised, axis=0)
        a = raised / tl.where(norm > 0, norm, 1.0)
        cell = (i * K + k) * H + head
        tl.store(weight + cell, a, mask=k < K)
        if KEEP:
            a *= tl.load(keep + cell, mask=k < K, other=0.0)
        tl.store(total + at, tl.sum(a, axis=0))
        _store_sum(out + at * (D + T + F), a, below, phi, feature, D, T, F, TILE_D, TILE_T, TILE_F)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    u, h, omega, phase, x, neighbor_row, event_row, mask, dt, keep, weight, g_out, g_total, g_u, g_score, g_clock,
    scale, H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, T: tl.constexpr, F: tl.constexpr, TILE_K: tl.constexpr,
    TILE_D: tl.constexpr, TILE_T: tl.constexpr, TILE_F: tl.constexpr, KEEP: tl.constexpr, TIMED: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    below, phi, feature, angle, age, real = _row_tiles(
        i, h, omega, phase, x, neighbor_row, event_row, mask, dt, K, D, T, F, TILE_K, TILE_D, TILE_T, TILE_F
    )
    k, t = tl.arange(0, TILE_K), tl.arange(0, TILE_T)
    g_phi = tl.zeros([TILE_K, TILE_T], tl.float32)
    for head in range(H):
        at = i * H + head
        cell = (i * K + k) * H + head
        one, two, three = _parts(g_out + at * (D + T + F), D, T, F, TILE_D, TILE_T, TILE_F)
        a = tl.load(weight + cell, mask=k < K, other=0.0)
        g = tl.load(g_total + at) + _dots(below, phi, feature, one, two, three)
        kept = a
        if KEEP:
            factor = tl.load(keep + cell, mask=k < K, other=0.0)
            g *= factor
            kept = a * factor
        g = a * (g - tl.sum(a * g, axis=0)) * scale
        tl.store(g_score + cell, g, mask=k < K)
        _store_sum(g_u + at * (D + T + F), g, below, phi, feature, D, T, F, TILE_D, TILE_T, TILE_F)
        if TIMED:
            query = tl.load(u + at * (D + T + F) + D + t, mask=t < T, other=0.0)
            g_phi += kept[:, None] * two[None, :] + g[:, None] * query[None, :]
    if TIMED:
        g_angle = tl.where(real[:, None], -tl.sin(angle) * g_phi, 0.0)
        tl.store(g_clock + i * 2 * T + t, tl.sum(g_angle * age[:, None], axis=0), mask=t < T)
        tl.store(g_clock + i * 2 * T + T + t, tl.sum(g_angle, axis=0), mask=t < T)


@triton.jit
def _backward_rows(  # type: ignore[no-untyped-def]
    owned, begin, u, keep, weight, g_out, g_score, g_h, width, places, row_width,
    H: tl.constexpr, TILE_D: tl.constexpr, KEEP: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, TILE_D)
    inside = (d < row_width)[None, :]
    total = tl.zeros([STEP, TILE_D], tl.float32)
    end = tl.load(begin + row + 1)
    first = tl.load(begin + row)
    while first < end:
        step = first + tl.arange(0, STEP)
        live = step < end
        place = tl.load(owned + step, mask=live, other=0)
        target = (place // places)[:, None]
        for head in range(H):
            a = tl.load(weight + place * H + head, mask=live, other=0.0)
            if KEEP:
                a *= tl.load(keep + place * H + head, mask=live, other=0.0)
            b = tl.load(g_score + place * H + head, mask=live, other=0.0)
            cell = (target * H + head) * width + d[None, :]
            one = tl.load(g_out + cell, mask=live[:, None] & inside, other=0.0)
            two = tl.load(u + cell, mask=live[:, None] & inside, other=0.0)
            total += a[:, None] * one + b[:, None] * two
        first += STEP
    tl.store(g_h + row * row_width + d, tl.sum(total, axis=0), mask=d < row_width)
