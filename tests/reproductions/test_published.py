"""Published numbers beside those that come out here; docs/reproductions.md has both."""

import copy
import itertools

import numpy as np
import pytest

import specop

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

# Singh, Bachmann and Hofmann, arXiv:2106.16225: 2 q M - L q^2 + q (d + K).
RANKS = {(6, 4, 3, 5): 48, (8, 5, 4): 56, (5, 7, 7, 3): 81, (10, 4, 6, 4, 8): 120, (12, 10, 9): 207}


def linear_network(sizes):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]
    model = torch.nn.Sequential(*layers).double()
    data = torch.randn(100, sizes[0]).double(), torch.randn(100, sizes[-1]).double()
    return specop.objective(model, torch.nn.functional.mse_loss, data)


@pytest.mark.parametrize(("sizes", "right"), RANKS.items(), ids=str)
def test_ranks_of_linear_networks(sizes, right):
    hidden, q = sum(sizes[1:-1]), min(sizes)
    assert 2 * q * hidden - (len(sizes) - 1) * q**2 + q * (sizes[0] + sizes[-1]) == right
    assert specop.rank(linear_network(sizes).hessian()).rank == right


def test_rescaling_makes_a_minimum_as_sharp_as_one_likes():
    """Dinh et al., arXiv:1703.04933: the function stays, the traces of the layers' blocks go as 1 / a^2 and a^2."""
    torch.manual_seed(0)
    x, y = torch.randn(80, 5).double(), torch.randint(3, (80,))
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    scaled, a = copy.deepcopy(model), 10.0
    with torch.no_grad():
        scaled[0].weight *= a
        scaled[0].bias *= a
        scaled[2].weight /= a
    torch.testing.assert_close(model(x), scaled(x))
    traces, sharpness = [], []
    for one in (model, scaled):
        objective = specop.objective(one, torch.nn.functional.cross_entropy, (x, y))
        traces.append([specop.trace(objective.restrict(f"{i}.weight").hessian()).estimate for i in (0, 2)])
        sharpness.append(specop.eigsh(objective.hessian(), k=1, which="LA").eigenvalues[-1])
    np.testing.assert_allclose(np.divide(traces[1], traces[0]), [a**-2, a**2], rtol=1e-6)
    assert sharpness[1] > 20 * sharpness[0]
