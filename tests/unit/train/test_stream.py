"""One pass over a stream: sources, budgets, replay, scores, drift, errors, and resume to the bit."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stepwell as sw
from stepwell.core.errors import CheckpointError, DataError, InvalidValueError, UnknownNameError
from stepwell.testing.state import check_stateful
from stepwell.train.arrivals import Arrivals
from stepwell.train.drift import PageHinkley, Reaction, River
from stepwell.train.prequential import Prequential
from stepwell.train.replay import BufferConfig, ReplayBuffer
from stepwell.train.stream import StreamConfig, StreamLearner


def rows(batch, n=60, classes=3, d=4, shift=0.0):
    draw = np.random.default_rng(batch)
    y = draw.integers(0, classes, n)
    x = draw.normal(size=(n, d)) + np.eye(classes, d)[y] * 3 + shift
    return x.astype(np.float32), y


def stream(batches=8, **kwargs):
    return [tuple(map(torch.from_numpy, rows(i, **kwargs))) for i in range(batches)]


def learner(config=None, dropout=0.0, **kwargs):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return StreamLearner(model, config or StreamConfig(), optimizer=optimizer, **kwargs)


@pytest.mark.parametrize("keep", ["coreset", "herding", "random", "reservoir"])
@pytest.mark.parametrize("coding", ["best", "equal-rank", "none"])
@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=6), size=st.integers(900, 4000))
@settings(max_examples=6, deadline=None)
def test_a_buffer_stays_within_its_bytes_and_keeps_ids_and_weight(keep, coding, seeds, size):
    buffer, count, seen = ReplayBuffer(BufferConfig(size, keep, coding, 4)), 0, []
    for turn, seed in enumerate(seeds):
        x, y = rows(seed, shift=float(turn))
        buffer.add(x, y, np.ones(60, np.float32), np.arange(count, count + 60))
        seen.append(x)
        count += 60
        assert buffer.nbytes <= size
        assert len(buffer) <= buffer.capacity
        assert len(set(buffer.rows.tolist())) == len(buffer)
        assert buffer.weights.sum() == pytest.approx(count, rel=1e-4)
    x, _, _, ids = buffer.sample(10_000, 0)
    error = np.abs(x - np.concatenate(seen)[ids]).max(0)
    assert (error <= buffer.max_abs_error * (1 + 1e-6) + 1e-6).all()


def test_class_quotas_are_even_and_weights_count_what_was_absorbed():
    buffer = ReplayBuffer(BufferConfig(500, bits=8))
    total = np.zeros(3)
    for turn in range(6):
        x, y = rows(turn)
        y[:40] = 0
        total += np.bincount(y, minlength=3)
        buffer.add(x, y, np.ones(60, np.float32), np.arange(60 * turn, 60 * turn + 60))
    assert max(buffer.counts.values()) - min(buffer.counts.values()) <= 1
    for label in range(3):
        assert buffer.weights[buffer.labels == label].sum() == pytest.approx(total[label])
    assert buffer.cover_bound > 0


def test_a_reservoir_holds_each_row_of_the_stream_alike():
    hits = np.zeros(40)
    for seed in range(2000):
        buffer = ReplayBuffer(BufferConfig(4 * (8 + 20), "reservoir", "none", seed=seed))
        for begin in (0, 3, 15):
            end = {0: 3, 3: 15, 15: 40}[begin]
            part = np.arange(begin, end)
            buffer.add(np.zeros((len(part), 2), np.float32), part * 0, np.ones(len(part), np.float32), part)
        assert len(buffer) == 4
        hits[buffer.rows] += 1
    expected = 2000 * 4 / 40
    chi_square = ((hits - expected) ** 2 / expected).sum()
    assert chi_square < 73  # 0.1 % of chi-square with 39 degrees


def test_a_quantised_buffer_holds_more_rows_in_the_same_bytes():
    wide = np.random.default_rng(0).normal(size=(4000, 200)).astype(np.float32)
    held = {}
    for coding in ("none", "best"):
        buffer = ReplayBuffer(BufferConfig(1 << 18, coding=coding))
        buffer.add(wide, np.zeros(4000, np.int64), np.ones(4000, np.float32), np.arange(4000))
        held[coding] = buffer.capacity
    assert held["best"] > 3.5 * held["none"]


def test_a_buffer_without_room_for_a_row_says_how_much_it_needs():
    with pytest.raises(InvalidValueError, match="at least"):
        ReplayBuffer(BufferConfig(30)).add(*rows(0), np.ones(60, np.float32), np.arange(60))


def test_the_coreset_and_nothing_else_is_learnt_and_every_row_is_tested_first():
    found = learner(StreamConfig(ratio=0.1)).fit(stream())
    assert (found.rows, found.learnt, found.batches) == (480, 8 * math.ceil(0.1 * 60), 8)
    assert found.scores.rows == 480
    assert found.buffer_bytes <= 1 << 20
    assert 0 < found.cover


def test_a_stream_is_learnt_from_a_fifth_of_its_rows():
    found = learner().fit(stream(60))
    assert found.scores.recent > 0.9
    assert found.scores.kappa > 0.8


@pytest.mark.parametrize("config", [StreamConfig.paper(), StreamConfig(ratio=1), StreamConfig(selector="herding"), StreamConfig(selector="gradmatch"), StreamConfig(selector="glister"), StreamConfig(selector="ocs"), StreamConfig(passes=2), StreamConfig(buffer=None), StreamConfig(selector="random", test=False)])  # fmt: skip  # noqa: E501
def test_each_setting_learns(config):
    one = learner(config)
    one.fit(stream(50))
    x, y = stream(1, n=500)[0]
    one.model.eval()
    assert (one.model(x).argmax(1) == y).float().mean() > 0.85


def test_numbers_are_learnt_as_well_as_classes():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    batches = [(x, x.sum(1)) for x, _ in stream(150)]
    found = StreamLearner(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.02)).fit(batches)
    assert -found.scores.recent < 0.5
    assert found.buffered > 0


def test_a_table_arrives_in_the_order_of_its_column_an_event_log_in_time(tmp_path):
    x, y = rows(0, 50)
    when = np.random.default_rng(1).permutation(50)
    table = sw.open(tmp_path / "lake").write("t", pa.table({
        "_row": np.arange(50) + 100, "when": when, "a": x[:, 0], "b": x[:, 1], "kind": y,
    }))  # fmt: skip
    arrived = list(Arrivals(table, 20, label="kind", order="when"))
    assert [len(one.row) for one in arrived] == [20, 20, 10]
    order = np.argsort(when)
    assert np.concatenate([one.row for one in arrived]).tolist() == (order + 100).tolist()
    assert np.allclose(np.concatenate([one.x for one in arrived]), x[order, :2])
    assert np.concatenate([one.y for one in arrived]).tolist() == y[order].tolist()
    assert [one.row.tolist() for one in Arrivals(table, 20, label="kind", order="when").after(1)] == [
        one.row.tolist() for one in arrived[1:]
    ]
    with pytest.raises(UnknownNameError, match="kidn"):
        list(Arrivals(table, label="kidn"))
    log = sw.EventLog.from_arrays(y, y + 3, when, features=x, label=y)
    assert np.concatenate([one.row for one in Arrivals(log, 16)]).tolist() == order.tolist()
    assert np.allclose(np.concatenate([one.x for one in Arrivals(log, 16)]), x[order])
    with pytest.raises(DataError, match="features"):
        list(Arrivals(sw.EventLog.from_arrays([0], [1], [2])))


def test_what_cannot_be_learnt_is_refused_with_its_place():
    x, y = rows(0)
    x[7, 1] = np.nan
    with pytest.raises(DataError, match="batch 0, row 7"):
        learner().fit([(x, y)])
    with pytest.raises(InvalidValueError, match="tuples"):
        learner().fit([x])
    with pytest.raises(InvalidValueError, match="folder"):
        learner().fit([], resume=True)


@pytest.mark.parametrize("ratio", [0, 1.5])
def test_settings_out_of_range_are_refused(ratio):
    with pytest.raises(InvalidValueError, match="ratio"):
        StreamConfig(ratio=ratio)


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    config = StreamConfig(buffer=BufferConfig(1500, bits=4), replay_rows=7)
    batches = [tuple(map(torch.from_numpy, rows(i, shift=i / 2))) for i in range(9)]

    def killed():
        for number, batch in enumerate(batches):
            if number == 5:
                raise KeyboardInterrupt
            yield batch

    whole = learner(config, dropout=0.3, folder=tmp_path / "whole")
    expected = whole.fit(batches)
    with pytest.raises(KeyboardInterrupt):
        learner(config, dropout=0.3, folder=tmp_path / "cut").fit(killed(), save_every=2)
    resumed = learner(config, dropout=0.3, folder=tmp_path / "cut")
    found = resumed.fit(batches, resume=True)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert found.scores == expected.scores
    assert found.cover_bound == expected.cover_bound
    other = learner(StreamConfig(ratio=0.5), folder=tmp_path / "cut")
    with pytest.raises(CheckpointError, match="settings"):
        other.fit(batches, resume=True)


@pytest.mark.parametrize("keep", ["coreset", "reservoir"])
def test_a_learner_resumes_from_any_batch(keep):
    config = StreamConfig(buffer=BufferConfig(1200, keep, bits=4))

    def step(one, i):
        return one.learn(*map(torch.from_numpy, rows(i, shift=i / 3)))

    check_stateful(lambda: learner(config), step, num_steps=4)


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    truth, answer = draw.integers(0, 4, 500), draw.integers(0, 4, 500)
    answer[:300] = truth[:300]
    count = Prequential()
    for begin in range(0, 500, 37):
        count.add(answer[begin : begin + 37], truth[begin : begin + 37])
    scores = count.scores()
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(truth, answer))
    assert scores.kappa == pytest.approx(metrics.cohen_kappa_score(truth, answer))
    assert scores.balanced == pytest.approx(metrics.balanced_accuracy_score(truth, answer))
    fade = 0.5 ** (np.arange(500)[::-1] / 1000)
    assert scores.recent == pytest.approx((fade * (truth == answer)).sum() / fade.sum())


def test_a_rise_of_the_error_is_found_soon_and_noise_is_not():
    draw = np.random.default_rng(0)
    detector = PageHinkley()
    quiet = [detector.update(value) for value in np.clip(draw.normal(0.2, 0.05, 300), 0, 1)]
    assert not any(quiet)
    risen = [detector.update(value) for value in np.clip(draw.normal(0.5, 0.05, 20), 0, 1)]
    assert risen.index(True) < 5


def test_a_learner_reports_where_the_stream_changed():
    flipped = [(x, (y + 1) % 3) for x, y in stream(60)[40:]]
    found = learner().fit([*stream(60)[:40], *flipped])
    assert [40 <= batch < 45 for batch, _ in found.drifts] == [True]


def test_a_reaction_forgets_the_rows_of_before_and_learns_more_for_a_while():
    before, after = stream(60)[:40], [(x, (y + 1) % 3) for x, y in stream(60)[40:]]
    config = StreamConfig(ratio=0.2, reaction=Reaction(forget=1.0, recent=1, quota=3.0, batches=4))
    reacting, reporting = learner(config), learner(StreamConfig(ratio=0.2, reaction=None))
    found, plain = reacting.fit([*before, *after]), reporting.fit([*before, *after])
    (changed,) = [batch for batch, _ in found.drifts]
    assert found.forgotten == 12 * (changed - 1)
    assert reacting.buffer.rows.min() >= 60 * (changed - 1)
    assert found.learnt == plain.learnt + 4 * 24
    assert found.scores.recent > plain.scores.recent


def test_a_reaction_without_a_change_changes_nothing():
    quiet, reacting = learner(StreamConfig(reaction=None)), learner(StreamConfig(reaction=Reaction()))
    assert quiet.fit(stream(12)).scores == reacting.fit(stream(12)).scores
    for one, other in zip(quiet.model.parameters(), reacting.model.parameters(), strict=True):
        assert torch.equal(one, other)


@given(st.floats(0, 1), st.integers(0, 7), st.sampled_from(["coreset", "reservoir"]))
@settings(max_examples=20, deadline=None)
def test_what_is_forgotten_is_a_share_of_the_old_rows_alone(share, recent, keep):
    buffer = ReplayBuffer(BufferConfig(4000, keep))
    for turn in range(6):
        x, y = rows(turn)
        buffer.add(x[:20], y[:20], np.ones(20, np.float32), np.arange(20 * turn, 20 * turn + 20))
    held = set(buffer.rows.tolist())
    old = {row for row in held if row < 20 * (6 - recent)}
    gone = buffer.forget(share, recent)
    assert gone == len(old) - round((1 - share) * len(old))
    left = set(buffer.rows.tolist())
    assert left <= held
    assert held - old <= left
    buffer.add(x, y, np.ones(60, np.float32), np.arange(200, 260))
    assert buffer.nbytes <= 4000


def test_a_reaction_resumes_with_the_same_bits():
    config = StreamConfig(buffer=BufferConfig(1200, bits=4), reaction=Reaction(batches=3))

    def step(one, i):
        x, y = rows(i)
        return one.learn(torch.from_numpy(x), torch.from_numpy((y + (i > 2)) % 3))

    check_stateful(lambda: learner(config, detectors=[PageHinkley(0.1, 0.0, 1)]), step, num_steps=6)


@pytest.mark.parametrize("given", [{"forget": 1.5}, {"quota": 0.5}, {"recent": -1}])
def test_reactions_out_of_range_are_refused(given):
    with pytest.raises(InvalidValueError, match=next(iter(given))):
        Reaction(**given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_detector_of_river_resumes_with_what_it_heard():
    pytest.importorskip("river", reason="the extra 'stream' is not installed")
    heard = [0.2] * 60 + [0.9] * 60

    def step(detector, i):
        return [detector.update(value) for value in heard[30 * i : 30 * i + 30]]

    check_stateful(lambda: River("ADWIN"), step, num_steps=4)
    with pytest.raises(InvalidValueError, match="ADWIN"):
        River("Nothing")
