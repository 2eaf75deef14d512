"""Batches: immutable, named fields, moved as a whole."""

import numpy as np
import pytest
import torch

from stepwell.core import Batch, Neighborhood, Slice
from stepwell.core.errors import StepwellError


@pytest.fixture
def batch():
    return Batch(Slice(0, 0, 0, 2), src=np.array([3, 4]))


def test_give_returns_a_new_batch_and_leaves_the_old_one(batch):
    richer = batch.give(dst=np.array([5, 6]), src=np.array([0, 1]))

    assert richer.dst.tolist() == [5, 6]
    assert richer.src.tolist() == [0, 1]
    assert "dst" not in batch
    assert batch.src.tolist() == [3, 4]
    assert richer.slice is batch.slice


@pytest.mark.parametrize("error", [StepwellError, AttributeError, LookupError])
def test_a_missing_field_names_itself_and_the_nearest_one(batch, error):
    with pytest.raises(error, match=r"No batch field named 'srcs'. Did you mean 'src'\? Known: src\."):
        batch.srcs  # noqa: B018


def test_a_batch_answers_what_it_holds(batch):
    assert len(batch) == 2
    assert list(batch) == ["src"]
    assert not hasattr(batch, "label")
    assert repr(batch) == "Batch(0:2, src[2])"


def test_arrays_and_tensors_share_memory_on_the_cpu(batch):
    batch.tensor("src")[0] = 9

    assert batch.array("src")[0] == 9
    assert batch.give(src=torch.tensor([1])).array("src").tolist() == [1]


def test_to_moves_nested_arrays_and_leaves_the_rest(batch):
    hood = Neighborhood(*(np.zeros((2, 1), np.int64) for _ in range(3)), np.ones((2, 1), bool))
    keys = np.array(["a", "b"], dtype=object)

    moved = batch.give(hoods=(hood,), seconds=2.0, keys=keys, parts={"x": np.ones(1)}).to("cpu")

    assert isinstance(moved.hoods[0].node, torch.Tensor)
    assert moved.hoods[0].weight is None
    assert isinstance(moved.parts["x"], torch.Tensor)
    assert moved.keys is keys
    assert moved.seconds == 2.0
