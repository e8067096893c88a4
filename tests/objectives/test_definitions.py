"""Every operator of an objective against its definition, by the framework's own derivatives, over shapes and splits.

What costs time is compiling, for each shape of a batch, selection and kind of matrix. So examples are drawn from few of
each, and objectives of other splits share the one-batch derivatives, which hold what is compiled.
"""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.cases import FRAMEWORKS, fisher, models, numpy
from parity.definitions import DRAWS, KINDS, SEED, definitions
from parity.problems import PROBLEMS, Problem
from specop.arrays.memory import MemoryBudget
from specop.objectives.counting import Counting
from specop.objectives.data import Batches
from specop.objectives.mean import Objective
from specop.testing import check_operator

# Prime, so that no split is into equal batches; batches of three sizes only.
SAMPLES, SIZES = 11, (1, 3)


def _problem(name, likelihood, x, y, *shapes):
    rng = np.random.default_rng(len(shapes) + SAMPLES)
    weights = {str(i): rng.standard_normal(shape) for i, shape in enumerate(shapes)}
    return Problem(name, weights, [(x, y)], likelihood)


def _mlp(inputs, first, second, outputs, likelihood="categorical"):
    rng = np.random.default_rng([inputs, first, second, outputs])
    x = rng.standard_normal((SAMPLES, inputs))
    y = rng.standard_normal((SAMPLES, outputs))
    categorical = likelihood == "categorical"
    return _problem(
        "mlp" if categorical else "regression",
        likelihood,
        x,
        rng.integers(0, outputs, SAMPLES, dtype=np.int32) if categorical else y,
        *((inputs, first), (first,), (first, second), (second,), (second, outputs), (outputs,)),
    )


def _wide_and_deep(rows, width, hidden):
    rng = np.random.default_rng([rows, width, hidden])
    x = np.concatenate([rng.integers(0, rows, (SAMPLES, 2)), rng.standard_normal((SAMPLES, 3))], axis=1)
    deep = ((rows, width), (rows, width), (2 * width + 3, hidden), (hidden,), (hidden, 1), (1,))
    y = rng.integers(0, 2, SAMPLES).astype(float)
    return _problem("wide and deep", "bernoulli", x, y, *deep, (rows,), (rows,), (3,))


SHAPES = {
    "mlp": _mlp(3, 4, 2, 3),
    "mlp of single units": _mlp(1, 1, 1, 2),
    "regression": _mlp(2, 3, 1, 2, "gaussian"),
    "wide and deep": _wide_and_deep(4, 1, 2),
}
SELECTIONS = [None, ("0",), ("1", "2", "5")]
EXAMPLES = {"torch": 10, "jax": 2, "tensorflow": 2}
QUICK = {"torch": list(SHAPES), "jax": ["mlp", "wide and deep"], "tensorflow": ["mlp", "regression"]}
OPERATORS = [*KINDS, "differences", "block diagonal", "coupling"]
# Matrices of compiled models are held against NumPy as well (test_parity.py).
each = pytest.mark.parametrize(
    ("framework", "operator"),
    [
        pytest.param(
            framework, operator, marks=[pytest.mark.repetition] if framework != "torch" and operator in KINDS else []
        )
        for framework in FRAMEWORKS
        for operator in OPERATORS
    ],
)


@functools.cache
def matrices(framework, shape):
    return {kind: functools.cache(matrix) for kind, matrix in definitions(framework, SHAPES[shape]).items()}


@functools.cache
def derivatives(framework, shape, select):
    """One-batch derivatives, with all that is compiled for them."""
    chosen = None if select is None else list(select)
    return models(framework).objective(SHAPES[shape], "float64", select=chosen).hessian().point.autodiff


def objective(framework, shape, select, sizes, budget):
    """Of the same samples in the same order, in batches of these sizes."""
    ((x, y),) = SHAPES[shape].batches
    native, ends = models(framework).array, np.cumsum(sizes)[:-1]
    parts = zip(np.split(x, ends), np.split(y, ends), strict=True)
    batches = [(native(a, "float64"), native(b, "float64")) for a, b in parts]
    autodiff = derivatives(framework, shape, select)
    memory = MemoryBudget(budget, autodiff.free_memory)
    return Objective(autodiff, Batches(batches, autodiff, Counting(autodiff, None, False), memory), memory)


def curvature(found, kind):
    if kind in ("exact", "mc", "empirical", "terms"):
        return fisher(found, kind, draws=DRAWS, seed=SEED)
    return found.gradient_covariance() if kind == "covariance" else getattr(found, kind)()


def places(shape, names):
    """The entries of these parameters in the vector of all."""
    ends = np.cumsum([weight.size for weight in SHAPES[shape].weights.values()])
    entries = np.split(np.arange(ends[-1]), ends[:-1])
    return np.concatenate([entries[int(name)] for name in names])


def defined(framework, shape, found, operator, kind):
    """An operator of the objective and its dense definition."""
    matrix, chosen = matrices(framework, shape)[kind](), places(shape, found.names)
    A = curvature(found, kind)
    if operator == "jacobian":
        return A, matrix[:, chosen]
    if operator == "block diagonal":
        groups = [found.names[:1], found.names[1:]] if len(found.names) > 1 else [found.names]
        block = np.concatenate([np.full(SHAPES[shape].weights[name].size, name in groups[0]) for name in found.names])
        together = block[:, None] == block
        return A.block_diagonal([list(group) for group in groups]), np.where(
            together, matrix[np.ix_(chosen, chosen)], 0
        )
    if operator == "coupling":
        ends = found.names[0], found.names[-1]
        return A.coupling(*ends), matrix[np.ix_(places(shape, ends[:1]), places(shape, ends[1:]))]
    return A, matrix[np.ix_(chosen, chosen)]


