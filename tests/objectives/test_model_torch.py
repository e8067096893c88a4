"""The function that a model is: its randomness is fixed or refused, and so is what is read past its modules."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import specop
from specop.errors import InvalidInputError, NondeterministicError
from torch_cases import close, exact, problem, same, snapshot, split

# --- Randomness in the model ------------------------------------------------------------------------------------------


class FunctionalDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return F.dropout(self.layer(x), 0.5, training=True)


def random_model(kind):
    torch.manual_seed(0)
    return {
        "dropout": lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3)),
        "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
        "functional dropout": FunctionalDropout,
    }[kind]().double()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("dropout", InvalidInputError, r"'1' \(Dropout\) has active dropout.*model\.eval\(\).*fixed_randomness=0"),
        ("batch norm", InvalidInputError, r"'1' \(BatchNorm1d\) is batch normalization in training mode.*eval"),
        ("functional dropout", NondeterministicError, r"draws random numbers.*fixed_randomness=0"),
    ],
)
def test_randomness_is_refused(kind, error, message):
    model, (_, criterion, batch) = random_model(kind), problem("mlp")
    objective = specop.objective(model, criterion, batch)
    for call in (objective.loss, objective.gradient, objective.hessian().to_dense):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("kind", ["dropout", "batch norm", "functional dropout"])
def test_fixed_randomness(kind, budget):
    model, (_, criterion, batch) = random_model(kind), problem("mlp")
    before = snapshot(model)
    torch.manual_seed(7)
    hessian = exact(model, criterion, batch)[2]
    torch.manual_seed(99)
    H = specop.objective(model, criterion, batch, fixed_randomness=7, memory_budget=budget).hessian()
    for _ in range(2):
        torch.rand(1)
        close(H.to_dense(), hessian)
    other = specop.objective(model, criterion, batch, fixed_randomness=8).hessian().to_dense()
    assert (kind == "batch norm") == torch.allclose(other, hessian)
    after = snapshot(model)
    assert all(same(before[part], after[part]) for part in before if part != "random")


def test_dropout_that_is_off_is_fine():
    model, (_, criterion, batch) = random_model("dropout"), problem("mlp")
    specop.objective(model.eval(), criterion, batch).loss()
    model.train()[1].p = 0.0
    specop.objective(model, criterion, batch).loss()


class DropsLater(nn.Module):
    """Draws for small batches only."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return F.dropout(self.layer(x), 0.5, training=len(x) < 5)


def test_every_batch_and_every_criterion_is_watched():
    batches = split(problem("mlp")[2], 7, 4)
    with pytest.raises(NondeterministicError, match="draws random numbers"):
        specop.objective(DropsLater().double(), F.cross_entropy, batches).loss()

    def noisy(outputs, y):
        return F.cross_entropy(outputs + torch.randn_like(outputs), y)

    objective = specop.objective(problem("mlp")[0], noisy, batches)
    for call in (lambda: objective.ggn() @ objective.theta, objective.loss):  # outputs alone draw nothing
        with pytest.raises(NondeterministicError, match="draws random numbers"):
            call()


# --- Parameters that are read past the model --------------------------------------------------------------------------


def penalized(model, forward):
    def criterion(outputs, y):
        return F.cross_entropy(outputs, y[1] if forward else y) + sum((p**2).sum() for p in model.parameters())

    return criterion


@pytest.mark.parametrize("forward", [None, lambda model, batch: model(batch[0])], ids=["plain", "forward"])
def test_a_penalty_in_the_criterion_counts(forward):
    model, criterion, batch = problem("mlp")
    hessian = exact(model, criterion, batch)[2] + 2 * torch.eye(31)
    objective = specop.objective(model, penalized(model, forward), batch, forward=forward)
    close(objective.hessian().to_dense(), hessian)
    theta = objective.theta + 1
    penalty = objective.loss(theta) - specop.objective(model, criterion, batch).loss(theta)
    close(penalty, theta @ theta)
    for call in (
        lambda: objective.ggn() @ theta,
        lambda: objective.fisher(kind="empirical", of="samples") @ theta,
        lambda: list(objective.per_sample_gradients()),
        lambda: objective.gradient_covariance() @ theta,
    ):
        with pytest.raises(InvalidInputError, match=r"criterion reads the parameters itself.*identity_like"):
            call()


