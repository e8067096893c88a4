"""Products on chosen samples, and what each sample may add to curvature, in every framework."""

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS, close, numpy, objective, operator
from parity.problems import PROBLEMS
from specop.errors import InvalidInputError

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from parity.references import matrices, reference

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


def dense(name, kind):
    return reference(name)[2] if kind == "hessian" else matrices(name)[kind]


def added_up(A, groups):
    """A vector, and the sum over groups of their products with it."""
    vector = np.random.default_rng(0).standard_normal(A.shape[1])
    native, total = A.backend.from_host(vector, A.domain), 0.0
    with A.session():
        for group in A.sample_mean.groups(groups):
            once, again, third = (numpy(group.multiply(native)) for _ in range(3))
            # The second is recorded, the third replayed.
            close(again, once, "float64")
            close(third, once, "float64")
            total = total + group.share * once
    return vector, total


def thirds(count):
    order = np.random.default_rng(1).permutation(count)
    return [order[i::3] for i in range(3)]


@pytest.mark.parametrize(
    ("framework", "name", "kind"),
    [("torch", name, kind) for name in PROBLEMS for kind in ("hessian", "ggn")]
    + [(framework, "mlp", "hessian") for framework in FRAMEWORKS if framework != "torch"],
)
def test_groups_add_up_to_the_matrix(framework, name, kind):
    A = operator(objective(framework, name, "float64"), kind)
    # Each size is compiled for where frameworks compile: there it is one group, of samples from all batches.
    groups = thirds(A.samples) if framework == "torch" else [np.concatenate(thirds(A.samples))]
    vector, total = added_up(A, groups)
    close(total, dense(name, kind) @ vector, "float64")


@each_framework
def test_importance_is_the_trace_in_the_outputs_and_the_residual(framework):
    problem = PROBLEMS["mlp"]
    y = np.concatenate([labels for _, labels in problem.batches])
    found = objective(framework, "mlp", "float64").importance()
    logits = outputs(problem)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    residual = np.linalg.norm(p - np.eye(4)[y], axis=1)
    spread = 1.0 - (p**2).sum(axis=1)
    # Without a likelihood it would be the residual alone.
    assert np.allclose(found * len(y), spread + residual, rtol=1e-6) or np.allclose(found * len(y), residual, rtol=1e-6)


def outputs(problem):
    from parity.torch_models import mlp

    weights = [torch.tensor(weight) for weight in problem.weights.values()]
    return np.concatenate([mlp(weights, (torch.tensor(x), torch.tensor(y))).numpy() for x, y in problem.batches])


def linear(criterion, data, **keywords):
    torch.manual_seed(0)
    features = (data[0] if isinstance(data, list) else data)[0].shape[-1]
    return specop.objective(torch.nn.Linear(features, 3).double(), criterion, data, **keywords)


def classes(count, features=4):
    rng = np.random.default_rng(0)
    return torch.tensor(rng.standard_normal((count, features))), torch.tensor(rng.integers(0, 3, count))


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (F.cross_entropy, lambda p, y: 1.0 - (p.softmax(1) ** 2).sum(1) + (p.softmax(1) - F.one_hot(y, 3)).norm(dim=1)),
        (lambda z, y: F.cross_entropy(z, y), lambda p, y: (p.softmax(1) - F.one_hot(y, 3)).norm(dim=1)),
        (
            lambda z, y: F.mse_loss(z, F.one_hot(y, 3).double()),
            lambda p, y: 2.0 / 3.0 * (p - F.one_hot(y, 3)).norm(dim=1),
        ),
    ],
)
def test_importance_without_and_with_a_likelihood(criterion, expected):
    x, y = classes(12)
    found = linear(criterion, [(x[:5], y[:5]), (x[5:], y[5:])])
    logits = x @ found.unflatten(found.theta)["weight"].T + found.unflatten(found.theta)["bias"]
    assert np.allclose(12 * found.importance(), expected(logits.detach(), y), rtol=1e-9)


def test_importance_of_a_loss_without_outputs_is_one():
    data = torch.randn(9, 2)
    found = specop.objective(lambda p, batch: ((batch @ p) ** 2).mean(), params=torch.ones(2), data=data)
    assert found.importance().tolist() == [1.0] * 9


def test_weights_of_classes_and_ignored_labels_count_as_in_the_whole():
    x, y = classes(30)
    y[::4] = -100
    weight = torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)
    criterion = torch.nn.CrossEntropyLoss(weight=weight)
    for data in ([(x[:11], y[:11]), (x[11:], y[11:])], (x, y)):
        found = linear(criterion, data)
        A = found.hessian()
        vector, total = added_up(A, [*thirds(28), np.array([28]), np.array([29])])
        close(total, numpy(A @ torch.tensor(vector)), "float64")
        assert (found.importance()[::4] == 0).all() and (found.importance()[1::4] > 0).all()


