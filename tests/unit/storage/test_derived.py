"""What killed processes leave behind goes at the next build; what a living one holds stays."""

import pytest

from stepwell.storage.derived import scratch_folder


@pytest.mark.parametrize("files", [[], ["a.npy"]], ids=["before its lock was made", "while it was tidied away"])
def test_a_folder_without_a_lock_is_swept_away(tmp_path, files):
    left = tmp_path / ".index.dead"
    left.mkdir()
    for name in files:
        (left / name).touch()
    with scratch_folder(tmp_path, ".index.") as mine:
        assert mine.exists()
        assert not left.exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path):
    with scratch_folder(tmp_path, ".index.") as one, scratch_folder(tmp_path, ".index.") as other:
        assert one.exists() and other.exists() and one != other
