"""What all tests share: what a machine may lack, and how much hypothesis tries."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # counts only before the first import of Triton

hypothesis.settings.register_profile("stepwell", deadline=None, max_examples=50, print_blob=True)
hypothesis.settings.load_profile("stepwell")

Need = Callable[[object, str], None]


@pytest.fixture(scope="session")
def need() -> Need:
    """Return `need(found, name)`: skip the test if `found` is empty; in CI (`STEPWELL_CI=1`) fail it."""

    def check(found: object, name: str) -> None:
        if found:
            return
        if os.environ.get("STEPWELL_CI") == "1":
            pytest.fail(f"{name} is missing, and in CI nothing may be skipped for that")
        pytest.skip(f"needs {name}")

    return check


@pytest.fixture(scope="session")
def chromium(need: Need) -> str:
    """Return the path of a real browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    need(path, "chromium")
    return str(path)


@pytest.fixture(scope="session")
def postgres_binaries(need: Need) -> Path:
    """Return the folder with `initdb`, `pg_ctl` and `postgres`."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("postgres")
    if found:
        folders.insert(0, Path(found).resolve().parent)
    need(folders, "PostgreSQL")
    return folders[0]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real data sets; skip where there is none."""
    path = os.environ.get("STEPWELL_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("needs STEPWELL_DATA")
    return Path(path)
