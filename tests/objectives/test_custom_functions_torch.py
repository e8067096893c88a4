"""Custom autograd functions: those that cannot be differentiated twice are named, all others pass unhindered."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError
from torch_cases import close


class Fused(torch.autograd.Function):
    """Cross-entropy whose gradient is computed in forward, as fused losses have it."""

    @staticmethod
    def forward(ctx, z, y):
        ctx.save_for_backward((torch.softmax(z, 1) - F.one_hot(y, z.shape[1])) / len(y))
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, gradient):
        (saved,) = ctx.saved_tensors
        return gradient * saved, None


class FusedInAttribute(Fused):
    """The same with the gradient where no hook sees it, and forward without a context."""

    @staticmethod
    def forward(z, y):
        return F.cross_entropy(z, y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        z, y = inputs
        with torch.no_grad():
            ctx.gradient = (torch.softmax(z, 1) - F.one_hot(y, z.shape[1])) / len(y)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.gradient, None


class Recomputed(torch.autograd.Function):
    """Cross-entropy with a backward that can be differentiated."""

    @staticmethod
    def forward(ctx, z, y):
        ctx.save_for_backward(z, y)
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, gradient):
        z, y = ctx.saved_tensors
        return gradient * (torch.softmax(z, 1) - F.one_hot(y, z.shape[1])) / len(y), None


class Tanh(torch.autograd.Function):
    """Its slope counts as a constant in backward."""

    @staticmethod
    def forward(ctx, x):
        found = torch.tanh(x)
        ctx.save_for_backward(1 - found**2)
        return found

    @staticmethod
    def backward(ctx, gradient):
        (slope,) = ctx.saved_tensors
        return slope * gradient


class SavedTanh(torch.autograd.Function):
    """As torch's own: an output that is saved keeps its graph."""

    @staticmethod
    def forward(ctx, x):
        found = torch.tanh(x)
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx, gradient):
        (found,) = ctx.saved_tensors
        return (1 - found**2) * gradient


class Kernel(torch.autograd.Function):
    """A backward out of autograd's sight, as kernels are that are called by hand."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return (1 - torch.tanh(x) ** 2) * gradient


class Rectified(torch.autograd.Function):
    """A kink, and a slope in floating point that is saved as a constant: this one is one."""

    @staticmethod
    def forward(ctx, x):
        slope = torch.where(x > 0, 1.0, 0.125).to(x)
        ctx.save_for_backward(slope)
        return slope * x

    @staticmethod
    def backward(ctx, gradient):
        (slope,) = ctx.saved_tensors
        return slope * gradient


class Reversed(torch.autograd.Function):
    """Not the derivative of its forward, on purpose; written in place."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Affine(torch.autograd.Function):
    """Tensors that may be left out, and an output without a gradient."""

    @staticmethod
    def forward(ctx, x, shift, factor):
        ctx.save_for_backward(x, factor)
        found = x if factor is None else factor * x
        sign = torch.sign(x)
        ctx.mark_non_differentiable(sign)
        return found.clone() if shift is None else found + shift, sign

    @staticmethod
    def backward(ctx, gradient, _):
        x, factor = ctx.saved_tensors
        needs = ctx.needs_input_grad
        scaled = gradient if factor is None else factor * gradient
        return scaled, gradient.sum(0) if needs[1] else None, (x * gradient).sum(0) if needs[2] else None


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def objective(criterion, activation=torch.tanh, dtype=torch.float64, **keywords):
    torch.manual_seed(0)
    # Rectified units besides: their kinks must not matter.
    layers = nn.Linear(6, 5), nn.LeakyReLU(0.1), nn.Linear(5, 5), Apply(activation), nn.Linear(5, 3)
    return specop.objective(nn.Sequential(*layers).to(dtype), criterion, (X.to(dtype), Y), **keywords)


MATRICES = {
    "hessian": lambda objective: objective.hessian(),
    "ggn": lambda objective: objective.ggn(),
    "fisher": lambda objective: objective.fisher(kind="exact"),
    "sampled": lambda objective: objective.fisher(kind="mc"),
    "jacobian": lambda objective: objective.jacobian(),
}
LIKELIHOOD = {"fisher": "categorical", "sampled": "categorical"}


