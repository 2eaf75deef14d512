"""A preparation on Ray Data gives what it gives here: rows, parents, quarantine and reports."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stepwell.prepare import Preparation
from stepwell.prepare.fitted import Standard
from stepwell.prepare.step import ROW
from stepwell.storage import open as open_lake


def without_odd(batch):
    return batch.filter(pc.equal(pc.bit_wise_and(batch.column("id"), 1), 0))


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_a_preparation_on_ray_equals_one_here(tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found = []
        for on in ("here", "ray"):
            lake = open_lake(tmp_path / on)
            lake.write("raw", {"id": np.arange(3000), "x": np.random.default_rng(0).normal(size=3000)})
            base = Preparation(lake, "raw", key="id", on=on, budget=2_000_000).map(without_odd)
            prepared = base.encode(Standard(("x",))).split(test=0.2).commit("done")
            gone = lake.table("done.quarantine").to_arrow()
            counts = [(one.name, one.rows_in, one.rows_out, dict(one.dropped)) for one in prepared.reports]
            found.append((prepared.table.to_arrow(), gone, counts))
        (a, gone_a, counts_a), (b, gone_b, counts_b) = found
        assert a.equals(b)
        assert gone_a.sort_by(ROW).equals(gone_b.sort_by(ROW))
        assert counts_a == counts_b
        assert pa.types.is_float32(a.schema.field("x").type)
    finally:
        ray.shutdown()
