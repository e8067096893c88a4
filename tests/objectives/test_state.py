"""After every public call, also one that fails, the user's model and all random states are bit for bit as before."""

import functools
import itertools
import warnings
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import pytest

import specop
from parity.cases import fisher as of_kind
from specop import analysis, landscape
from specop.errors import DomainError, InvalidInputError, QuadraticModelWarning
from stateful.cases import INPUTS, KINDS, subject

# --- Calls ------------------------------------------------------------------------------------------------------------


def ones(A):
    return A.backend.from_host(np.ones(A.shape[1]), A.domain)


def shifted(found):
    """Positive definite, so that every method takes it."""
    A = found.ggn()
    return A + specop.identity_like(A)


def roundtrip(found):
    return found.flatten(found.unflatten(found.theta))


def fisher(found):
    return [of_kind(found, kind) @ found.theta for kind in ("exact", "mc", "empirical", "terms")]


def jacobian(found):
    J = found.jacobian()
    return J.T @ (J @ found.theta)


def blocks(found):
    H, name = found.hessian(), found.names[0]
    return H.block_diagonal([[name], list(found.names[1:])]) @ found.theta, H.coupling(name, name) @ ones(
        H.coupling(name, name)
    )


def refused_rule(found):
    with pytest.raises(InvalidInputError):
        found.update_rule(object(), found.theta)


def structure(found):
    return found.n, found.names, found.shapes, found.slices, found.flatten, repr(found)


METHODS = {
    "backend": lambda found: found.backend.name,
    "batches": lambda found: [part.loss() for part in found.batches()],
    "check_numbered": lambda found: found.check_numbered(),
    "evaluating": lambda found: evaluated(found),
    "finite_difference_hessian": lambda found: found.finite_difference_hessian() @ found.theta,
    "fisher": fisher,
    "flatten": roundtrip,
    "ggn": lambda found: found.ggn() @ found.theta,
    "gradient": lambda found: (found.gradient(), found.gradient(found.theta)),
    "gradient_covariance": lambda found: found.gradient_covariance() @ found.theta,
    "hessian": lambda found: (found.hessian().to_dense(), found.hessian(found.theta) @ found.theta, blocks(found)),
    "importance": lambda found: found.importance(),
    "inverse_fisher": lambda found: found.inverse_fisher(damping=0.1) @ found.theta,
    "jacobian": jacobian,
    "loss": lambda found: (found.loss(), found.loss(found.theta)),
    "loss_and_gradient": lambda found: (found.loss_and_gradient(), found.loss_and_gradient(found.theta)),
    "matrix": lambda found: found.matrix("ggn") @ found.theta,
    "n": structure,
    "names": structure,
    "output_axis": lambda found: found.output_axis,
    "numbered_gradients": lambda found: list(found.numbered_gradients()),
    "per_sample_gradients": lambda found: list(found.per_sample_gradients()),
    "plan": lambda found: found.plan(),
    "processes": lambda found: found.processes.count,
    "release": lambda found: (found.hessian() @ found.theta, found.release()),
    "restrict": lambda found: found.restrict(list(found.names[:1])).gradient(),
    "samples": lambda found: found.samples,
    "shapes": structure,
    "slices": structure,
    "solve": lambda found: found.solve(found.theta, matrix="ggn", damping=1.0),
    "subset": lambda found: found.subset([0, 5]).gradient(),
    "terms": lambda found: found.terms,
    "theta": lambda found: found.theta,
    "unflatten": roundtrip,
    "update_rule": refused_rule,
}

