"""Parts of models, plans of products and batches that do not fit into memory, in every framework."""

import numpy as np
import pytest

from parity.cases import FRAMEWORKS, close, models, numpy, objective, operator
from parity.problems import PROBLEMS

pytest.importorskip("torch")

from parity.references import matrices, reference

KINDS = ["hessian", "ggn", "mc", "empirical"]
# What is done to the parts of a matrix is written once, in the core: it is done to few models quickly, to all slowly.
each = pytest.mark.parametrize(
    ("framework", "name"),
    [
        pytest.param(framework, name, marks=[] if name == "mlp" else pytest.mark.slow)
        for framework in FRAMEWORKS
        for name in PROBLEMS
    ],
)
# The Hessian and the Gauss-Newton matrix are multiplied alike, and so is the sampled Fisher matrix.
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ("ggn", "mc") else []) for kind in KINDS]
)
each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


def expected(name, kind):
    return reference(name)[2] if kind == "hessian" else matrices(name)[kind]


def places(name):
    """The entries of each parameter in the vector; parameters are named by their position."""
    ends = np.cumsum([weight.size for weight in PROBLEMS[name].weights.values()])
    return [
        np.arange(end - weight.size, end) for weight, end in zip(PROBLEMS[name].weights.values(), ends, strict=True)
    ]


def products(A, count=2):
    """Vectors and their products; the first is recorded, the second replayed."""
    for vector in np.random.default_rng(0).standard_normal((count, A.shape[1])):
        yield vector, numpy(A @ A.backend.from_host(vector, A.domain))


@each_kind
@each
def test_a_selection_is_a_principal_block(framework, name, kind):
    indices = np.concatenate([places(name)[1], places(name)[2]])
    A = operator(objective(framework, name, "float64").restrict(["1", "2"]), kind)
    for vector, found in products(A):
        close(found, expected(name, kind)[np.ix_(indices, indices)] @ vector, "float64")


@pytest.mark.parametrize("budget", [None, 0])
@each_kind
@each
def test_block_diagonal(framework, name, kind, budget):
    parts = places(name)
    groups = [["0", "1"], [str(position) for position in range(2, len(parts))]]
    B = operator(objective(framework, name, "float64", memory_budget=budget), kind).block_diagonal(groups)
    block = np.concatenate([np.full(part.size, min(position // 2, 1)) for position, part in enumerate(parts)])
    matrix = np.where(block[:, None] == block, expected(name, kind), 0.0)
    for vector, found in products(B):
        close(found, matrix @ vector, "float64")


@each_kind
@each
def test_coupling(framework, name, kind):
    C = operator(objective(framework, name, "float64"), kind).coupling("0", ["2", "3"])
    parts = places(name)
    matrix = expected(name, kind)[np.ix_(parts[0], np.concatenate([parts[2], parts[3]]))]
    assert C.shape == matrix.shape
    for B, block in ((C, matrix), (C.T, matrix.T)):
        for vector, found in products(B):
            close(found, block @ vector, "float64")


@each
def test_hessians_of_batches_average_to_that_of_all_data(framework, name):
    whole = objective(framework, name, "float64")
    parts = list(whole.batches())
    assert [part.samples for part in parts] == [len(x) for x, _ in PROBLEMS[name].batches]
    vector = np.random.default_rng(0).standard_normal(whole.n)
    mean = 0.0
    for part in parts:
        H = part.hessian()
        mean += part.samples / whole.samples * numpy(H @ H.backend.from_host(vector, H.domain))
    close(mean, expected(name, "hessian") @ vector, "float64")


@each
def test_differences_of_gradients(framework, name):
    D = objective(framework, name, "float64").finite_difference_hessian()
    hessian = expected(name, "hessian")
    for vector, found in products(D):
        assert np.linalg.norm(found - hessian @ vector) <= 5 * D.precision * np.linalg.norm(hessian, 2) * np.sqrt(
            vector @ vector
        )


@each_framework
def test_plan(framework):
    kept = objective(framework, "mlp", "float64", memory_budget=2**30).plan()
    assert (kept.batches, kept.kept, kept.linearized, kept.recomputed) == (3, 3, 3, 0)
    none = objective(framework, "mlp", "float64", memory_budget=0).plan()
    assert (none.linearized, none.recomputed, none.bytes) == (0, 3, 0)
    some = objective(framework, "mlp", "float64", memory_budget=kept.bytes - 1).plan()
    assert some.linearized == 2 and some.recomputed == 1 and 0 < some.bytes < kept.bytes
    assert kept.cost < some.cost < none.cost


CALLS = {
    "loss": lambda found: numpy(found.loss()),
    "gradient": lambda found: numpy(found.gradient()),
    **{kind: lambda found, kind=kind: list(products(operator(found, kind)))[1][1] for kind in [*KINDS, "jacobian"]},
    "blocks": lambda found: list(products(found.ggn().block_diagonal([["0", "1"], ["2", "3", "4", "5"]])))[1][1],
}


# All go through one function of the core, which a framework tells only that memory was too little.
@pytest.mark.parametrize(
    ("framework", "call"),
    [
        pytest.param(
            framework,
            call,
            marks=[
                getattr(pytest.mark, framework),
                *([] if framework == "torch" or call in ("gradient", "hessian") else [pytest.mark.repetition]),
            ],
        )
        for framework in FRAMEWORKS
        for call in CALLS
    ],
)
def test_batches_are_halved_until_they_fit(framework, call, monkeypatch):
    def result():
        # A new objective: how a batch fits into memory is remembered.
        return CALLS[call](models(framework).objective(PROBLEMS["mlp"], "float64"))

    whole = result()
    tried = limit_memory(monkeypatch, framework, 3)
    close(result(), whole, "float64")
    assert max(tried) > 3 >= tried[-1]


def limit_memory(monkeypatch, framework, most):
    """Let the adapter run out of memory above a number of samples; return the numbers that were tried."""
    adapter = type(objective(framework, "mlp", "float64").hessian().point.autodiff)
    tried = []

    def limited(method):
        def call(self, theta, batch, *rest, **keywords):
            tried.append(self.count(batch))
            if tried[-1] > most:
                models(framework).exhaust_memory()
            return method(self, theta, batch, *rest, **keywords)

        return call

    for name in ("loss", "gradient", "outputs", "linearize", "product"):
        monkeypatch.setattr(adapter, name, limited(getattr(adapter, name)))
    return tried
