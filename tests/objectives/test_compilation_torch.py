"""Compiled products: the same matrices, one function for batches that are alike, and what is refused."""

import os
import subprocess
import sys

import pytest
import torch

import specop
from specop.errors import InvalidInputError
from specop_torch.compilation import _function


@pytest.fixture
def compiled(monkeypatch):
    """The functions that are handed to the compiler, which here run as they are."""
    handed = []

    def stand_in(function, **options):
        assert options == {"fullgraph": True, "dynamic": False, "mode": None}
        handed.append(function)
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    _function.cache_clear()
    yield handed
    _function.cache_clear()


def regression(*sizes, bias=False):
    """Class logits linear in the inputs, with compiled products, and the Hessian in closed form."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(size, 3, dtype=torch.float64, generator=generator) for size in sizes]
    model = torch.nn.Linear(3, 2, bias=bias).double()
    x = torch.cat(inputs)
    p = torch.softmax(model(x).detach(), 1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    hessian = torch.einsum("nij,na,nb->iajb", middle, x, x).reshape(6, 6) / len(x)
    batches = [(one, torch.arange(len(one)) % 2) for one in inputs]
    return specop.objective(model, torch.nn.CrossEntropyLoss(), batches, compile=True), hessian


def later_products(A):
    """The matrix of products, none of which is the first."""
    identity = torch.eye(A.shape[1], dtype=torch.float64)
    A @ identity[0]
    return torch.stack([A @ column for column in identity], 1)


POINT = torch.ones(6, dtype=torch.float64)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_products_are_those_of_the_closed_form_in_one_function(compiled, matrix):
    objective, expected = regression(6, 6, 6)
    A = getattr(objective, matrix)()
    A @ POINT
    assert not compiled, "the first product is a recording"
    close(later_products(A), expected)
    later_products(getattr(objective, matrix)(POINT))
    assert len(compiled) == 1, "batches of one size, and other points, share it"


def test_batches_of_other_sizes_and_other_losses_have_a_function_of_their_own(compiled):
    objective, expected = regression(6, 5)
    close(later_products(objective.hessian()), expected)
    assert len(compiled) == 2
    later_products(objective.ggn())
    assert len(compiled) > 2


def test_a_part_of_the_parameters_is_compiled_too(compiled):
    objective, expected = regression(6, bias=True)
    close(later_products(objective.restrict("weight").hessian()), expected)
    assert len(compiled) == 1


class LooksAtWhatItGets(torch.autograd.Function):
    """A square's derivative, whose own depends on a number that is read from the vector."""

    @staticmethod
    def forward(context, x, gradient):
        context.save_for_backward(x, gradient)
        return 2 * x * gradient

    @staticmethod
    def backward(context, vector):
        x, gradient = context.saved_tensors
        factor = 2 if vector.sum().item() < 1e300 else 0
        return factor * gradient * vector, factor * x * vector


class Square(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(context, gradient):
        return LooksAtWhatItGets.apply(*context.saved_tensors, gradient)


def test_products_that_cannot_be_recorded_are_refused(compiled):
    def loss(params, batch):
        return Square.apply(params["w"] * batch).sum()

    ones = torch.ones(3, dtype=torch.float64)
    A = specop.objective(loss, params={"w": ones.clone()}, data=ones, compile=True).hessian()
    with pytest.raises(InvalidInputError, match=r"cannot be recorded: .+ Leave compile=True out"):
        A @ ones
    assert not compiled


def test_products_with_sparse_constants_are_refused(compiled):
    inputs = torch.eye(3, dtype=torch.float64).to_sparse()
    model = torch.nn.Linear(3, 2, bias=False).double()

    def outputs(model, batch):
        return torch.sparse.mm(batch[0], model.weight.T)

    def criterion(outputs, batch):
        return torch.nn.functional.mse_loss(outputs, batch[1])

    batch = inputs, torch.ones(3, 2, dtype=torch.float64)
    A = specop.objective(model, criterion, batch, forward=outputs, compile=True).hessian()
    with pytest.raises(InvalidInputError, match="multiply by a sparse tensor"):
        A @ POINT


COMPILED = """
import torch, specop

torch.manual_seed(0)
torch.set_num_threads(1)
layers = [torch.nn.Conv2d(1, 2, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.LayerNorm(32), torch.nn.Linear(32, 3)]
model = torch.nn.Sequential(*layers).double()
data = [(torch.randn(5, 1, 6, 6).double(), torch.arange(5) % 3) for _ in range(2)]
for matrix in ("hessian", "ggn"):
    made = [specop.objective(model, torch.nn.CrossEntropyLoss(), data, compile=one) for one in (True, False)]
    fused, plain = (getattr(objective, matrix)() for objective in made)
    v = torch.randn(fused.shape[0]).double()
    for vector in (v, v + 1, v.flip(0)):
        torch.testing.assert_close(fused @ vector, plain @ vector, rtol=1e-12, atol=1e-13)
with torch.inference_mode():
    torch.testing.assert_close(fused @ (2 * v), plain @ (2 * v), rtol=1e-12, atol=1e-13)
"""


def run(text, folder, **environment):
    # In a process of its own: torch's compiler imports what it advises against.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), **environment}
    return subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_compiled_products_are_the_same_up_to_rounding(tmp_path):
    done = run(COMPILED, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_missing_compiler_is_named(tmp_path):
    done = run(COMPILED, tmp_path, CXX="no-such-compiler")
    assert "InvalidInputError: compile=True, but torch's compiler stops at these products" in done.stderr
    assert "or leave compile=True out" in done.stderr
