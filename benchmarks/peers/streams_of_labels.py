"""Labelled streams for claims about stream learning: jittered digits, real drift, MNIST; and plain replay rivals."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy, mse_loss

Rows: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Order = Literal["shuffled", "split", "imbalanced"]


def data_folder() -> Path:
    """Return where public data sets are."""
    folder = os.environ.get("STEPWELL_DATA")
    if not folder:
        raise SystemExit("set STEPWELL_DATA to the folder with mnist and the stream-* data sets")
    return Path(folder)


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 8 x 8 digits: 1,347 images as the source of a stream, the other 450 for tests, drawn once for all.

    Args:
        seed: Of the jitter and of the order of the stream.
    """

    seed: int

    def __post_init__(self) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        mixed = np.random.default_rng(0).permutation(len(labels))
        images, labels = images[mixed], labels[mixed]
        object.__setattr__(self, "_x", (images / 16).astype(np.float32).reshape(-1, 8, 8))
        object.__setattr__(self, "_y", labels.astype(np.int64))

    @property
    def test(self) -> Rows:
        """The 450 images that no stream shows."""
        return torch.from_numpy(self._x[1347:].reshape(-1, 64)), torch.from_numpy(self._y[1347:])  # type: ignore[attr-defined]

    def stream(self, size: int, order: Order = "shuffled") -> Rows:
        """Return rows of a stream: images shifted by at most a pixel along one axis, with noise of deviation 0.05.

        `split` shows two classes at a time; `imbalanced` too, each class 0.6 times as often as the one before it.
        """
        draw = np.random.default_rng(self.seed)
        x, y = self._x[:1347], self._y[:1347]  # type: ignore[attr-defined]
        chance = np.ones(10)
        turn = draw.permutation(10)
        if order == "imbalanced":
            chance[turn] = 0.6 ** np.arange(10)
        share = chance[y] / np.bincount(y, minlength=10)[y]
        rows = draw.choice(len(x), size, p=share / share.sum())
        if order != "shuffled":
            rows = rows[np.argsort(np.argsort(turn)[y[rows]] // 2, kind="stable")]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        down, right = np.array([(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)])[draw.integers(0, 5, size)].T
        found = np.empty((size, 8, 8), np.float32)
        for a in range(3):
            for b in range(3):
                here = (down == a) & (right == b)
                found[here] = padded[rows[here], a : a + 8, b : b + 8]
        found += 0.05 * draw.standard_normal(found.shape, np.float32)
        return torch.from_numpy(found.reshape(size, 64)), torch.from_numpy(y[rows])


def drift_stream(name: str) -> Rows:
    """Return a public stream with drift in its own order, columns scaled by its first 500 rows."""
    import pyarrow.parquet as pq

    files = {"elec2": "class", "weather": "target", "outdoor": "label"}
    table = pq.read_table(data_folder() / f"stream-{name}" / f"{name}.parquet")
    label = files[name]
    x = np.stack([table[c].to_numpy().astype(np.float32) for c in table.column_names if c != label], 1)
    y = np.unique(table[label].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    mean, deviation = x[:500].mean(0), x[:500].std(0)
    scaled = np.clip((x - mean) / np.where(deviation > 0, deviation, 1), -10, 10)
    return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(y.astype(np.int64))


def planted_drift(seed: int, size: int = 24_000) -> Rows:
    """Return a stream of digits whose labels are turned by one after a third, and by two more after two thirds."""
    x, y = Digits(seed).stream(size)
    turn = torch.tensor([0, 1, 3])[torch.arange(size) * 3 // size]
    return x, (y + turn) % 10


def mnist(part: str, size: int, seed: int = 0) -> Rows:
    """Return some images of MNIST, drawn by seed, `[B, 1, 28, 28]` between 0 and 1."""
    import pyarrow.parquet as pq

    table = pq.read_table(data_folder() / "mnist" / f"{part}.parquet")
    rows = np.random.default_rng(seed).permutation(len(table))[:size]
    table = table.take(rows)
    pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8).reshape(-1, 1, 28, 28)
    labels = table["label"].to_numpy().astype(np.int64)
    return torch.from_numpy(pixels.astype(np.float32) / 255), torch.from_numpy(labels)


def mlp(width: int, classes: int, seed: int) -> torch.nn.Sequential:
    """Return the network of the digits streams: two hidden layers of 256."""
    torch.manual_seed(seed)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    return torch.nn.Sequential(linear(width, 256), relu(), linear(256, 256), relu(), linear(256, classes))


def conv_net(seed: int) -> torch.nn.Sequential:
    """Return a small network of three convolutions, over 1 ms a sample and step on two cores."""
    torch.manual_seed(seed)
    conv, relu = torch.nn.Conv2d, torch.nn.ReLU
    body = [conv(1, 32, 3, padding=1), relu(), conv(32, 64, 3, padding=1), relu(), conv(64, 64, 3, 2, 1), relu()]
    return torch.nn.Sequential(*body, torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(1024, 10))


@torch.no_grad()
def accuracy(model: torch.nn.Module, test: Rows) -> float:
    """Return the share of right answers, in percent."""
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum()) for x, y in zip(test[0].split(500), test[1].split(500), strict=True)
    )
    return 100 * right / len(test[1])


def replay_rival(
    kind: Literal["er-ace", "der++"],
    stream: Rows,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    room: int,
    seed: int,
    alpha: float = 0.2,
    rows: tuple[int, int] = (10, 20),
) -> None:
    """Train by ER-ACE (Caccia et al., ICLR 2022) or DER++ (Buzzega et al., NeurIPS 2020) over a reservoir.

    Args:
        kind: The method.
        stream: Rows in order, each learnt once.
        model: The network.
        optimizer: Over its parameters.
        room: Rows that the reservoir holds.
        seed: Of the reservoir and of what is replayed.
        alpha: Weight of DER++'s distance between logits.
        rows: New and old rows of a step.
    """
    draw, classes = np.random.default_rng(seed), 10
    x_old, y_old = torch.empty(room, *stream[0].shape[1:]), torch.empty(room, dtype=torch.int64)
    out_old, seen = torch.empty(room, classes), 0
    model.train()
    for x, y in zip(stream[0].split(rows[0]), stream[1].split(rows[0]), strict=True):
        output = model(x)
        if kind == "er-ace":
            mask = torch.full((classes,), -1e9)
            mask[y.unique()] = 0.0
            loss = cross_entropy(output + mask if seen else output, y)
        else:
            loss = cross_entropy(output, y)
        held = min(seen, room)
        if held:
            loss = loss + _old_loss(kind, model, (x_old, y_old, out_old), draw, (held, rows[1]), alpha)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        for i in range(len(x)):
            spot = seen if seen < room else int(draw.integers(0, seen + 1))
            if spot < room:
                x_old[spot], y_old[spot], out_old[spot] = x[i], y[i], output[i].detach()
            seen += 1


def _old_loss(
    kind: str,
    model: torch.nn.Module,
    old: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    draw: np.random.Generator,
    count: tuple[int, int],
    alpha: float,
) -> torch.Tensor:
    x, y, out = old

    def some() -> torch.Tensor:
        return torch.from_numpy(draw.permutation(count[0])[: count[1]])

    one = some()
    if kind == "er-ace":
        return cross_entropy(model(x[one]), y[one])
    other = some()
    return alpha * mse_loss(model(x[one]), out[one]) + 0.5 * cross_entropy(model(x[other]), y[other])


def lower_bound(differences: list[float]) -> float:
    """Return the lower end of the 95 % interval of a mean, by Student's t over paired seeds."""
    from scipy.stats import t

    values: npt.NDArray[np.float64] = np.array(differences)
    if len(values) < 2:
        return float(values.mean())
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half)


Make: TypeAlias = Callable[[int], torch.nn.Module]
