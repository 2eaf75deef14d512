"""A job reuses embeddings in training alone, and one that was killed amid an epoch ends in the bits it would have."""

from pathlib import Path
from typing import cast

import pytest
import torch

from stepwell import storage
from stepwell.access.reuse import ReusedNeighbors
from stepwell.core import Batch
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.core.overrides import override
from stepwell.datasets.synthetic import Habits, habits
from stepwell.jobs import Experiment, LinkPrediction, link_prediction
from stepwell.jobs.planning import chosen_by, plan_job
from stepwell.plan import plan
from stepwell.recipes import recipes
from stepwell.storage import EventLog
from stepwell.train import Epoch, State

SET = ["model.dim=8", "loop.epochs=2", "loop.save_every=3", "evaluation.ranking=50", "batches.size=100", "sampling.k=4"]
REUSE = ["sampling.hops=2", "sampling.hop_time=root", "reuse.rows=12"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    table = habits(Habits(users=40, items=25, events=900, days=12, bursts=8, follow=0.4, features=0))
    lake = storage.open(tmp_path_factory.mktemp("lake"))
    return lake.events("small", table, src=("user", "user"), dst=("item", "item"), time="time")


def experiment(*more: str) -> Experiment:
    return override(Experiment(), [*SET, *more])


class Killed(Exception):
    """The run is over at once."""


class Kill:
    """Ends a run at a batch.

    Args:
        at: How many batches are learnt before.
    """

    def __init__(self, at: int) -> None:
        self.left = at

    def on_batch(self, state: State, batch: Batch) -> None:
        self.left -= 1
        if not self.left:
            raise Killed

    def on_epoch(self, state: State, epoch: Epoch) -> None:
        pass


def weights(job: LinkPrediction) -> dict[str, torch.Tensor]:
    return cast("torch.nn.Module", job.model).state_dict()


@pytest.mark.parametrize(
    "options",
    [[*REUSE], [*REUSE, "reuse.policy=lru", "reuse.max_age=3"], ["batches.kind=adaptive"]],
    ids=["mrd", "lru", "adaptive"],
)
def test_a_run_killed_amid_an_epoch_and_resumed_ends_in_the_same_bits(
    log: EventLog, tmp_path: Path, options: list[str]
) -> None:
    chosen = experiment(*options)
    whole = link_prediction(log, experiment=chosen, folder=tmp_path / "whole")
    expected = whole.fit()
    steps = len(whole.training)
    with pytest.raises(Killed):
        link_prediction(log, experiment=chosen, folder=tmp_path / "cut").fit(callbacks=[Kill(steps + steps // 2)])
    again = link_prediction(log, experiment=chosen, folder=tmp_path / "cut")
    found = again.fit(resume=True)
    assert [epoch.loss for epoch in found.history] == [epoch.loss for epoch in expected.history]
    assert [score.value for score in found.scores] == [score.value for score in expected.scores]
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())


def test_training_reuses_and_evaluation_does_not(log: EventLog) -> None:
    job = link_prediction(log, experiment=experiment(*REUSE))
    assert any(isinstance(stage, ReusedNeighbors) for stage in job.training.stages)
    tests = [*job._tests(), job._loop(1).validation]
    assert all(evaluation is not None for evaluation in tests)
    for evaluation in tests:
        assert evaluation is not None
        batch = next(iter(evaluation.batches))
        assert "reuse" not in batch and "levels" in batch


def test_a_run_with_reuse_reports_its_hit_rate(log: EventLog) -> None:
    result = link_prediction(log, experiment=experiment(*REUSE, "loop.epochs=1")).fit()
    stage = next(node for _, node in result.plan.rows() if node.name == "ReusedNeighbors")
    assert stage.measured is not None and stage.measured.hit_rate is not None and 0 < stage.measured.hit_rate <= 1


def test_no_rows_reuse_nothing(log: EventLog) -> None:
    job = link_prediction(log, experiment=experiment("sampling.hops=2"))
    assert not any(isinstance(stage, ReusedNeighbors) for stage in job.training.stages)


def test_a_reuse_that_cannot_be_is_refused(log: EventLog) -> None:
    with pytest.raises(UnknownNameError, match="mrd"):
        _ = link_prediction(log, experiment=experiment(*REUSE, "reuse.policy=mdr")).training
    with pytest.raises(InvalidValueError, match="two hops"):
        _ = link_prediction(log, experiment=experiment("reuse.rows=12")).plan


def test_what_a_plan_chose_stands_in_the_experiment(log: EventLog) -> None:
    chosen = experiment("sampling.hops=2", "sampling.hop_time=root")
    written = chosen_by(plan(log, "tgn", hops=2, reuse="mrd", probe=False), chosen, None)
    assert written.reuse.rows > 0 and written.reuse.policy == "mrd"
    assert Experiment.from_json(written.to_json()) == written
    pinned = plan_job(link_prediction(log, experiment=experiment(*REUSE)), accuracy="exact")
    assert pinned.names["reuse"] == "mrd" and chosen_by(pinned, experiment(*REUSE), None).reuse.rows == 12


def test_the_recipes_of_orca_train_two_layers_with_reuse() -> None:
    for name in ("orca_wikipedia", "orca_collegemsg"):
        recipe = recipes[name]()
        assert recipe.sampling.hops == 2 and recipe.reuse.rows == 1_000 and recipe.reuse.causal