@pytest.mark.parametrize("size", [3, 7])
def test_small_batches_are_looked_at_together(size):
    x, y = classes(50, features=64)
    y[::4] = -100
    criterion, calls = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)), []

    class Counted(torch.nn.Linear):
        def forward(self, inputs):
            calls.append(1)
            return super().forward(inputs)

    model = Counted(64, 3).double()
    expected = specop.objective(model, criterion, (x, y)).importance()
    found = specop.objective(model, criterion, list(zip(x.split(size), y.split(size), strict=True)))
    assert np.allclose(found.importance(), expected, rtol=1e-9)
    calls.clear()
    assert np.allclose(found.importance(), expected, rtol=1e-9)
    # 195 parameters are as many as the outputs of 65 samples; nobody knows what belongs to a batch of one.
    assert len(calls) <= 4


def test_batches_of_other_lengths_and_single_samples_with_what_belongs_to_none():
    rng = np.random.default_rng(0)
    scale = torch.tensor([[0.5, 2.0, 1.0]], dtype=torch.float64)

    def batch(count, length):
        x = torch.tensor(rng.standard_normal((count, length, 4)))
        return {"x": x, "y": torch.tensor(rng.integers(0, 3, count)), "scale": scale}

    model = torch.nn.Linear(4, 3).double()
    found = specop.objective(
        model,
        lambda z, b: F.cross_entropy(z, b["y"]),
        [batch(6, 5), batch(1, 5), batch(4, 7), batch(1, 7), batch(5, 5)],
        forward=lambda m, b: m(b["x"]).mean(1) * b["scale"],
        weight=lambda b: len(b["y"]),
    )
    A = found.hessian()
    vector, total = added_up(A, thirds(17))
    close(total, numpy(A @ torch.tensor(vector)), "float64")


def test_groups_are_linearized_within_the_memory_budget():
    x, y = classes(40)
    for budget, is_held in ((10**9, True), (0, False)):
        A = linear(F.cross_entropy, [(x[:20], y[:20]), (x[20:], y[20:])], memory_budget=budget).hessian()
        vector = torch.ones(A.shape[1], dtype=torch.float64)
        with A.session():
            (group,) = A.sample_mean.groups([np.arange(40)])
            products = [numpy(group.multiply(vector)) for _ in range(3)]
        assert (group.held_bytes > 0) is is_held and group.bytes > 0
        for product in products:
            close(product, numpy(A @ vector), "float64")


def contrastive(z, y):
    return F.cross_entropy(z @ z.T, torch.arange(len(z)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: linear(contrastive, classes(40)).hessian(), "samples are coupled"),
        (lambda: linear(lambda z, y: F.cross_entropy(z, y) * len(z), classes(40)).hessian(), "criterion is no mean"),
        (lambda: linear(F.cross_entropy, [classes(20)] * 2, batches="as given").hessian(), "as given"),
        (lambda: linear(F.cross_entropy, classes(40)).fisher(kind="mc"), "sampled fisher"),
        (lambda: linear(F.cross_entropy, classes(40)).fisher(kind="empirical", of="samples"), "of samples"),
        (lambda: (lambda H: H + H)(linear(F.cross_entropy, classes(40)).hessian()), "needs a mean over data samples"),
        (lambda: np.eye(3), "needs a mean over data samples"),
    ],
)
def test_what_is_no_mean_over_samples_is_refused_by_name(make, words):
    with pytest.raises(InvalidInputError, match=words):
        specop.trace(make(), data="part", rtol=0.5)


def weighted(z, y):
    return F.cross_entropy(z, y, weight=torch.tensor([1.0, 5.0, 0.2], dtype=z.dtype))


FROM_A_PART = {
    "trace": lambda A: specop.trace(A, data="part", rtol=0.5),
    "diagonal": lambda A: specop.diagonal(A, data="part", rtol=0.5),
    "frobenius_norm": lambda A: specop.frobenius_norm(A, data="part", rtol=0.5),
    "spectral_norm": lambda A: specop.spectral_norm(A, data="part", rtol=0.5),
    "eigsh": lambda A: specop.eigsh(A, 1, data="part", rtol=0.5),
    "spectral_density": lambda A: specop.spectral_density(A, data="part"),
    "quadratic_form": lambda A: specop.quadratic_form(
        A, torch.ones(A.shape[1], dtype=torch.float64), data="part", rtol=0.5
    ),
}