def products_are_those_of(A, matrix):
    """The first product is recorded, the next ones replayed; a block of vectors is not split into single ones."""
    for B, expected in ((A, matrix), (A.T, matrix.T)):
        for vector in np.random.default_rng(0).standard_normal((2, B.shape[1])):
            close_to(numpy(B @ B.backend.from_host(vector, B.domain)), expected @ vector, matrix)


def close_to(found, expected, matrix):
    """Within 1e-10 of the matrix: parts of it may vanish."""
    assert np.linalg.norm(found - expected) <= 1e-10 * max(1.0, np.linalg.norm(matrix))


def check(framework, operator, data, shapes, sizes, selections):
    shape = data.draw(st.sampled_from(shapes), "shape")
    select = data.draw(selections, "select")
    split = data.draw(sizes, "sizes")
    found = objective(framework, shape, select, split, data.draw(st.sampled_from([0, 2000, 2**30]), "budget"))
    assert found.samples == SAMPLES
    if operator == "differences":
        differences_are_near(found, matrices(framework, shape)["hessian"](), places(shape, found.names))
        return
    of_blocks = operator in ("block diagonal", "coupling")
    kind = data.draw(st.sampled_from(["hessian", "mc", "empirical"]), "kind") if of_blocks else operator
    products_are_those_of(*defined(framework, shape, found, operator, kind))


def differences_are_near(found, hessian, chosen):
    D, hessian = found.finite_difference_hessian(), hessian[np.ix_(chosen, chosen)]
    for vector in np.random.default_rng(0).standard_normal((2, len(chosen))):
        error = np.linalg.norm(numpy(D @ D.backend.from_host(vector, D.domain)) - hessian @ vector)
        assert error <= 10 * D.precision * np.linalg.norm(hessian, 2) * np.linalg.norm(vector)


def splits(sizes):
    """Ways to cut the samples into batches of these sizes, in any order, or not at all."""
    small, large = sizes
    counts = st.integers(0, SAMPLES // large)
    cut = counts.flatmap(lambda k: st.permutations([large] * k + [small] * (SAMPLES - k * large)))
    return st.one_of(st.just([SAMPLES]), cut)


@pytest.mark.adapter
@each
def test_operators_are_their_definitions(framework, operator):
    @settings(max_examples=EXAMPLES[framework])
    @given(data=st.data())
    def drawn(data):
        check(framework, operator, data, QUICK[framework], splits(SIZES), st.sampled_from(SELECTIONS))

    drawn()


@pytest.mark.slow
@each
def test_operators_are_their_definitions_for_any_split_and_selection(framework, operator):
    ends = st.sets(st.integers(1, SAMPLES - 1), max_size=4).map(sorted)
    sizes = ends.map(lambda cuts: np.diff([0, *cuts, SAMPLES]).tolist())
    names = st.sets(st.sampled_from("012345"), min_size=1).map(lambda chosen: tuple(sorted(chosen)))

    @settings(max_examples=100 if framework == "torch" else 12)
    @given(data=st.data())
    def drawn(data):
        check(framework, operator, data, list(SHAPES), sizes, names)

    drawn()


@pytest.mark.parametrize(("shape", "name"), [("wide and deep", "5"), ("regression", "1")])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_steps_that_agree_by_chance_promise_nothing(framework, shape, name):
    """In one dimension two differences were equal to the last bit where both were off by 3e-9."""
    found = objective(framework, shape, (name,), (SAMPLES,), 2**30)
    differences_are_near(found, matrices(framework, shape)["hessian"](), places(shape, name))


# Where compiling takes long, one operator of each class is quick.
CLASSES = ("hessian", "covariance", "jacobian", "block diagonal", "coupling")
LAWS = [
    pytest.param(framework, operator, marks=[] if framework == "torch" or operator in CLASSES else pytest.mark.slow)
    for framework, operator in itertools.product(FRAMEWORKS, OPERATORS)
    if operator != "differences"
]


@pytest.mark.parametrize(("framework", "operator"), LAWS)
def test_laws_of_operators(framework, operator):
    """What an operator says of itself and gives to SciPy; differences are linear to few digits only."""
    found = objective(framework, "mlp", ("1", "2", "5"), (3, 3, 3, 1, 1), 2**30)
    kind = "empirical" if operator in ("block diagonal", "coupling") else operator
    check_operator(defined(framework, "mlp", found, operator, kind)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_models_of_the_case_matrix(framework, name):
    """The parity tests compare these with PyTorch."""
    whole = [np.concatenate(parts) for parts in zip(*PROBLEMS[name].batches, strict=True)]
    expected = definitions(framework, replace(PROBLEMS[name], batches=[tuple(whole)]))
    found = models(framework).objective(PROBLEMS[name], "float64")
    for kind in ("hessian", "ggn", "empirical", "covariance", "jacobian"):
        products_are_those_of(curvature(found, kind), expected[kind]())
