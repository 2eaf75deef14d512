import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell.access import (
    AllDestinations,
    Candidates,
    FileNegatives,
    FixedBatches,
    HistoricalNegatives,
    InductiveNegatives,
    Pipeline,
    UniformNegatives,
)
from stepwell.core import Machine, Slice
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.storage import EventLog


def _candidate(log, negatives, **options):
    return Candidates(log, negatives, **options)(log.read(Slice(0, 0, 0, len(log)))).array("candidate")


def test_without_negatives_the_true_destination_stands_alone(log):
    assert np.array_equal(_candidate(log, None), log.dst[:, None])


def test_column_zero_is_the_true_destination(log):
    found = _candidate(log, UniformNegatives(3))
    assert found.shape == (40, 4)
    assert found.dtype == np.int64
    assert np.array_equal(found[:, 0], log.dst)


def test_a_view_draws_the_same_negatives_as_the_whole(log):
    negatives = UniformNegatives(2)
    assert np.array_equal(_candidate(log[10:20], negatives), _candidate(log, negatives)[10:20])


def test_historical_negatives_fall_back_to_any_destination_for_an_unknown_source():
    log = EventLog.from_arrays(src=[0, 0, 1], dst=[2, 3, 4], time=[1, 2, 3])
    found = _candidate(log, HistoricalNegatives(log[:2], per_event=20))
    assert set(found[0, 1:].tolist()) == {3}
    assert set(found[1, 1:].tolist()) == {2}
    assert set(found[2, 1:].tolist()) == {2, 3, 4}


def test_inductive_negatives_are_pairs_of_the_evaluation_that_training_lacks():
    log = EventLog.from_arrays(src=[0, 0, 0, 0], dst=[2, 3, 4, 2], time=[1, 2, 3, 4])
    found = _candidate(log, InductiveNegatives(log[:1], log[1:], per_event=20))
    assert set(found[3, 1:].tolist()) == {3, 4}
    assert set(found[1, 1:].tolist()) == {4}


def test_all_destinations_pad_what_is_also_true_now():
    log = EventLog.from_arrays(src=[0, 0, 1], dst=[5, 6, 7], time=[1, 1, 1])
    assert _candidate(log, AllDestinations()).tolist() == [[5, 7, -1], [6, 7, -1], [7, 5, 6]]
    assert _candidate(log, AllDestinations(exclude_true=False)).tolist() == [[5, 6, 7], [6, 5, 7], [7, 5, 6]]


def test_padded_candidates_get_row_zero_and_no_target():
    from stepwell.access import Recent

    log = EventLog.from_arrays(src=[0, 0, 1], dst=[5, 6, 7], time=[1, 1, 1])
    batch = next(iter(Pipeline(log, FixedBatches(3), negatives=AllDestinations(), sampler=Recent(2))))
    assert (batch.levels[0].node >= 0).all()
    real = batch.candidate >= 0
    assert (batch.levels[0].node[batch.candidate_row][real] == batch.candidate[real]).all()
    assert (batch.candidate_row[~real] == 0).all()


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_negatives_from_a_file_are_found_by_source_destination_and_time(tmp_path, ending):
    log = EventLog.from_arrays(src=[0, 1, 0], dst=[2, 3, 3], time=[1, 2, 2])
    path = tmp_path / f"negatives.{ending}"
    src, dst, time = [0, 0, 1], [3, 2, 3], [2, 1, 2]
    if ending == "npz":
        np.savez(path, src=src, dst=dst, time=time, negative=[[2, -1], [3, 1], [2, 0]])
    else:
        pq.write_table(pa.table({"src": src, "dst": dst, "time": time, "negative": [[2], [3, 1], [2, 0]]}), path)
    negatives = FileNegatives(path)
    assert negatives.width == 2
    assert _candidate(log, negatives).tolist() == [[2, 3, 1], [3, 2, 0], [3, 2, -1]]


def test_a_bad_file_of_negatives_is_named_with_what_is_allowed(tmp_path, log):
    with pytest.raises(DataError, match="no such file"):
        FileNegatives(tmp_path / "absent.npz")
    (tmp_path / "negatives.pkl").write_bytes(b"")
    with pytest.raises(DataError, match="pickle can run code"):
        FileNegatives(tmp_path / "negatives.pkl")
    np.savez(tmp_path / "short.npz", src=[0], dst=[3])
    with pytest.raises(DataError, match=r"no column .*negative"):
        FileNegatives(tmp_path / "short.npz")
    pq.write_table(pa.table({"src": [0]}), tmp_path / "short.parquet")
    with pytest.raises(DataError, match="no column"):
        FileNegatives(tmp_path / "short.parquet")
    np.savez(tmp_path / "flat.npz", src=[0], dst=[3], time=[1], negative=[2])
    with pytest.raises(DataError, match="shape"):
        FileNegatives(tmp_path / "flat.npz")
    np.savez(tmp_path / "ragged.npz", src=[0, 1], dst=[3], time=[1], negative=[[2]])
    with pytest.raises(DataError, match="differ in length"):
        FileNegatives(tmp_path / "ragged.npz")
    np.savez(tmp_path / "other.npz", src=[9], dst=[9], time=[9], negative=[[2]])
    with pytest.raises(DataError, match="no negatives for the event src="):
        _candidate(log, FileNegatives(tmp_path / "other.npz"))


def test_bad_settings_name_what_is_allowed(log):
    for make in (UniformNegatives, lambda n: HistoricalNegatives(log, n), lambda n: InductiveNegatives(log, log, n)):
        with pytest.raises(InvalidValueError, match="`per_event` must be at least 1, got 0"):
            make(0)
    single = EventLog.from_arrays(src=[0], dst=[1], time=[1])
    with pytest.raises(InvalidValueError, match="single destination"):
        _candidate(single, UniformNegatives(exclude_positive=True))


def test_the_stage_says_its_width_and_prints_itself(log):
    assert Candidates(log, AllDestinations()).width == 4
    assert Candidates(log, UniformNegatives(3)).width == 4
    stage = Candidates(log)
    assert stage.width == 1
    assert "true destinations alone" in str(stage)
    assert stage.cost(log.statistics(), Machine()).rows == 40
