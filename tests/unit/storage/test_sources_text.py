"""Text files: delimiters, headers, comments, compression, types that every value fits, torn lines by number."""

import gzip

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.storage import text
from stepwell.storage.sources import CsvFile, open_source


def read(path, **options):
    rows = open_source(CsvFile(path, **options)) if options else open_source(path)
    return pa.Table.from_batches(rows.batches(), rows.schema)


@pytest.mark.parametrize(
    ("name", "content", "names", "rows"),
    [
        ("a.csv", "u,v\n1,x\n", ["u", "v"], [(1, "x")]),
        ("a.csv", "1,2\n3,4\n", ["c0", "c1"], [(1, 2), (3, 4)]),
        ("a.csv", "u;v\n1;2\n", ["u", "v"], [(1, 2)]),
        ("a.csv", '"u ","v, w"\r\n1,2\r\n', ["u", "v, w"], [(1, 2)]),
        ("a.csv", 'u,v\n"two\nlines",12:30\n', ["u", "v"], [("two\nlines", "12:30")]),
        ("a.tsv", "u\tv\na b\t2\n", ["u", "v"], [("a b", 2)]),
        ("a.txt", "1 2 1082040961\n3 4 1082155839\n", ["c0", "c1", "c2"], [(1, 2, 1082040961), (3, 4, 1082155839)]),
        ("a.txt", "# FromNodeId ToNodeId\n% more\n\n 1  2\t3 \n4 5 6", ["c0", "c1", "c2"], [(1, 2, 3), (4, 5, 6)]),
        ("a.txt", "src dst t\n1 2 3\n", ["src", "dst", "t"], [(1, 2, 3)]),
        ("a.txt", "1,2,0.5\n", ["c0", "c1", "c2"], [(1, 2, 0.5)]),
    ],
)
def test_the_layout_is_told_from_the_first_lines(name, content, names, rows, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    table = read(tmp_path / name)
    assert table.column_names == names
    assert [tuple(row.values()) for row in table.to_pylist()] == rows


@pytest.mark.parametrize("compression", ["gzip", "zstd", "bz2"])
def test_compressed_text_is_read_like_plain_text(compression, tmp_path):
    suffix = {"gzip": "gz", "zstd": "zst", "bz2": "bz2"}[compression]
    path = tmp_path / f"a.csv.{suffix}"
    with pa.CompressedOutputStream(str(path), compression) as stream:
        stream.write(b"u,v\n" + b"1,2.5\n" * 1000)
    assert read(path).schema.types == [pa.int64(), pa.float64()]
    assert len(read(path)) == 1000


def test_options_replace_the_guess(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("user,item,and more\n0,1,2,3\n4,5,6,7\n")
    table = read(path, header=False, skip_lines=1, types=(("c0", pa.string()),))
    assert table.column_names == ["c0", "c1", "c2", "c3"]
    assert table["c0"].to_pylist() == ["0", "4"]
    with pytest.raises(DataError, match=r"column 'c1'.*'1.5'"):
        path.write_text("0,1\n0,1.5\n")
        read(path, header=False, types=(("c1", pa.int64()),))


def test_a_column_takes_the_type_that_its_last_value_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 4096)
    path = tmp_path / "late.csv"
    path.write_text("a,b,c\n" + "1,2,\n" * 5000 + "1.5,x,7\n")
    table = read(path)
    assert table.schema.types == [pa.float64(), pa.string(), pa.int64()]
    assert table.slice(5000).to_pylist() == [{"a": 1.5, "b": "x", "c": 7}]
    assert open_source(path).num_rows == 5001


@pytest.mark.parametrize(("line", "fields"), [("1,2,3", 3), ("1", 1)])
def test_a_ragged_line_is_named_by_its_number_before_any_row_is_used(line, fields, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK_BYTES", 4096)
    path = tmp_path / "ragged.csv"
    path.write_text("a,b\n" + "1,2\n" * 5000 + line + "\n")
    with pytest.raises(DataError, match=rf"ragged\.csv, line 5002: has {fields} fields where the first line has 2"):
        open_source(path)


def test_a_header_without_rows_and_a_doubled_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("u,v\n")
    with pytest.raises(DataError, match="has no rows"):
        open_source(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("u,u\n1,2\n")
    with pytest.raises(DataError, match=r"line 1: has the column name 'u' twice"):
        open_source(tmp_path / "a.csv")


def test_a_gzip_file_cut_short_is_named(tmp_path):
    content = gzip.compress(b"u,v\n" + b"".join(b"%d,%d\n" % (i, i * 7919 % 1000) for i in range(20_000)))
    (tmp_path / "cut.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.csv\.gz"):
        read(tmp_path / "cut.csv.gz")


def test_bad_options_are_refused():
    with pytest.raises(InvalidValueError, match="delimiter"):
        CsvFile("a.csv", delimiter=", ")
    with pytest.raises(InvalidValueError, match="skip_lines"):
        CsvFile("a.csv", skip_lines=-1)


@hypothesis.given(
    st.lists(st.tuples(*[st.integers(-(2**62), 2**62)] * 3), min_size=1, max_size=40),
    st.sampled_from(["  ", "\t", " \t "]),
)
def test_any_run_of_blanks_separates_like_one_comma(tmp_path_factory, rows, blank):
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_text("".join(blank.join(map(str, row)) + " \n" for row in rows))
    (folder / "a.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    assert read(folder / "a.txt").to_pylist() == read(folder / "a.csv").to_pylist()
