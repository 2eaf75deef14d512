"""Keras models as configurations; run as a script, it compares a study of them with training each alone."""

import os
import sys
from pathlib import Path

import keras
import numpy as np

from stepwell.select import StudySettings, search
from stepwell.select.data import cut
from stepwell.select.hopper import visiting_order
from stepwell.select.trainee import seed_all
from tests.equivalence.select import selected

EPOCHS, BATCH = 2, 50
GRID = {"lr": [0.1, 0.01] if keras.backend.backend() == "torch" else [0.1], "drop": [0.0, 0.3]}


def build(params):
    """Build an MLP with dropout, batch statistics, a schedule and Adam, as a Keras user would."""
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()])
    if params["drop"]:
        model.add(keras.layers.Dropout(params["drop"]))
    model.add(keras.layers.Dense(3))
    rate = keras.optimizers.schedules.CosineDecay(params["lr"], 30)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def with_sgd(params):
    """Build one whose rate is a number."""
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(params["lr"], momentum=0.9), "sparse_categorical_crossentropy")
    return model


def values(model):
    return [np.array(keras.ops.convert_to_numpy(one.value)) for one in [*model.variables, *model.optimizer.variables]]


def alone(params, lane):
    """Train one by Keras alone, in one go."""
    source = cut(selected.data(), partitions=4, slices=2)
    seed_all(0)
    model = build(params)
    for epoch in range(EPOCHS):
        for partition in visiting_order(0, epoch, lane, 4):
            for x, y in source.train(partition, epoch, BATCH):
                model.train_on_batch(x.numpy(), y.numpy())
    return model


def differing(folder, workers, step):
    """Return how many variables of a study's models differ from those trained alone, and how many units were lost."""
    # backends that compile do so anew for each model that is built, so there models stay between units
    room = 0 if keras.backend.backend() == "torch" else 256 << 20
    settings = StudySettings(partitions=4, slices=2, batch_size=BATCH, live_bytes=room)
    more = {"step": step} if step else {}
    study = search(
        GRID, selected.data(), build, epochs=EPOCHS, workers=workers, folder=folder, settings=settings, **more
    )
    count = 0
    for one in study.configs:
        expected, found = values(alone(one.params, one.number % 4)), values(study.model(one.name).keras)
        assert len(expected) == len(found) > 10
        count += sum(not np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    return count, sum(one.lost for one in study.configs)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    os.environ["STEPWELL_TEST_KILL"] = str(place / "steps")
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
    assert differing(place / "one", 1, None) == (0, 0)
    if "workers" in sys.argv[2:]:
        assert differing(place / "two", 2, selected.killing_step) == (0, 1)
