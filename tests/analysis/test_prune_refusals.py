"""What saliency and prune refuse, by name and with the remedy."""

import numpy as np
import pytest

import specop
from parity.cases import numpy
from prune_cases import DERIVATIVES, EXACT, FEATURES, FULL, OUTPUTS, WEIGHTS, X, Y, linear, one
from specop.errors import DomainError, InvalidInputError, NonFiniteError

pytestmark = pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("method must be one of 'obs', 'obd', 'magnitude', got 'hbs'", {"method": "hbs"}),
        ("matrix must be one of 'hessian'", {"matrix": "kfac"}),
        ("damping must be a finite number >= 0, got -1", {"damping": -1.0}),
        ("damping must be a finite number >= 0, got nan", {"damping": float("nan")}),
        ("damping must be a finite number >= 0, got -1", {"matrix": "ggn", "damping": -1.0}),
        ("'obd' inverts nothing and takes neither damping=", {"method": "obd", "damping": 0.1}),
        ("blocks= belongs to matrix='empirical fisher'", {"matrix": "hessian", "blocks": 4}),
        ("groups must be 'rows', 'columns' or a list", {"groups": "heads"}),
        ("group 1 holds an index twice, or one that another", {"groups": [[0, 1], [1]]}),
        ("group 0 holds indices from 3 to 99", {"groups": [[3, 99]]}),
        ("group 0 must be a non-empty array of integers", {"groups": [[]]}),
        ("groups is empty", {"groups": []}),
        ("groups must be 'rows', 'columns' or a list", {"groups": 3}),
        ("damping must be a finite number >= 0, got 'auto'", {"damping": "auto"}),
        ("theta must have", {"theta": DERIVATIVES[0].array([1.0])}),
    ],
)
def test_wrong_arguments(text, arguments):
    for call in (specop.analysis.saliency, lambda *_, **keywords: specop.analysis.prune(one(), 0.5, **keywords)):
        with pytest.raises(InvalidInputError, match=text):
            call(one(), **arguments)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), True, "half", None])
def test_sparsities_out_of_range(sparsity):
    with pytest.raises(InvalidInputError, match="sparsity must be a number from 0 to below 1"):
        specop.analysis.prune(one(), sparsity)


@pytest.mark.parametrize("name", ["trust", "layer_limit"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), "some"])
def test_limits_out_of_range(name, value):
    with pytest.raises(InvalidInputError, match=f"{name} (must be|is) .* got {value!r}"):
        specop.analysis.prune(one(), 0.5, **{name: value})


@pytest.mark.parametrize("steps", [0, -2, True, [0.5, 0.4, 0.6], [0.3, 0.5], [], "many"])
def test_wrong_schedules(steps):
    with pytest.raises(InvalidInputError, match="steps must"):
        specop.analysis.prune(one(), 0.6, steps=steps)


def test_more_zeros_than_asked_for():
    sparse = specop.analysis.prune(one(), 0.8, "magnitude").theta
    with pytest.raises(InvalidInputError, match=r"80 % of the weights are zero already, got sparsity=0\.5"):
        specop.analysis.prune(one(), 0.5, theta=sparse)
    again = specop.analysis.prune(one(), 0.8, "magnitude", theta=sparse)
    np.testing.assert_array_equal(numpy(again.theta), numpy(sparse))


def test_matrices_that_have_no_inverse():
    case = DERIVATIVES[0]
    unused = X.copy()
    unused[:, 1] = unused[:, 0]
    singular = specop.objective(
        lambda params, batch: batch[0] @ params[0],
        lambda z, y: case.mean((z - y) ** 2),
        (case.array(unused), case.array(Y)),
        params=[case.array(FULL[:WEIGHTS].reshape(FEATURES, OUTPUTS))],
    )
    with pytest.raises(DomainError, match=r"not positive definite: its smallest eigenvalue is .*Pass damping above"):
        specop.analysis.saliency(singular, **EXACT)
    with pytest.raises(InvalidInputError, match=r"singular .*damping 0 .*eigenvalues.*larger damping"):
        specop.analysis.saliency(singular, damping=0.0)
    blind = specop.objective(
        lambda params, batch: batch[0] @ params[0],
        lambda z, y: case.mean((z - y) ** 2),
        (case.array(0 * X), case.array(Y)),
        params=[case.array(FULL[:WEIGHTS].reshape(FEATURES, OUTPUTS))],
    )
    with pytest.raises(DomainError, match="gradients of all samples are zero"):
        specop.analysis.saliency(blind)


def test_indefinite_matrices():
    case = DERIVATIVES[0]
    saddle = specop.objective(
        lambda params, _: case.mean(params[0] ** 2 * case.array([[1.0, 2.0], [-3.0, 4.0]])),
        params=[case.array(np.ones((2, 2)))],
        data=case.array([[0.0]]),
    )
    with pytest.raises(
        DomainError, match=r"not positive definite: its smallest eigenvalue is -1\.4, .*Pass damping above 1\.5"
    ):
        specop.analysis.saliency(saddle, matrix="hessian", damping=0.1)
    with pytest.raises(DomainError, match=r"has -1\.5 on its diagonal, at entry 2.*no minimum"):
        specop.analysis.saliency(saddle, "obd", matrix="hessian")
    scores = specop.analysis.saliency(saddle, matrix="hessian", damping=1.6)
    np.testing.assert_allclose(numpy(scores.saliency), np.array([2.1, 2.6, 0.1, 3.6]) / 2, rtol=1e-9)


def test_parameters_that_are_not_finite():
    case = DERIVATIVES[0]
    theta = case.array(np.where(np.arange(12) == 3, np.nan, FULL))
    for method in ("obs", "magnitude"):
        with pytest.raises(NonFiniteError, match=r"these parameters hold NaN or infinity: 0\. Restore"):
            specop.analysis.prune(linear(case), 0.5, method, theta=theta)


def test_nothing_that_could_go():
    case = DERIVATIVES[0]
    objective = specop.objective(
        lambda params, _: case.mean(params[0] ** 2), params=[case.array([1.0, 2.0])], data=case.array([[0.0]])
    )
    with pytest.raises(InvalidInputError, match=r"no parameter has two or more dimensions.*np.arange"):
        specop.analysis.saliency(objective, "magnitude")
    scores = specop.analysis.saliency(objective, "magnitude", groups=np.arange(2)[:, None])
    assert [one.name for one in scores.least()] == ["group 0", "group 1"]


def test_large_matrices_without_rows_are_refused():
    case = DERIVATIVES[0]
    objective = specop.objective(
        lambda params, _: case.mean(params[0] ** 2), params=[case.normal(40, 30)], data=case.array([[0.0]])
    )
    with pytest.raises(InvalidInputError, match=r"for at most 1000 weights; there are 1200. Take matrix='empirical"):
        specop.analysis.saliency(objective, matrix="hessian")


def test_nothing_left():
    objective = one()
    zeros = DERIVATIVES[0].array(np.where(np.arange(12) < WEIGHTS, 0, FULL))
    with pytest.raises(InvalidInputError, match="all weights that may go are zero already"):
        specop.analysis.saliency(objective, theta=zeros)
