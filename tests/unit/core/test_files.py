import pytest

from stepwell.core.files import whole_file


def test_a_file_is_the_old_one_until_the_whole_new_one_takes_its_place(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with whole_file(path, durable=True) as aside:
        aside.write_text("new")
        assert aside.suffix == ".html"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(KeyError), whole_file(path) as aside:
        aside.write_text("half")
        raise KeyError("stopped")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
