"""A configuration of a study is bit for bit the model that it would be alone, whoever trains it and whatever dies."""

import pytest
import torch

from stepwell.select.data import cut
from stepwell.select.searching import StudySettings, search
from stepwell.select.trainee import Live, read_blob, unpack
from tests.equivalence.select import selected

SETTINGS = StudySettings(partitions=4, slices=2, batch_size=32)
EPOCHS = 2


def states(study):
    """Return every tensor of every configuration's final state, generators included."""
    return {
        one.name: read_blob(study.records.state_path(one.name, one.version).read_bytes()).tensors()
        for one in study.configs
    }


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].keys() == second[name].keys()
        assert all(torch.equal(first[name][key], second[name][key]) for key in first[name]), name


def run(build, folder, **more):
    space = selected.GRID if build is not selected.with_everything else {"lr": [0.1, 0.01]}
    settings = more.pop("settings", SETTINGS)
    return search(space, selected.data(), build, epochs=EPOCHS, folder=folder, settings=settings, **more)


@pytest.mark.parametrize("build", [selected.with_momentum, selected.with_adam, selected.with_everything])
def test_a_study_in_one_process_equals_sequential_training(build, tmp_path):
    study = run(build, tmp_path)
    source = cut(selected.data(), partitions=4, slices=2)
    for config in study.configs:
        expected = selected.alone(build, config.params, source, EPOCHS, config.number % 4, 32)
        model = study.model(config.name)
        for name, value in expected.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), (config.name, name)


@pytest.mark.parametrize("build", [selected.with_momentum, selected.with_adam])
@pytest.mark.parametrize("live_bytes", [0, 1 << 28])
def test_states_that_hop_through_files_change_nothing(build, live_bytes, tmp_path):
    here = StudySettings(partitions=4, slices=2, batch_size=32, live_bytes=live_bytes)
    assert_same(states(run(build, tmp_path / "a", settings=here)), states(run(build, tmp_path / "b")))


@pytest.mark.distributed
def test_two_and_four_workers_give_the_same_bits_and_a_killed_one_changes_nothing(tmp_path, monkeypatch):
    flag = tmp_path / "kill"
    monkeypatch.setenv("STEPWELL_TEST_KILL", str(flag))
    expected = run(selected.with_adam, tmp_path / "one")
    two = run(selected.with_adam, tmp_path / "two", workers=2)
    four = run(selected.with_adam, tmp_path / "four", workers=4, step=selected.killing_step)
    assert sum(one.lost for one in four.configs) == 1
    for study in (two, four):
        assert_same(states(expected), states(study))
        assert [one.scores[-1].value for one in study.configs] == [one.scores[-1].value for one in expected.configs]
        assert all(one.status == "finished" for one in study.configs)


def test_the_order_of_visits_is_free_if_asked_for_and_every_partition_is_visited_once(tmp_path):
    free = StudySettings(partitions=4, slices=2, batch_size=32, order="free", schedule="latin")
    study = run(selected.with_momentum, tmp_path, settings=free)
    for config in study.configs:
        for epoch in range(EPOCHS):
            assert sorted(config.visits[4 * epoch : 4 * epoch + 4]) == [0, 1, 2, 3]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_fused_configurations_are_those_trained_alone_up_to_rounding(optimizer, tmp_path):
    study = search(
        {"lr": [0.1, 0.03, 0.01], "weight_decay": [0.0, 0.01], "kind": optimizer},
        selected.data(),
        fusable,
        epochs=EPOCHS,
        folder=tmp_path,
        settings=StudySettings(partitions=4, slices=2, batch_size=32, lanes=1, fuse=8),
    )
    assert max(len(span.configs) for span in study.records.spans) == 6
    source = cut(selected.data(), partitions=4, slices=2)
    for config in study.configs:
        expected = selected.alone(fusable, config.params, source, EPOCHS, 0, 32)
        live = Live(fusable(config.params))
        unpack(live, study.records.state_path(config.name, config.version).read_bytes())
        found = live.trainee.model.state_dict()
        for name, value in expected.model.state_dict().items():
            assert (found[name] - value).abs().max() < 1e-5
        mine, theirs = live.trainee.optimizer.state_dict(), expected.optimizer.state_dict()
        for number, entries in theirs["state"].items():
            for name, value in entries.items():
                if value is not None:
                    assert (mine["state"][number][name] - value).abs().max() < 1e-4, name
        assert mine["param_groups"][0]["lr"] == theirs["param_groups"][0]["lr"]


def fusable(params):
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    kind = params["kind"]
    settings = {"lr": params["lr"], "weight_decay": params["weight_decay"]}
    if kind.startswith("adam"):
        made = (torch.optim.Adam if kind == "adam" else torch.optim.AdamW)(model.parameters(), **settings)
        return selected.Trainee(model, made, torch.optim.lr_scheduler.ExponentialLR(made, 0.99))
    momentum = 0.0 if kind == "sgd" else 0.9
    made = torch.optim.SGD(model.parameters(), momentum=momentum, nesterov=kind == "nesterov", **settings)
    return selected.Trainee(model, made, torch.optim.lr_scheduler.StepLR(made, 1, 0.5), "epoch")


def test_what_could_differ_by_more_than_rounding_is_not_fused(tmp_path):
    fused = StudySettings(partitions=4, slices=2, batch_size=32, lanes=1, fuse=8)
    study = run(selected.with_everything, tmp_path / "a", settings=fused)
    assert max(len(span.configs) for span in study.records.spans) == 1
    study = run(selected.with_adam, tmp_path / "b", settings=fused)
    together = {frozenset(span.configs) for span in study.records.spans if len(span.configs) > 1}
    assert together
    assert all(study[name].params["drop"] == 0.0 for names in together for name in names)
