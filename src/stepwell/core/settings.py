"""The only module that reads environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Args:
        data: Folder with data sets already on disk (`STEPWELL_DATA`), or None.
        home: Where downloads, machine profiles and compiled kernels go (`STEPWELL_HOME`).
        progress: Whether progress may be drawn (`STEPWELL_PROGRESS=0` turns it off).
        scratch: Folder for rows laid out anew on disk (`STEPWELL_SCRATCH`), `off` for none; None: beside their file.
    """

    data: Path | None
    home: Path
    progress: bool
    scratch: str | None


def settings() -> Settings:
    """Read the environment now; nothing is cached, so tests may change it."""
    data = os.environ.get("STEPWELL_DATA")
    home = os.environ.get("STEPWELL_HOME") or str(Path.home() / ".cache" / "stepwell")
    return Settings(
        data=Path(data) if data else None,
        home=Path(home),
        progress=os.environ.get("STEPWELL_PROGRESS", "1") != "0",
        scratch=os.environ.get("STEPWELL_SCRATCH") or None,
    )
