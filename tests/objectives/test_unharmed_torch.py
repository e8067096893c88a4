"""The user's model after a call: what it was before, whatever was called and however it ended."""

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import specop
from torch_cases import close, exact, problem, same, snapshot, split


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
