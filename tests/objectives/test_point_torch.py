"""The point of an operator: it is watched, and an operator whose model has moved multiplies no more."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.nn import functional as F

import specop
from specop.errors import ParametersChangedError
from torch_cases import close, exact, problem, split, spy


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
