"""Let the planner choose what an experiment leaves open, and write the choice into the experiment.

What differs from the default setting counts as chosen by the user. The result is an ordinary configuration: it is saved
with the run, so a resumed run does not plan anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast, get_args, get_type_hints

from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.jobs.experiment import BatchConfig, Experiment, PlacementConfig, ReuseConfig, SamplingConfig, StateConfig
from stepwell.jobs.link_prediction import LinkPrediction
from stepwell.jobs.models import build_batches, build_placement, build_reuse, build_sampler
from stepwell.plan import Plan
from stepwell.plan.options import Asked


def plan_job(
    job: LinkPrediction,
    *,
    memory: str | int | None = None,
    accuracy: Asked = "exact",
    price_per_core_hour: float | None = None,
) -> Plan:
    """Plan a job's training, with everything pinned that its experiment chose.

    Args:
        job: The job.
        memory: Memory for features, node state and index; None: all fits.
        accuracy: How exact training must stay.
        price_per_core_hour: What a core costs.
    """
    experiment = job.experiment
    batches, sampling, placement = experiment.batches, experiment.sampling, experiment.placement
    usual = BatchConfig(size=batches.size, negatives=batches.negatives)
    moved = batches.kind != usual.kind or batches.chunks != usual.chunks
    return job.ask(
        memory=memory,
        accuracy=accuracy,
        batches=build_batches(batches, experiment.loop.seed) if moved else None,
        sampler=build_sampler(sampling, job.log) if sampling.sampler != SamplingConfig().sampler else None,
        reuse=build_reuse(experiment.reuse),
        placement=build_placement(placement) if placement.policy != "none" else None,
        prefetch=batches.prefetch if batches.prefetch != usual.prefetch else None,
        steps="graphed" if experiment.loop.graphed and job.device.startswith("cuda") else None,
        price_per_core_hour=price_per_core_hour,
    )


def chosen_by(plan: Plan, experiment: Experiment, memory: str | int | None) -> Experiment:
    """Return the experiment with what a plan chose.

    Args:
        plan: The plan.
        experiment: What it was made for.
        memory: Memory that the plan was given.
    """
    names = plan.names
    batches, sampling, placement = experiment.batches, experiment.sampling, experiment.placement
    reuse = experiment.reuse
    if names["batches"] in get_args(get_type_hints(BatchConfig)["kind"]):
        batches = replace(batches, kind=cast("Literal['fixed', 'adaptive']", names["batches"]))
    if names["sampler"] in get_args(get_type_hints(SamplingConfig)["sampler"]) and names["sampler"] != sampling.sampler:
        sampling = replace(sampling, sampler=cast("Literal['recent', 'uniform', 'window', 'tppr']", names["sampler"]))
    if names["placement"] != placement.policy and memory is not None:
        placement = PlacementConfig(names["placement"], f"{plan.planner.room_bytes or 0}B")
    if names["reuse"] != "none" and not reuse.rows:
        reuse = ReuseConfig(rows=EmbeddingReuse().rows, policy=names["reuse"])
    batches, state, loop = replace(batches, prefetch=int(names["prefetch"])), experiment.state, experiment.loop
    if names["state"] != "host" and state.policy == "host":
        state = StateConfig(names["state"], f"{plan.planner.state_room_bytes or 0}B")
    if names["steps"] == "graphed":
        loop = replace(loop, graphed=True)
    parts = {"batches": batches, "sampling": sampling, "reuse": reuse, "placement": placement}
    return replace(experiment, **parts, state=state, loop=loop)  # type: ignore[arg-type]
