"""Batches that do not fit into memory, in pieces that do; and the plan of what is kept and what is recomputed."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

import specop
from specop.errors import InvalidInputError
from specop_torch.autodiff import TorchAutodiff
from torch_cases import MODELS, WEIGHTS, close, problem, split

CALLS = {
    "loss": lambda objective: objective.loss().reshape(1),
    "gradient": lambda objective: objective.gradient(),
    "hessian": lambda objective: twice(objective.hessian()),
    "ggn": lambda objective: twice(objective.ggn()),
    "mc": lambda objective: twice(objective.fisher(kind="mc", draws=2)),
    "empirical": lambda objective: twice(objective.fisher(kind="empirical", of="samples")),
    "blocks": lambda objective: twice(objective.ggn().block_diagonal()),
    "empirical blocks": lambda objective: twice(objective.fisher(kind="empirical", of="samples").block_diagonal()),
    "jacobian": lambda objective: twice(objective.jacobian()),
    "transposed jacobian": lambda objective: twice(objective.jacobian().T),
    "differences": lambda objective: objective.finite_difference_hessian() @ torch.ones(objective.n).double(),
    "samples": lambda objective: torch.cat(list(objective.per_sample_gradients())),
}


def twice(A):
    v = torch.linspace(1, 2, A.shape[1]).double()
    A @ v
    return A @ v


def limit_memory(monkeypatch, limits):
    """Let calls of the adapter run out of memory above a number of samples; return the sizes that were tried."""
    tried = []

    def limited(name):
        call = getattr(TorchAutodiff, name)

        def method(self, theta, batch, *rest):
            tried.append((name, self.count(batch)))
            if self.count(batch) > limits[name]:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.")
            return call(self, theta, batch, *rest)

        return method

    for name in limits:
        monkeypatch.setattr(TorchAutodiff, name, limited(name))
    return tried


def everything(limit):
    return dict.fromkeys(["loss", "gradient", "outputs", "linearize", "product"], limit)


@pytest.mark.parametrize("budget", [2**30, 0])
@pytest.mark.parametrize("call", CALLS)
def test_batches_are_halved_until_they_fit(call, budget, monkeypatch):
    model, criterion, batch = problem("mlp")
    batches = split(batch, 8, 3)
    expected = CALLS[call](specop.objective(model, criterion, batches))
    limit_memory(monkeypatch, everything(3))
    found = CALLS[call](specop.objective(model, criterion, batches, memory_budget=budget))
    close(found, expected, 1e-7 if call == "differences" else 1e-12)


@pytest.mark.parametrize("name", ["transformer", "tokens", "cnn"])
def test_other_models_in_pieces(name, monkeypatch):
    model, criterion, batch = problem(name)
    keywords = {"weight": WEIGHTS.get(name), "likelihood": "categorical"}
    expected = [CALLS[call](specop.objective(model, criterion, batch, **keywords)) for call in ("mc", "empirical")]
    limit_memory(monkeypatch, everything(2))
    objective = specop.objective(model, criterion, batch, **keywords)
    close(CALLS["mc"](objective), expected[0])
    close(CALLS["empirical"](objective), expected[1])


def test_the_size_that_fits_is_remembered(monkeypatch):
    model, criterion, batch = problem("mlp")
    tried = limit_memory(monkeypatch, everything(3) | {"loss": 100})
    objective = specop.objective(model, criterion, batch)
    H = objective.hessian()
    v = torch.ones(31).double()
    H @ v
    # The whole, the check of the loss, halves, quarters.
    sizes = [size for name, size in tried if name == "linearize"]
    assert sizes[:2] == [11, 6] and set(sizes[2:]) <= {3, 2} and sum(sizes[2:]) == 11
    tried.clear()
    H @ v
    assert not tried
    objective.gradient()
    assert [size for _, size in tried] == sizes[2:]


def test_a_loss_that_is_not_additive_is_not_split(monkeypatch):
    model, _, batch = problem("mlp")

    def contrastive(z, y):
        return F.cross_entropy(z @ z.T, torch.arange(len(z)))

    limit_memory(monkeypatch, {"gradient": 6, "linearize": 6})
    objective = specop.objective(model, contrastive, batch)
    assert torch.isfinite(objective.loss())
    for call in (objective.gradient, lambda: objective.hessian() @ torch.ones(31).double()):
        with pytest.raises(
            InvalidInputError, match=r"batch of 11 samples does not fit.*3 GiB.*cannot be split.*halves"
        ):
            call()


def test_weights_that_are_not_additive(monkeypatch):
    model, criterion, batch = problem("mlp")
    limit_memory(monkeypatch, {"gradient": 6})
    objective = specop.objective(model, criterion, batch, weight=lambda batch: 1.0)
    with pytest.raises(InvalidInputError, match=r"parts add up to 2.0, the weight of the whole is 1.0"):
        objective.gradient()


def test_a_sample_that_does_not_fit(monkeypatch):
    model, criterion, batch = problem("mlp")
    limit_memory(monkeypatch, {"gradient": 0})
    with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
        specop.objective(model, criterion, batch).gradient()
    assert "single sample does not fit" in caught.value.__notes__[0]


def test_other_errors_pass(monkeypatch):
    model, _, batch = problem("mlp")
    calls = []

    def broken(z, y):
        calls.append(1)
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        specop.objective(model, broken, batch).gradient()
    assert len(calls) == 2  # for a few samples, which a model need not take, and for the batch


def test_memory_of_a_cpu_runs_out_too():
    model, criterion, batch = problem("mlp")
    autodiff = specop.objective(model, criterion, batch).hessian().point.autodiff
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert autodiff.is_out_of_memory(caught.value) and not autodiff.is_out_of_memory(RuntimeError("no"))


# --- The plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_plan(name):
    model, criterion, batch = problem(name)
    batches = split(batch, 4, 4, 3)

    def objective(budget):
        return specop.objective(model, criterion, batches, weight=WEIGHTS.get(name), memory_budget=budget)

    all_kept = objective(2**30).plan()
    assert (all_kept.batches, all_kept.kept, all_kept.linearized, all_kept.recomputed) == (3, 3, 3, 0)
    none_kept = objective(0).plan()
    assert (none_kept.linearized, none_kept.recomputed, none_kept.bytes) == (0, 3, 0)
    some = objective(all_kept.bytes - 1).plan()
    assert some.linearized == 2 and some.recomputed == 1 and 0 < some.bytes < all_kept.bytes
    assert all_kept.cost < some.cost < none_kept.cost


def test_plan_of_pieces_and_of_a_loader_that_is_read_again(monkeypatch):
    model, criterion, batch = problem("mlp")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), batch_size=6)
    assert specop.objective(model, criterion, loader, memory_budget=0).ggn().plan().kept == 0
    limit_memory(monkeypatch, everything(3))
    assert specop.objective(model, criterion, loader).plan().batches == 4
