"""Link prediction, whole: an event log, a model, a plan, a loop, and scores that name their protocol."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch

from stepwell.access import (
    FixedBatches,
    Gather,
    Neighbors,
    Pipeline,
    UniformNegatives,
)
from stepwell.buffer.policy import Policy
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Batch, Cost, Ids, PlanNode, Slice
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Batcher, Model, Sampler
from stepwell.core.state import read_state, write_state
from stepwell.evaluate import Evaluation, Protocol, Report, evaluation_for, p1, p2, p3, split_for
from stepwell.evaluate.split import InductiveSplit
from stepwell.jobs.experiment import Experiment, ProtocolName
from stepwell.jobs.models import (
    build_batches,
    build_model,
    build_placement,
    build_reuse,
    build_sampler,
    build_store,
)
from stepwell.jobs.result import Result
from stepwell.nn import EdgeBank, MostRecent, OutOfCore, PopTrack
from stepwell.nn.staleness import Staleness, meter_for
from stepwell.plan import Plan, Setting, plan
from stepwell.plan.options import Asked
from stepwell.plan.predict import EPOCH, STEP
from stepwell.plan.reuse import measured, staleness_rows
from stepwell.plan.state import measured_state
from stepwell.plan.watch import Watched
from stepwell.storage import EventLog
from stepwell.train import Callback, Loop, load_model, save_model


class LinkPrediction:
    """One link-prediction run: planned, trained, evaluated, asked.

    Args:
        log: The whole event log.
        experiment: The configuration.
        folder: Where checkpoints go; None keeps the best state in memory.
        device: Where the model runs.
    """

    def __init__(
        self, log: EventLog, experiment: Experiment, folder: Path | None = None, device: str | None = None
    ) -> None:
        self.log = log.base
        self.experiment = experiment
        self.folder = folder
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._measured: dict[str, Cost] = {}
        self.watched: Watched | None = None

    @cached_property
    def model(self) -> Model:
        """The model, on its device, with its initial weights."""
        built = build_model(self.log, self.experiment.model, self.experiment.sampling, self._store)
        if isinstance(built, torch.nn.Module):
            built.to(self.device)
        return built

    @cached_property
    def _store(self) -> OutOfCore | None:
        """Where node state goes: a folder of the run's, or one that is gone with this job."""
        state = self.experiment.state
        if state.policy == "host" or self.folder is not None:
            return build_store(state, Path() if self.folder is None else self.folder / "state")
        folder = Path(tempfile.mkdtemp(prefix="stepwell-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return build_store(state, folder)

    @cached_property
    def split(self) -> InductiveSplit:
        """The parts of the log; under P1 and P2 a tenth of the nodes is kept out of training."""
        return split_for(self.log, self._protocol(self.experiment.evaluation.protocol))

    @cached_property
    def training(self) -> Pipeline:
        """The pipeline of the training events."""
        batches, seed = self.experiment.batches, self.experiment.loop.seed
        sampling = self.experiment.sampling
        return Pipeline(
            self.split.train,
            build_batches(batches, seed),
            negatives=UniformNegatives(batches.negatives),
            sampler=build_sampler(sampling, self.log),
            hops=sampling.hops,
            as_of=sampling.as_of,
            hop_time=sampling.hop_time,
            reuse=build_reuse(self.experiment.reuse),
            placement=build_placement(self.experiment.placement),
            prefetch=batches.prefetch,
            seed=seed,
            device=self.device,
        )

    @property
    def plan(self) -> PlanNode:
        """EXPLAIN: what one epoch is expected to take, stage by stage; once `fit` has run, measured beside it."""
        tree = self.planned.tree.with_measured(self._measured)
        if self._reuse_in_tests() is not None:
            tree = replace(tree, why=f"{tree.why}; evaluation reuses embeddings too, so its scores are not exact")
        return tree.with_below(staleness_rows(self.staleness))

    @property
    def staleness(self) -> Staleness | None:
        """How stale the embeddings were that the latest epoch of `fit` reused, as far as was sampled."""
        return None if self.watched is None else self.watched.staleness

    @cached_property
    def planned(self) -> Plan:
        """The plan of this run as the experiment says; a copy of the model learns a few real batches."""
        sampling, batches = self.experiment.sampling, self.experiment.batches
        return self.ask(
            batches=build_batches(batches, self.experiment.loop.seed),
            sampler=build_sampler(sampling, self.log),
            reuse=build_reuse(self.experiment.reuse) or "none",
            placement=build_placement(self.experiment.placement) or "none",
            prefetch=batches.prefetch,
            steps="graphed" if self.experiment.loop.graphed and self.device.startswith("cuda") else "eager",
        )

    def ask(
        self,
        *,
        memory: str | int | None = None,
        accuracy: Asked = "exact",
        batches: Batcher | str | None = None,
        sampler: Sampler | str | None = None,
        reuse: EmbeddingReuse | str | None = None,
        placement: Policy | str | None = None,
        prefetch: int | None = None,
        steps: Literal["eager", "graphed"] | None = None,
        price_per_core_hour: float | None = None,
    ) -> Plan:
        """Plan the training of this run's model on its training events; what is not given is left to the planner.

        Args:
            memory: Memory for features, node state and index; None: all fits.
            accuracy: How exact training must stay.
            batches: The batcher.
            sampler: The sampler.
            reuse: Which embeddings serve again.
            placement: The policy of rows that do not fit.
            prefetch: Batches made ahead.
            steps: Whether steps are replayed as CUDA graphs.
            price_per_core_hour: What a core costs.
        """
        sampling = self.experiment.sampling
        setting = Setting(
            hops=sampling.hops,
            k=sampling.k,
            as_of=sampling.as_of,
            hop_time=sampling.hop_time,
            negatives=UniformNegatives(self.experiment.batches.negatives),
            batch_size=self.experiment.batches.size,
            seed=self.experiment.loop.seed,
        )
        return plan(
            self.split.train,
            cast("torch.nn.Module", self.model),
            name=self.experiment.model.name,
            memory=memory,
            device=self.device,
            accuracy=accuracy,
            batches=batches,
            sampler=sampler,
            reuse=reuse,
            placement=placement,
            prefetch=prefetch,
            steps=steps,
            setting=setting,
            price_per_core_hour=price_per_core_hour,
        )

    def fit(self, epochs: int | None = None, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> Result:
        """Train, then score the test events under P1 and P3 beside what needs no training.

        Args:
            epochs: Epochs at most; None takes the configuration's.
            resume: Continue from the folder's last checkpoint.
            callbacks: Told of each batch and epoch.

        Raises:
            DivergedError: If a loss is not finite.
            CheckpointError: If `resume` finds a checkpoint of other settings.
        """
        _ = self.planned  # before training, which changes the model
        loop = self._loop(epochs)
        trained = loop.fit(resume=resume, callbacks=callbacks)
        if self.watched is not None and self.watched.num_batches:
            last = trained.history[-1]
            whole = Cost(float(last.num_events), None, last.seconds, calls=self.watched.num_batches)
            self._measured = {**measured(self.training), EPOCH: whole, STEP: self.watched.step}
            self._measured |= measured_state(self.model)
        reports = tuple(loop.test(evaluation) for evaluation in self._tests())
        if self.folder is not None:
            loop.restore()
            self._catch_up()
            write_state(self.folder / "current", lambda writer: save_model(self.model, writer.child("model")))
        name = self.experiment.model.name
        baselines = self._baselines()
        return Result(name, trained.history, reports, baselines, self.plan, trained.seconds, self.staleness)

    def evaluate(self, protocol: ProtocolName) -> Report:
        """Score the test events with the best state of the folder's run."""
        self._load("best")
        return self._evaluation(self._protocol(protocol))(self.model)

    def predict(self, src: Ids, dst: Ids, time: Ids) -> np.ndarray:
        """Return the probability of each (src, dst, time), from the state after the last event of the log.

        Args:
            src: Source nodes, int64 `[P]`.
            dst: Destination nodes, int64 `[P]`.
            time: Times in the log's unit, int64 `[P]`.

        Returns:
            float32 `[P]`, between 0 and 1.

        Raises:
            InvalidValueError: If a time lies before the log's last event: the state already knows what happened.
        """
        last = int(self.log.time[-1])
        if len(time) and int(time.min()) < last:
            raise InvalidValueError("time", int(time.min()), f"at least {last}, the time of the log's last event")
        self._load("current")
        sampling = self.experiment.sampling
        find = Neighbors(self.log, build_sampler(sampling, self.log), sampling.hops, sampling.as_of, sampling.hop_time)
        gather = Gather(self.log)
        if isinstance(self.model, torch.nn.Module):
            self.model.eval()
        found = [np.zeros(0, np.float32)]
        with torch.no_grad():
            for begin in range(0, len(src), 4096):
                rows = slice(begin, begin + 4096)
                asked = Batch(
                    Slice(0, 0, begin, begin + len(src[rows])),
                    src=src[rows],
                    candidate=dst[rows, None],
                    time=time[rows],
                    event=np.full(len(src[rows]), len(self.log)),
                    seconds=self.log.seconds,
                )
                logits = self.model.score(gather(find(asked)).to(self.device))
                found.append(torch.sigmoid(logits[:, 0]).numpy(force=True))
        return np.concatenate(found)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters()) if isinstance(self.model, torch.nn.Module) else []

    def _loop(self, epochs: int | None) -> Loop:
        protocol = self._protocol(self.experiment.evaluation.protocol).on("validation")
        validation = self._evaluation(protocol)
        config = self.experiment.loop
        config = replace(config, epochs=config.epochs if epochs is None else epochs)
        if config.monitor not in protocol.metrics:
            config = replace(config, monitor=protocol.metrics[0])
        every, stages = self.experiment.reuse.measure_every, self.training.stages
        self.watched = Watched(self.training, meter_for(self.model, stages, every, config.seed) if every else None)
        return Loop(self.model, self.watched, config, validation, self.folder)

    def _load(self, name: str) -> None:
        if self.folder is None:
            raise InvalidValueError("folder", None, "the folder of a trained run")
        load_model(self.model, read_state(self.folder / name).child("model"))

    def _protocol(self, name: ProtocolName) -> Protocol:
        """Return a protocol for the test, with the nodes withheld that this run withholds."""
        size = self.experiment.evaluation.batch_size
        if name == "p3":
            chosen = p3("test", batch_size=size, grid="log")
            withheld = 0.0 if self.experiment.evaluation.protocol == "p3" else p1().withheld
            chosen = replace(chosen, withheld=withheld)
        else:
            make = {"p1": p1, "p2": p2}[name]
            chosen = replace(make("test", batch_size=size), as_of=self.experiment.sampling.as_of)
        return replace(chosen, data=self.log.name)

    def _tests(self) -> list[Evaluation]:
        main = self._protocol("p1")
        inductive = replace(main, events="inductive", seed=3)
        ranking = self._evaluation(self._protocol("p3"), limit=self.experiment.evaluation.ranking)
        return [self._evaluation(main), self._evaluation(inductive), ranking]

    def _evaluation(self, protocol: Protocol, *, sample: bool = True, limit: int = 0) -> Evaluation:
        """Return the batches of a protocol, with sampled neighbours or (for what needs none) without.

        One-vs-many state is frozen a batch, so with one hop each distinct node is embedded once a batch, as of the
        batch's first event.
        """
        sampling = self.experiment.sampling
        once = sample and protocol.as_of == "batch" and sampling.hops == 1
        return evaluation_for(
            protocol,
            replace(self.split, test=self.split.test[:limit]) if limit else self.split,
            sampler=build_sampler(sampling, self.log) if sample else None,
            hops=sampling.hops,
            hop_time=sampling.hop_time,
            keyed_by="node" if once else "node_time",
            reuse=self._reuse_in_tests() if sample else None,
            prefetch=self.experiment.batches.prefetch,
            device=self.device,
        )

    def _reuse_in_tests(self) -> EmbeddingReuse | None:
        """Return what evaluation reuses: nothing, unless it was asked to."""
        if not self.experiment.evaluation.reuse:
            return None
        reuse = build_reuse(self.experiment.reuse)
        if reuse is None or self.experiment.sampling.hops == 1:
            raise InvalidValueError(
                "evaluation.reuse", self.experiment.evaluation.reuse, "false without reuse.rows and two hops or more"
            )
        return reuse

    def _catch_up(self) -> None:
        """Let the model observe the test events, so that its state is that after the log's end."""
        if isinstance(self.model, torch.nn.Module):
            self.model.eval()
        with torch.no_grad():
            for batch in self._evaluation(self._protocol("p1")).batches:
                self.model.score(batch)
                self.model.observe(batch)

    def _baselines(self) -> tuple[tuple[str, Report], ...]:
        """Score what needs no training; it has observed what the model has: training and validation events."""
        found = []
        limit = self.experiment.evaluation.ranking
        for protocol in (evaluation.protocol for evaluation in self._tests()):
            ranked = limit if protocol.negatives == "all" else 0
            for name, baseline in (("edgebank", EdgeBank()), ("most recent", MostRecent()), ("popularity", PopTrack())):
                for part in (self.split.train, self.split.validation):
                    for batch in Pipeline(part, FixedBatches(5_000), prefetch=0):
                        baseline.observe(batch)
                found.append((name, self._evaluation(protocol, sample=False, limit=ranked)(baseline)))
        return tuple(found)
