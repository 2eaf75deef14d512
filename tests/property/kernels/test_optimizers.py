"""One pass over stacked weights changes them as the chain of array operations does, and as torch does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.kernels.optimizers import adam_rows, adam_rows_reference, sgd_rows, sgd_rows_reference

NUMBERS = st.floats(0, 0.9375, width=32)


def rows(models, width, seed):
    return torch.randn(models, 2, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), models=st.integers(1, 4), width=st.integers(0, 9), nesterov=st.booleans())
def test_sgd_in_one_pass_equals_its_reference(data, models, width, nesterov):
    vectors = [torch.tensor(data.draw(st.lists(NUMBERS, min_size=models, max_size=models))) for _ in range(3)]
    weight, grad, buffer = (rows(models, width, seed) for seed in range(3))
    other = weight.clone(), buffer.clone()
    for _ in range(2):
        sgd_rows(weight, grad, buffer, *vectors, nesterov=nesterov)
        sgd_rows_reference(other[0], grad, other[1], *vectors, nesterov=nesterov)
    torch.testing.assert_close((weight, buffer), other, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), models=st.integers(1, 4), width=st.integers(0, 9), decoupled=st.booleans())
def test_adam_in_one_pass_equals_its_reference(data, models, width, decoupled):
    chosen = [data.draw(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)) for _ in range(models)]
    table = torch.tensor([[*row, 1e-8, 1 - row[2] ** 3, 1 - row[3] ** 3] for row in chosen], dtype=torch.float64)
    weight, grad, mean, square = (rows(models, width, seed) for seed in range(4))
    square.square_()
    other = weight.clone(), mean.clone(), square.clone()
    adam_rows(weight, grad, (mean, square), table, decoupled=decoupled)
    adam_rows_reference(other[0], grad, other[1:], table, decoupled=decoupled)
    torch.testing.assert_close((weight, mean, square), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoupled", [False, True])
def test_steps_of_adam_are_those_of_torch(decoupled):
    weight = rows(2, 5, 0)
    alone = [torch.nn.Parameter(one.clone()) for one in weight]
    rates, decays = (0.1, 0.01), (0.0, 0.3)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    made = [kind([one], lr=rates[i], weight_decay=decays[i]) for i, one in enumerate(alone)]
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 6):
        grad = rows(2, 5, step)
        bias = [1 - beta**step for beta in (0.9, 0.999)]
        table = [[rates[i], decays[i], 0.9, 0.999, 1e-8, *bias] for i in range(2)]
        adam_rows(weight, grad, (mean, square), torch.tensor(table, dtype=torch.float64), decoupled=decoupled)
        for i, one in enumerate(alone):
            one.grad = grad[i].clone()
            made[i].step()
    torch.testing.assert_close(weight, torch.stack([one.detach() for one in alone]), rtol=1e-5, atol=1e-6)