@pytest.mark.parametrize("name", FROM_A_PART)
@pytest.mark.parametrize("criterion", [weighted, contrastive])
@pytest.mark.parametrize(("count", "batch"), [(24, 24), (24, 6), (24, 1), (1200, 1200)])
def test_groups_that_do_not_show_that_samples_are_coupled(name, criterion, count, batch):
    """Groups of one sample, and those of one class, which samples sorted by what they may add make."""
    x, y = classes(count)
    found = linear(criterion, (x, y) if batch == count else list(zip(x.split(batch), y.split(batch), strict=True)))
    with pytest.raises(InvalidInputError, match=r"samples are coupled|several batches do not add up"):
        FROM_A_PART[name](found.hessian())


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_batches_without_outputs_are_looked_at_too(batch):
    x, y = classes(24)
    found = specop.objective(
        lambda params, batch: weighted(batch[0] @ params["w"], batch[1]),
        params={"w": torch.ones(4, 3, dtype=torch.float64) + torch.eye(4, 3, dtype=torch.float64)},
        data=list(zip(x.split(batch), y.split(batch), strict=True)),
    )
    with pytest.raises(InvalidInputError, match="several batches do not add up"):
        specop.trace(found.hessian(), data="part", rtol=0.5)


def test_a_loader_is_read_again_and_left_as_it_was():
    x, y = classes(64)
    generator = torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7, generator=generator)
    found = specop.objective(torch.nn.Linear(4, 3).double(), F.cross_entropy, loader, memory_budget=10)
    A, before = found.hessian(), (generator.get_state(), torch.get_rng_state())
    vector, total = added_up(A, thirds(64))
    close(total, numpy(A @ torch.tensor(vector)), "float64")
    assert torch.equal(generator.get_state(), before[0]) and torch.equal(torch.get_rng_state(), before[1])


def test_numbers_of_a_trained_network_from_a_part_of_its_samples():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.standard_normal((1500, 6)))
    y = (x @ torch.tensor(rng.standard_normal((6, 3))) + 0.1 * torch.tensor(rng.standard_normal((1500, 3)))).argmax(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=40)

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(model(x), y)
        value.backward()
        return value

    optimizer.step(loss)
    H = specop.objective(model, F.cross_entropy, list(zip(x.split(100), y.split(100), strict=True))).hessian()
    values = np.linalg.eigvalsh(numpy(H.to_dense()))
    eigen = specop.eigsh(H, 2, which="LA", rtol=0.1, data="part")
    assert ((eigen.intervals[:, 0] <= values[-2:]) & (values[-2:] <= eigen.intervals[:, 1])).all() and eigen.converged
    diagonal = specop.diagonal(H, rtol=0.3, data="part")
    assert np.linalg.norm(numpy(diagonal.x) - numpy(H.to_dense()).diagonal()) <= 3.0 * diagonal.error_norm
    density = specop.spectral_density(H, rtol=0.1, data="part")
    low, high = density.count(0.3 * values[-1], np.inf).interval
    assert low <= (values > 0.3 * values[-1]).sum() <= high
    v = torch.ones(H.shape[1], dtype=torch.float64)
    for found, truth in (
        (specop.trace(H, rtol=0.2, data="part"), values.sum()),
        (specop.spectral_norm(H, rtol=0.1, data="part"), np.abs(values).max()),
        (specop.frobenius_norm(H, rtol=0.2, data="part"), np.linalg.norm(values)),
        (specop.quadratic_form(H, v, rtol=0.1, data="part"), float(v @ (H @ v))),
    ):
        assert found.samples == 1500 and found.samples_used <= 1500 and found.converged
        assert abs(found.estimate - truth) <= 4.0 * found.standard_error


@pytest.mark.parametrize(
    "framework", [name if name == "torch" else pytest.param(name, marks=pytest.mark.slow) for name in FRAMEWORKS]
)
def test_numbers_from_all_samples_of_few_are_exact_or_have_the_error_that_is_said(framework):
    A, matrix = operator(objective(framework, "mlp", "float64"), "hessian"), dense("mlp", "hessian")
    v = A.backend.from_host(np.random.default_rng(0).standard_normal(A.shape[1]), A.domain)
    form = specop.quadratic_form(A, v, rtol=1e-9, data="part")
    assert form.estimate == pytest.approx(numpy(v) @ matrix @ numpy(v), rel=1e-9)
    eigen = specop.eigsh(A, 2, which="LA", tol=0.1, rtol=0.1, data="part")
    assert (
        eigen.eigenvalues == pytest.approx(np.linalg.eigvalsh(matrix)[-2:], rel=1e-2)
        and eigen.samples_used == A.samples
    )
    diagonal = specop.diagonal(A, max_matvecs=3, data="part")
    assert np.linalg.norm(numpy(diagonal.x) - matrix.diagonal()) < 2.0 * diagonal.error_norm
    norm = specop.frobenius_norm(A, max_matvecs=3, data="part")
    assert abs(norm.estimate - np.linalg.norm(matrix)) < 4.0 * norm.standard_error
