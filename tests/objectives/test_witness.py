"""First products are held against differences: wrong ones raise, right ones do not, and results say what is unsure."""

import contextlib
import importlib

import numpy as np
import pytest

import specop
from landscape_cases import objective_of
from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError, NondeterministicError
from specop.objectives import witness
from specop.objectives.agreement import compare
from specop.objectives.central_differences import CentralDifferences
from specop.objectives.mean import Objective
from witness.cases import FRAMEWORKS, models, named, numbers

# With JAX's float64 switched on where the model is in it, and off otherwise, as users have it.
KINDS = {
    "hessian": lambda found: found.hessian(),
    "ggn": lambda found: found.ggn(),
    "exact": lambda found: found.fisher(),
    "mc": lambda found: found.fisher(kind="mc"),
    "empirical": lambda found: found.fisher(kind="empirical", of="samples"),
    "jacobian": lambda found: found.jacobian(),
    "transposed": lambda found: found.jacobian().T,
}
TEXT = {"hessian": "products with the Hessian are not the derivative of the gradient"}
# How much of the product rounding in float32 may take.
CLOSE = {"float32": 1e-3, "float64": 1e-5}


@contextlib.contextmanager
def as_users(framework, dtype):
    if framework != "jax":
        yield
        return
    import jax

    with jax.enable_x64(dtype == "float64"):
        yield


def multiplied(A):
    """The operator after a product."""
    A @ A.backend.from_host(np.ones(A.shape[1]), A.domain)
    return A


def verdict(found, kind):
    A = multiplied(KINDS[kind](found))
    if kind == "transposed":
        return A.parts[0].products[1].verdict
    return A.products[0].verdict


def cases(which, few, quick=None):
    """In float32, which people train in; a few in float64. What compiles for long beyond the quick ones is slow."""
    of = [(framework, name, "float32") for framework, name in named(which)]
    of += [(framework, name, "float64") for framework, name in named(which) if name in few]

    def marks(framework, name, dtype):
        if framework == "torch":
            return []
        if quick is not None and name not in quick:
            return [pytest.mark.slow]
        return [pytest.mark.repetition] if dtype == "float64" else []

    return [pytest.param(*case, marks=marks(*case)) for case in of]


QUICK = ("tanh", "Wide&Deep", "a cast to 16 bit", "module")


@pytest.mark.parametrize(("framework", "name", "dtype"), cases("RIGHT", ("tanh", "a cast to 16 bit"), QUICK))
def test_right_products_are_confirmed(framework, name, dtype):
    with as_users(framework, dtype):
        found = models(framework).RIGHT[name](dtype)
        for kind in KINDS if name == "tanh" else ("hessian", "ggn"):
            seen = verdict(found, kind)
            assert "gradient" not in "".join(seen.remarks)
            if name == "a cast to 16 bit":
                assert "round" in seen.reason or seen.deviation < 1e-2, (kind, seen)
            else:
                assert not seen.reason and seen.deviation < CLOSE[dtype], (kind, seen)


@pytest.mark.parametrize(("framework", "name", "dtype"), cases("WRONG", ("a custom function",)))
def test_wrong_products_raise(framework, name, dtype):
    with as_users(framework, dtype):
        make, kinds = models(framework).WRONG[name]
        found = make(dtype)
        for kind in kinds:
            text = TEXT.get(
                kind, "products with the .* are not made of the derivatives of the outputs and the criterion"
            )
            error, match = InvalidInputError, rf"{text}: .* off by .* %.*in (the columns|what the criterion)"
            if name == "spectral normalization in training mode":
                # Each call takes steps of a power iteration. Whether they still change the last digit is the machine's.
                error, match = (error, NondeterministicError), rf"{match}|two calls of the loss .* changes its own"
            with pytest.raises(error, match=match):
                multiplied(KINDS[kind](found))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_stopped_gradients_may_be_meant_and_results_say_so(framework):
    make, _ = models(framework).WRONG["a stopped gradient"]
    found = make("float64")
    found._autodiff.accepts_stopped_gradients = True
    result = specop.trace(found.restrict(found.names[0]).hessian() * 2.0, max_matvecs=3)
    assert result.notes == "not verified: stopped gradients are accepted"
    assert result.notes in str(result) and result.notes in result._repr_html_()


