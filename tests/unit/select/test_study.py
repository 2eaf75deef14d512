"""A study: failures stay with who failed, steering is obeyed, validation counts examples, answers are honest."""

import numpy as np
import pytest
import torch

from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.select.compare import Verdict
from stepwell.select.searching import StudySettings, search
from stepwell.select.space import Uniform
from stepwell.select.study import Study
from stepwell.select.trainee import Trainee
from stepwell.select.usual import Metric
from tests.equivalence.select import selected

SETTINGS = StudySettings(partitions=4, slices=3, batch_size=32)


def run(folder, space=None, build=selected.with_momentum, **more):
    return search(
        space or {"lr": [0.1, 0.01], "width": 8},
        selected.data(),
        build,
        **{"epochs": 2, "folder": folder, "settings": SETTINGS, **more},
    )


def same(first, second, name):
    one, other = first.model(name).state_dict(), second.model(name).state_dict()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_who_raises_diverges_or_wants_too_much_memory_ends_with_its_reason_and_nobody_else_is_touched(tmp_path):
    faults = ["raises in build", "raises in step", "diverges", "memory", "none"]
    study = run(tmp_path / "a", {"fault": faults, "width": 8}, selected.faulty)
    reasons = {one.params["fault"]: (one.status, one.reason) for one in study.configs}
    assert reasons["none"] == ("finished", "")
    assert reasons["raises in build"] == ("failed", "ValueError: no such architecture")
    assert "shapes cannot be multiplied" in reasons["raises in step"][1]
    assert reasons["diverges"][1].startswith("the loss became")
    assert reasons["memory"][1].startswith("out of memory")
    assert study.best().params["fault"] == "none"
    other = run(
        tmp_path / "b", {"fault": ["none"], "width": 8}, selected.faulty, settings=StudySettings(4, 3, 32, lanes=1)
    )
    assert other["c0"].status == "finished"


@pytest.mark.distributed
def test_a_configuration_that_kills_its_worker_again_and_again_ends_and_the_others_finish(tmp_path):
    space = {"lr": [0.1], "width": [8, 12], "drop": [0.0]}
    study = run(tmp_path / "a", space, workers=2, step=selected.dying_step, epochs=1)
    good, bad = study.configs
    assert (good.status, bad.status) == ("finished", "failed")
    assert bad.reason == "its worker was killed by SIGKILL 3 times"
    assert same(study, run(tmp_path / "b", space, epochs=1), good.name)


def test_a_fused_group_with_a_faulty_member_goes_on_without_it(tmp_path):
    fused = StudySettings(partitions=4, slices=3, batch_size=32, lanes=1, fuse=8)
    study = run(tmp_path, {"lr": [0.1, 1e38, 0.01], "width": 8}, settings=fused)
    assert [one.status for one in study.configs] == ["finished", "failed", "finished"]
    assert study.records.spans[0].configs == ("c0", "c2")


def test_the_largest_accuracy_and_the_smallest_loss_are_best(tmp_path):
    study = run(tmp_path / "a", {"lr": [1e-5, 0.1], "width": 8})
    assert study.best().params["lr"] == 0.1
    study = run(tmp_path / "b", {"lr": [1e-5, 0.1], "width": 8}, metric="loss")
    assert study.best().params["lr"] == 0.1
    assert study.records.sign == -1


def test_a_validation_is_the_mean_over_examples_not_over_slices(tmp_path):
    study = run(tmp_path, settings=StudySettings(partitions=4, slices=7, batch_size=32))
    for config in study.configs:
        assert config.scores[-1].num_values == 80
        assert config.scores[-1].value == pytest.approx(study.values(config.name).astype(float).mean())


def test_every_configuration_has_a_first_score_before_any_trains_a_second_time(tmp_path):
    study = run(tmp_path, {"lr": [0.3, 0.1, 0.03, 0.01], "width": [8, 12]}, epochs=1)
    first = {
        span.configs[0]: place for place, span in reversed(list(enumerate(study.records.spans))) if span.phase == "peek"
    }
    assert max(first.values()) < 2 * len(study.configs)
    assert all(one.peeks[0].units == 1 and one.peeks[0].slice == 0 for one in study.configs)


def test_steering_stops_resumes_clones_and_adds(tmp_path):
    class Hand:
        """Gives commands while the study runs."""

        def hear(self, records, event):
            if event["kind"] == "unit" and len(records.spans) == 3:
                Study(records.folder).stop("c0")
                Study(records.folder).add({"lr": 0.2, "width": 8})

        def close(self, records):
            pass

    study = run(tmp_path, watchers=[Hand()])
    assert [one.status for one in study.configs] == ["stopped", "finished", "finished"]
    assert study["c2"].params == {"lr": 0.2, "width": 8}
    assert study["c0"].version < 8
    study.resume("c0")
    study.clone("c1", {"lr": 0.02}, epochs=4)
    study.clone("c1", {"lr": 0.02}, warm=False)
    study = run(tmp_path)
    assert [one.status for one in study.configs] == ["finished"] * 5
    warm, cold = study["c3"], study["c4"]
    assert (warm.epoch, cold.epoch) == (4, 2)
    assert warm.visits[:8] == study["c1"].visits
    assert (warm.warm, cold.warm) == (8, -1)
    reference = run(tmp_path.with_name(tmp_path.name + "x"))
    assert same(study, reference, "c0"), "stopped and resumed, it is the model it would have been"


