"""Objectives on small real models: right answers, the model unharmed, and errors that say what to do."""

import copy
import dataclasses
import random
import warnings

import numpy as np
import optree
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import specop
import specop_torch.autodiff as module
from specop.errors import (
    InvalidInputError,
    NondeterministicError,
    NonFiniteError,
    ParametersChangedError,
)
from specop.testing import check_objective
from specop_torch.tape import Tape, Untapeable, record

# --- Models -----------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One transformer block on token embeddings; the classifier shares no weight."""

    def __init__(self, tokens=7, width=4, heads=2):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.feed = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)
        self.heads = heads

    def forward(self, x):
        x = self.embedding(x)
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.transpose(1, 2).reshape(batch, length, width)
        return self.head((x + F.gelu(self.feed(x))).mean(1))


class WideAndDeep(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep_tables = nn.ModuleList([nn.Embedding(5, 2), nn.Embedding(3, 2)])
        self.wide = nn.Embedding(8, 1)
        self.deep = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x):
        deep = torch.cat([table(x[:, i]) for i, table in enumerate(self.deep_tables)], dim=1)
        return (self.wide(x).sum(1) + self.deep(deep))[:, 0]


class Tied(nn.Module):
    """A small language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(3, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(torch.tanh(self.mix(self.embedding(x)))).flatten(0, 1)


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def cnn():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    model(torch.randn(8, 1, 4, 4).double())  # running statistics that are not the initial ones
    return model.eval()


def labels(n, classes=3):
    return torch.arange(n) % classes


def problem(name, n=11):
    """Model, criterion and one batch; odd sizes, so that splits are uneven."""
    torch.manual_seed(0)
    if name == "mlp":
        return mlp(), F.cross_entropy, (torch.randn(n, 3).double(), labels(n))
    if name == "cnn":
        return cnn(), F.cross_entropy, (torch.randn(n, 1, 4, 4).double(), labels(n))
    if name == "transformer":
        return Attention().double().eval(), F.cross_entropy, (torch.randint(0, 7, (n, 5)), labels(n))
    if name == "wide and deep":
        x = torch.stack([torch.randint(0, 5, (n,)), torch.randint(0, 3, (n,))], dim=1)
        return WideAndDeep().double(), F.binary_cross_entropy_with_logits, (x, labels(n, 2).double())
    if name == "tied":
        x = torch.randint(0, 6, (n, 2))
        return Tied().double(), lambda outputs, y: F.cross_entropy(outputs, y.flatten()), (x, x.roll(1, 1))
    raise KeyError(name)


MODELS = ["mlp", "cnn", "transformer", "wide and deep", "tied"]


def exact(model, criterion, batch):
    """Loss, gradient and Hessian by torch itself: double backward of each row on a copy of the model."""
    model = copy.deepcopy(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = criterion(model(batch[0]), batch[1])
        rows = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        gradient = flat(rows, parameters)
        hessian = [flat(torch.autograd.grad(g, parameters, retain_graph=True), parameters) for g in gradient]
    return loss.detach(), gradient.detach(), torch.stack(hessian).detach()


def flat(tensors, like):
    return torch.cat(
        [torch.zeros_like(p).flatten() if t is None else t.flatten() for t, p in zip(tensors, like, strict=True)]
    )


def close(found, expected, tol=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=tol * max(1.0, float(expected.abs().max())))


# --- Right answers on every path --------------------------------------------------------------------------------------


def split(batch, *sizes):
    return list(zip(*(part.split(list(sizes)) for part in batch), strict=True))


PATHS = ["tape", "recompute", "some kept", "retained graph"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_laws_of_an_objective(name, dtype):
    model, criterion, batch = problem(name)
    hessian = exact(model, criterion, batch)[2].numpy()
    model, batch = model.to(dtype), tuple(part.to(dtype) if part.is_floating_point() else part for part in batch)
    objective = specop.objective(model, criterion, split(batch, 5, 4, 2))
    check_objective(objective, params=dict(model.named_parameters()), dense=hessian)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_torch(name, path, monkeypatch):
    model, criterion, batch = problem(name)
    loss, gradient, hessian = exact(model, criterion, batch)
    kinds = spy(monkeypatch, untapeable=path == "retained graph")
    batches = split(batch, 5, 4, 2)
    budget = {"recompute": 0, "some kept": held(model, criterion, batches[0])}.get(path, 2**30)
    objective = specop.objective(model, criterion, batches, memory_budget=budget)
    close(objective.loss(), loss)
    close(objective.gradient(), gradient)
    H = objective.hessian()
    kinds.clear()
    close(H.to_dense(), hessian)
    close(H.to_dense(), hessian)
    assert objective.samples == 11 and H.is_symmetric
    # The path that the case is named after was taken.
    expected = {"tape": [Tape] * 3, "retained graph": [Untapeable] * 3}
    assert kinds == expected.get(path, kinds)
    assert path != "some kept" or [apply is None for apply in H._products._linear].count(True) in (1, 2)
    assert path != "recompute" or all(apply is None for apply in H._products._linear)


def spy(monkeypatch, untapeable=False):
    """Record what every recording gives, and replace it by Untapeable if asked."""
    kinds = []

    def watched(function, inputs):
        outputs, tape = record(function, inputs)
        if untapeable:
            tape = Untapeable("a test", list(outputs))
        kinds.append(type(tape))
        return outputs, tape

    monkeypatch.setattr(module, "record", watched)
    return kinds


def held(model, criterion, batch):
    """Bytes that the linearization of a batch takes."""
    autodiff = module.make_autodiff(model, criterion)
    return autodiff.linearize(None, batch, torch.ones(autodiff.layout.n).double()).bytes


@pytest.mark.parametrize("name", MODELS)
def test_hessian_at_another_point(name):
    model, criterion, batch = problem(name)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3 * torch.randn_like(p))
    loss, gradient, hessian = exact(other, criterion, batch)
    objective = specop.objective(model, criterion, batch)
    theta = torch.cat([p.detach().flatten() for p in other.parameters()])
    close(objective.loss(theta), loss)
    close(objective.gradient(theta), gradient)
    close(objective.hessian(theta).to_dense(), hessian)


def test_a_wrong_tape_is_noticed_and_not_used(monkeypatch):
    model, criterion, batch = problem("mlp")
    hessian = exact(model, criterion, batch)[2]
    replay = Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda self, x: [2 * part for part in replay(self, x)])
    H = specop.objective(model, criterion, batch).hessian()
    close(H.to_dense(), hessian)


# --- The mean over the data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(11,), (10, 1), (1, 4, 6)])
def test_splits_change_nothing(sizes):
    model, criterion, batch = problem("mlp")
    loss, gradient, hessian = exact(model, criterion, batch)
    objective = specop.objective(model, criterion, split(batch, *sizes))
    close(objective.loss(), loss, 1e-14)
    close(objective.gradient(), gradient, 1e-14)
    close(objective.hessian().to_dense(), hessian, 1e-14)


def test_weight_counts_loss_terms():
    model, _, (x, y) = problem("mlp")
    y = torch.where(torch.arange(11) % 4 == 1, -100, y)  # padding, spread unevenly
    loss, _, hessian = exact(model, F.cross_entropy, (x, y))
    objective = specop.objective(
        model, F.cross_entropy, split((x, y), 6, 5), weight=lambda batch: (batch[1] != -100).sum()
    )
    close(objective.loss(), loss)
    close(objective.hessian().to_dense(), hessian)


def test_batches_of_weight_zero_do_not_count():
    model, criterion, batch = problem("mlp")
    first, second = split(batch, 6, 5)
    objective = specop.objective(model, criterion, [first, second], weight=lambda batch: 6 * (len(batch[1]) == 6))
    close(objective.gradient(), exact(model, criterion, first)[1])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda batch: 0, "all batches have weight zero"),
        (lambda batch: -1.0, "weight of batch 0 is -1.0"),
        (lambda batch: float("nan"), "weight of batch 0 is nan"),
    ],
)
def test_weights_that_make_no_mean(weight, message):
    model, criterion, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match=message):
        specop.objective(model, criterion, batch, weight=weight).loss()


@dataclasses.dataclass
class Batch:
    inputs: torch.Tensor
    target: torch.Tensor
    note: str = "kept as it is"


@pytest.mark.parametrize("kind", ["dict", "dataclass", "numpy", "list batches", "data loader"])
def test_batches_of_any_structure(kind):
    model, criterion, (x, y) = problem("mlp")
    hessian = exact(model, criterion, (x, y))[2]
    keywords = {}
    if kind in ("dict", "dataclass"):
        keywords["forward"] = lambda model, batch: model(read(batch, "inputs"))
        objective_criterion = lambda outputs, batch: F.cross_entropy(outputs, read(batch, "target"))  # noqa: E731
        data = {"inputs": x, "target": y} if kind == "dict" else Batch(x, y)
    else:
        objective_criterion = criterion
        data = {
            "numpy": (x.numpy(), y.numpy()),
            "list batches": [[x[:4], y[:4]], [x[4:], y[4:]]],
            "data loader": DataLoader(TensorDataset(x, y), batch_size=4),
        }[kind]
    close(specop.objective(model, objective_criterion, data, **keywords).hessian().to_dense(), hessian)


def read(batch, key):
    return batch[key] if isinstance(batch, dict) else getattr(batch, key)


# --- Functions of a structure -----------------------------------------------------------------------------------------


def params():
    torch.manual_seed(1)
    return {
        "layers": [{"w": torch.randn(4, 3).double()}, {"w": torch.randn(3, 4).double()}],
        "b": torch.zeros(3).double(),
    }


def outputs(p, batch):
    x = batch[0] if isinstance(batch, tuple) else batch
    return torch.tanh(x @ p["layers"][0]["w"].T) @ p["layers"][1]["w"].T + p["b"]


@pytest.mark.parametrize("with_criterion", [True, False])
def test_a_function_of_a_structure(with_criterion):
    batch = (torch.randn(11, 3).double(), labels(11))
    tree = params()

    def loss(p, batch):
        return F.cross_entropy(outputs(p, batch), batch[1])

    args = (outputs, F.cross_entropy) if with_criterion else (loss, None)
    objective = specop.objective(*args, split(batch, 7, 4), params=tree)
    theta = objective.flatten(tree)
    hessian = torch.autograd.functional.hessian(lambda theta: loss(objective.unflatten(theta), batch), theta)
    assert objective.n == 27 and len(objective.names) == 3
    close(objective.hessian().to_dense(), hessian)
    close(objective.hessian(theta).to_dense(), hessian)
    # A structure times the operator is a structure.
    product = objective.hessian() @ tree
    close(objective.flatten(product), hessian @ theta)
    assert product["layers"][1]["w"].shape == (3, 4)
    block = objective.restrict("layers.0.w")
    close(block.hessian().to_dense(), principal(objective, hessian, block.names))


def rosenbrock(x, _):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_rosenbrock():
    objective = specop.objective(rosenbrock, params=torch.ones(2).double())
    values = torch.linalg.eigvalsh(objective.hessian().to_dense())
    assert values.tolist() == pytest.approx([0.399361, 1001.60064], rel=1e-6)
    assert (objective.loss(), objective.samples) == (0, 1)
    ten = specop.objective(rosenbrock, params=torch.ones(10).double()).hessian()
    values = specop.eigsh(ten, k=10, tol=1e-8).eigenvalues
    assert values.sum() == pytest.approx(9018) and values[[0, -1]].tolist() == pytest.approx([0.498752, 1762.84088])


# --- Parts of the parameters ------------------------------------------------------------------------------------------


def principal(objective, hessian, names):
    """The block of the full Hessian that belongs to these names."""
    indices = objective.unflatten(torch.arange(objective.n).to(hessian.dtype))
    if not isinstance(indices, dict) or set(indices) != set(objective.names):
        indices = dict(zip(objective.names, optree.tree_leaves(indices), strict=True))
    chosen = torch.cat([indices[name].flatten() for name in names]).long()
    return hessian[chosen][:, chosen]


SELECTIONS = {
    "pattern": lambda model: "*.weight",
    "module name": lambda model: "qkv",
    "parameter name": lambda model: "norm.bias",
    "list": lambda model: ["head", "embedding.*"],
    "module": lambda model: model.feed,
    "predicate": lambda model: lambda name, tensor: tensor.ndim == 1,
    "parameter": lambda model: model.qkv.weight,
    "parameters": lambda model: [model.qkv.weight, model.head.bias],
}


@pytest.mark.parametrize("kind", SELECTIONS)
def test_a_selection_is_a_principal_block(kind):
    model, criterion, batch = problem("transformer")
    full = specop.objective(model, criterion, batch)
    select = SELECTIONS[kind](model)
    hessian = full.hessian().to_dense()
    for part in (specop.objective(model, criterion, batch, select=select), full.restrict(select)):
        assert 0 < part.n < full.n and set(part.names) < set(full.names)
        close(part.hessian().to_dense(), principal(full, hessian, part.names))
        assert len(part.gradient()) == part.n


def test_operators_restricted_to_coordinates():
    model, criterion, batch = problem("mlp")
    H = specop.objective(model, criterion, batch).hessian()
    indices = torch.tensor([4, 1, 20])
    close(specop.restrict(H, indices.numpy()).to_dense(), H.to_dense()[indices][:, indices])


def test_a_selection_that_matches_nothing_names_what_there_is():
    model, criterion, batch = problem("mlp")
    for select in ("layer4.*", [], lambda name, tensor: False, nn.Linear(2, 2), torch.ones(3)):
        with pytest.raises(InvalidInputError, match=r"matches no parameter. There are: 0.weight, 0.bias, 2.weight"):
            specop.objective(model, criterion, batch, select=select)
    with pytest.raises(InvalidInputError, match="a list of patterns or parameters; got an item of type int"):
        specop.objective(model, criterion, batch, select=[3])


def test_tied_weights_count_once():
    model, criterion, batch = problem("tied")
    assert specop.objective(model, criterion, batch).names == ("embedding.weight", "mix.weight", "mix.bias")


def test_frozen_parameters_are_left_out():
    model, criterion, batch = problem("mlp")
    model[0].requires_grad_(False)
    objective = specop.objective(model, criterion, batch)
    assert objective.names == ("2.weight", "2.bias")
    close(objective.hessian().to_dense(), exact(model, criterion, batch)[2])


def test_selected_frozen_parameters_are_zero_rows():
    model, criterion, batch = problem("mlp")
    model[0].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"2 selected parameters are frozen, such as '0.weight'.*requires_grad_\(\)"):
        objective = specop.objective(model, criterion, batch, select="*")
    H, gradient = objective.hessian().to_dense(), objective.gradient()
    assert H.shape == (31, 31) and not H[:16].any() and not H[:, :16].any() and not gradient[:16].any()
    close(H[16:, 16:], exact(model, criterion, batch)[2])


@pytest.mark.parametrize("budget", [None, 0])
def test_unused_parameters_are_zero_rows(budget):
    model, criterion, batch = problem("mlp")
    gradient, hessian = exact(model, criterion, batch)[1:]
    model.register_parameter("unused", nn.Parameter(torch.ones(2).double()))
    objective = specop.objective(model, criterion, batch, memory_budget=budget)
    at = objective.names.index("unused")
    used = [name for name in objective.names if name != "unused"]
    H = objective.hessian()
    for _ in range(2):
        dense = H.to_dense()
        close(principal(objective, dense, used), hessian)
        assert at == 0 and not dense[:2].any() and not dense[:, :2].any()
    close(objective.gradient()[2:], gradient)


def test_a_linear_loss_has_no_curvature():
    objective = specop.objective(lambda p, _: p.sum(), params=torch.ones(3))
    H = objective.hessian()
    for _ in range(2):
        assert not (H @ torch.ones(3)).any()


# --- Precision --------------------------------------------------------------------------------------------------------


def test_a_bfloat16_model_has_float32_vectors():
    model, criterion, (x, y) = problem("mlp")
    hessian = exact(model, criterion, (x, y))[2].float()
    H = specop.objective(model.bfloat16(), criterion, (x.bfloat16(), y)).hessian()
    v = torch.ones(31)
    assert H.dtype == np.float32 and H.precision == torch.finfo(torch.bfloat16).eps
    for _ in range(2):
        product = H @ v
        assert product.dtype == torch.float32
        close(product, hessian @ v, 0.05)


# --- The model unharmed -----------------------------------------------------------------------------------------------


def snapshot(model):
    """Everything of a model and of the random generators that a user could see."""
    numpy_state = np.random.get_state()
    return {
        "tensors": {name: (t.clone(), t.dtype, id(t), t._version) for name, t in tensors_of(model)},
        "grads": {name: (None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": [layer.training for layer in model.modules()],
        "hooks": [
            len(getattr(layer, kind))
            for layer in model.modules()
            for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
        ],
        "attributes": [sorted(vars(layer)) for layer in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), numpy_state[1], numpy_state[2]),
        "grad mode": torch.is_grad_enabled(),
    }


def tensors_of(model):
    return [*model.named_parameters(), *model.named_buffers()]


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    return np.array_equal(one, other)


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
    "failing selection": lambda make: fails(lambda: make(select="nothing")),
}


def ones(make):
    return torch.ones(make().n).double()


def explode(outputs, y):
    torch.rand(1)
    raise RuntimeError("out of luck")


def later():
    calls = []

    def criterion(outputs, y):
        calls.append(1)
        if len(calls) > 5:
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
        if len(y) == 2 and broken.pop():
            raise RuntimeError("out of luck")
        return criterion(outputs, y)

    H = specop.objective(model, sometimes, split(batch, 5, 4, 2)).hessian()
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
    assert H._products._linear is None
    close(H @ v, before)
    close(objective.hessian() @ v, before)


def test_one_point_is_linearized_once(monkeypatch):
    model, criterion, batch = problem("mlp")
    kinds = spy(monkeypatch)
    objective = specop.objective(model, criterion, split(batch, 6, 5))
    for _ in range(3):
        objective.hessian().to_dense()
    assert len(kinds) == 2


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


# --- Data that is not there twice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generator", "zip", "iterator"])
def test_one_shot_data_is_refused(kind):
    model, criterion, batch = problem("mlp")
    data = {"generator": (b for b in [batch]), "zip": zip(*batch, strict=True), "iterator": iter([batch])}[kind]
    with pytest.raises(InvalidInputError, match=rf"data is a {type(data).__name__}, which can be read only once.*list"):
        specop.objective(model, criterion, data)


def test_data_that_is_no_data():
    model, criterion, (x, y) = problem("mlp")
    with pytest.raises(InvalidInputError, match="data is missing"):
        specop.objective(model, criterion)
    with pytest.raises(InvalidInputError, match=r"one batch or a re-iterable of batches, got int"):
        specop.objective(model, criterion, 3)
    for empty in ([], DataLoader(TensorDataset(x[:3], y[:3]), batch_size=4, drop_last=True)):
        with pytest.raises(InvalidInputError, match=r"data holds no batch.*drop_last"):
            specop.objective(model, criterion, empty).loss()
    with pytest.raises(InvalidInputError, match=r"batch 1 is empty: its leading dimension is 0"):
        specop.objective(model, criterion, [(x, y), (x[:0], y[:0])]).loss()


def test_one_batch_as_a_list_is_explained():
    model, criterion, (x, y) = problem("mlp")
    with pytest.raises(InvalidInputError, match=r"must be a pair \(x, y\).*pass it as a tuple"):
        specop.objective(model, criterion, [x, y]).loss()
    with pytest.raises(InvalidInputError, match=r"must be a pair.*got tuple of 3.*forward=lambda"):
        specop.objective(model, criterion, (x, y, y)).loss()
    with pytest.raises(InvalidInputError, match=r"must be a pair.*got dict of 2.*forward=lambda"):
        specop.objective(model, criterion, {"x": x, "y": y}).loss()


def shuffling(batch):
    return DataLoader(TensorDataset(*batch), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))


def test_a_shuffling_loader_is_read_once_if_it_fits():
    model, criterion, batch = problem("mlp")
    H = specop.objective(model, criterion, shuffling(batch)).hessian()
    for _ in range(2):
        close(H.to_dense(), exact(model, criterion, batch)[2])


def test_a_shuffling_loader_is_caught_if_it_does_not_fit():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, shuffling(batch), memory_budget=0)
    with pytest.raises(
        NondeterministicError, match=r"batch 0 of this pass differs.*shuffle=False.*memory_budget above"
    ):
        objective.hessian().to_dense()


def test_a_loader_that_grows_or_shrinks_is_caught():
    model, criterion, batch = problem("mlp")

    class Growing:
        def __init__(self, *counts):
            self.counts = list(counts)

        def __iter__(self):
            return iter([batch] * self.counts.pop(0))

    for counts, message in [((2, 1), "gave 1 batches, the first one 2"), ((1, 2), "batch 1 of this pass differs")]:
        with pytest.raises(NondeterministicError, match=message):
            specop.objective(model, criterion, Growing(*counts), memory_budget=0).loss()


# --- Losses and parameters that make no Hessian -----------------------------------------------------------------------


def test_losses_that_are_no_mean():
    model, _, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match=r"reduction='sum'.*Use reduction='mean'"):
        specop.objective(model, nn.CrossEntropyLoss(reduction="sum"), batch)
    with pytest.raises(InvalidInputError, match="a module needs a criterion"):
        specop.objective(model, None, batch)
    for criterion, got in [
        (lambda outputs, y: F.cross_entropy(outputs, y, reduction="none"), r"\(11,\)"),
        (lambda outputs, y: outputs.sum().item(), "float"),
        (lambda outputs, y: (outputs.argmax(1) == y).sum(), r"\(\)"),
    ]:
        objective = specop.objective(model, criterion, batch)
        for call in (objective.loss, objective.gradient, objective.hessian().to_dense):
            with pytest.raises(InvalidInputError, match=f"must be one real number, the mean over the batch; got {got}"):
                call()


def test_parameters_that_are_not_finite_are_named():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    for call in (objective.loss, objective.gradient, objective.hessian().to_dense):
        with pytest.raises(NonFiniteError, match=r"loss is nan.*2\.weight\. Restore them from a checkpoint"):
            call()


def test_data_that_is_not_finite():
    model, criterion, (x, y) = problem("mlp")
    with pytest.raises(NonFiniteError, match=r"All parameters are finite: look at the data"):
        specop.objective(model, criterion, (x / 0, y)).loss()


def test_a_theta_that_is_not_finite_is_not_blamed_on_the_model():
    model, criterion, batch = problem("mlp")
    theta = torch.full((31,), float("nan")).double()
    with pytest.raises(NonFiniteError, match="theta"):
        specop.objective(model, criterion, batch).loss(theta)


def test_sparse_embeddings_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True))
    with pytest.raises(InvalidInputError, match=r"layer '0' has sparse=True.*0\.sparse = False"):
        specop.objective(model, F.cross_entropy, (labels(5), labels(5)))


def test_operations_without_a_second_derivative_are_explained():
    model = nn.Sequential(nn.EmbeddingBag(4, 3))
    objective = specop.objective(model, F.cross_entropy, (labels(6).reshape(3, 2), labels(3)))
    assert objective.gradient().any()
    with pytest.raises(InvalidInputError, match=r"no second derivative of an operation.*_embedding_bag_backward.*sum"):
        objective.hessian().to_dense()


@pytest.mark.parametrize("select", [None, "unused"])
def test_a_loss_without_parameters(select):
    model, criterion, batch = problem("mlp")
    model.register_parameter("unused", nn.Parameter(torch.ones(2).double()))
    forward = None if select else (lambda model, batch: model(batch[0]).detach())
    criterion = criterion if select else (lambda outputs, batch: F.cross_entropy(outputs, batch[1]))
    objective = specop.objective(model, criterion, batch, forward=forward, select=select)
    for call in (objective.gradient, objective.hessian().to_dense):
        with pytest.raises(InvalidInputError, match=r"loss does not depend on any of the .* selected.*detach\(\)"):
            call()


def test_wrong_points():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    for call in (objective.loss, objective.gradient, objective.hessian):
        with pytest.raises(InvalidInputError, match=r"theta must have shape \(31,\), got \(30,\)"):
            call(torch.ones(30).double())
        with pytest.raises(InvalidInputError, match=r"theta must have dtype float64, got torch.float32"):
            call(torch.ones(31))
        with pytest.raises(InvalidInputError, match=r"theta must be a torch.Tensor"):
            call(np.ones(31))


def test_wrong_structures():
    model, criterion, batch = problem("mlp")
    objective = specop.objective(model, criterion, batch)
    with pytest.raises(InvalidInputError, match=r"exactly its 4 selected names, such as '0.weight'; got list"):
        objective.flatten([1.0])
    wrong = dict(model.named_parameters()) | {"2.bias": torch.ones(4).double()}
    with pytest.raises(InvalidInputError, match=r"'2.bias' must be a tensor of shape \(3,\), got \(4,\)"):
        objective.hessian() @ wrong
    with pytest.raises(InvalidInputError, match=r"the vector must have shape \(31,\)"):
        objective.unflatten(torch.ones(3).double())


def test_wrong_arguments():
    model, criterion, batch = problem("mlp")
    for arguments, keywords, message in [
        ((model, criterion, batch), {"memory_budget": -1}, "memory_budget must be a number of bytes >= 0, got -1"),
        ((model, criterion, batch), {"params": torch.ones(2)}, "params= is for plain functions"),
        ((outputs, criterion, batch), {}, "params="),
        ((outputs, criterion, batch), {"params": {}}, "params is empty"),
        ((outputs, criterion, batch), {"params": {"a": 1.0}}, "no adapter for builtins.float"),
        ((outputs, criterion, batch), {"params": [torch.ones(2), 1.0]}, "structure .* of tensors"),
        ((outputs, criterion, batch), {"params": torch.arange(3)}, "no floating-point tensor"),
        ((outputs, criterion, batch), {"params": np.ones(3)}, "numpy arrays have no derivatives.*FunctionOperator"),
        ((outputs, criterion, batch), {"params": params(), "forward": outputs}, "forward= is for modules"),
        ((3, criterion, batch), {"params": torch.ones(2)}, "module or a function .* got int"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            specop.objective(*arguments, **keywords)


def test_a_model_without_trainable_parameters():
    model, criterion, batch = problem("mlp")
    with pytest.raises(InvalidInputError, match="none of the model's 4 parameters requires grad"):
        specop.objective(model.requires_grad_(False), criterion, batch)


def test_repr_says_what_it_is():
    model, criterion, batch = problem("mlp")
    assert repr(specop.objective(model, criterion, batch)) == "<Objective of 31 parameters in 4 arrays, float64, cpu>"


def test_no_warning_on_the_way():
    model, criterion, batch = problem("transformer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        specop.objective(model, criterion, batch).hessian().to_dense()


def test_data_written_into_after_the_first_pass_raises():
    model, criterion, (inputs, targets) = problem("mlp")
    inputs = inputs.clone()
    hessian = specop.objective(model, criterion, [(inputs, targets)]).hessian()
    vector = torch.ones(hessian.shape[0], dtype=torch.float64)
    hessian @ vector
    inputs.mul_(2)
    with pytest.raises(NondeterministicError, match="batch 0 was written into"):
        hessian @ vector
    fresh = specop.objective(model, criterion, [(inputs, targets)]).hessian()
    assert torch.isfinite(fresh @ vector).all()


class CubeOnce(torch.autograd.Function):
    """x^3 with a backward that cannot be differentiated, as fused kernels have it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


def test_functions_without_a_second_derivative_are_refused():
    params = {"x": torch.linspace(1, 2, 3).double()}
    objective = specop.objective(lambda p, _: (CubeOnce.apply(p["x"]) + p["x"] ** 2).mean(), params=params)
    torch.testing.assert_close(objective.gradient(), params["x"] ** 2 + 2 * params["x"] / 3)
    with pytest.raises(InvalidInputError, match=r"CubeOnce is marked @once_differentiable"):
        objective.hessian().to_dense()
