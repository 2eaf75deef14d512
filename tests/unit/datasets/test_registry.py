"""Data sets are found locally, verified, and refused with a way out."""

import gzip
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell.core.errors import DataError, UnknownNameError
from stepwell.datasets import Dataset, DownloadError, File, datasets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPWELL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("STEPWELL_HOME", str(tmp_path / "home"))
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    return tmp_path / "data" / "tiny"


def test_every_promised_stream_is_registered() -> None:
    promised = {
        "jodie-wikipedia",
        "jodie-reddit",
        "jodie-mooc",
        "jodie-lastfm",
        "collegemsg",
        "enron",
        "sx-mathoverflow",
    }
    assert promised | {"email-eu-core-temporal", "bitcoin-otc", "bitcoin-alpha"} <= set(datasets)


def test_an_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(UnknownNameError, match="collegemsg"):
        datasets["colegemsg"]


def test_a_local_file_is_found_and_verified(folder: Path) -> None:
    pq.write_table(pa.table({"src": [1], "dst": [2], "ts": [3]}), folder / "e.parquet")
    digest = hashlib.sha256((folder / "e.parquet").read_bytes()).hexdigest()
    schema, rows = Dataset("tiny", "", "", (File("e.parquet", digest),)).batches()
    assert schema.names == ["src", "dst", "ts"] and sum(b.num_rows for b in rows) == 1


def test_a_file_with_another_checksum_is_refused(folder: Path) -> None:
    (folder / "e.parquet").write_bytes(b"not it")
    with pytest.raises(DataError, match="sha256"):
        Dataset("tiny", "", "", (File("e.parquet", "00"),)).find()


def test_an_absent_set_says_which_file_to_put_where(folder: Path) -> None:
    with pytest.raises(DownloadError, match=r"Get gone\.csv .* put it into .*tiny"):
        Dataset("tiny", "", "somewhere", (File("gone.csv"),)).find()


def test_blank_separated_lists_and_short_headers_are_read(folder: Path) -> None:
    with gzip.open(folder / "s.txt.gz", "wt") as out:
        out.write("1 2 10\n3 4 20\n")
    schema, rows = Dataset("tiny", "", "", (File("s.txt.gz", layout="snap"),)).batches()
    assert schema.names == ["src", "dst", "ts"] and next(rows).num_rows == 2
    (folder / "j.csv").write_text(
        "user_id,item_id,timestamp,state_label,features\n0,0,0.0,0,0.1,0.2\n1,0,5.0,1,0.3,0.4\n"
    )
    schema, rows = Dataset("tiny", "", "", (File("j.csv", layout="jodie"),)).batches()
    assert schema.names == ["user", "item", "ts", "state_label", "f0", "f1"] and next(rows).num_rows == 2
