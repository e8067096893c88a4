"""Trained models for the benchmarks: a few seconds of training on real data, the same at every call."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures import ConvolutionalNetwork, TokenCrossEntropy, Transformer, WideAndDeep
from datasets import VOCABULARY, load_census, load_digits, load_images, load_text

Criterion = Callable[[Tensor, Tensor], Tensor]
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Problem:
    """A trained model in evaluation mode, its criterion and the data whose mean loss has the Hessian in question."""

    name: str
    model: nn.Module
    criterion: nn.Module
    batches: Batches

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())


@dataclass(frozen=True)
class Recipe:
    """A model before training, and how it is trained: AdamW with batches of this size and this largest rate."""

    name: str
    model: nn.Module
    criterion: nn.Module
    inputs: Tensor
    targets: Tensor
    batch: int
    rate: float

    def trained(self, epochs: int, samples: int) -> Problem:
        """Return the problem on the first samples, after so many epochs."""
        _train(self.model, self.criterion, self.inputs, self.targets, epochs=epochs, batch=self.batch, rate=self.rate)
        return _finish(self.name, self.model, self.criterion, self.inputs[:samples], self.targets[:samples])


def cnn() -> Problem:
    """Return a CNN with 0.1 million parameters on 1,024 images."""
    return _cnn().trained(epochs=8, samples=1024)


def _cnn(samples: int = 8192) -> Recipe:
    model = _seeded(lambda: ConvolutionalNetwork((16, 32), size=28, hidden=64))
    return Recipe("cnn", model, nn.CrossEntropyLoss(), *load_images(samples), batch=128, rate=2e-3)


def mlp() -> Problem:
    """Return a multilayer perceptron with 0.2 million parameters on 1,024 images."""
    images, labels = load_images(8192)
    images = images.flatten(1)
    model = _seeded(
        lambda: nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    )
    criterion = nn.CrossEntropyLoss()
    _train(model, criterion, images, labels, epochs=8, batch=128, rate=2e-3)
    return _finish("mlp", model, criterion, images[:1024], labels[:1024])


def transformer() -> Problem:
    """Return a transformer with 0.1 million parameters on 4,096 characters."""
    return _transformer().trained(epochs=40, samples=64)


def _transformer(samples: int = 256) -> Recipe:
    context = 64
    text = load_text()
    length = min(samples, (len(text) - 1) // context) * context
    inputs, targets = text[:length].view(-1, context), text[1 : length + 1].view(-1, context)
    model = _seeded(lambda: Transformer(VOCABULARY, context, width=64, heads=4, depth=2))
    return Recipe("transformer", model, TokenCrossEntropy(), inputs, targets, batch=32, rate=4e-3)


def wide_deep() -> Problem:
    """Return a Wide&Deep recommender with 0.3 million parameters on 2,000 people."""
    return _wide_deep().trained(epochs=4, samples=2000)


def _wide_deep(samples: int = 16000) -> Recipe:
    table, labels, codes, columns = load_census(samples)
    numbers = table.shape[1] - columns
    model = _seeded(lambda: WideAndDeep(codes, columns, numbers, embedding=16, hidden=512))
    return Recipe("wide_deep", model, nn.BCEWithLogitsLoss(), table, labels, batch=128, rate=1e-3)


def small() -> Problem:
    """Return a CNN small enough for its dense Hessian, on 768 digits."""
    images, labels = load_digits()
    model = _seeded(lambda: ConvolutionalNetwork((11, 22), size=8, hidden=0))
    criterion = nn.CrossEntropyLoss()
    _train(model, criterion, images[:768], labels[:768], epochs=40, batch=64, rate=3e-3)
    return _finish("small", model, criterion, images[:768], labels[:768])


def large() -> Problem:
    """Return a CNN with a million parameters on 1,024 images."""
    images, labels = load_images(2048)
    model = _seeded(lambda: ConvolutionalNetwork((32, 64, 128), size=28, hidden=440))
    criterion = nn.CrossEntropyLoss()
    _train(model, criterion, images, labels, epochs=4, batch=64, rate=1e-3)
    return _finish("large", model, criterion, images[:1024], labels[:1024])


PROBLEMS: dict[str, Callable[[], Problem]] = {"cnn": cnn, "transformer": transformer, "wide_deep": wide_deep}
RECIPES: dict[str, Callable[..., Recipe]] = {"cnn": _cnn, "transformer": _transformer, "wide_deep": _wide_deep}


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _train(
    model: nn.Module, criterion: Criterion, inputs: Tensor, targets: Tensor, *, epochs: int, batch: int, rate: float
) -> None:
    steps = epochs * (len(inputs) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    started = time.perf_counter()
    model.train()
    for rows in _minibatches(len(inputs), epochs, batch):
        optimizer.zero_grad()
        torch.autograd.backward(criterion(model(inputs[rows]), targets[rows]))
        optimizer.step()
        schedule.step()
    model.zero_grad(set_to_none=True)
    model.eval()
    print(f"trained {steps} steps in {time.perf_counter() - started:.1f} s", end="; ")


def _minibatches(count: int, epochs: int, batch: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]


def _finish(name: str, model: nn.Module, criterion: nn.Module, inputs: Tensor, targets: Tensor) -> Problem:
    problem = Problem(name, model, criterion, [(inputs, targets)])
    with torch.no_grad():
        outputs = model(inputs)
        loss = float(criterion(outputs, targets))
    predicted = outputs.argmax(-1) if outputs.dim() > 1 else outputs > 0
    accuracy = float((predicted == targets).float().mean())
    print(f"{name}: {problem.size:,} parameters, loss {loss:.4f}, accuracy {accuracy:.3f}", flush=True)
    return problem
