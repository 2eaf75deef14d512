"""The machine's profile is measured once and kept."""

from pathlib import Path

import pytest
import torch

from stepwell.core import Machine
from stepwell.plan import calibrate, machine
from stepwell.plan.machine import profile_name, step_costs


def test_every_rate_is_positive() -> None:
    profile = calibrate()
    assert min(profile.gather_bytes_per_s, profile.flops_per_s, profile.queries_per_s, profile.step_overhead_s) > 0


def test_the_profile_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_HOME", str(tmp_path))
    first = machine()
    assert machine() == first and len(list(tmp_path.iterdir())) == 1


def test_a_torn_profile_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_HOME", str(tmp_path))
    machine()
    next(tmp_path.iterdir()).write_text("{")
    assert machine().threads >= 1


def test_a_step_costs_the_same_replayed_where_there_are_no_graphs() -> None:
    eager, replayed = step_costs("cpu")
    assert 0 < eager == replayed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_no_launch_is_said_to_be_saved() -> None:
    profile = calibrate()
    assert profile.device_step_s == profile.replay_s == profile.launch_s == 0


def test_a_graph_saves_what_a_replay_takes_less_and_never_less_than_nothing() -> None:
    assert Machine(device_step_s=3e-3, replay_s=1e-3).launch_s == pytest.approx(2e-3)
    assert Machine(device_step_s=1e-3, replay_s=2e-3).launch_s == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replay_takes_less_than_its_launches() -> None:
    eager, replayed = step_costs("cuda")
    assert 0 < replayed < eager


def test_a_profile_made_without_a_device_is_not_that_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    without = profile_name()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert profile_name() == without.replace(".json", "-NVIDIA-H100-80GB-HBM3.json")


def test_a_profile_of_a_version_that_measured_less_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPWELL_HOME", str(tmp_path))
    (tmp_path / profile_name()).write_text('{"threads": 77}')
    assert machine().threads == torch.get_num_threads()
