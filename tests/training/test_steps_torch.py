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
