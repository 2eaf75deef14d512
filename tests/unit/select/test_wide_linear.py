"""Linear layers side by side give what `vmap` gives, outputs and gradients, for inputs of any shape."""

import pytest
import torch
from torch.func import functional_call, vmap

from stepwell.select.wide_linear import wide_linears


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6)])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_shared_input_multiplies_all_weights_at_once_with_the_same_outputs_and_gradients(shape, frozen):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    model[3].bias = None
    stacked = {name: torch.randn(7, *one.shape) for name, one in model.named_parameters()}
    learnt = [one.requires_grad_() for name, one in stacked.items() if not (frozen and name.startswith("0"))]
    x = torch.randn(shape)

    def run():
        out = vmap(lambda weights: functional_call(model, weights, (x,)))(stacked)
        return out, torch.autograd.grad(out.square().sum(), learnt)

    expected = run()
    with wide_linears(model):
        found = run()
    torch.testing.assert_close(found, expected)
    assert not any("forward" in vars(module) for module in model.modules())
