"""Node classification: what embeddings trained on links know about the state labels of the events' sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stepwell.access import FixedBatches, Pipeline
from stepwell.core import PlanNode
from stepwell.core.errors import InvalidValueError
from stepwell.evaluate import Probe, Score, p1
from stepwell.jobs.link_prediction import LinkPrediction
from stepwell.jobs.models import build_sampler
from stepwell.jobs.result import Result
from stepwell.storage import EventLog
from stepwell.train import Callback


@dataclass(frozen=True, eq=False)
class Labelled(Result):
    """A link-prediction result with the label scores of the same embeddings.

    Args:
        labels: AUC and average precision of the test events' state labels.
    """

    labels: tuple[Score, ...] = ()

    @property
    def table(self) -> str:
        """The label scores, then those of the links."""
        links = Result(self.name, self.history, self.reports, self.baselines, self.plan, self.seconds).table
        return "\n".join([*(f"labels: {score}" for score in self.labels), links])


@dataclass(frozen=True, eq=False)
class NodeClassification:
    """Train an encoder on links, then a small classifier on its frozen embeddings.

    Args:
        links: The link-prediction run that trains the encoder; its log must have labels.
        probe: The classifier's settings.

    References:
        Rossi et al., 2020, arXiv:2006.10637, section 5.2.
    """

    links: LinkPrediction
    probe: Probe = field(default_factory=Probe)

    def __post_init__(self) -> None:
        if self.links.log.label is None:
            raise InvalidValueError("log", repr(self.links.log), "a log with labels; ingest it with label=...")

    @property
    def plan(self) -> PlanNode:
        """The plan of the link prediction that trains the encoder."""
        return self.links.plan

    def fit(self, epochs: int | None = None, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> Labelled:
        """Train the encoder, embed every event's source as of just before the event, and classify.

        Args:
            epochs: Epochs of the encoder at most; None takes the configuration's.
            resume: Continue from the folder's last checkpoint.
            callbacks: Told of each batch and epoch.
        """
        result = self.links.fit(epochs, resume=resume, callbacks=callbacks)
        return Labelled(
            result.name,
            result.history,
            result.reports,
            result.baselines,
            result.plan,
            result.seconds,
            result.staleness,
            labels=self.classify(),
        )

    def classify(self) -> tuple[Score, Score]:
        """Return AUC and average precision of the test labels, with the encoder as it stands."""
        log, size = self.links.log, self.links.experiment.evaluation.batch_size
        parts = log.split()
        protocol = replace(
            p1("test", batch_size=size), name="labels", metrics=("auc", "ap"), withheld=0.0, data=log.name
        )
        train, validation, test = (self._batches(part, size) for part in parts)
        return self.probe(self.links.model, train, validation, test, protocol)  # type: ignore[arg-type]

    def _batches(self, part: EventLog, size: int) -> Pipeline:
        sampling = self.links.experiment.sampling
        return Pipeline(
            part,
            FixedBatches(size),
            sampler=build_sampler(sampling, self.links.log),
            hops=sampling.hops,
            as_of=sampling.as_of,
            hop_time=sampling.hop_time,
            device=self.links.device,
        )
