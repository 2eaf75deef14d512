"""Data are cut once: every row in one part, labels evenly, logs in time; every source gives the same in any process."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch

import stepwell as sw
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.select.data import cut
from stepwell.select.lake_data import LogData, TableData
from stepwell.select.searching import StudySettings, search
from stepwell.select.usual import Metric
from tests.equivalence.select import selected


def test_every_row_is_in_one_part_and_labels_are_spread_evenly():
    x, y = torch.arange(1000.0)[:, None], (torch.arange(1000) % 10 == 0).long()
    source = cut((x, y), 0.1, partitions=7, slices=3)
    parts = [*source.parts, *source.slices]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
    sizes = [len(part) for part in source.parts]
    assert max(sizes) - min(sizes) <= 1
    counts = [int(y[torch.from_numpy(part)].sum()) for part in source.parts]
    assert max(counts) - min(counts) <= 1


def test_batches_depend_on_seed_epoch_and_partition_alone_and_are_shuffled():
    source = cut((torch.arange(100.0)[:, None], torch.zeros(100)), partitions=4)
    rows = [[int(v) for x, _ in source.train(1, epoch, 7) for v in x[:, 0]] for epoch in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    assert sorted(rows[0]) == sorted(rows[2])


def test_shared_arrays_give_the_same_batches_after_pickling(tmp_path):
    source = cut(selected.data(), partitions=4)
    other = pickle.loads(pickle.dumps(source.shared(tmp_path)))
    for one, two in zip(source.train(2, 1, 32), other.train(2, 1, 32), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert len(pickle.dumps(source.shared(tmp_path))) < 20_000, "the arrays themselves are not sent"
    assert other.describe().endswith("80 rows to validate")


def log(events=240):
    draw = np.random.default_rng(0)
    src, dst = draw.integers(0, 10, events), 10 + draw.integers(0, 5, events)
    feature = draw.normal(size=(events, 3)).astype(np.float32)
    return sw.EventLog.from_arrays(src, dst, np.arange(events), label=(feature[:, 0] > 0).astype(np.int64),
                                   features=feature)  # fmt: skip


def test_a_log_is_cut_in_time_and_visited_in_time_order(tmp_path):
    source = cut(log(), 0.25, partitions=3, slices=2)
    assert isinstance(source, LogData)
    times = [batch.time.tolist() for part in range(3) for batch in source.train(part, 0, 50)]
    assert [t for part in times for t in part] == list(range(180))
    held = [batch.time.tolist() for part in range(2) for batch in source.slice(part, 50)]
    assert [t for part in held for t in part] == list(range(180, 240))
    other = pickle.loads(pickle.dumps(source.shared(tmp_path)))
    for one, two in zip(source.train(1, 0, 50), other.train(1, 0, 50), strict=True):
        assert torch.equal(one.own_feature, two.own_feature)
        assert torch.equal(one.src, two.src)


class Counting(torch.nn.Module):
    """Remembers how many events it has seen; so its validation moves it on."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forget(self):
        self.seen.zero_()

    def observe(self, batch):
        self.seen += len(batch)

    def forward(self, batch):
        return self.head(batch.own_feature)


def log_step(model, batch):
    loss = torch.nn.functional.cross_entropy(model(batch), batch.label)
    model.observe(batch)
    return loss


def log_score(model, batch):
    right = (model(batch).argmax(1) == batch.label).float()
    model.observe(batch)
    return right


def test_a_model_with_memory_forgets_at_each_epoch_and_validation_leaves_it_alone(tmp_path):
    study = search(
        {"lr": [0.1, 0.01]},
        log(),
        lambda params: Counting(),
        step=log_step,
        metric=Metric("right", log_score, "max", (0, 1)),
        epochs=2,
        validation=0.25,
        folder=tmp_path,
        settings=StudySettings(partitions=3, slices=2, batch_size=20),
    )
    assert study["c0"].visits == [0, 1, 2] * 2
    assert float(study.model("c0").seen) == 180
    assert study.best().value > 0.8


def test_a_table_of_a_lake_is_read_by_parts_through_its_stages(tmp_path):
    lake = sw.open(tmp_path / "lake")
    draw = np.random.default_rng(0)
    x = draw.normal(size=300)
    table = lake.write("rows", pa.table({"x": x, "kind": np.where(x > 0, "yes", "no")}))
    encode = sw.Encode.fit(table, label="kind")
    source = cut(table, partitions=3, slices=2, stages=(encode,))
    assert isinstance(source, TableData)
    other = pickle.loads(pickle.dumps(source))
    for one, two in zip(source.train(1, 0, 32), other.train(1, 0, 32), strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.y, two.y)
    seen = np.sort(np.concatenate([batch.x[:, 0] for part in range(3) for batch in source.train(part, 0, 32)]))
    assert len(np.unique(seen)) == 240

    def step(model, batch):
        return torch.nn.functional.cross_entropy(model(batch.x), batch.y)

    def score(model, batch):
        return (model(batch.x).argmax(1) == batch.y).float()

    study = search({"lr": 0.1}, source, lambda params: torch.nn.Linear(1, 2), step=step, metric=Metric("right", score),
                   epochs=3, folder=tmp_path / "study")  # fmt: skip
    assert study.best().value > 0.9


def test_what_cannot_be_cut_is_refused():
    x = torch.zeros(10, 2)
    with pytest.raises(DataError, match="equal lengths"):
        cut((x, torch.zeros(9)))
    with pytest.raises(DataError, match="a row in each part"):
        cut((x, torch.zeros(10)), partitions=20)
    with pytest.raises(InvalidValueError, match="share"):
        cut((x, torch.zeros(10)), 1.5)
    with pytest.raises(InvalidValueError, match="arrays or tensors"):
        cut("text")
    with pytest.raises(InvalidValueError, match="a view of"):
        cut(log(), log())