def test_a_warm_clone_keeps_weights_and_moments_and_takes_the_new_rate(tmp_path):
    study = run(tmp_path, build=selected.with_adam, epochs=1)
    study.clone("c0", {"lr": 0.0}, epochs=2)
    study = run(tmp_path, build=selected.with_adam, epochs=1)
    assert study["c2"].epoch == 2
    assert same(study, study, "c0")
    one, other = study.model("c0").state_dict(), study.model("c2").state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one), "a rate of zero changes nothing"


def test_a_population_copies_weights_and_optimiser(tmp_path):
    study = run(tmp_path, {"lr": Uniform(1e-6, 0.3, log=True), "width": [8, 12]}, searcher="pbt", configs=4, epochs=3)
    copies = [one for one in study.configs if one.parent]
    assert copies
    for one in copies:
        assert one.visits[: one.warm] == study[one.parent].visits[: one.warm]
        assert one.losses[: one.warm] == study[one.parent].losses[: one.warm]


def test_best_says_when_it_is_not_decided(tmp_path):
    study = run(tmp_path / "a", {"lr": [0.1, 0.101], "width": 8})
    close = study.best(0.95)
    assert isinstance(close, Verdict)
    assert not close.decided
    assert "not decided yet" in str(close)
    study = run(tmp_path / "b", {"lr": [0.1, 1e-7], "width": 8})
    clear = study.best(0.95)
    assert clear.decided
    assert clear.leader.params["lr"] == 0.1
    with pytest.raises(InvalidValueError):
        study.best(1.5)


def test_a_shared_frozen_prefix_is_computed_once_and_changes_nothing(tmp_path):
    calls = []

    def with_prefix(params):
        torch.manual_seed(5)
        body = torch.nn.Sequential(torch.nn.Linear(10, 6), torch.nn.ReLU()).requires_grad_(False)
        body.register_forward_hook(lambda *_: calls.append(1))
        torch.manual_seed(params["width"])
        head = torch.nn.Linear(6, 3)
        return Trainee(head, torch.optim.SGD(head.parameters(), lr=0.1), prefix=body)

    def without(params):
        made = with_prefix(params)
        return Trainee(torch.nn.Sequential(made.prefix, made.model), made.optimizer)

    space = {"width": [1, 2, 3]}
    study = run(tmp_path / "a", space, with_prefix)
    assert len(calls) == 4 + 3, "once a partition and once a slice, for all configurations and epochs"
    plain = run(tmp_path / "b", space, without)
    for config in study.configs:
        one, other = study.model(config.name), plain.model(config.name)
        assert torch.allclose(one[1].weight, other[1].weight, atol=1e-6)


def test_mappings_datasets_and_regression_work_too(tmp_path):
    x, y = selected.data()

    def step(model, batch):
        return torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])

    def score(model, batch):
        return (model(batch["x"]).argmax(1) == batch["y"]).float()

    named = search({"lr": 0.1}, {"x": x, "y": y}, selected.with_momentum, epochs=2, folder=tmp_path / "a",
                   settings=SETTINGS, step=step, metric=Metric("right", score, "max", (0, 1)))  # fmt: skip
    plain = search({"lr": 0.1}, (x, y), selected.with_momentum, epochs=2, folder=tmp_path / "b", settings=SETTINGS)
    assert same(named, plain, "c0")
    rows = torch.utils.data.TensorDataset(x, y)
    tensors = search({"lr": 0.1}, rows, selected.with_momentum, epochs=2, folder=tmp_path / "c", settings=SETTINGS)
    assert same(tensors, plain, "c0")
    subset = torch.utils.data.Subset(rows, list(range(300)))
    study = search({"lr": 0.1}, subset, selected.with_momentum, epochs=2, folder=tmp_path / "d", settings=SETTINGS)
    assert study["c0"].scores[-1].num_values == 60
    line = search({"lr": 0.05}, (x, x[:, :1] * 2), lambda p: torch.nn.Linear(10, 1), metric="mse", epochs=20,
                  folder=tmp_path / "e", settings=SETTINGS)  # fmt: skip
    assert line.best().value < 0.1
    assert "loss" not in str(line)


def test_wrong_arguments_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(InvalidValueError, match="metric"):
        run(tmp_path, metric="f1")
    with pytest.raises(InvalidValueError, match="mode"):
        run(tmp_path, metric=Metric("right", lambda model, batch: batch[1], "largest"))
    with pytest.raises(InvalidValueError, match="mode"):
        run(tmp_path, metric="loss", mode="max")
    with pytest.raises(InvalidValueError, match="configs"):
        run(tmp_path, searcher="random")
    with pytest.raises(InvalidValueError, match="data"):
        search({"lr": 0.1}, ["text"], selected.with_momentum, folder=tmp_path)
    with pytest.raises(CheckpointError, match="No study"):
        Study(tmp_path / "nowhere")


def test_the_values_of_a_validation_are_those_of_the_model(tmp_path):
    study = run(tmp_path)
    x, y = selected.data()
    values = study.values("c0")
    right = (study.model("c0")(x).argmax(1) == y).float().numpy()
    from stepwell.select.data import cut

    rows = np.concatenate(cut((x, y), partitions=4, slices=3).slices)
    assert np.array_equal(values, right[rows])
