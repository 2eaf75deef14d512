"""A Keras model in a study is, variable by variable, the model that Keras would have trained alone."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed")


def in_fresh_python(code, backend, *words):
    """Run Python where Keras takes another backend: it takes one, once."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    env = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *code, *words], cwd=HERE, env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.distributed
@pytest.mark.timeout(420)
@pytest.mark.parametrize("backend", ["torch", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_a_study_and_two_workers_of_which_one_is_killed_equal_training_by_keras_alone(backend, tmp_path):
    in_fresh_python(["-m", "tests.equivalence.select.kerasses"], backend, str(tmp_path), "workers")


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_study_of_keras_models_on_jax_equals_training_by_keras_alone(tmp_path):
    in_fresh_python(["-m", "tests.equivalence.select.kerasses"], "jax", str(tmp_path))


REST = """
import sys
import keras
import torch
from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.select import StudySettings, search
from stepwell.select.trainee import as_trainee
from stepwell.select.with_keras import KerasModel
from tests.equivalence.select import kerasses, selected

def run():
    return search({"lr": 0.1}, selected.data(), kerasses.with_sgd, metric="loss", epochs=2, folder=sys.argv[1],
                  settings=StudySettings(partitions=2, slices=2))

# a warm copy takes weights and keeps its own rate
study = run()
study.clone("c0", {"lr": 0.02}, epochs=4)
study = run()
other = study.model("c1")
assert abs(float(other.keras.optimizer.learning_rate) - 0.02) < 1e-6
assert study["c1"].value < study["c0"].value

# the metric `loss` is the loss that the model was compiled with
x, y = selected.data()
expected = keras.ops.convert_to_numpy(keras.losses.sparse_categorical_crossentropy(y.numpy(), other(x).numpy()))
assert abs(other.losses((x, y)).numpy() - expected).max() < 1e-6

# a model of the torch backend that is not compiled is an ordinary module
plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
assert isinstance(as_trainee(plain, {"lr": 0.1}).optimizer, torch.optim.Adam)

# what has no shape, or is another model, is refused
shapeless = keras.Sequential([keras.layers.Dense(2)])
shapeless.compile("sgd", "mse")
one, two = KerasModel(kerasses.with_sgd({"lr": 0.1})), KerasModel(kerasses.build({"lr": 0.1, "drop": 0.0}))
for work, kind, word in (
    (lambda: as_trainee(shapeless, {}), InvalidValueError, "Input"),
    (lambda: one.load_state_dict(two.state_dict()), CheckpointError, "another Keras model"),
):
    try:
        work()
    except kind as error:
        assert word in str(error)
    else:
        raise AssertionError(word)
"""


def test_rates_losses_and_refusals_of_keras_models(tmp_path):
    in_fresh_python(["-c", REST], "torch", str(tmp_path))
