"""The machine's profile is measured once and kept."""

from pathlib import Path

import pytest

from stepwell.plan import calibrate, machine


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
