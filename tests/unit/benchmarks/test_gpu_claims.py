"""Claims of an accelerator are not measured without one."""

from __future__ import annotations

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import harness


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_nothing_is_measured_or_written_and_a_reason_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)

    assert command.measure("gpu_attention", quick=True) == 0
    assert "need a CUDA device" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
