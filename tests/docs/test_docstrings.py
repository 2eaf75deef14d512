"""The examples in docstrings run and give what they say."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import stepwell
import stepwell.access.dense
from stepwell.core import Batch, Slice
from stepwell.storage import Ragged

SOURCE = Path(stepwell.__file__).parent
MODULES = sorted(
    ".".join(("stepwell", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text()
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("orders.csv").write_text("order,price\n1,2.5\n2,3.0\n3,1.0\n")
    module = importlib.import_module(name)
    log = stepwell.EventLog.from_arrays(src=[0, 1, 0, 1], dst=[2, 2, 3, 3], time=[1, 2, 3, 4])
    common = {"stepwell": stepwell, "sw": stepwell, "np": np, "torch": torch, "folder": tmp_path, "log": log}
    common |= {name: getattr(stepwell, name) for name in ("EventLog", "Pipeline", "Recent", "Shuffled", "FixedBatches")}
    common |= {name: getattr(stepwell.access.dense, name) for name in stepwell.access.dense.__all__}
    common |= {"Slice": Slice, "Batch": Batch, "Ragged": Ragged}
    common["table"] = stepwell.open(tmp_path / "images").write("digits", pa.table({"image": [bytes(784)] * 4}))
    assert doctest.testmod(module, optionflags=FLAGS, extraglobs=common).failed == 0