class LeavingPenalty(nn.Module):
    """Leaves a penalty of its last call for the criterion, as mixtures of experts and variational models do."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.penalty = nn.Linear(3, 3), nn.Linear(3, 2), 0.0

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        self.penalty = (hidden**2).mean()
        return self.last(hidden)


ROWS = {
    "rows": lambda objective: next(objective.per_sample_gradients()),
    "noise": lambda objective: specop.landscape.noise(objective, parts=4),
    "Fisher": lambda objective: objective.fisher(kind="empirical", of="samples") @ objective.theta,
    "GGN": lambda objective: objective.ggn() @ objective.theta,
    "part": lambda objective: specop.trace(objective.ggn(), rtol=0.5, data="part"),
}


@pytest.mark.parametrize("call", ROWS)
def test_a_penalty_that_the_model_leaves_for_the_criterion_is_one(call):
    torch.manual_seed(0)
    model, x, y = LeavingPenalty(), torch.randn(8, 3), torch.arange(8) % 2
    objective = specop.objective(model, lambda z, y: F.cross_entropy(z, y) + model.penalty, (x, y))
    close(objective.loss(), (F.cross_entropy(model(x), y) + model.penalty).detach())
    # The second time as well, and after what has looked at the model's graph.
    objective.hessian() @ objective.theta
    for _ in range(2):
        with pytest.raises(InvalidInputError, match="criterion reads the parameters itself"):
            ROWS[call](objective)


class Bypassing(nn.Module):
    """Reads a weight through its layer and through a list, where nothing can stand in for it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.weights = [self.layer.weight]

    def forward(self, x):
        return torch.tanh(self.layer(x)) @ self.weights[0]


CALLS_OF_A_BYPASS = {
    "loss": lambda objective: objective.loss(objective.theta),
    "gradient": lambda objective: objective.gradient(),
    "hessian": lambda objective: objective.hessian() @ objective.theta,
    "jacobian": lambda objective: objective.jacobian() @ objective.theta,
    "sample gradients": lambda objective: list(objective.per_sample_gradients()),
}


@pytest.mark.parametrize("call", CALLS_OF_A_BYPASS)
def test_a_parameter_read_past_its_module_is_refused(call):
    _, criterion, batch = problem("mlp")
    objective = specop.objective(Bypassing().double(), criterion, batch)
    with pytest.raises(InvalidInputError, match=r"reads the parameter 'layer\.weight' past the model"):
        CALLS_OF_A_BYPASS[call](objective)
    assert specop.objective(Bypassing().double(), criterion, batch, select="layer.bias").loss() > 0


# --- Activations that are computed again ------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return checkpoint(self.inside, x, use_reentrant=False)


def test_checkpointing_is_right_at_every_point():
    """What is recomputed in the backward pass must read theta, not the model's own parameters."""
    model, criterion, batch = problem("mlp")
    plain, objective = (specop.objective(m, criterion, batch) for m in (model, Checkpointed(model)))
    theta = plain.theta + 0.1
    close(objective.loss(theta), plain.loss(theta))
    close(objective.gradient(theta), plain.gradient(theta))
    close(next(objective.per_sample_gradients(theta)), next(plain.per_sample_gradients(theta)))
    for matrix in ("hessian", "ggn", "jacobian"):
        found, expected = (getattr(o, matrix)(theta) for o in (objective, plain))
        close(found @ theta, expected @ theta)
        close(found @ theta, expected @ theta)
    low = specop.objective(Checkpointed(model), criterion, batch, memory_budget=0)
    close(low.hessian(theta) @ theta, plain.hessian(theta) @ theta)
