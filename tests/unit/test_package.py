"""The front door: what `import stepwell` costs, changes and offers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell

SNAPSHOT = """
import os, random, warnings, logging, json, sys
import numpy as np
import torch

def state():
    return [
        dict(os.environ), torch.get_num_threads(), torch.get_num_interop_threads(), str(torch.get_default_dtype()),
        torch.initial_seed(), torch.random.get_rng_state().tolist(), repr(np.random.get_state()),
        random.getstate(), repr(warnings.filters), logging.getLogger().level, repr(logging.getLogger().handlers),
        np.geterr(), repr(sys.excepthook), sys.getrecursionlimit(), torch.is_grad_enabled(),
    ]

before = state()
import stepwell
after = state()
for old, new in zip(before, after):
    assert old == new, (old, new)
"""

HEAVY = ("deltalake", "duckdb", "plotly", "rich", "pandas", "polars", "PIL", "torch_geometric", "sphinx", "sklearn")


def run(code: str) -> str:
    """Run `code` in a new interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_stepwell_changes_no_global_state():
    run(SNAPSHOT)


def test_importing_stepwell_costs_at_most_one_second_beyond_torch():
    code = "import torch, time; begin = time.process_time(); import stepwell; print(time.process_time() - begin)"
    assert min(float(run(code)) for _ in range(2)) <= 1.0


def test_importing_the_front_door_loads_no_library_that_it_does_not_need_yet():
    names = sorted(set(stepwell.__all__) - {"Lake", "Preparation", "open"})  # these need the lake's library
    code = f"import sys, stepwell\nfor name in {names}: getattr(stepwell, name)\nprint(sorted(sys.modules))"
    loaded = set(re.findall(r"'([^']+)'", run(code)))
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("name", stepwell.__all__)
def test_every_name_at_the_front_door_opens(name):
    assert getattr(stepwell, name) is not None
    assert name in dir(stepwell)


def test_an_unknown_name_is_refused_with_what_there_is():
    with pytest.raises(AttributeError, match="link_prediction"):
        _ = stepwell.link_predictions


def test_the_version_is_the_one_in_the_project_file():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{stepwell.__version__}"' in text
