"""Small real models of torch, their derivatives by torch alone, and what a user could see of a model."""

import copy
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import specop_torch.autodiff as module
from specop_torch.tape import Untapeable, record


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


class Lora(nn.Module):
    """A frozen layer with a trained update of rank one beside it, as adapters have it."""

    def __init__(self, layer, rank=1):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, layer.in_features))
        self.B = nn.Parameter(torch.randn(layer.out_features, rank))

    def forward(self, x):
        return self.layer(x) + x @ self.A.T @ self.B.T


class Tokens(nn.Module):
    """Logits (batch, time, vocabulary) that depend on the tokens before."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.embedding(x)).cumsum(1))


def token_loss(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


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
    if name == "lora":
        model = nn.Sequential(Lora(nn.Linear(3, 4)), nn.Tanh(), Lora(nn.Linear(4, 3))).double()
        return model, F.cross_entropy, (torch.randn(n, 3).double(), labels(n))
    if name == "tokens":
        x = torch.randint(0, 5, (n, 3))
        y = torch.where(torch.rand(n, 3) < 0.3, -100, x.roll(1, 1))
        y[:, 0] = x[:, 0]  # no sequence without a label
        return Tokens().double(), token_loss, (x, y)
    if name == "regression":
        return mlp(), F.mse_loss, (torch.randn(n, 3).double(), torch.randn(n, 3).double())
    raise KeyError(name)


# The number of loss terms of a batch, where it is not that of its samples.
WEIGHTS = {"tokens": lambda batch: (batch[1] != -100).sum()}
MODELS = ["mlp", "cnn", "transformer", "wide and deep", "tied", "lora", "tokens", "regression"]


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


def split(batch, *sizes):
    return list(zip(*(part.split(list(sizes)) for part in batch), strict=True))


def principal(objective, hessian, names):
    """The block of the full Hessian that belongs to these names."""
    chosen = torch.cat([torch.arange(objective.n)[objective.slices[name]] for name in names])
    return hessian[chosen][:, chosen]


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


def params():
    torch.manual_seed(1)
    return {
        "layers": [{"w": torch.randn(4, 3).double()}, {"w": torch.randn(3, 4).double()}],
        "b": torch.zeros(3).double(),
    }


def outputs(p, batch):
    x = batch[0] if isinstance(batch, tuple) else batch
    return torch.tanh(x @ p["layers"][0]["w"].T) @ p["layers"][1]["w"].T + p["b"]


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


def reference(model, criterion, batch):
    """Outputs, their Jacobian, and gradient and Hessian of the criterion in them."""
    model = copy.deepcopy(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        z = model(batch[0])
        rows = [
            flat(torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True), parameters)
            for entry in z.flatten()
        ]

    def loss(z):
        return criterion(z, batch[1])

    z = z.detach()
    hessian = torch.autograd.functional.hessian(loss, z).reshape(z.numel(), z.numel())
    return z, torch.stack(rows), torch.autograd.functional.jacobian(loss, z), hessian


def operator(objective, kind, theta=None):
    if kind in ("hessian", "ggn", "jacobian", "gradient_covariance", "finite_difference_hessian"):
        return getattr(objective, kind)(theta)
    return objective.fisher(theta, kind="exact" if kind == "fisher" else kind, seed=3, draws=2)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient
