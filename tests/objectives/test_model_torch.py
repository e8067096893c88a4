"""The user's model: unharmed by whatever is called, watched while it moves, and its randomness fixed or refused."""

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import specop
from specop.errors import InvalidInputError, NondeterministicError, ParametersChangedError
from torch_cases import close, exact, problem, same, snapshot, split, spy

# --- The model unharmed -----------------------------------------------------------------------------------------------


def noisy_loader(x, y):
    """A loader that draws from every global generator in each pass."""

    class Noisy:
        def __iter__(self):
            for i in range(2):
                torch.rand(1), random.random(), np.random.rand()
                yield x[i::2], y[i::2]

    return Noisy()


CALLS = {
    "make": lambda make: make(),
    "loss": lambda make: make().loss(),
    "gradient": lambda make: make().gradient(),
    "product": lambda make: make().hessian() @ ones(make),
    "products": lambda make: make().hessian().to_dense(),
    "recomputed": lambda make: make(memory_budget=0).hessian().to_dense(),
    "theta": lambda make: make().hessian(ones(make)) @ ones(make),
    "ggn": lambda make: make().ggn().to_dense(),
    "fisher": lambda make: make().fisher(kind="mc", draws=2).to_dense(),
    "blocks": lambda make: make().fisher(kind="empirical", of="samples").block_diagonal() @ ones(make),
    "jacobian": lambda make: make(memory_budget=0).jacobian().T.to_dense(),
    "differences": lambda make: make().finite_difference_hessian() @ ones(make),
    "sample gradients": lambda make: list(make().per_sample_gradients()),
    "batches": lambda make: [part.loss() for part in make().batches()],
    "fixed randomness": lambda make: make(fixed_randomness=3).hessian().to_dense(),
    "restrict": lambda make: make().restrict("*.weight").hessian().to_dense(),
    "eigsh": lambda make: specop.eigsh(make().hessian(), k=2),
    "trace": lambda make: specop.trace(make().hessian(), max_matvecs=8, rtol=None),
    "samples": lambda make: make().samples,
    "failing loss": lambda make: fails(make(criterion=lambda outputs, y: outputs).loss),
    "failing gradient": lambda make: fails(make(criterion=explode).gradient),
    "failing product": lambda make: fails(lambda: make(criterion=explode).hessian() @ ones(make)),
    "failing later": lambda make: fails(make(criterion=later(), memory_budget=0).hessian().to_dense),
    "failing backward": lambda make: fails(make(criterion=first_order_only).hessian().to_dense),
    "failing ggn": lambda make: fails(make(criterion=later(2), memory_budget=0).ggn().to_dense),
    "failing jacobian": lambda make: fails(
        make(forward=lambda model, batch: Fails.apply(model(batch[0]))).jacobian().T.to_dense
    ),
    "failing sample gradients": lambda make: fails(lambda: list(make(criterion=explode).per_sample_gradients())),
    "failing likelihood": lambda make: fails(make(criterion=ones_like, likelihood="gaussian").fisher().to_dense),
    "failing selection": lambda make: fails(lambda: make(select="nothing")),
}


def ones(make):
    return torch.ones(make().n).double()


def explode(outputs, y):
    torch.rand(1)
    raise RuntimeError("out of luck")


def later(limit=5):
    calls = []

    def criterion(outputs, y):
        calls.append(1)
        if len(calls) > limit:
            raise RuntimeError("out of luck")
        return F.cross_entropy(outputs, y)

    return criterion


def first_order_only(outputs, y):
    return F.cross_entropy(OnlyOnce.apply(outputs), y)


class OnlyOnce(torch.autograd.Function):
    """The identity, until its gradient is differentiated."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return Fails.apply(grad)


class Fails(OnlyOnce):
    @staticmethod
    def backward(ctx, grad):
        torch.rand(1)
        raise RuntimeError("out of luck")


def ones_like(outputs, y):
    return outputs.exp().mean()


def fails(call):
    with pytest.raises((RuntimeError, ValueError)):
        call()


@pytest.mark.parametrize("data", ["tuple", "data loader", "noisy loader"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore::specop.errors.ConvergenceWarning")
def test_the_model_is_left_as_it_was(call, data):
    model, criterion, (x, y) = problem("cnn", n=6)
    model[5].requires_grad_(False)
    criterion(model(x), y).backward()  # gradients that must stay, neither added to nor removed
    source = {
        "tuple": (x, y),
        "data loader": DataLoader(TensorDataset(x, y), batch_size=4),
        "noisy loader": noisy_loader(x, y),
    }[data]

    def make(criterion=criterion, **keywords):
        return specop.objective(model, criterion, source, **keywords)

    before = snapshot(model)
    CALLS[call](make)
    after = snapshot(model)
    for part in before:
        assert same(before[part], after[part]), part


def test_a_failed_pass_does_not_turn_back_the_clock_later():
    model, _, (x, y) = problem("mlp")
    H = specop.objective(model, later(), noisy_loader(x, y), memory_budget=0).hessian()
    with pytest.raises(RuntimeError, match="out of luck") as caught:
        H.to_dense()
    drawn = random.random(), np.random.rand(), torch.rand(1)
    state = random.getstate()
    del caught  # and with it the frames of the pass that was broken off
    assert state == random.getstate()
    assert drawn != (random.random(), np.random.rand(), torch.rand(1))


def test_a_second_analysis_gives_the_same():
    model, criterion, batch = problem("transformer")

    def analysis():
        return specop.eigsh(specop.objective(model, criterion, batch).hessian(), k=3).eigenvalues

    first = analysis()
    criterion(model(batch[0]), batch[1]).backward()
    np.testing.assert_array_equal(analysis(), first)


def test_products_start_anew_after_a_failed_one():
    model, criterion, batch = problem("mlp")
    hessian = exact(model, criterion, batch)[2]
    broken = [False, True, True]

    def sometimes(outputs, y):
        if len(y) == 1 and broken.pop():
            raise RuntimeError("out of luck")
        return criterion(outputs, y)

    H = specop.objective(model, sometimes, split(batch, 5, 5, 1)).hessian()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of luck"):
            H @ torch.ones(31).double()
    broken.extend([False] * 99)
    close(H.to_dense(), hessian)
    close(H.to_dense(), hessian)


# --- A point that moves -----------------------------------------------------------------------------------------------


def by_optimizer(model):
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def by_data(model):
    model[0].bias.data.add_(1e-9)


def by_load(model):
    model.load_state_dict({name: 2 * tensor for name, tensor in model.state_dict().items()})


def by_replacement(model):
    model[0].weight = nn.Parameter(torch.ones(4, 3).double())


@pytest.mark.parametrize("move", [by_optimizer, by_data, by_load, by_replacement], ids=lambda move: move.__name__)
@pytest.mark.parametrize("used", [True, False])
def test_an_operator_belongs_to_one_point(move, used):
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    H, v = objective.hessian(), torch.ones(31).double()
    if used:
        H @ v, H @ v
    move(model)
    with pytest.raises(ParametersChangedError, match=r"changed since this operator was made.*objective\.hessian\(\)"):
        H @ v
    with pytest.raises(ParametersChangedError):
        (H + specop.identity_like(H)) @ v
    with pytest.raises(ParametersChangedError):
        specop.eigsh(H, k=1)
    loss, gradient, hessian = exact(model, criterion, batch)
    close(objective.loss(), loss)
    close(objective.gradient(), gradient)
    close(objective.hessian().to_dense(), hessian)


def test_modes_and_buffers_belong_to_the_point():
    model, criterion, batch = problem("cnn")
    H = specop.objective(model, criterion, batch).hessian()
    v = torch.ones(H.shape[0]).double()
    model[1].running_mean.add_(1)
    with pytest.raises(ParametersChangedError):
        H @ v
    model[1].running_mean.sub_(1)
    model[2].train()
    with pytest.raises(ParametersChangedError, match="modes"):
        H @ v


def test_autocast_belongs_to_the_point():
    """The model is another function there, of other precision, and what is kept would be of one of the two."""
    model, criterion, (x, y) = problem("mlp")
    model, batch, v = model.float(), (x.float(), y), torch.ones(31)
    H = specop.objective(model, criterion, batch).hessian()
    assert H.precision == torch.finfo(torch.float32).eps
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ParametersChangedError, match="modes"):
            H @ v
        coarse = specop.objective(model, criterion, batch).hessian()
        assert coarse.precision == torch.finfo(torch.bfloat16).eps
        coarse @ v
    with pytest.raises(ParametersChangedError, match="modes"):
        coarse @ v
    H @ v


def test_a_fixed_point_stays_when_the_model_moves():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    hessian = exact(model, criterion, batch)[2]
    theta = objective.flatten(dict(model.named_parameters()))
    H = objective.hessian(theta)
    by_optimizer(model)
    close(H.to_dense(), hessian)
    theta.zero_()
    close(H.to_dense(), hessian)
    part = objective.restrict("2").hessian(torch.ones(15).double())
    by_optimizer(model)  # the other parameters are not fixed
    with pytest.raises(ParametersChangedError):
        part.to_dense()


def test_a_model_that_moves_during_a_call():
    model, _, batch = problem("mlp")

    def training(outputs, y):
        model[0].bias.data.add_(0.1)
        return F.cross_entropy(outputs, y)

    objective = specop.objective(model, training, batch)
    for call in (objective.loss, objective.gradient, objective.hessian().to_dense):
        with pytest.raises(ParametersChangedError, match=r"during this call.*model.eval|since this operator was made"):
            call()


def test_release_frees_and_nothing_else():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    H, v = objective.hessian(), torch.ones(31).double()
    before = H @ v
    objective.release()
    objective.release()
    assert H.products[0].held_bytes == 0
    close(H @ v, before)
    close(objective.hessian() @ v, before)


def test_one_point_is_linearized_once(monkeypatch):
    model, criterion, batch = problem("mlp")
    kinds = spy(monkeypatch)
    objective = specop.objective(model, criterion, split(batch, 6, 5))
    for _ in range(3):
        objective.hessian().to_dense()
    assert len(kinds) == 2


def smoothed(model, criterion):
    criterion.label_smoothing = 0.3


def weighted(model, criterion):
    criterion.weight.mul_(torch.tensor([1.0, 3.0, 0.2]))


def hooked(model, criterion):
    model[1].register_forward_hook(lambda layer, inputs, outputs: 2 * outputs)


def replaced(model, criterion):
    model[1] = nn.Sigmoid()


@pytest.mark.parametrize(
    ("change", "kind"),
    [(smoothed, "hessian"), (weighted, "ggn"), (weighted, "hessian"), (hooked, "ggn"), (replaced, "hessian")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_new_operator_is_of_what_the_loss_reads_now(change, kind):
    """Linearizations are shared by operators of one point, which parameters and buffers alone do not make."""
    model, _, batch = problem("mlp")
    criterion = nn.CrossEntropyLoss(weight=torch.ones(3).double())
    objective = specop.objective(model, criterion, split(batch, 6, 5))
    operator = getattr(objective, kind)()
    before = operator.to_dense()
    change(model, criterion)
    found = getattr(objective, kind)().to_dense()
    close(found, getattr(specop.objective(model, criterion, batch), kind)().to_dense(), 1e-12)
    if kind == "hessian":
        close(found, exact(model, criterion, batch)[2])
    assert (found - before).abs().max() > 1e-3
    if change is replaced:
        with pytest.raises(ParametersChangedError, match="layers or modes have changed"):
            operator @ objective.theta


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


def test_what_was_linearized_while_the_model_moved_is_forgotten():
    """The model comes back to where it was, and products are right again."""
    model, criterion, batch = problem("mlp")
    H = specop.objective(model, criterion, batch).hessian()
    bias, v = model[0].bias.data.clone(), torch.ones(31).double()

    def training(*_):
        model[0].bias.data.add_(0.1)

    hook = model[0].register_forward_pre_hook(training)
    with pytest.raises(ParametersChangedError, match="during this call"):
        H @ v
    hook.remove()
    model[0].bias.data.copy_(bias)
    close(H @ v, exact(model, criterion, batch)[2] @ v)
