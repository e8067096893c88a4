"""What saliency and prune do not take on trust: steps that cost more than expected, and layers that would go whole."""

import numpy as np
import pytest
from matplotlib import pyplot

import specop
from parity.cases import numpy
from parity.cases import objective as parity
from prune_cases import DERIVATIVES, EXACT, FULL, TORCH, linear, one, parameters_only
from specop.errors import ConvergenceWarning, NotConvergedError, QuadraticModelWarning

# Most of these weights are random; the tests of the guards look at what is said of them.
pytestmark = pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")


def cliff():
    """Next to flat around ones, and one higher at zero, which no second derivative tells."""
    return parameters_only(
        lambda case, w: case.mean(0.002 * (w - 1) ** 2 + 1 / (1 + (4 * w * w) ** 20)), np.ones((2, 3))
    )


@pytest.mark.parametrize("method", ["obs", "obd"])
def test_a_step_that_costs_far_more_than_expected_is_not_taken(method):
    exact = {"matrix": "hessian"} | ({"damping": 0.0} if method == "obs" else {})
    with pytest.warns(ConvergenceWarning, match=r"stopped before step 1 of 2, .*trust=None to go on"):
        result = specop.analysis.prune(cliff(), 0.5, method, steps=2, **exact)
    assert not result.converged and result.mask.all() and len(result.losses) == 1 and not len(result.expected)
    np.testing.assert_array_equal(numpy(result.theta), np.ones(6))
    assert str(result) and result.plot() and len(result.to_frame()) == 0
    pyplot.close("all")
    with pytest.raises(NotConvergedError):
        specop.analysis.prune(cliff(), 0.5, method, raise_on_failure=True, **exact)
    all_the_same = specop.analysis.prune(cliff(), 0.5, method, steps=2, trust=None, **exact)
    assert all_the_same.sparsity == 0.5 and all_the_same.losses[-1] > 100 * all_the_same.expected.sum()
    with pytest.warns(QuadraticModelWarning, match=r"without 0\[0, 0\] alone .* does not hold"):
        scores = specop.analysis.saliency(cliff(), method, **exact)
    assert (scores.tried_measured > 100 * scores.tried_expected).all()
    assert "expected (and measured): 0[0, 0]" in str(scores)


@pytest.mark.filterwarnings("error::specop.errors.QuadraticModelWarning")
def test_where_the_model_holds_nothing_is_warned_of():
    scores = specop.analysis.saliency(one(), **EXACT)
    np.testing.assert_allclose(scores.tried_measured, scores.tried_expected, rtol=1e-9)
    np.testing.assert_array_equal(scores.tried, scores.order[[0, 0, 2, 4]][1:])
    with pytest.warns(QuadraticModelWarning, match="this point is no minimum"):
        specop.analysis.prune(linear(DERIVATIVES[0], FULL + 1.0), 0.2, trust=None, **EXACT)
    specop.analysis.prune(linear(DERIVATIVES[0], FULL + 1.0), 0.2, "magnitude")


def test_no_layer_is_removed_whole():
    small, large = np.linspace(0.01, 0.02, 8).reshape(2, 4), np.linspace(1.0, 2.0, 16).reshape(4, 4)
    objective = parameters_only(lambda case, a, b: case.mean(a**2) + case.mean(b**2), small, large)
    shares = {
        (groups, limit): specop.analysis.prune(
            objective, 0.5, "magnitude", groups=groups, layer_limit=limit, steps=3
        ).layers["0"]
        for groups in (None, "rows")
        for limit in (None, 0.5, 1.0)
    }
    assert shares == {
        (None, None): 0.875,
        (None, 0.5): 0.5,
        (None, 1.0): 1.0,
        ("rows", None): 0.5,
        ("rows", 0.5): 0.5,
        ("rows", 1.0): 1.0,
    }


@pytest.mark.parametrize("groups", [None, "rows"])
def test_a_limit_that_keeps_what_was_to_go_is_no_success(groups):
    objective = parameters_only(lambda case, w: case.mean(w**2), np.linspace(1.0, 2.0, 16).reshape(4, 4))
    with pytest.warns(ConvergenceWarning, match=r"25 % zeros, where 75 % were asked for: .*layer_limit=0\.25 of its"):
        result = specop.analysis.prune(objective, 0.75, "magnitude", groups=groups, layer_limit=0.25, steps=2)
    assert not result.converged and result.sparsity == 0.25
    assert specop.analysis.prune(objective, 0.7, "magnitude", groups="rows", layer_limit=0.7).sparsity == 0.5


@TORCH
def test_saliencies_lost_to_rounding_are_bounded():
    """In single precision no saliency is negative, and none above that of brain damage."""
    objective = parity("torch", "mlp", "float32")
    for damping in (1e-7, 1e-9):
        scores = specop.analysis.saliency(objective, damping=damping)
        found, may = numpy(scores.saliency), scores.group >= 0
        damage = numpy(specop.analysis.saliency(objective, "obd").saliency) + damping * numpy(objective.theta) ** 2 / 2
        assert (found[may] >= 0).all() and (found[may] <= damage[may] * (1 + 1e-5)).all()
