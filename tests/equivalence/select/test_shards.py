"""A model larger than its device, cut into shards that alternate with those of others, is the model trained whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.core.errors import InvalidValueError
from stepwell.select.packing import measure_bytes, pack, weight_bytes
from stepwell.select.shards import DeviceMemory, ShardedRun, cut_layers, train_alternating
from stepwell.select.trainee import Trainee, seed_all
from stepwell.select.usual import usual_step

LOSS = torch.nn.functional.cross_entropy


def trainee(number):
    seed_all(number)
    widths, parts = [12, 40, 40, 40 + 8 * number, 3], []
    for i in range(4):
        parts += [torch.nn.Linear(widths[i], widths[i + 1]), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
    model = torch.nn.Sequential(*parts[:-2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Trainee(model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), clip=1.0)


def batches(number, count=5):
    draw = torch.Generator().manual_seed(number)
    return [(torch.randn(16, 12, generator=draw), torch.randint(0, 3, (16,), generator=draw)) for _ in range(count)]


def whole(number):
    made, losses = trainee(number), []
    seed_all(7)
    for x, y in batches(number, 3 + number):
        made.optimizer.zero_grad()
        loss = LOSS(made.model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
        made.optimizer.step()
        made.schedule.step()
        losses.append(loss.item())
    return made, losses


@pytest.mark.parametrize("models", [1, 3])
def test_shards_that_alternate_on_a_small_device_end_in_the_bits_of_whole_models(models):
    torch.set_num_threads(1)
    memory, runs = DeviceMemory(34_000), []
    for number in range(models):
        made = trainee(number)
        shards = cut_layers(made.model, batches(number)[0][0], memory.size_bytes)
        assert len(shards) > 2
        runs.append(ShardedRun(made, shards, batches(number, 3 + number), LOSS, memory, seed=7))
    outside = torch.get_rng_state()
    train_alternating(runs)
    assert torch.equal(torch.get_rng_state(), outside)
    for number, run in enumerate(runs):
        expected, losses = whole(number)
        assert run.losses == losses
        for name, value in expected.model.state_dict().items():
            assert torch.equal(run.trainee.model.state_dict()[name], value), (number, name)
    assert 0 < memory.peak_bytes <= memory.size_bytes
    assert memory.used_bytes == 0


def test_while_one_model_computes_the_next_ones_shard_is_there_already():
    memory = DeviceMemory(34_000)
    runs = []
    for number in (0, 0):
        made = trainee(number)
        shards = cut_layers(made.model, batches(number)[0][0], memory.size_bytes)
        runs.append(ShardedRun(made, shards, batches(number), LOSS, memory))
    largest = max(weight_bytes(shard) for run in runs for shard in run.shards)
    train_alternating(runs)
    assert memory.peak_bytes > 2 * largest, "weights and gradients at work, and weights that come next"


def test_the_whole_model_would_not_fit_and_a_layer_too_large_is_refused():
    made = trainee(1)
    need = measure_bytes(made, usual_step, batches(1)[0])
    assert need > 34_000
    with pytest.raises(MemoryError, match="on a device of 34000"):
        DeviceMemory(34_000).take(need)
    with pytest.raises(InvalidValueError, match="two thirds of the device"):
        cut_layers(made.model, batches(1)[0][0], 10_000)
    with pytest.raises(InvalidValueError, match="buffers"):
        cut_layers(torch.nn.Sequential(torch.nn.BatchNorm1d(12)), batches(1)[0][0], 10_000)


def test_measured_memory_is_weights_gradients_moments_and_activations():
    model = torch.nn.Sequential(torch.nn.Linear(10, 20, bias=False))
    made = Trainee(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    found = measure_bytes(made, lambda model, x: model(x).sum(), torch.randn(6, 10))
    assert found == 3 * 4 * 200 + 4 * 60


@settings(max_examples=60, deadline=None)
@given(needs=st.lists(st.integers(1, 50), max_size=20), rooms=st.lists(st.integers(50, 120), min_size=1, max_size=4))
def test_every_configuration_is_packed_once_and_no_device_holds_more_than_its_room(needs, rooms):
    rounds = pack(needs, rooms)
    assert sorted(one for held in rounds for device in held for one in device) == list(range(len(needs)))
    for held in rounds:
        assert all(sum(needs[one] for one in device) <= room for device, room in zip(held, rooms, strict=True))
    if len(rounds) > 1:
        assert sum(needs) > max(rooms), "a second round begins only where the first has no room"


def test_a_configuration_larger_than_every_device_is_named():
    with pytest.raises(InvalidValueError, match=r"needs\[1\]"):
        pack([3, 90], [50, 60])