FUNCTIONS = {
    "apply_function": lambda found: specop.apply_function(shifted(found), "sqrt", found.theta),
    "aslinearoperator": lambda found: specop.aslinearoperator(found.hessian()) @ found.theta,
    "condition_number": lambda found: specop.condition_number(shifted(found)),
    "diagonal": lambda found: specop.diagonal(found.hessian(), max_matvecs=4),
    "effective_dimension": lambda found: specop.effective_dimension(found.ggn(), damping=1.0, max_matvecs=8),
    "eigen_preconditioner": lambda found: (
        specop.eigen_preconditioner(found.ggn(), specop.eigsh(found.ggn(), k=2), damping=1.0) @ found.theta
    ),
    "eigsh": lambda found: specop.eigsh(found.hessian(), k=2),
    "frobenius_norm": lambda found: specop.frobenius_norm(found.hessian(), max_matvecs=8),
    "identity_like": lambda found: specop.identity_like(found.hessian()) @ found.theta,
    "inertia": lambda found: specop.inertia(found.hessian(), max_matvecs=8),
    "inverse": lambda found: specop.inverse(shifted(found)) @ found.theta,
    "lissa": lambda found: specop.lissa([part.ggn() for part in found.batches()], found.theta, damping=0.1, steps=5),
    "logdet": lambda found: specop.logdet(shifted(found), max_matvecs=8),
    "low_rank_update": lambda found: (
        specop.low_rank_update(specop.inverse(shifted(found)), found.hessian().backend.stack_columns([found.theta]))
        @ found.theta
    ),
    "nystrom_preconditioner": lambda found: (
        specop.nystrom_preconditioner(found.ggn(), damping=1.0, rank=3) @ found.theta
    ),
    "on_host": lambda found: specop.on_host(found.hessian()).to_dense(),
    "plan": lambda found: specop.plan(found.hessian()),
    "power_iteration": lambda found: specop.power_iteration(found.ggn(), k=1),
    "quadratic_form": lambda found: specop.quadratic_form(found.hessian(), found.theta),
    "rank": lambda found: specop.rank(found.ggn(), max_matvecs=8),
    "restrict": lambda found: specop.restrict(found.hessian(), [0, 2]).to_dense(),
    "solve": lambda found: specop.solve(shifted(found), found.theta),
    "solve_shifted": lambda found: specop.solve_shifted(found.ggn(), found.theta, [1.0, 2.0]),
    "spectral_density": lambda found: specop.spectral_density(found.hessian(), steps=4, probes=2),
    "spectral_norm": lambda found: (
        specop.spectral_norm(found.hessian()),
        specop.spectral_norm(found.hessian(), data="part", rtol=0.5),
    ),
    "trace": lambda found: (
        specop.trace(found.hessian(), max_matvecs=8),
        specop.trace(found.hessian(), data="part", max_matvecs=8),
    ),
    "trace_function": lambda found: specop.trace_function(shifted(found), "log", max_matvecs=8),
}

ANALYSES = {
    "influence": lambda found: analysis.influence(found, found.batches()[1], damping=1.0),
    "leave_one_out": lambda found: analysis.leave_one_out(found, [0, 5], damping=1.0),
    "prune": lambda found: analysis.prune(found, 0.5, steps=2),
    "retrain": lambda found: analysis.retrain(found, damping=1.0, without=[0]),
    "saliency": lambda found: analysis.saliency(found),
    "validate_influence": lambda found: analysis.validate_influence(
        found, found.batches()[1], analysis.influence(found, found.batches()[1], damping=1.0), samples=2
    ),
}


LANDSCAPES = {
    "blocks": lambda found: landscape.blocks(found, steps=4, probes=2),
    "compare": lambda found: landscape.compare(found, found, measures=["trace"]),
    "covariance": lambda found: landscape.covariance(found, winners=10, offspring=2, k=2),
    "critical_point": lambda found: landscape.critical_point(found, max_matvecs=30),
    "flatness": lambda found: landscape.flatness(found, measures=["box_sharpness", "average_rise"], draws=2, probes=2),
    "hessian_spread": lambda found: landscape.hessian_spread(found, batches=3, batch_size=2),
    "learning_coefficient": lambda found: landscape.learning_coefficient(found),
    "noise": lambda found: landscape.noise(found, population=False),
    "outliers": lambda found: landscape.outliers(found, k=2),
    "slices": lambda found: landscape.slices(found, ["gradient"], points=5),
    "stability": lambda found: landscape.stability(found, lr=0.1, steps=2),
}


def evaluated(found):
    with found.evaluating():
        return found.loss()


def away_from_a_minimum(call):
    """A call at a point where models begin: what it leaves behind is asked here, not what it predicts."""

    def called(found):
        with warnings.catch_warnings(), suppress(DomainError):
            warnings.simplefilter("ignore", QuadraticModelWarning)
            return call(found)

    return called


CALLS = {f"Objective.{name}": call for name, call in METHODS.items()}
CALLS |= {name: call for name, call in FUNCTIONS.items()}
CALLS |= {f"analysis.{name}": away_from_a_minimum(call) for name, call in ANALYSES.items()}
CALLS |= {f"landscape.{name}": away_from_a_minimum(call) for name, call in LANDSCAPES.items()}

# What evaluates no loss, and reads no data after the first pass.
QUIET = {"identity_like", "plan"} | {
    f"Objective.{name}"
    for name in (
        "backend",
        "check_numbered",
        "flatten",
        "n",
        "names",
        "output_axis",
        "processes",
        "samples",
        "shapes",
        "slices",
        "terms",
        "theta",
        "unflatten",
        "update_rule",
    )
}


