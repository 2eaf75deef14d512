"""Saved state: nested names, copies, and writing that a crash cannot tear."""

import gc
import os

import numpy as np
import pytest
import torch

from stepwell.core import state
from stepwell.core.errors import CheckpointError
from stepwell.core.state import read_state, state_exists, write_state


def record_value(value):
    def record(writer):
        writer.value("step", value)
        writer.child("memory").tensor("rows", torch.full((2,), float(value)))

    return record


def test_what_was_written_is_read_back_by_the_same_names(tmp_path):
    def record(writer):
        record_value(3)(writer)
        writer.child("memory").tensor("ids", np.arange(4)[::2])

    write_state(tmp_path / "deep" / "state", record)
    reader = read_state(tmp_path / "deep" / "state")

    assert reader.value("step") == 3
    memory = reader.child("memory")
    assert memory.tensor("rows").tolist() == [3.0, 3.0]
    assert memory.tensor("ids").tolist() == [0, 2]
    assert sorted(memory.tensors()) == ["ids", "rows"]
    assert reader.has("memory") and reader.has("memory/rows") and not reader.has("mem")


def test_a_writer_copies_at_once():
    writer, rows = state.StateWriter(), torch.zeros(2)
    writer.tensor("rows", rows)
    rows += 1

    assert writer.tensors["rows"].tolist() == [0.0, 0.0]


def test_missing_names_say_so(tmp_path):
    write_state(tmp_path / "state", record_value(1))
    reader = read_state(tmp_path / "state")

    with pytest.raises(CheckpointError, match="no tensor 'memory/mail'"):
        reader.child("memory").tensor("mail")
    with pytest.raises(CheckpointError, match="no value 'epoch'"):
        reader.value("epoch")


@pytest.mark.parametrize("fatal_rename", [1, 2])
def test_a_crash_at_either_rename_leaves_the_old_state_readable(tmp_path, monkeypatch, fatal_rename):
    write_state(tmp_path / "state", record_value(1))
    rename, calls = os.replace, []

    def crash(source, target):
        calls.append(source)
        if len(calls) == fatal_rename:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(state.os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write_state(tmp_path / "state", record_value(2))

    assert state_exists(tmp_path / "state")
    assert read_state(tmp_path / "state").value("step") == 1

    write_state(tmp_path / "state", record_value(3))
    assert read_state(tmp_path / "state").value("step") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_failing_record_leaves_nothing_behind(tmp_path):
    def fail(writer):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_state(tmp_path / "state", fail)

    assert not state_exists(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_absent_and_torn_states_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="No checkpoint"):
        read_state(tmp_path / "none")

    write_state(tmp_path / "state", record_value(1))
    (tmp_path / "state" / "tensors.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="torn"):
        read_state(tmp_path / "state")


def test_a_file_is_copied_at_once_with_its_holes_and_read_back(tmp_path):
    source = tmp_path / "rows"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        for place in (3 << 20, 40 << 20):
            file.seek(place)
            file.write(b"water")
    content = source.read_bytes()

    def record(writer):
        writer.child("memory").file("rows", source)
        os.truncate(source, 0)

    write_state(tmp_path / "state", record)
    kept = read_state(tmp_path / "state").child("memory").file("rows")

    assert kept.read_bytes() == content
    assert kept.stat().st_blocks * 512 < 1 << 20


def test_files_of_an_unwritten_state_live_as_long_as_its_reader(tmp_path):
    (tmp_path / "rows").write_bytes(b"water")
    writer = state.StateWriter()
    writer.file("rows", tmp_path / "rows")
    reader = writer.reader()
    path = reader.file("rows")
    del writer
    gc.collect()
    assert path.read_bytes() == b"water"

    del reader
    gc.collect()
    assert not path.parent.exists()


def test_a_missing_file_says_so(tmp_path):
    write_state(tmp_path / "state", record_value(1))
    with pytest.raises(CheckpointError, match="no file 'memory/rows'"):
        read_state(tmp_path / "state").child("memory").file("rows")
    with pytest.raises(CheckpointError, match="could not be copied"):
        state.StateWriter().file("rows", tmp_path / "nowhere")