@both_dtypes
@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher", "sampled"])
@pytest.mark.parametrize("fused", [Fused, FusedInAttribute])
def test_a_fused_loss_whose_gradient_is_a_constant_is_named(fused, kind, dtype):
    found = objective(fused.apply, dtype=dtype, likelihood=LIKELIHOOD.get(kind))
    close(found.gradient(), objective(F.cross_entropy, dtype=dtype).gradient(), 1e-6)
    forward = fused.__dict__["forward"]
    for _ in range(2):
        with pytest.raises(
            InvalidInputError, match=rf"{fused.__name__} cannot be .* twice.*Save the inputs in forward"
        ):
            MATRICES[kind](found) @ found.theta
    assert fused.__dict__["forward"] is forward
    # Samples' gradients and the outputs' derivatives are those of a right first derivative.
    found.fisher(kind="empirical", of="samples") @ found.theta
    found.jacobian() @ found.theta


@both_dtypes
@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize(
    ("criterion", "activation", "plain"),
    [
        (Recomputed, torch.tanh, torch.tanh),
        (F.cross_entropy, SavedTanh, torch.tanh),
        (F.cross_entropy, Rectified, lambda x: F.leaky_relu(x, 0.125)),
    ],
    ids=["loss", "activation", "kink"],
)
def test_functions_that_can_be_differentiated_twice_pass(criterion, activation, plain, kind, dtype):
    call = [getattr(function, "apply", function) for function in (criterion, activation)]
    found = MATRICES[kind](objective(*call, dtype, likelihood=LIKELIHOOD.get(kind)))
    expected = MATRICES[kind](objective(F.cross_entropy, plain, dtype))
    close(found.to_dense(), expected.to_dense(), 1e-12 if dtype == torch.float64 else 1e-5)


@both_dtypes
def test_an_activation_with_a_constant_slope_has_a_jacobian_and_no_hessian(dtype):
    found, expected = (objective(F.cross_entropy, f, dtype) for f in (Tanh.apply, torch.tanh))
    for kind in ("jacobian", "ggn", "fisher"):
        close(MATRICES[kind](found).to_dense(), MATRICES[kind](expected).to_dense(), 1e-5)
    with pytest.raises(InvalidInputError, match="Tanh cannot be differentiated twice: along a direction"):
        found.hessian() @ found.theta


@both_dtypes
@pytest.mark.parametrize("kind", ["jacobian", "ggn", "hessian"])
def test_a_backward_out_of_sight_is_named(kind, dtype):
    found = objective(F.cross_entropy, Kernel.apply, dtype)
    with pytest.raises(InvalidInputError, match=r"Kernel cannot be .* twice: as a function of the incoming gradient"):
        MATRICES[kind](found) @ found.theta


@both_dtypes
def test_arguments_that_are_left_out(dtype):
    params = {name: torch.linspace(1, 2, 3, dtype=dtype) * sign for name, sign in (("a", 1), ("b", -1))}
    x = torch.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)

    def loss(affine):
        def evaluated(p, batch):
            inner = affine(torch.tanh(p["a"] * affine(batch * p["b"], None, None)), p["b"], p["a"])
            return (inner**2).mean()

        return specop.objective(evaluated, data=x, params=params)

    def plain(x, shift, factor):
        return x if shift is None else factor * x + shift

    found = loss(lambda *arguments: Affine.apply(*arguments)[0]).hessian().to_dense()
    close(found, loss(plain).hessian().to_dense(), 1e-12 if dtype == torch.float64 else 1e-5)


def test_surrogate_gradients_are_taken_as_they_are_where_they_are_meant():
    found = objective(F.cross_entropy, lambda x: Reversed.apply(x.clone()))
    with pytest.raises(
        InvalidInputError, match=r"Jacobian are not made of .*in the columns of .*accept_stopped_gradients"
    ):
        found.jacobian().to_dense()
    found._autodiff.accepts_stopped_gradients = True
    J, plain = found.jacobian().to_dense(), objective(F.cross_entropy, lambda x: x).jacobian().to_dense()
    ends = list(found.slices.values())
    behind = ends[0].start, ends[3].stop
    close(J[:, behind[0] : behind[1]], -plain[:, behind[0] : behind[1]])
    close(J[:, behind[1] :], plain[:, behind[1] :])


def test_the_check_leaves_no_trace():
    class Noisy(Recomputed):
        """A class of its own, so that this is its first use."""

    random = torch.get_rng_state()
    found = objective(Noisy.apply)
    torch.set_rng_state(random)
    before = {name: tensor.clone() for name, tensor in found.unflatten(found.theta).items()}
    found.hessian() @ found.theta
    assert torch.equal(torch.get_rng_state(), random)
    assert "forward" not in vars(Noisy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.unflatten(found.theta).items())