def test_every_public_name_is_called():
    public = {name for name in dir(specop.Objective) if not name.startswith("_")}
    assert public == set(METHODS)
    functions = {name for name in specop.__all__ if name.islower() and callable(getattr(specop, name))}
    assert functions - {"objective", "load"} == set(FUNCTIONS)
    assert set(analysis.__all__) == set(ANALYSES)
    assert set(landscape.__all__) == set(LANDSCAPES)


# --- Objectives -------------------------------------------------------------------------------------------------------


class Interrupted:
    """Batches that end in the middle of a pass, once the switch is on: the user has pressed a key."""

    def __init__(self, batches):
        self.batches = batches
        self.now = False

    def __iter__(self):
        yield self.batches[0]
        if self.now:
            raise KeyboardInterrupt
        yield from self.batches[1:]

    @contextmanager
    def interrupting(self):
        self.now = True
        try:
            yield
        finally:
            self.now = False


def whole(one):
    return one.batches(), one.criterion, {}


def raising(one):
    def criterion(outputs, labels):
        if len(labels) <= len(INPUTS[1]):
            raise RuntimeError("out of luck")
        return one.criterion(outputs, labels)

    return one.batches(), criterion, {}


def not_finite(one):
    (first, (x, y)) = one.batches()
    return [first, (x * np.nan, y)], one.criterion, {}


def interrupted(one):
    return Interrupted(one.batches()), one.criterion, {"memory_budget": 0}


FAILURES = {
    raising: (RuntimeError, "out of luck"),
    not_finite: (specop.errors.NonFiniteError, "look at the data"),
    interrupted: (KeyboardInterrupt, None),
}
cached_subject = functools.cache(subject)


@functools.cache
def made(kind, data):
    """One objective for all calls, because compiling takes long; with its data."""
    one = cached_subject(kind)
    before = one.snapshot()
    batches, criterion, keywords = data(one)
    found = specop.objective(one.model, criterion, batches, **keywords, **one.keywords)
    assert found.samples == 6 and one.snapshot() == before
    return one, found, batches


# --- Tests ------------------------------------------------------------------------------------------------------------


def marks(kind, call):
    """Functions see an operator, whose methods are called for every model; quick are those that compile quickly."""
    if call.startswith("landscape"):
        return [] if kind == "torch" else [pytest.mark.slow]
    if kind == "tf.Module" and (call.startswith("Objective") or call == "eigsh"):
        # What Keras has as well, and less of it.
        return [pytest.mark.repetition]
    quick = kind == "torch" or (kind != "equinox" and (call.startswith("Objective") or call == "eigsh"))
    return [] if quick else [pytest.mark.slow]


def failing(kind, call, failure):
    """Where models are compiled, each call meets one failure and each failure a third of all calls."""
    others = kind != "torch" and (list(CALLS).index(call) + list(FAILURES).index(failure)) % len(FAILURES)
    return [pytest.mark.slow] if others else marks(kind, call)


EVERY = [pytest.param(kind, call, marks=marks(kind, call)) for kind, call in itertools.product(KINDS, CALLS)]
# A Jacobian has no criterion that could raise, and importance looks at more samples at a time than this one refuses.
FAILING = [
    pytest.param(kind, call, failure, marks=failing(kind, call, failure), id=f"{kind}-{call}-{failure.__name__}")
    for kind, call, failure in itertools.product(KINDS, CALLS, FAILURES)
    if call not in QUIET and (failure is not raising or call not in ("Objective.jacobian", "Objective.importance"))
]


@pytest.mark.filterwarnings("ignore::specop.errors.ConvergenceWarning")
@pytest.mark.parametrize(("kind", "call"), EVERY)
def test_a_call_changes_nothing(kind, call):
    one, found, _ = made(kind, whole)
    before = one.snapshot()
    CALLS[call](found)
    assert one.snapshot() == before


@pytest.mark.filterwarnings("ignore::specop.errors.ConvergenceWarning")
@pytest.mark.parametrize(("kind", "call", "failure"), FAILING)
def test_a_failing_call_changes_nothing(kind, call, failure):
    one, found, batches = made(kind, failure)
    found.release()
    error, message = FAILURES[failure]
    before = one.snapshot()
    with batches.interrupting() if failure is interrupted else nullcontext(), pytest.raises(error, match=message):
        CALLS[call](found)
    assert one.snapshot() == before
