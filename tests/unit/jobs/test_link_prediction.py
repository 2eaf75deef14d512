"""A whole run: planned, trained, scored beside baselines, written, opened, asked."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell import storage
from stepwell.core.errors import CheckpointError, DataError, InvalidValueError, UnknownNameError
from stepwell.core.overrides import override
from stepwell.datasets.synthetic import Habits, habits
from stepwell.jobs import Experiment, link_prediction, node_classification, open_run, run, time_parts
from stepwell.nn import TGN, models
from stepwell.plan import largest_miss
from stepwell.recipes import recipes
from stepwell.storage import EventLog

SMALL = Habits(users=40, items=25, events=1_200, days=12, bursts=8, follow=0.4, features=2)
SET = ["model.dim=16", "loop.epochs=2", "loop.learning_rate=1e-3", "evaluation.ranking=100", "batches.size=100"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    columns = {"src": ("user", "user"), "dst": ("item", "item"), "label": "label", "features": ["features"]}
    storage.open(folder).events("small", habits(SMALL), time="time", **columns)
    return folder


@pytest.fixture(scope="module")
def experiment(lake: Path) -> Experiment:
    return override(Experiment(), ["data.name=small", f"data.lake={lake}", *SET])


@pytest.fixture(scope="module")
def log(lake: Path) -> EventLog:
    return storage.open(lake).events("small")


@pytest.fixture(scope="module")
def folder(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    run(experiment, folder)
    return folder


def test_a_run_leaves_everything_about_itself_in_its_folder(folder: Path) -> None:
    left = {path.name for path in folder.iterdir()}
    assert {"experiment.json", "result.json", "predictions.parquet", "report.html", "best", "last", "current"} <= left
    page = (folder / "report.html").read_text()
    assert "Learning curve" in page and "edgebank" in page and "Neighbors" in page


def test_predictions_hold_one_row_for_each_test_event(folder: Path, log: EventLog) -> None:
    assert pq.read_table(folder / "predictions.parquet").num_rows == len(log.split().test)


def test_a_second_run_into_the_same_folder_is_refused(folder: Path, experiment: Experiment) -> None:
    with pytest.raises(InvalidValueError, match="--resume"):
        run(experiment, folder)


def test_an_opened_run_repeats_its_scores(folder: Path) -> None:
    again = {s.name: s.value for s in open_run(folder).evaluate("p1").scores if s.protocol.pooling == "pooled"}
    import json

    rows = json.loads((folder / "result.json").read_text())["scores"]
    first = {r["metric"]: r["value"] for r in rows[:4] if r["pooling"] == "pooled"}
    assert again == pytest.approx(first)


def test_pairs_in_the_users_own_keys_get_probabilities(folder: Path, log: EventLog) -> None:
    end = int(log.time[-1])
    asked = pa.table({"src": [0, 1], "dst": [3, 4], "time": [end + 5, end + 9]})
    scores = open_run(folder).predict(asked)["score"].to_numpy()
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({"src": [0], "dst": [1]}, "time"),
        ({"src": [999], "dst": [1], "time": [2**40]}, "never occurred"),
        ({"src": [0], "dst": [1], "time": [0]}, "last event"),
    ],
)
def test_pairs_that_cannot_be_answered_are_refused(folder: Path, pairs: dict[str, list[int]], words: str) -> None:
    with pytest.raises((DataError, InvalidValueError), match=words):
        open_run(folder).predict(pa.table(pairs))


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="stepwell train"):
        open_run(tmp_path)


def test_the_plan_shows_predicted_and_after_a_run_measured_figures(log: EventLog, experiment: Experiment) -> None:
    job = link_prediction(log, experiment=override(experiment, ["loop.epochs=1"]))
    before = str(job.plan)
    assert "predicted" in before and "measured" not in before and "Neighbors" in before
    result = job.fit()
    assert "measured" in str(result.plan)
    assert all(node.measured is not None for _, node in result.plan.rows())


def test_scores_stand_beside_what_needs_no_training(log: EventLog, experiment: Experiment) -> None:
    result = link_prediction(log, experiment=override(experiment, ["loop.epochs=1"])).fit()
    for name in ("edgebank", "most recent", "popularity", "P1", "P3", "mrr"):
        assert name in result.table


@pytest.mark.parametrize("model", list(models))
def test_every_model_trains_with_features_and_without(log: EventLog, experiment: Experiment, model: str) -> None:
    chosen = override(experiment, [f"model.name={model}", "loop.epochs=1", "sampling.k=4", "evaluation.ranking=50"])
    rows = log.src[:600], log.dst[:600], log.time[:600]
    for features in (np.ones((600, 3), np.float32), None):
        one = EventLog.from_arrays(*rows, features=features, num_nodes=log.num_nodes)
        assert np.isfinite(link_prediction(one, experiment=chosen).fit().history[0].loss)


def test_a_job_lets_the_planner_choose_what_is_left_open(log: EventLog, experiment: Experiment) -> None:
    exact = link_prediction(log, experiment=experiment, accuracy="exact").experiment
    assert exact.batches.kind == "fixed" and exact.placement.policy == "none"
    assert Experiment.from_json(exact.to_json()) == exact
    pinned = override(experiment, ["batches.kind=adaptive", "batches.prefetch=0", "sampling.sampler=uniform"])
    kept = link_prediction(log, experiment=pinned, accuracy="exact").experiment
    assert kept == pinned


def test_adaptive_batches_train_and_evaluation_batches_stay_fixed(log: EventLog, experiment: Experiment) -> None:
    chosen = override(experiment, ["batches.kind=adaptive", "loop.epochs=1"])
    job = link_prediction(log, experiment=chosen)
    result = job.fit()
    assert "AdaptiveBatches" in str(job.training.batches) and "batch=100" not in str(result.reports[0].protocol)
    assert str(result.reports[0].protocol) == str(
        link_prediction(log, experiment=experiment).fit(1).reports[0].protocol
    )


def test_a_model_takes_its_own_settings_by_name(log: EventLog, experiment: Experiment) -> None:
    chosen = override(experiment, ["model.options=delta=memory,heads=4"])
    model = link_prediction(log, experiment=chosen).model
    assert isinstance(model, TGN) and model.settings.delta == "memory" and model.settings.heads == 4
    with pytest.raises(UnknownNameError, match="heads"):
        _ = link_prediction(log, experiment=override(experiment, ["model.options=haeds=4"])).model


def test_a_run_measures_every_stage_that_was_predicted(log: EventLog, experiment: Experiment) -> None:
    result = link_prediction(log, experiment=override(experiment, ["loop.epochs=1"])).fit()
    assert all(node.measured is not None for _, node in result.plan.rows())
    miss = largest_miss(result.plan)
    assert miss is not None and miss.measured_s > 0


def test_an_unknown_model_suggests_the_near_one(log: EventLog, experiment: Experiment) -> None:
    with pytest.raises(UnknownNameError, match="tgat"):
        link_prediction(log, experiment=override(experiment, ["model.name=tgaat"])).fit()


def test_labels_are_classified_from_frozen_embeddings(log: EventLog, experiment: Experiment) -> None:
    result = node_classification(log, experiment=override(experiment, ["loop.epochs=1"])).fit()
    assert 0 <= result.labels[0].value <= 1 and "labels" in result.table


def test_a_log_without_labels_cannot_be_classified(log: EventLog) -> None:
    with pytest.raises(InvalidValueError, match="label"):
        node_classification(EventLog.from_arrays(log.src, log.dst, log.time))


def test_parts_are_timed(experiment: Experiment) -> None:
    rows = time_parts(experiment, batches=3)
    assert all(value > 0 for value in rows.values()) and len(rows) == 4


@pytest.mark.parametrize("name", list(recipes))
def test_every_recipe_survives_json(name: str) -> None:
    experiment = recipes[name]()
    assert Experiment.from_json(experiment.to_json()) == experiment
