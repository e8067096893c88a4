"""Compiled, scripted, quantized, uninitialized and wrapped torch models: right, or refused by name."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError
from torch_cases import close, exact, labels, problem


def parts_compiled(model):
    model[0].compile(backend="aot_eager")
    return model


def traced(model):
    return torch.jit.trace(model, torch.ones(11, 3).double())


def ready(make):
    """torch announces that a part of it is going out of use; it works."""

    def made(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return make(model)

    return made


def compiled(model):
    model.compile(backend="aot_eager")
    return model


SAME_FUNCTION = {
    "module.compile()": compiled,
    "a layer's compile()": parts_compiled,
    "torch.compile of a layer": lambda model: nn.Sequential(torch.compile(model[0], backend="aot_eager"), *model[1:]),
    "torch.jit.script": ready(torch.jit.script),
    "torch.jit.trace": ready(traced),
    "a scripted layer": ready(lambda model: nn.Sequential(torch.jit.script(model[:2]), model[2])),
    "torch.fx": torch.fx.symbolic_trace,
    "torch.export": lambda model: torch.export.export(model, (torch.ones(11, 3).double(),)).module(),
    "DataParallel": nn.DataParallel,
    "DataParallel inside": lambda model: nn.Sequential(nn.DataParallel(model[:2]), model[2]),
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("make", SAME_FUNCTION.values(), ids=SAME_FUNCTION)
@pytest.mark.parametrize("is_warm", [False, True], ids=["new", "used"])
def test_the_same_function_in_other_clothes(make, is_warm):
    model, criterion, batch = problem("mlp")
    hessian = exact(model, criterion, batch)[2]
    other = make(model)
    if is_warm:
        # Compiles, and lets the profiling executor of torch.jit specialize.
        for _ in range(3):
            criterion(other(batch[0]), batch[1]).backward()
        other.zero_grad()
    close(specop.objective(other, criterion, batch).hessian().to_dense(), hessian)


def test_scripted_criteria():
    model, criterion, batch = problem("mlp")
    hessian = exact(model, criterion, batch)[2]
    for one in (ready(torch.jit.script)(nn.CrossEntropyLoss()), ready(torch.jit.script)(cross_entropy)):
        close(specop.objective(model, one, batch).hessian().to_dense(), hessian)


def cross_entropy(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs, y)


def on_meta():
    with torch.device("meta"):
        return nn.Linear(3, 3)


def with_meta_buffer():
    model = nn.Linear(3, 3)
    model.register_buffer("mask", torch.ones(3, device="meta"))
    return model


REFUSED = {
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), r"'0.weight' of the model is not initialized.*model\(x\) once"),
    "lazy norm": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.LazyBatchNorm1d()).eval(),
        r"'1.weight' of the model is not initialized",
    ),
    "meta": (on_meta, r"'weight' of the model is on the meta device, or a fake, and holds no numbers.*load_state_dict"),
    "meta buffer": (with_meta_buffer, r"'mask' of the model is on the meta device"),
    "frozen script": (
        lambda: torch.jit.freeze(torch.jit.script(nn.Linear(3, 3).eval())),
        r"no floating-point parameters: freezing",
    ),
    "quantized": (
        lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), {nn.Linear}),
        r"no floating-point parameters.*quantization",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules are a new", "ignore:torch.quantize_per")
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_models_without_numbers_are_refused_by_name(make, message):
    with pytest.raises(InvalidInputError, match=message):
        specop.objective(make(), F.cross_entropy, (torch.ones(5, 3), labels(5)))


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.jacrev, torch.func.grad], ids=lambda f: f.__name__)
def test_products_inside_of_torch_func_are_refused_by_name(transform):
    model, criterion, batch = problem("mlp")
    H = specop.objective(model, criterion, batch).hessian()
    v = torch.ones(4, 31).double()
    with pytest.raises(InvalidInputError, match=r"is being traced by torch.func"):
        transform(lambda v: (H @ v).sum())(v if transform is torch.func.vmap else v[0])


class Rounded(nn.Module):
    """What quantization-aware training puts around a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 9).reshape(3, 3))

    def forward(self, x):
        return torch.tanh(x @ torch.fake_quantize_per_tensor_affine(self.weight, 0.01, 0, -128, 127))


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_fake_quantization_is_refused_by_name(kind):
    objective = specop.objective(Rounded(), F.cross_entropy, (torch.ones(5, 3), labels(5)))
    with pytest.raises(InvalidInputError, match=r"fake quantization.*has no Hessian"):
        getattr(objective, kind)().to_dense()


class Autocast(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x).float()


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_autocast_inside_of_the_model_counts_in_the_precision(kind):
    model, criterion, (x, y) = problem("mlp")
    A = getattr(specop.objective(Autocast(copy.deepcopy(model).float()), criterion, (x.float(), y)), kind)()
    expected = getattr(specop.objective(model, criterion, (x, y)), kind)().to_dense()
    found = A.to_dense()
    # Rounding errors of bfloat16: present, and as large as is stated.
    assert 1e-4 * float(expected.norm()) < float((found - expected).norm()) < 5 * A.precision * float(expected.norm())
    assert A.precision == 2.0**-7
    top = specop.eigsh(A, k=1, which="LA", tol=0.05)
    assert top.converged


class Fixed(nn.Module):
    """A model for one number of samples."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x):
        return torch.tanh(self.layer(x)).view(11, 3)


def test_a_fixed_batch_size():
    batch = torch.randn(11, 3).double(), labels(11)
    hessian = exact(Fixed(), F.cross_entropy, batch)[2]
    close(specop.objective(Fixed(), F.cross_entropy, batch).hessian().to_dense(), hessian)


class Force(nn.Module):
    """Outputs that are made of derivatives in the inputs, as forces and residuals of differential equations are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.energy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def forward(self, x):
        x = x.detach().requires_grad_()
        (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        (divergence,) = torch.autograd.grad(force.sum(), x, create_graph=True)
        return force + divergence


def test_models_that_differentiate_themselves():
    model, batch = Force(), (torch.randn(11, 3).double(), torch.randn(11, 3).double())
    objective = specop.objective(model, F.mse_loss, [(batch[0][:6], batch[1][:6]), (batch[0][6:], batch[1][6:])])
    parameters = list(model.parameters())

    def at(theta):
        nn.utils.vector_to_parameters(theta, parameters)
        loss = F.mse_loss(model(batch[0]), batch[1])
        gradient = torch.autograd.grad(loss, parameters, materialize_grads=True)
        return loss.detach(), torch.cat([part.reshape(-1) for part in gradient]), model(batch[0]).detach().reshape(-1)

    theta, h = objective.theta, 1e-5
    sides = [[at(theta + sign * h * e) for e in torch.eye(21).double()] for sign in (1, -1)]
    slopes = [[(up - down) / (2 * h) for up, down in zip(*pair, strict=True)] for pair in zip(*sides, strict=True)]
    loss, gradient, _ = at(theta)
    for _ in range(2):
        close(objective.loss(), loss)
    close(objective.gradient(), gradient)
    close(objective.hessian().to_dense(), torch.stack([slope[1] for slope in slopes]), 1e-7)
    J = torch.stack([slope[2] for slope in slopes], 1)
    close(objective.ggn().to_dense(), 2 * J.T @ J / 33, 1e-7)
    close(torch.cat(list(objective.per_sample_gradients())).mean(0), gradient)
    assert (objective.importance() > 0).all()
