"""A job reuses embeddings in training alone, and one that was killed amid an epoch ends in the bits it would have."""

import json
from itertools import islice
from pathlib import Path
from typing import cast

import pytest
import torch

from stepwell import storage
from stepwell.access import Pipeline
from stepwell.access.reuse import ReusedNeighbors
from stepwell.core import Batch
from stepwell.core.errors import InvalidValueError, ProtocolError, UnknownNameError
from stepwell.core.overrides import override
from stepwell.datasets.synthetic import Habits, habits
from stepwell.jobs import Experiment, LinkPrediction, link_prediction
from stepwell.jobs.planning import chosen_by, plan_job
from stepwell.jobs.report import write_run
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


def test_evaluation_reuses_only_when_asked_to_and_then_says_so(log: EventLog) -> None:
    default = link_prediction(log, experiment=experiment(*REUSE))
    asked = link_prediction(log, experiment=experiment(*REUSE, "evaluation.reuse=true"))
    for job, wanted in ((default, False), (asked, True)):
        for evaluation in (*job._tests(), job._loop(1).validation):
            assert evaluation is not None
            batches = evaluation.batches
            assert isinstance(batches, Pipeline)
            assert ("ReusedNeighbors" in str(batches.plan)) == wanted
            assert ("embeddings reused (rows=12" in str(evaluation.protocol)) == wanted
            assert all(("reuse" in batch) == wanted for batch in islice(batches, 2))
    assert "evaluation reuses" not in str(default.plan) and "evaluation reuses" in str(asked.plan)


def test_scores_with_reuse_are_others_and_do_not_compare_with_exact_ones(log: EventLog) -> None:
    """Both are trained alike; a rate of zero keeps the same weights, whichever epoch validates best."""
    still = [*REUSE, "loop.epochs=1", "loop.learning_rate=1e-12", "reuse.rows=3"]
    exact = link_prediction(log, experiment=experiment(*still)).fit()
    loose = link_prediction(log, experiment=experiment(*still, "evaluation.reuse=true")).fit()
    assert exact.reports[0].protocol.reuse == ""
    assert [score.value for score in exact.scores] != [score.value for score in loose.scores]
    with pytest.raises(ProtocolError, match="reuse"):
        _ = exact.scores[0] - loose.scores[0]
    assert [name for name, _ in loose.baselines] and "edgebank" in loose.table


@pytest.mark.parametrize("more", [["sampling.hops=2"], ["reuse.rows=12"]])
def test_evaluation_with_reuse_of_nothing_is_refused(log: EventLog, more: list[str]) -> None:
    with pytest.raises(InvalidValueError, match="without reuse"):
        link_prediction(log, experiment=experiment(*more, "evaluation.reuse=true"))._tests()


def test_a_run_with_reuse_reports_its_staleness_and_what_bounds_it(log: EventLog, tmp_path: Path) -> None:
    chosen = experiment(*REUSE, "loop.epochs=1", "reuse.measure_every=2")
    job = link_prediction(log, experiment=chosen, folder=tmp_path)
    result = job.fit()
    found = result.staleness
    assert found is not None and found.layers == (1,) and found.batches == len(job.training) // 2
    assert found.outputs.held == found.outputs.num and found.outputs.bound is not None
    assert max(group.oldest for group in found.groups) > 0
    for text in (str(result.plan), str(job.plan)):
        assert "Staleness, layer 1" in text and "bound of Theorem 5" in text
    assert "one batch of 2" in found.conditions
    write_run(result, chosen, tmp_path)
    written = json.loads((tmp_path / "result.json").read_text())["staleness"]
    assert written["outputs"]["num"] == found.outputs.num and len(written["groups"]) == len(found.groups)
    assert "Reused embeddings" in (tmp_path / "report.html").read_text()


def test_sampling_the_staleness_changes_no_score_and_can_be_left_out(log: EventLog) -> None:
    runs = {
        every: link_prediction(log, experiment=experiment(*REUSE, f"reuse.measure_every={every}")).fit()
        for every in (0, 1)
    }
    assert runs[0].staleness is None and "Staleness" not in str(runs[0].plan)
    assert runs[1].staleness is not None
    assert [score.value for score in runs[0].scores] == [score.value for score in runs[1].scores]


def test_a_run_without_reuse_has_no_staleness(log: EventLog) -> None:
    result = link_prediction(log, experiment=experiment("reuse.measure_every=1", "loop.epochs=1")).fit()
    assert result.staleness is None and "Staleness" not in str(result.plan)


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
