"""Distinct rows are an economy: undoing them gives every asker a row of its own and changes no score."""

import numpy as np
import pytest
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.repeat import Repeat
from stepwell.nn import TGN, TGNSettings
from stepwell.train import link_loss


def batches(log, hops, stages=()):
    return list(
        Pipeline(log, FixedBatches(10), negatives=UniformNegatives(2), sampler=Recent(3), hops=hops, stages=stages)
    )


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_each_place_keeps_what_stood_there(log, hops):
    for plain, repeated in zip(batches(log, hops), batches(log, hops, [Repeat()]), strict=True):
        row = torch.cat([plain.src_row, plain.candidate_row.flatten()])
        place = torch.cat([repeated.src_row, repeated.candidate_row.flatten()])
        assert torch.equal(place, torch.arange(len(row)))
        for here, there in zip(plain.levels, repeated.levels, strict=True):
            mask = here.hood.mask[row]
            for name in ("node", "time", "before"):
                assert torch.equal(getattr(there, name), getattr(here, name)[row])
            for name in ("node", "event", "dt", "mask"):
                assert torch.equal(getattr(there.hood, name), getattr(here.hood, name)[row])
            assert torch.equal(repeated.events[there.event_row][mask], plain.events[here.event_row[row]][mask])
            features = repeated.event_feature[there.event_row][mask]
            assert torch.equal(features, plain.event_feature[here.event_row[row]][mask])
            row = torch.cat([here.self_row[row], here.neighbor_row[row][mask]])
        assert torch.equal(repeated.nodes, plain.nodes[row])
        assert torch.equal(repeated.node_feature, plain.node_feature[row])


@pytest.mark.parametrize("hops", [1, 2])
def test_training_with_repeats_gives_the_same_losses(log, hops):
    def losses(stages):
        torch.manual_seed(0)
        model = TGN(log.num_nodes, 5, 2, TGNSettings(8, 8, 8, hops=hops, k=3, dropout=0.0))
        optimizer, found = torch.optim.SGD(model.parameters(), 0.1), []
        for batch in batches(log, hops, stages):
            optimizer.zero_grad()
            loss = link_loss(model, batch)
            loss.backward()
            with torch.no_grad():
                model.observe(batch)
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    assert np.allclose(losses([Repeat()]), losses([]), rtol=1e-4)
