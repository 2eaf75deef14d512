"""An event log as other libraries hold one: a pandas frame, or PyG's `TemporalData`. Everything is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Slice
from stepwell.core.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    from torch_geometric.data import TemporalData

    from stepwell.storage.events import EventLog


def frame_of(log: EventLog) -> pd.DataFrame:
    """Return the events of a log as a frame, one row each; features are columns `f0`, `f1`, ...

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("EventLog.to_pandas", "pandas", "pandas") from error
    columns: dict[str, npt.NDArray[np.generic]] = {
        "event_id": log.event_id,
        "position": np.arange(log.begin, log.end),
        "src": log.src,
        "dst": log.dst,
        "time": log.time,
    }
    if log.label is not None:
        columns["label"] = log.label
    if log.event_type is not None:
        columns["event_type"] = log.event_type
    frame = pd.DataFrame(columns)
    if log.event_feature is None:
        return frame
    own = log.event_feature[log.begin : log.end]
    return frame.join(pd.DataFrame(own, columns=[f"f{i}" for i in range(own.shape[1])]))


def temporal_data_of(log: EventLog) -> TemporalData:
    """Return the events of a log as PyG `TemporalData`: `src`, `dst`, `t`, `msg` and, if labels are numbers, `y`.

    Raises:
        MissingExtraError: If PyG is not installed.
    """
    try:
        from torch_geometric.data import TemporalData
    except ImportError as error:
        raise MissingExtraError("EventLog.to_pyg", "torch-geometric", "pyg") from error
    batch = log.read(Slice(0, 0, 0, len(log)))
    data = TemporalData(src=batch.tensor("src"), dst=batch.tensor("dst"), t=batch.tensor("time"))
    if "own_feature" in batch:
        data.msg = batch.tensor("own_feature")
    if "label" in batch and batch.array("label").dtype.kind in "biuf":
        data.y = batch.tensor("label")
    return data