STOPPED = {
    "torch": lambda x: x.detach(),
    "jax": lambda x: importlib.import_module("jax").lax.stop_gradient(x),
    "tensorflow": lambda x: importlib.import_module("tensorflow").stop_gradient(x),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_results_say_that_the_gradient_is_not_that_of_the_loss(framework):
    """As with estimators that let a gradient straight through: products are right for what is trained."""
    stopped = STOPPED[framework]

    def loss(xp, params, batch):
        through = params["w"] + stopped(xp.tanh(params["w"]) - params["w"])
        return xp.mean((batch[0] * params["w"]) ** 2) + xp.sum(through)

    found = objective_of(framework, loss, {"w": np.array([0.5, 1.0, 2.0])}, (numbers(8, 3),))
    hessian = multiplied(found.hessian())
    assert "the gradient is not that of the loss" in "".join(hessian.notes)
    result = specop.trace(hessian)
    assert result.estimate == pytest.approx(2 * (numbers(8, 3) ** 2).mean(), rel=1e-6)
    assert "the gradient is not that of the loss" in str(result)


def test_results_say_which_entries_count_as_constants():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3, padding_idx=1), torch.nn.Flatten(), torch.nn.Linear(6, 2))
    data = torch.tensor([[0, 1], [2, 3], [1, 4]]), torch.tensor([0, 1, 1])
    hessian = multiplied(specop.objective(model, torch.nn.functional.cross_entropy, data).hessian())
    assert hessian.notes == ("entries 3 to 5 of '0.weight' count as constants",)


@pytest.mark.parametrize("function", ["relu", "abs"])
def test_a_kink_at_the_point_is_no_gradient_of_another_loss(function):
    torch = pytest.importorskip("torch")
    apply = {"relu": torch.relu, "abs": torch.abs}[function]
    found = specop.objective(
        lambda w, batch: ((batch * apply(w)).sum(1) ** 2).mean() + apply(w).sum(),
        params=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
        data=torch.from_numpy(numbers(8, 3)),
    )
    assert not verdict(found, "hessian").remarks


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_could_not_be_copied_is_not_verified(framework):
    """Beyond a tenth of the memory budget; differences in the model's own precision may confirm it all the same."""
    with as_users(framework, "float32"):
        found = models(framework).RIGHT["large weights"]("float32")
        budget = MemoryBudget(1000, found._autodiff.free_memory)
        seen = verdict(Objective(found._autodiff, found._data, budget), "hessian")
        assert "more than a tenth of the memory budget" in seen.reason or seen.deviation < 1e-3


def test_a_kink_at_the_point_is_not_taken_for_a_wrong_product():
    torch = pytest.importorskip("torch")
    module = models("torch").between(torch.nn.ReLU())
    torch.nn.init.zeros_(module[0].weight)
    torch.nn.init.zeros_(module[0].bias)
    seen = verdict(models("torch").objective(module, "float64"), "hessian")
    assert "no two differences agree" in seen.reason


