"""Optional neighbours: Optuna proposes, MLflow hears."""

import pytest

from stepwell.core.errors import MissingExtraError
from stepwell.select.searching import StudySettings, search
from stepwell.select.space import Space, Uniform, When
from stepwell.select.to_mlflow import ToMLflow
from stepwell.select.with_optuna import Optuna
from tests.equivalence.select import selected

SETTINGS = StudySettings(partitions=2, slices=2, batch_size=64)
SPACE = Space(
    {"lr": Uniform(1e-3, 0.5, log=True), "width": [8, 12], "drop": When("width", (12,), Uniform(0.0, 0.5)), "x": 1}
)


class Stop(Exception):
    pass


class Breaker:
    def __init__(self, after):
        self.left = after

    def hear(self, records, event):
        self.left -= 1
        if not self.left:
            raise Stop

    def close(self, records):
        pass


def run(folder, **more):
    finder = Optuna(SPACE, 2, configs=8, at_once=3)
    return search(
        SPACE,
        selected.data(),
        selected.with_momentum,
        searcher=finder,
        epochs=2,
        folder=folder,
        settings=SETTINGS,
        **more,
    )


@pytest.mark.filterwarnings("ignore")
def test_optuna_proposes_within_the_space_and_goes_on_after_a_break(tmp_path):
    pytest.importorskip("optuna", reason="needs the extra optuna")
    whole = run(tmp_path / "a")
    assert len(whole.configs) == 8
    assert all(("drop" in one.params) == (one.params["width"] == 12) for one in whole.configs)
    with pytest.raises(Stop):
        run(tmp_path / "b", watchers=[Breaker(60)])
    again = run(tmp_path / "b")
    assert [(one.params, one.losses) for one in again.configs] == [(one.params, one.losses) for one in whole.configs]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_hears_of_every_unit_of_every_configuration(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    study = search(
        {"lr": [0.1, 0.01], "width": 8},
        selected.data(),
        selected.with_momentum,
        epochs=2,
        folder=tmp_path / "study",
        settings=SETTINGS,
        watchers=[ToMLflow(uri)],
    )
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("stepwell").experiment_id])
    children = {one.info.run_name: one for one in runs if "mlflow.parentRunId" in one.data.tags}
    assert sorted(children) == ["c0", "c1"]
    for name, child in children.items():
        history = client.get_metric_history(child.info.run_id, "train_loss")
        assert [one.value for one in sorted(history, key=lambda one: one.step)] == study[name].losses
        assert child.data.metrics["accuracy"] == study[name].value


def test_what_is_not_installed_is_named_with_its_extra():
    for make, library in ((lambda: ToMLflow("sqlite://"), "mlflow"), (lambda: Optuna(SPACE, 1, 1), "optuna")):
        try:
            __import__(library)
        except ImportError:
            with pytest.raises(MissingExtraError, match=library):
                make()
