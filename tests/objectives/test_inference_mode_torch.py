"""torch.inference_mode() and no_grad(), as around the test hooks of Lightning: right, and nothing of it stays."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError
from torch_cases import close, exact, labels, mlp, operator, problem
from torch_cases import outputs as outputs_of
from torch_cases import params as params_of

MODES = {"inference mode": torch.inference_mode, "no_grad": torch.no_grad}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def created_in_inference_mode(structure):
    with torch.inference_mode():
        if isinstance(structure, nn.Module):
            return mlp()
        return type(structure)(part.clone() for part in structure)


@each_mode
@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical"])
@pytest.mark.parametrize("budget", [None, 0])
def test_all_of_it_inside(mode, kind, budget):
    model, criterion, batch = problem("mlp")
    expected = operator(specop.objective(model, criterion, batch), kind).to_dense()
    with mode():
        A = operator(specop.objective(model, criterion, batch, memory_budget=budget), kind)
        found = A.to_dense()
        top = specop.eigsh(A, k=2)
    close(found, expected)
    # Outside of it, what was made inside goes on.
    close(A.to_dense(), expected)
    again = specop.eigsh(A, k=2, v0=top)
    assert again.eigenvalues == pytest.approx(top.eigenvalues)


@each_mode
def test_a_product_inside_of_an_operator_from_outside_and_back(mode):
    model, criterion, batch = problem("cnn")
    objective = specop.objective(model, criterion, batch)
    H, hessian, v = objective.hessian(), exact(model, criterion, batch)[2], torch.ones(objective.n).double()
    with mode():
        inside = H @ v
        loss, gradient = objective.loss(), objective.gradient()
    close(inside, hessian @ v)
    close(H @ v, hessian @ v)
    close(loss, criterion(model(batch[0]), batch[1]).detach())
    close(gradient, exact(model, criterion, batch)[1])


@pytest.mark.parametrize("sizes", [(11,), (4, 7)])
def test_data_created_in_inference_mode(sizes):
    model, criterion, batch = problem("mlp")
    made = created_in_inference_mode(batch)
    batches = list(zip(*(part.split(list(sizes)) for part in made), strict=True))
    objective = specop.objective(model, criterion, batches)
    close(objective.hessian().to_dense(), exact(model, criterion, batch)[2])
    objective.loss()
    with torch.inference_mode():
        made[0].mul_(2)
    with pytest.raises(specop.errors.NondeterministicError, match="written into"):
        objective.loss()


@pytest.mark.parametrize("frozen", [False, True], ids=["all", "a part"])
def test_a_model_created_in_inference_mode(frozen):
    _, criterion, batch = problem("mlp")
    with torch.inference_mode():
        torch.manual_seed(0)
        model = mlp()
        model.register_buffer("scale", torch.ones(()))
    twin = mlp()
    twin.load_state_dict({name: value for name, value in model.state_dict().items() if name != "scale"})
    expected = exact(twin, criterion, batch)[2]
    objective = specop.objective(model, criterion, batch, select="2.*" if frozen else None)
    close(objective.hessian().to_dense(), expected[16:, 16:] if frozen else expected)


def test_parameters_of_a_function_vectors_and_points_created_in_inference_mode():
    x, y = torch.randn(5, 3).double(), labels(5)

    def loss(p, batch):
        return F.cross_entropy(outputs_of(p, batch[0]), batch[1])

    plain = specop.objective(loss, params=params_of(), data=(x, y))
    with torch.inference_mode():
        made = specop.objective(loss, params=params_of(), data=(x, y))
        theta, v = plain.theta, torch.linspace(-1, 1, plain.n).double()
    expected = plain.hessian() @ v.clone()
    close(made.hessian() @ v, expected)
    close(plain.hessian(theta) @ v, expected)


def test_a_hidden_tensor_created_in_inference_mode_is_named():
    model, criterion, batch = problem("mlp")
    with torch.inference_mode():
        hidden = torch.ones(3, 3).double()
    objective = specop.objective(model, lambda outputs, y: criterion(outputs @ hidden, y), batch)
    with pytest.raises(InvalidInputError, match=r"created in inference mode: clone it outside"):
        objective.hessian().to_dense()


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_model_and_data_made_inside(kind):
    expected = operator(specop.objective(*problem("cnn")), kind).to_dense()
    with torch.inference_mode():
        A = operator(specop.objective(*problem("cnn")), kind)
        close(A.to_dense(), expected)
    close(A.to_dense(), expected)