@pytest.mark.parametrize("activation", ["ReLU", "LeakyReLU", "ReLU6", "ELU", "CELU", "SELU", "Hardswish"])
def test_units_that_are_exactly_zero_take_a_derivative_from_either_side(activation):
    torch = pytest.importorskip("torch")
    for kind in ("hessian", "ggn", "jacobian", "transposed"):
        module = models("torch").on_zeros(getattr(torch.nn, activation)())
        seen = verdict(models("torch").objective(module, "float32"), kind)
        assert seen.deviation < CLOSE["float32"] or "no two differences agree" in seen.reason, (kind, seen)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_that_are_fitted_to_the_last_digit_contradict_nothing(dtype):
    """Losses of 1e-12 are made of logits of 30, whose rounding is the same at neighbouring steps."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x = torch.from_numpy(numbers(64, 6)).to(getattr(torch, dtype))
    labels = (x[:, 0] > 0).long()
    x[:, 0] = torch.sign(x[:, 0]) * (1.0 + 0.05 * x[:, 1])
    module = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 2)).to(x.dtype)
    with torch.no_grad():
        module[0].weight[:, 0] = 2.0
        module[2].weight[:] = torch.tensor([[-1.2], [1.2]])
        module[2].bias += 15.0
    found = specop.objective(module, torch.nn.functional.cross_entropy, (x, labels))
    assert float(found.loss()) < 1e-9
    seen = verdict(found, "hessian")
    assert not seen.wrong and not any(seen.remarks)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["a custom function", "a stopped gradient"])
def test_wrong_products_raise_where_samples_are_large(framework, name, monkeypatch):
    """Fewer samples are looked at where each tells of itself."""
    let_one_sample_suffice(framework, monkeypatch)
    make, kinds = models(framework).WRONG[name]
    found = make("float32")
    for kind in kinds[:1]:
        with pytest.raises((InvalidInputError, NondeterministicError), match=r"off by|changes its own"):
            multiplied(KINDS[kind](found))


def of_samples(xp, p, batch):
    return xp.mean(xp.tanh(batch[0] @ p["w"]) ** 2)


def of_all_together(xp, p, batch):
    z = xp.tanh(batch[0] @ p["w"])
    return xp.mean((z - xp.mean(z)) ** 2)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_fewer_samples_are_looked_at_only_where_each_tells_of_itself(framework, monkeypatch):
    counts = []

    class Counted(CentralDifferences):
        def __init__(self, autodiff, theta, batch, *others):
            counts.append(len(batch[0]))
            super().__init__(autodiff, theta, batch, *others)

    def looked_at():
        counts.clear()
        for loss in (of_samples, of_all_together):
            multiplied(objective_of(framework, loss, {"w": numbers(3, 1)}, (numbers(8, 3, seed=1),)).hessian())
        return counts

    monkeypatch.setattr(witness, "CentralDifferences", Counted)
    whole = 4 if framework == "torch" else 8
    assert looked_at() == [whole, whole]
    let_one_sample_suffice(framework, monkeypatch)
    assert looked_at() == [1, whole]


def let_one_sample_suffice(framework, monkeypatch):
    """Take any linearization for a large one."""
    parameters = importlib.import_module(f"specop_{framework}.parameters")
    monkeypatch.setattr(getattr(parameters, f"{framework.capitalize()}Parameters"), "witness_bytes", 0)
    monkeypatch.setattr(witness, "_SMALL", 1)


def test_two_steps_must_agree_with_each_other():
    def measure(values):
        return lambda ratio: (np.array([values[ratio], 1.0]), 0.0)

    told, ratios = np.array([1.0, 1.0]), (1e-7, 1e-6, 1e-3)
    assert compare(told, measure({1e-7: 2.0, 1e-6: 2.0, 1e-3: 3.0}), 1e-16, ratios).wrong
    # Not neighbours; not of one mind; the product after all.
    assert compare(told, measure({1e-7: 2.0, 1e-6: np.nan, 1e-3: 2.0}), 1e-16, ratios).reason
    assert compare(told, measure({1e-7: 2.0, 1e-6: 2.5, 1e-3: 3.0}), 1e-16, ratios).reason
    assert compare(told, measure({1e-7: 2.0, 1e-6: 1.0}), 1e-16, ratios).deviation == 0
    assert compare(told, measure({1e-7: 2.0, 1e-6: 2.0, 1e-3: 1.4}), 1e-16, ratios).wrong
    # Rounded in the same way at both, and nearer at a large one.
    assert compare(told, measure({1e-7: 2.0, 1e-6: 2.0, 1e-3: 1.05}), 1e-16, ratios).reason
    # Rounding to a coarse precision is no derivative of zero.
    assert compare(told, lambda ratio: (np.zeros(2), 0.0), 1e-16, ratios).reason
    # What rounding explains.
    assert compare(told, lambda ratio: (np.array([2.0, 1.0]), 1e5), 1e-16, ratios).deviation == pytest.approx(1e-5)
