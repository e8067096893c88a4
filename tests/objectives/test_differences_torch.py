"""The Hessian by differences of gradients, for functions with one derivative."""

import pytest

torch = pytest.importorskip("torch")

import specop
from torch_cases import Cube, close, exact, problem, split


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["mlp", "transformer", "wide and deep", "regression"])
def test_finite_differences(name, dtype):
    model, criterion, batch = problem(name)
    hessian = exact(model, criterion, batch)[2]
    batch = tuple(part.to(dtype) if part.is_floating_point() else part for part in batch)
    D = specop.objective(model.to(dtype), criterion, split(batch, 5, 4, 2)).finite_difference_hessian()
    found = D.to_dense().double()
    bound = {torch.float64: 1e-8, torch.float32: 2e-2}[dtype]
    assert D.is_symmetric and torch.finfo(dtype).eps <= D.precision <= bound
    assert torch.linalg.matrix_norm(found - hessian, 2) <= 5 * D.precision * torch.linalg.matrix_norm(hessian, 2)


def test_finite_differences_need_one_derivative_only():
    params = {"x": torch.linspace(1, 2, 3).double()}
    objective = specop.objective(lambda p, _: (Cube.apply(p["x"])).sum(), params=params)
    close(objective.finite_difference_hessian().to_dense(), torch.diag(6 * params["x"]), 1e-8)
    at = objective.finite_difference_hessian(2 * params["x"])
    close(at.to_dense(), torch.diag(12 * params["x"]), 1e-8)
    assert not (at @ torch.zeros(3).double()).any()


@pytest.mark.parametrize("seed", range(100, 130))
def test_steps_that_agree_by_chance_promise_nothing(seed):
    """In few dimensions two differences may agree to the last bit where both are off."""
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(1, 6, (1,), generator=generator))
    X, y, p = (torch.randn(shape, generator=generator).double() for shape in [(11, n), (11,), (n,)])

    def loss(p, _=None):
        return (torch.tanh(X @ p) + 0.3 * torch.sin(X @ p) - y).square().mean()

    D, hessian = (
        specop.objective(loss, params=p).finite_difference_hessian(),
        torch.autograd.functional.hessian(loss, p),
    )
    error = torch.linalg.matrix_norm(D.to_dense() - hessian, 2) / torch.linalg.matrix_norm(hessian, 2)
    assert error <= 10 * D.precision
