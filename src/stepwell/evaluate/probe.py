"""Node classification: a small classifier on frozen embeddings says what a model's states know about its nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol as Shape

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.evaluate.metrics import average_precision, roc_auc
from stepwell.evaluate.protocols import Protocol, Score


class Embedder(Shape):
    """A model that gives embeddings of a batch's distinct targets."""

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return `[U, D]`; row `batch.src_row[b]` belongs to the source of event b."""

    def observe(self, batch: Batch) -> None:
        """Update the state with the batch's events."""

    def forget(self) -> None:
        """Return to the state before the first event."""


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """One row a source of an event, as it was just before that event.

    Args:
        value: float32 `[E, D]`.
        label: State labels, `[E]`.
    """

    value: torch.Tensor
    label: npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Probe:
    """A two-layer classifier trained on frozen embeddings of the training part.

    The epoch with the best validation AUC counts. Rare labels are weighed up by the square root of their rarity.

    Args:
        hidden: Width of the hidden layer.
        epochs: Passes over the training embeddings.
        learning_rate: Adam's.
        batch_size: Rows a step.
        seed: Seeds weights and order; the caller's generator is left alone.

    References:
        Rossi et al., arXiv:2006.10637, section 5.2. *Differs:* embeddings are computed once, not in every epoch.
    """

    hidden: int = 80
    epochs: int = 20
    learning_rate: float = 1e-3
    batch_size: int = 1024
    seed: int = 0

    def __call__(
        self,
        model: Embedder,
        train: Iterable[Batch],
        validation: Iterable[Batch],
        test: Iterable[Batch],
        protocol: Protocol,
    ) -> tuple[Score, Score]:
        """Return AUC and average precision of the test part; label 1 is what is looked for.

        The model forgets, then runs over the three parts in this order; an event is embedded before it is observed.

        Args:
            model: A trained model; its weights stay as they are.
            train: Batches with `label`, from the log's first event on.
            validation: Those that follow.
            test: Those after.
            protocol: What the scores name.

        Raises:
            InvalidValueError: If a batch has no `label`, or a part has only one of the labels 0 and 1.

        Cost:
            One pass of the model and `epochs` of a small network; keeps 4 D bytes an event.
        """
        model.forget()
        seen, held, asked = (_collect(model, batches) for batches in (train, validation, test))
        return self.classify(seen, held, asked, protocol)

    def classify(
        self, train: Embeddings, validation: Embeddings, test: Embeddings, protocol: Protocol
    ) -> tuple[Score, Score]:
        """Return AUC and average precision of the test rows, given embeddings.

        Args:
            train: What the classifier learns from.
            validation: What its best epoch is chosen by.
            test: What is scored.
            protocol: What the scores name.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            classifier = self._fitted(train, validation)
        score, target = _predict(classifier, test), test.label == 1
        num = int(target.sum())
        return Score("auc", roc_auc(target, score), protocol, num), Score(
            "ap", average_precision(target, score), protocol, num
        )

    def _fitted(self, train: Embeddings, validation: Embeddings) -> nn.Module:
        mean, std = train.value.mean(0), train.value.std(0).clamp(min=1e-6)
        dim = train.value.shape[1]
        classifier = nn.Sequential(_Scale(mean, std), nn.Linear(dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))
        optimizer = torch.optim.Adam(classifier.parameters(), lr=self.learning_rate)
        target = torch.from_numpy((train.label == 1).astype(np.float32))
        rarity = float((len(target) - target.sum()) / target.sum().clamp(min=1))
        loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(rarity**0.5))
        best, kept = -1.0, {name: value.clone() for name, value in classifier.state_dict().items()}
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(target)), self.batch_size):
                optimizer.zero_grad()
                loss = loss_of(classifier(train.value[rows])[:, 0], target[rows])
                loss.backward()
                optimizer.step()
            auc = roc_auc(validation.label == 1, _predict(classifier, validation))
            if auc > best:
                best, kept = auc, {name: value.clone() for name, value in classifier.state_dict().items()}
        classifier.load_state_dict(kept)
        return classifier


def _collect(model: Embedder, batches: Iterable[Batch]) -> Embeddings:
    """Embed the source of every event before the model observes it, from the model's present state."""
    values, labels = [], []
    if isinstance(model, nn.Module):
        model.eval()
    with torch.no_grad():
        for batch in batches:
            if "label" not in batch:
                raise InvalidValueError("batches", "no `label`", "batches of a log with labels")
            values.append(model.embed(batch)[batch.tensor("src_row")].float().cpu())
            labels.append(batch.array("label"))
            model.observe(batch)
    if not values:
        raise InvalidValueError("batches", "none", "at least one batch")
    return Embeddings(torch.cat(values), np.concatenate(labels))


class _Scale(nn.Module):
    """Shift and scale each column by fixed numbers."""

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = (value - self.get_buffer("mean")) / self.get_buffer("std")
        return scaled


def _predict(classifier: nn.Module, data: Embeddings) -> npt.NDArray[np.float64]:
    with torch.no_grad():
        answer: torch.Tensor = classifier(data.value)
    return answer[:, 0].double().numpy()
