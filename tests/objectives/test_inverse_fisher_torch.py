"""The inverse of an objective's damped empirical Fisher matrix."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import specop
from specop.errors import InvalidInputError


def test_the_inverse_of_an_empirical_fisher_matrix():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    data = [(torch.randn(k, 4).double(), torch.randint(2, (k,))) for k in (7, 5)]
    objective = specop.objective(model, torch.nn.functional.cross_entropy, data)
    fisher = objective.fisher(kind="empirical", of="samples")
    inverse = objective.inverse_fisher(damping=0.1)
    x = torch.randn(objective.n).double()
    torch.testing.assert_close(inverse @ (fisher @ x + 0.1 * x), x, rtol=0, atol=1e-12)
    tree = objective.unflatten(x)
    found = inverse @ tree
    assert list(found) == list(objective.names) == list(objective.slices)
    torch.testing.assert_close(objective.flatten(found), inverse @ x)
    for name, part in objective.slices.items():
        torch.testing.assert_close(x[part], tree[name].reshape(-1))
    blocks = objective.inverse_fisher(damping=0.1, blocks=objective.slices.values())
    part = objective.slices["2.weight"]
    expected = np.linalg.inv((fisher.to_dense().numpy() + 0.1 * np.eye(objective.n))[part, part])
    np.testing.assert_allclose(blocks.operator().to_dense().numpy()[part, part], expected, atol=1e-12)
    elsewhere = objective.inverse_fisher(damping=0.1, theta=2 * objective.theta)
    at = objective.fisher(2 * objective.theta, kind="empirical", of="samples")
    torch.testing.assert_close(elsewhere @ (at @ x + 0.1 * x), x, rtol=0, atol=1e-12)
    with pytest.raises(InvalidInputError, match=r"got Objective\. .* call objective\.inverse_fisher\(damping=\.\.\.\)"):
        specop.ShermanMorrison(damping=0.1, rows=objective)
