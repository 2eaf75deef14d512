"""Selectors as a user meets them: spaces, errors, tables, and rows that are covered already."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.kernels.coverage import distances_reference
from stepwell.prepare.coreset import merge_reduce, select_coreset
from stepwell.prepare.select import (
    Bilevel,
    Coverage,
    LastLayer,
    Lazy,
    Selector,
    Sieve,
    look,
    select_rows,
    selectors,
    space,
)
from stepwell.prepare.select.spaces import LAYER_NUMBERS, layer_gradient


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


ROWS, LABELS = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3


def test_the_gradient_space_is_the_gradient_of_the_loss_at_the_output():
    net = model()
    output = net(ROWS)
    output.retain_grad()
    cross_entropy(output, LABELS, reduction="sum").backward()
    assert np.allclose(space("gradient", ROWS, LABELS, net), output.grad.numpy(), atol=1e-6)
    given = space("gradient", ROWS, LABELS, net, lambda out, y: cross_entropy(out, y, reduction="none"))
    assert np.allclose(given, output.grad.numpy(), atol=1e-6)


def test_features_are_what_enters_the_last_linear_layer():
    net = model()
    assert np.allclose(space("features", ROWS, None, net), net[:2](ROWS).detach().numpy())
    assert net.training


def test_the_guess_is_the_gradient_at_the_models_own_answer():
    net = model()
    answer = net(ROWS).argmax(1)
    assert np.array_equal(space("guess", ROWS, None, net), space("gradient", ROWS, answer, net))


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("raw", torch.tensor([[1.0], [float("nan")]]), "row 1"),
        ("gradient", ROWS, "labels"),
        ("sphere", ROWS, "one of raw"),
    ],
)
def test_a_space_says_what_it_lacks(name, given, words):
    with pytest.raises(InvalidValueError, match=words):
        space(name, given, None, model())


@pytest.mark.parametrize("budget", [0, -1, 0.0])
def test_a_budget_without_rows_is_refused(budget):
    with pytest.raises(InvalidValueError, match="budget"):
        select_coreset(np.ones((3, 1)), None, budget)


def test_values_that_are_not_finite_are_refused_with_their_row():
    with pytest.raises(InvalidValueError, match="row 2"):
        select_coreset(np.array([[1.0], [2.0], [np.inf]]), None, 1)


def test_distances_without_room_are_refused_with_the_way_out():
    search = Coverage(Lazy(memory_bytes=1000))
    with pytest.raises(InvalidValueError, match="Sieve"):
        Selector(search=search).select(np.random.default_rng(0).normal(size=(100, 2)), None, 5)


def test_one_row_is_its_own_coreset():
    found = select_coreset(np.array([[3.0, 4.0]]), np.array([7]), 0.5)
    assert found.index.tolist() == [0]
    assert found.weight.tolist() == [1.0]
    assert found.loss_bound(10.0) == 0.0


def test_no_bound_is_claimed_when_a_class_has_no_row():
    found = select_coreset(np.arange(6.0)[:, None], np.arange(6) % 3, 2)
    with pytest.raises(InvalidValueError, match="class"):
        found.loss_bound(1.0)


def test_active_learning_leaves_alone_what_labelled_rows_cover():
    z = np.concatenate([np.zeros((20, 2)), np.full((20, 2), 10.0), np.full((5, 2), 20.0)]).astype(np.float32)
    found = selectors["active"].select(z, None, 3, held=np.zeros((1, 2), np.float32))
    assert sorted(z[found.index, 0].tolist()) == [10.0, 20.0]
    near = selectors["k-centre"].select(z, None, 1, held=np.array([[0.0, 0.0], [10.0, 10.0]], np.float32))
    assert z[near.index, 0].tolist() == [20.0]


def test_a_table_is_selected_by_scaled_numbers_and_answers_with_row_ids():
    draw = np.random.default_rng(0)
    table = pa.table({
        "_row": np.arange(100) + 500, "a": draw.normal(size=100), "b": draw.normal(size=100) * 1e6,
        "kind": draw.choice(["x", "y"], 100), "note": ["text"] * 100,
    })  # fmt: skip
    found = select_rows(table, 0.2, label="kind")
    assert len(found) == 20
    assert set(found["_row"].to_pylist()) <= set(range(500, 600))
    assert sum(found["weight"].to_pylist()) == pytest.approx(100)
    tiny = table.set_column(2, "b", pa.array(table["b"].to_numpy() / 1e9))
    assert select_rows(tiny, 0.2, label="kind").equals(found)
    with pytest.raises(UnknownNameError, match="kinds"):
        select_rows(table, 0.2, label="kinds")
    with pytest.raises(InvalidValueError, match="model"):
        select_rows(table, 0.2, selector="craig")


def test_a_selector_with_a_model_selects_in_its_own_space():
    net = model()
    found = selectors["craig"].select_rows(ROWS, LABELS, 9, net)
    direct = selectors["craig"].select(space("gradient", ROWS, LABELS, net), LABELS.numpy(), 9)
    assert found.index.tolist() == direct.index.tolist()
    assert found.mean_one.mean() == pytest.approx(1.0)


def test_a_sieve_covers_many_rows_almost_as_well_as_greedy_search():
    draw = np.random.default_rng(0)
    z = (draw.normal(size=(30, 8))[draw.integers(0, 30, 4000)] * 4 + draw.normal(size=(4000, 8))).astype(np.float32)
    sieve = Selector(search=Coverage(Sieve())).select(z, None, 60)
    greedy, chance = Selector().select(z, None, 60), selectors["random"].select(z, None, 60)
    assert len(sieve) == 60
    assert greedy.cover < sieve.cover < chance.cover
    assert sieve.weight.sum() == 4000
    near = distances_reference(z, z[sieve.index]).min(1)
    assert sieve.cover == pytest.approx(near.mean(), rel=1e-4)


def test_nothing_is_reduced_while_there_is_room():
    z = np.arange(5.0, dtype=np.float32)[:, None]
    left = merge_reduce(z, np.array([0, 0, 1, 1, 1]), np.full(5, 2.0), 9)
    assert left.index.tolist() == [0, 1, 2, 3, 4]
    assert left.cost == 0
    assert left.counts == {0: 2, 1: 3}
    with pytest.raises(InvalidValueError, match="capacity"):
        merge_reduce(z, np.zeros(5, np.int64), np.ones(5), 0)


def test_the_layer_space_is_the_gradient_of_the_last_layer():
    net = model()
    found = space("layer", ROWS, LABELS, net)
    for row in (0, 17):
        net.zero_grad()
        cross_entropy(net(ROWS[row : row + 1]), LABELS[row : row + 1]).backward()
        own = torch.cat([net[2].weight.grad, net[2].bias.grad[:, None]], 1)
        assert np.allclose(found[row], own.reshape(-1).numpy(), atol=1e-6)


def test_a_large_layer_is_projected_and_keeps_its_inner_products():
    draw = torch.Generator().manual_seed(0)
    features, gradient = torch.randn(30, 5000, generator=draw), torch.randn(30, 4, generator=draw)
    found = layer_gradient(gradient, features)
    assert found.shape == (30, LAYER_NUMBERS)
    exact = (gradient @ gradient.T) * (features @ features.T + 1)
    assert float((found @ found.T - exact).abs().max()) < 0.1 * float(exact.abs().max())
    assert torch.equal(found, layer_gradient(gradient, features))


def test_an_aim_is_the_gradient_after_a_real_step_of_the_last_layer():
    net = model()
    aim = LastLayer("layer", look(net, ROWS, features=True), LABELS)
    step = 0.1 * np.random.default_rng(0).normal(size=27)
    with torch.no_grad():
        part = torch.from_numpy(step.astype(np.float32)).reshape(3, 9)
        net[2].weight -= part[:, :8]
        net[2].bias -= part[:, 8]
    cross_entropy(net(ROWS), LABELS).backward()
    own = torch.cat([net[2].weight.grad, net[2].bias.grad[:, None]], 1).reshape(-1).numpy()
    assert np.allclose(aim(step), own, atol=1e-6)
    with pytest.raises(InvalidValueError, match="add up"):
        LastLayer("raw", look(net, ROWS, features=False), LABELS)


def test_rows_chosen_for_a_validation_set_lower_its_loss_more_than_random_ones():
    net = model()
    x, y = ROWS, LABELS.clone()
    y[::2] = (y[::2] + 1) % 3  # half of the labels are wrong, those of the validation set are right
    clean = (torch.randn(200, 4, generator=torch.Generator().manual_seed(2)), torch.arange(200) % 3)
    z = space("layer", x, y, net)

    bilevel = Selector("layer", Bilevel(0.1, renew=1), by_class=False, equal_weight=True)

    def loss_after(selector, seed=0):
        found = selector.select_rows(x, y, 10, net, seed=seed, validation=clean)
        step = torch.from_numpy(z[found.index].mean(0)).reshape(3, 9)
        moved = look(net, clean[0], features=True)
        entered = torch.cat([moved.features, torch.ones(200, 1)], 1)
        return float(cross_entropy(moved.output - 0.1 * entered @ step.T, clean[1]))

    assert all(loss_after(bilevel) < loss_after(selectors["random"], seed) for seed in range(20))
    with pytest.raises(InvalidValueError, match="validation"):
        selectors["glister"].select_rows(x, y, 10, net)


def test_online_coreset_selection_prefers_rows_in_harmony_with_the_memory():
    draw = np.random.default_rng(0)
    z = draw.normal(size=(40, 5)).astype(np.float32)
    with_memory = selectors["ocs"].select(z, None, 8, aim=lambda step: np.eye(5)[2])
    without = selectors["ocs"].select(z, None, 8)
    assert z[with_memory.index, 2].mean() > z[without.index, 2].mean()


def test_a_class_without_any_gradient_keeps_its_weight():
    found = selectors["gradmatch"].select(np.zeros((7, 2)), np.array([0, 0, 0, 1, 1, 1, 1]), 4)
    assert found.weight[found.index < 3].sum() == pytest.approx(3)
    assert found.weight[found.index > 2].sum() == pytest.approx(4)
    assert found.gap == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_objective_is_that_of_submodlib():
    submodlib = pytest.importorskip("submodlib", reason="the oracle is not installed: pip install submodlib-py")
    draw = np.random.default_rng(0)
    z = draw.normal(size=(200, 5)).astype(np.float32)
    pair = distances_reference(z, z)
    oracle = submodlib.FacilityLocationFunction(n=200, mode="dense", sijs=pair.max() - pair, separate_rep=False)
    theirs = [row for row, _ in oracle.maximize(budget=20, optimizer="LazyGreedy", show_progress=False)]
    ours = select_coreset(z, None, 20)
    assert ours.cover == pytest.approx(pair[:, theirs].min(1).mean(), rel=1e-5)
