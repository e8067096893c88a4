"""In torch a monitor changes no bit of a training, and sees through what is put around a model."""

import copy
import random

import numpy as np
import pytest

import specop
from specop.training import Monitor

torch = pytest.importorskip("torch")
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Merging(nn.Linear):
    """As adapters do that are added to the weight for evaluation, and not to the same bits taken out again."""

    def train(self, mode=True):
        shift = torch.full_like(self.weight, 1 / 3)
        self.weight.data.add_(shift if not mode and self.training else -shift if mode and not self.training else 0)
        return super().train(mode)


class Network(nn.Module):
    """Dropout, batch normalization, a layer that stays in evaluation mode, a counter and generators of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), Merging(16, 16), nn.BatchNorm1d(16)
        )
        self.head = nn.Linear(16, 3)
        self.generator = torch.Generator().manual_seed(5)
        self.rng = np.random.default_rng(3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        hidden = self.layers(x)
        if self.training:
            noise = torch.randn(hidden.shape, generator=self.generator) + float(self.rng.random())
            hidden = hidden * (1 + 0.1 * noise)
        return self.head(hidden)


def train(what, *, steps=12, amp=False, budget=None):
    torch.manual_seed(0)
    random.seed(1)
    np.random.seed(2)
    model = Network()
    model.layers[5].eval()
    torch.manual_seed(1)
    x, y = torch.randn(48, 6), torch.randint(3, (48,))
    shared = torch.Generator().manual_seed(7)
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, generator=shared)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    monitor = None
    if what:
        # The loader that the model is trained on, of which a pass draws from the generator that shuffles.
        monitor = Monitor(specop.objective(model, F.cross_entropy, loader), every=3, what=what)
    step = 0
    while step < steps:
        for batch, labels in loader:
            noise = random.random() + np.random.random()
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                loss = F.cross_entropy(model(batch * (1 + 0.01 * noise)), labels)
                if monitor is not None:
                    monitor.record(step)
            loss.backward()
            optimizer.step()
            step += 1
    left = {
        "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": [parameter.grad.clone() for parameter in model.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "modes": [layer.training for layer in model.modules()],
        "own": (model.calls, model.generator.get_state(), model.rng.bit_generator.state),
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state(), shared.get_state()),
        "grad": [parameter.requires_grad for parameter in model.parameters()],
    }
    return left, monitor


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        assert_same(list(one.values()), list(other.values()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            assert_same(mine, yours)
    else:
        assert one == other


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "amp"])
def test_a_run_with_a_monitor_ends_in_the_same_bits(amp):
    plain, _ = train(None, amp=amp)
    watched, monitor = train(("lambda_max", "trace", "density"), amp=amp)
    assert_same(plain, watched)
    assert monitor.history.steps.tolist() == [0, 3, 6, 9]
    assert len(set(monitor.history["lambda_max"])) == 4


def test_also_where_a_record_fails():
    torch.manual_seed(0)
    model = Network()
    data = torch.randn(8, 6), torch.randint(3, (8,))

    def criterion(outputs, labels):
        raise ZeroDivisionError

    monitor = Monitor(specop.objective(model, criterion, data), what="lambda_max")
    before = [layer.training for layer in model.modules()], torch.get_rng_state(), model.calls
    with pytest.raises(ZeroDivisionError):
        monitor.record(0)
    assert_same(before, ([layer.training for layer in model.modules()], torch.get_rng_state(), model.calls))


def test_the_curvature_is_that_of_evaluation_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    x, y = torch.randn(32, 4), torch.randint(2, (32,))
    model(x)
    objective = specop.objective(model, F.cross_entropy, (x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Monitor(objective, what={"lambda_max": {"tol": 1e-4}}).record(0)["lambda_max"]
    reference = copy.deepcopy(model).double().eval()
    names = [name for name, _ in reference.named_parameters()]

    def loss(*values):
        outputs = torch.func.functional_call(reference, dict(zip(names, values, strict=True)), (x.double(),))
        return F.cross_entropy(outputs, y)

    blocks = torch.autograd.functional.hessian(loss, tuple(reference.parameters()))
    sizes = [parameter.numel() for parameter in reference.parameters()]
    dense = torch.cat([torch.cat([b.reshape(n, -1) for b in row], 1) for row, n in zip(blocks, sizes, strict=True)])
    right = float(torch.linalg.eigvalsh(dense)[-1])
    assert abs(found.estimate - right) < 1e-5 * right
    assert model.training


def test_compiled_and_wrapped_models_are_seen_through(tmp_path):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    data = torch.randn(16, 4), torch.randint(2, (16,))
    numbers = []
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = {
            "plain": plain,
            "compiled": torch.compile(plain, backend="eager"),
            "parallel": nn.parallel.DistributedDataParallel(plain),
        }
        for model in wrapped.values():
            model.train()
            monitor = Monitor(specop.objective(model, F.cross_entropy, data, parallel=False), what="lambda_max")
            numbers.append(monitor.record(0)["lambda_max"].estimate)
            assert model.training and plain[1].training
    finally:
        torch.distributed.destroy_process_group()
    assert numbers[0] == numbers[1] == numbers[2]


def test_warm_starts_take_two_thirds_of_the_products_of_cold_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4))
    x = torch.randn(128, 8)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] * x[:, 2] > 0).long()
    objective = specop.objective(model, F.cross_entropy, (x, y))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    warm, cold = Monitor(objective, every=20, what="lambda_max"), []
    for step in range(181):
        if step % 20 == 0 and step:
            cold.append(specop.eigsh(objective.hessian(), k=1, which="LA", tol=1e-2).matvecs)
        if (record := warm.record(step)) is not None and step:
            right = specop.eigsh(objective.hessian(), k=1, which="LA", tol=1e-5).eigenvalues[0]
            assert abs(record["lambda_max"].estimate - right) <= record.numbers["lambda_max_error"]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert warm.history["record_matvecs"][1:].sum() <= 2 / 3 * sum(cold)


def test_the_limit_moves_with_the_optimizer():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x = torch.randn(64, 3)
    y = x.sum(1, keepdim=True)
    objective = specop.objective(model, F.mse_loss, (x, y))
    design = torch.cat([x, torch.ones(64, 1)], 1).double()
    right = float(torch.linalg.eigvalsh(2 * design.T @ design / 64)[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    monitor = Monitor(objective, every=1, optimizer=optimizer)
    for step in range(3):
        monitor.record(step)
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        schedule.step()
    history = monitor.history
    np.testing.assert_allclose(history["lr"], [0.1, 0.05, 0.025])
    np.testing.assert_allclose(history["limit"], [30.0, 60.0, 120.0], rtol=1e-6)
    np.testing.assert_allclose(history["ratio"] * history["limit"], right, rtol=1e-3)
    assert (history["ratio_error"] * history["limit"] <= history["sharpness_error"] * (1 + 1e-9)).all()
    assert [line.get_label() for line in monitor.plot().lines][-1] == "2 / lr"
    assert [line.get_label() for line in monitor.plot(quantity="sharpness").lines][-1] == "limit of the optimizer"


def test_adam_has_no_limit_before_its_first_step():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    data = torch.randn(64, 3), torch.randn(64, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    monitor = Monitor(specop.objective(model, F.mse_loss, data), every=1, optimizer=optimizer)
    for step in range(3):
        record = monitor.record(step)
        assert ("sharpness" in record.estimates) == (step > 0)
        optimizer.zero_grad()
        F.mse_loss(model(data[0]), data[1]).backward()
        optimizer.step()
    history = monitor.history
    # At beta1 = 0.9.
    np.testing.assert_allclose(history["limit"], [np.nan, 3800.0, 3800.0])
    assert np.isfinite(history["lambda_max"]).all()
    assert history.notes.startswith("step 0: Adam has no second moments yet") and not history.gaps


class Unusual(torch.optim.SGD):
    """Nobody knows its limit."""


def test_steps_that_nobody_knows_the_limit_of_are_named():
    model = nn.Linear(3, 1)
    objective = specop.objective(model, F.mse_loss, (torch.randn(8, 3), torch.randn(8, 1)))
    unknown = Unusual(model.parameters(), lr=0.1)
    with pytest.raises(specop.errors.InvalidInputError, match="largest stable curvature of Unusual is not known"):
        Monitor(objective, optimizer=unknown).record(0)
    with pytest.raises(specop.errors.InvalidInputError, match="pass optimizer= or lr= to Monitor"):
        Monitor(objective, what="stability").record(0)
    # Without an optimizer the usual choice is the largest eigenvalue alone; an optimizer may come with a record.
    monitor = Monitor(objective, every=1)
    assert list(monitor.record(0).estimates) == ["loss", "lambda_max", "lambda_max_level"]
    with pytest.warns(UserWarning, match="those of the last record"):
        record = monitor.record(1, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert record["limit"].estimate == pytest.approx(20.0)


def test_noise_is_that_of_the_point():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    objective = specop.objective(model, F.mse_loss, (torch.randn(64, 3), torch.randn(64, 1)))
    record = Monitor(objective, what="noise").record(0)
    found = specop.landscape.noise(specop.objective(model.eval(), F.mse_loss, objective._data._source._batches))
    assert record["simple_scale"] == found.simple_scale and record["curvature_scale"] == found.curvature_scale


def test_flatness_is_that_of_the_point():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x = torch.randn(64, 3)
    objective = specop.objective(model, F.mse_loss, (x, torch.randn(64, 1)))
    record = Monitor(objective, what={"flatness": {"measures": ["trace", "frobenius_norm"]}}).record(0)
    design = torch.cat([x, torch.ones(64, 1)], 1).double()
    dense = 2 * design.T @ design / 64
    assert record["flatness_trace"].estimate == pytest.approx(float(dense.trace()), rel=1e-5)
    assert record["flatness_frobenius_norm"].estimate == pytest.approx(float(dense.norm()), rel=1e-5)


def test_parameters_with_rates_of_their_own_share_a_limit():
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 1, bias=False))
    objective = specop.objective(model, F.mse_loss, (torch.eye(3), torch.zeros(3, 1)))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.2}]
    record = Monitor(objective, optimizer=torch.optim.SGD(groups)).record(0)
    w, v = model[0].weight.detach().double().ravel(), float(model[1].weight.detach())
    dense = torch.zeros(4, 4, dtype=torch.float64)
    dense[:3, :3], dense[3, 3] = 2 / 3 * v**2 * torch.eye(3), 2 / 3 * float(w @ w)
    dense[:3, 3] = dense[3, :3] = 4 / 3 * v * w
    root = torch.tensor([0.1, 0.1, 0.1, 0.2]).double().sqrt()
    right = float(torch.linalg.eigvalsh(root[:, None] * dense * root)[-1])
    assert record["ratio"].estimate == pytest.approx(right / 2, rel=1e-3) and "lr" not in record.estimates
