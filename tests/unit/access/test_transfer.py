import numpy as np
import torch

from stepwell.access.transfer import to_tensors
from stepwell.core import Batch, Slice


def _read_only():
    array = np.arange(3)
    array.flags.writeable = False
    return array


def test_read_only_arrays_of_a_memory_map_become_tensors_of_their_own():
    array = _read_only()
    batch = Batch(Slice(0, 0, 0, 3), x=array)
    for tensor in (to_tensors(batch, torch.device("cpu")).x, batch.to("cpu").x, batch.tensor("x")):
        tensor += 1
        assert tensor.tolist() == [1, 2, 3]
    assert array.tolist() == [0, 1, 2]


def test_writable_arrays_share_their_memory_with_their_tensors():
    array = np.arange(3)
    batch = Batch(Slice(0, 0, 0, 3), x=array)
    for tensor in (to_tensors(batch, torch.device("cpu")).x, batch.to("cpu").x, batch.tensor("x")):
        assert tensor.data_ptr() == array.ctypes.data
