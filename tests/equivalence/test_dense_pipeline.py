"""Dense data through the pipeline: the same batches however they are made, and models that learn."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import stepwell as sw
from stepwell.access.dense import CachedRows, DecodeImage, Encode, Shuffled, Tokenise
from stepwell.core.settings import settings
from stepwell.core.state import read_state, write_state


def table(folder, n=300):
    rng = np.random.default_rng(0)
    columns = {
        "a": rng.normal(size=n),
        "kind": pa.array([f"k{i}" for i in rng.integers(0, 5, n)]),
        "text": pa.array([f"row {i} of many" for i in range(n)]),
        "y": rng.integers(0, 2, n),
    }
    return sw.open(folder).write("t", pa.table(columns))


def stages(source):
    return [Tokenise("text", size=50, length=4), Encode.fit(source, columns=["a", "kind"], label="y")]


def content(batches):
    return [{name: batch.tensor(name).tolist() for name in batch} for batch in batches]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("budget_bytes", [None, 0, 5000, 1 << 20])
def test_batches_are_the_same_for_any_prefetch_and_cache(tmp_path, prefetch, budget_bytes):
    source = table(tmp_path)
    made = stages(source)
    plain = content(sw.Pipeline(source, Shuffled(32), stages=made, prefetch=0).epoch(1))
    if budget_bytes is None:
        found = content(sw.Pipeline(source, Shuffled(32), stages=made, prefetch=prefetch).epoch(1))
    else:
        cached = CachedRows(source, made, budget_bytes=budget_bytes)
        list(sw.Pipeline(cached, Shuffled(32), prefetch=prefetch).epoch(0))
        found = content(sw.Pipeline(cached, Shuffled(32), prefetch=prefetch).epoch(1))
        assert cached.counts.size_bytes <= budget_bytes
    assert found == plain


def test_shards_together_are_the_whole(tmp_path):
    source = table(tmp_path)
    made = stages(source)
    whole = content(sw.Pipeline(source, Shuffled(32), stages=made))
    parts = [content(sw.Pipeline(source, Shuffled(32), stages=made, shard=(rank, 3))) for rank in range(3)]
    assert [parts[i % 3][i // 3] for i in range(len(whole))] == whole


def test_a_resumed_epoch_goes_on_where_it_was_left(tmp_path):
    source = table(tmp_path / "lake")
    made = stages(source)
    whole = content(sw.Pipeline(source, Shuffled(32, seed=5), stages=made).epoch(3))
    first = sw.Pipeline(source, Shuffled(32, seed=5), stages=made)
    seen = []
    for batch in first.epoch(3):
        seen += content([batch])
        if len(seen) == 4:
            write_state(tmp_path / "state", first.save)
            break
    second = sw.Pipeline(source, Shuffled(32, seed=5), stages=made)
    second.load(read_state(tmp_path / "state"))
    assert seen + content(second) == whole


def data(name, part):
    folder = settings().data
    if folder is None or not (folder / name / f"{part}.parquet").exists():
        pytest.skip(f"STEPWELL_DATA has no {name}/{part}.parquet")
    return pq.read_table(folder / name / f"{part}.parquet")


def accuracy(model, source, made, inputs):
    right = total = 0
    with torch.no_grad():
        for batch in sw.Pipeline(source, sw.FixedBatches(1024), stages=made):
            right += int((model(batch, inputs).argmax(1) == batch["y"]).sum())
            total += len(batch)
    return right / total


def test_ten_lines_train_a_model_on_adult(tmp_path):
    parts = {part: data("adult", part) for part in ("train", "test")}
    torch.manual_seed(0)
    lake = sw.open(tmp_path)
    train, test = (lake.write(f"adult_{part}", rows) for part, rows in parts.items())
    encode = Encode.fit(train, label="income")
    start = torch.tensor([0, *encode.sizes[:-1]]).cumsum(0)
    table, head = nn.EmbeddingBag(sum(encode.sizes), 16), nn.Linear(16 + len(encode.numeric), 2)

    def model(batch):
        return head(torch.cat([table(batch["codes"] + start), batch["x"]], 1))

    optimiser = torch.optim.Adam([*table.parameters(), *head.parameters()], 0.02)
    for batch in sw.Pipeline(train, sw.Shuffled(256), stages=[encode]):
        optimiser.zero_grad()
        cross_entropy(model(batch), batch["y"]).backward()
        optimiser.step()
    assert accuracy(lambda batch, _: model(batch), test, [encode], None) > 0.83


def test_ten_lines_train_a_model_on_sms_spam(tmp_path):
    rows = data("sms-spam", "messages")
    torch.manual_seed(0)
    lake = sw.open(tmp_path)
    train, test = lake.write("train", rows.slice(0, 4500)), lake.write("test", rows.slice(4500))
    stages = [Tokenise("text", size=4096, length=40), Encode.fit(train, columns=[], label="label")]
    model = nn.Sequential(nn.EmbeddingBag(4096, 16, padding_idx=0), nn.Linear(16, 2))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    pipeline = sw.Pipeline(train, sw.Shuffled(64), stages=stages)
    for batch in (batch for epoch in range(3) for batch in pipeline.epoch(epoch)):
        optimiser.zero_grad()
        cross_entropy(model(batch["tokens"]), batch["y"]).backward()
        optimiser.step()
    assert accuracy(lambda batch, _: model(batch["tokens"]), test, stages, None) > 0.95


def test_ten_lines_train_a_model_on_mnist(tmp_path):
    parts = {part: data("mnist", part) for part in ("train", "test")}
    torch.manual_seed(0)
    lake = sw.open(tmp_path)
    train, test = (lake.write(f"mnist_{part}", rows) for part, rows in parts.items())
    stages = [DecodeImage("image", (28, 28)), Encode.fit(train, columns=[], label="label")]
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), 0.002)
    for batch in sw.Pipeline(train, sw.Shuffled(128), stages=stages):
        optimiser.zero_grad()
        cross_entropy(model(batch["image"] / 255), batch["y"]).backward()
        optimiser.step()
    assert accuracy(lambda batch, _: model(batch["image"] / 255), test, stages, None) > 0.93
