"""Sums of a function over the spectrum: by stochastic Lanczos quadrature, or of all eigenvalues where that is less."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from specop.errors import DomainError, InvalidInputError
from specop.krylov.known import checked_deflation, random_beside
from specop.krylov.run import Run
from specop.krylov.short_recurrence import ShortRecurrence
from specop.krylov.space import LARGEST_BASIS, KrylovSpace
from specop.results.eigen import EigenResult
from specop.spectral.fitting import may_store
from specop.spectral.goals import STAGE, Goal
from specop.spectral.scalar_functions import Progress, SpectralFunction, changed_by_rounding, sensitivity
from specop.statistics.estimate import Estimate, concentration_of, estimate_from_samples, exact, skewed
from specop.statistics.numbers import Floats

__all__ = ["SpectralSum", "sum_over_spectrum"]

# Up to here all eigenvalues take fewer products than a few probes of an ordinary function.
_SMALL = 200
# Quadrature may be off by this share of the standard error that is asked for.
_QUADRATURE_SHARE = 0.25
# Probes whose scatter says roughly how many are needed.
_FEW = 4


@dataclass(frozen=True)
class SpectralSum:
    """A sum over the spectrum, with its statistical error in `value` and the error of quadrature or rounding beside it.

    `samples` holds what each probe gave, and `steps` is the most that one took.
    """

    value: Estimate
    error: float
    samples: Floats
    steps: int
    method: str
    message: str


def sum_over_spectrum(
    run: Run,
    function: SpectralFunction,
    goal: Goal,
    method: str,
    deflate: EigenResult | None,
    stored_basis: bool | None,
    confidence: float,
) -> SpectralSum:
    """Return the trace of a function of a symmetric operator.

    Parameters
    ----------
    run : Run
        Run that makes the products.
    function : SpectralFunction
        Function of the eigenvalues that is summed.
    goal : Goal
        For standard error and quadrature error together.
    method : {"auto", "quadrature", "exact"}
        "exact" finds all eigenvalues; "auto" does so where quadrature would take more products.
    deflate : EigenResult or None
        Known eigenpairs, which enter as they are.
    stored_basis : bool or None
        Whether to hold a vector for each step; None for where they fit.
    confidence : float
        Probability with which the interval covers the number.
    """
    vectors, known = checked_deflation(run, deflate)
    n = run.n
    fits = n * n <= LARGEST_BASIS and n <= run.left and stored_basis is not False and n < run.room().rows
    if method == "exact":
        _check_exact(run)
    if method == "exact" or (method == "auto" and fits and n <= _SMALL):
        return _exact(KrylovSpace(run, n), function, confidence, "all eigenvalues were found")
    may_turn = method == "auto" and fits
    most = max(1, run.left // STAGE)
    space: KrylovSpace | ShortRecurrence
    if may_turn or may_store(run, min(n, len(known) + most), stored_basis):
        space = KrylovSpace(run, n if may_turn else min(n, len(known) + run.left))
    else:
        _check_smooth(run, function)
        space = ShortRecurrence(run, vectors, known)
    if deflate is not None and isinstance(space, KrylovSpace):
        space.hold(vectors, known, deflate.residuals)
    quadrature = _Quadrature(space, function, known, goal, confidence)
    if len(known) == n:
        total = quadrature.certain
        return SpectralSum(exact(total, confidence), 0.0, np.zeros(0), 0, "exact", "all eigenvalues were given")
    while True:
        if quadrature.sample(min(most, run.left), may_turn) and isinstance(space, KrylovSpace):
            # What a first probe has multiplied is a part of all eigenvalues' space, unless it avoided known ones.
            space.truncate(space.size if quadrature.is_first and deflate is None else 0)
            why = f"all eigenvalues were found: quadrature would take more than n={n} products"
            return _exact(space, function, confidence, why)
        space.truncate(quadrature.first)
        accepted = len(quadrature.samples) % STAGE == 0 and quadrature.is_accepted
        if accepted or quadrature.longest > run.left or run.left == 0:
            return quadrature.summed(accepted)


def _check_exact(run: Run) -> None:
    n = run.n
    if n > run.left:
        raise InvalidInputError(f"method='exact' takes n={n} products, above max_matvecs={run.limit}.")
    if n * n > LARGEST_BASIS:
        raise InvalidInputError(f"method='exact' holds n={n} vectors; that is too much. Use method='quadrature'.")
    run.room().check(n, "method='exact'", "Use method='quadrature', which takes three vectors where no more fit.")


def _check_smooth(run: Run, function: SpectralFunction) -> None:
    """Refuse functions with a jump: which side an eigenvalue is on is told by bounds that stored rows give."""
    if function.domain == "sharp":
        raise InvalidInputError(
            f"{function.name} has a jump, and {run.name} without a stored basis does not know eigenvalues next to it "
            f"well enough. Pass stored_basis=True, specop.on_host(A) if the vectors do not fit on the device, or count "
            f"eigenvalues by spectral_density(A).count(a, b), which bounds what is open."
        )


def _exact(space: KrylovSpace, function: SpectralFunction, confidence: float, message: str) -> SpectralSum:
    values, n = space.complete(), space.n
    total = float(function(values, space.error_floor, space.run.A).sum())
    error = changed_by_rounding(function, values, np.full(n, 1.0), space.noise_floor, space.error_floor)
    return SpectralSum(exact(total, confidence), error, np.zeros(0), n, "exact", message)


@dataclass
class _Quadrature:
    """The sums that probes gave, and when all eigenvalues would take fewer products."""

    space: KrylovSpace | ShortRecurrence
    function: SpectralFunction
    known: Floats
    goal: Goal
    confidence: float
    longest: int = 0

    def __post_init__(self) -> None:
        self.run = self.space.run
        self.first = self.space.size
        self.certain = float(self.function(self.known, self.space.error_floor, self.run.A).sum())
        self.samples, self.errors = np.zeros(0), np.zeros(0)
        self._values: list[Floats] = []
        self._weights: list[Floats] = []
        self._begun = self.run.products

    @property
    def value(self) -> Estimate:
        """Mean of the samples."""
        value, count = estimate_from_samples(self.samples, self.confidence), len(self.samples)
        if count == 1:
            return value
        return skewed(value, value.standard_error, count, self._concentration(), self.goal.looks)

    @property
    def error(self) -> float:
        """Quadrature error of the mean."""
        return float(self.errors.mean())

    @property
    def is_first(self) -> bool:
        """Whether the rows in the space are those of the first probe."""
        return len(self.samples) < 2

    @property
    def is_accepted(self) -> bool:
        """Whether both errors together are within the goal."""
        return self.goal.accepts(self.value.estimate, self.value.standard_error + self.error)

    def sample(self, most: int, may_turn: bool) -> bool:
        """Run from another probe; return whether all eigenvalues are to be found instead, from the rows there are."""
        space, run = self.space, self.run
        one = _Probe(space, self.function, self.certain, self.goal, most)
        space.start(random_beside(run, self.first, len(self.samples)))
        while not one.is_accurate():
            if may_turn and not len(self.samples) and STAGE * one.steps > run.n <= run.left + one.steps:
                return True
            space.expand()
        self.longest = max(self.longest, one.steps)
        self.samples, self.errors = np.append(self.samples, one.estimate), np.append(self.errors, one.error)
        self._values.append(one.values)
        self._weights.append(one.weights)
        run.update(f"{self.value.estimate:.5g} +- {self.value.standard_error:.2g}")
        return may_turn and not self.is_accepted and self._turns_exact(one.steps)

    def _concentration(self) -> float:
        """Return tr F^4 / (tr F^2)^2 of f(A) less its mean eigenvalue, F, by the rules of all probes."""
        values, weights = np.concatenate(self._values), np.concatenate(self._weights) / len(self._weights)
        return concentration_of(values, weights, self.space.n - self.first)

    def _turns_exact(self, steps: int) -> bool:
        run, count, spent = self.run, len(self.samples), self.run.products - self._begun
        ahead = run.n - (steps if self.is_first else 0)
        if run.left < ahead:
            return False
        # What is added for skewness falls faster than the scatter.
        scatter = estimate_from_samples(self.samples, self.confidence).standard_error
        guess = self.goal.probes_needed(count, self.value.estimate, scatter) * spent / count
        is_last_chance = run.left - self.longest < run.n
        return (
            (STAGE - count) * spent > ahead * count
            or (count % STAGE == 0 and guess > run.n)
            or (is_last_chance and (count < _FEW or 2.0 * guess > run.left))
        )

    def summed(self, accepted: bool) -> SpectralSum:
        """Return what there is."""
        value, message = self.value, "standard error and quadrature error are within tolerance"
        if not accepted:
            message = (
                f"trace_function stopped after {self.run.products} products with a standard error of "
                f"{value.standard_error:.3g} and a quadrature error of about {self.error:.2g} at "
                f"{value.estimate:.6g}. Raise max_matvecs={self.run.limit}, rtol or atol, or pass "
                f"deflate=specop.eigsh(A) to take the largest eigenvalues out."
            )
        return SpectralSum(value, self.error, self.samples, self.longest, "quadrature", message)


@dataclass
class _Probe:
    """What the Gauss rule of a growing Lanczos run gives for the sum, and how much that still changes."""

    space: KrylovSpace | ShortRecurrence
    function: SpectralFunction
    certain: float
    goal: Goal
    most: int
    estimate: float = np.nan
    error: float = np.inf
    values: Floats = field(default_factory=lambda: np.zeros(0))
    weights: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.first = self.space.size
        self.dimension = self.space.n - self.space.size
        self._progress = Progress()

    @property
    def steps(self) -> int:
        """Products so far."""
        return self.space.steps - self.first

    def is_accurate(self) -> bool:
        """Take the sum anew if enough has been added; return whether it may be the last."""
        space, steps, is_last = self.space, self.steps, self.steps >= self.most or self.space.is_closed
        if steps == 0 or not (is_last or self._progress.is_due(steps)):
            return False
        rule = space.gauss_rule(self.first)
        values = self._values(rule.nodes)
        self.values, self.weights = values, rule.weights
        self.estimate = self.certain + self.dimension * float(rule.weights @ values)
        self.error = self._progress.error_after(steps, np.array([self.estimate]))
        self.error += 2.0 * self.dimension * self.function.undecided(rule, space.noise_floor)
        if space.is_closed:
            self.error = 0.0
        shifts = np.full(len(values), space.noise_floor)
        rounding = sensitivity(self.function, rule.nodes, self.dimension * rule.weights, shifts)
        is_enough = self.error <= max(_QUADRATURE_SHARE * self.goal.tolerance(self.estimate), rounding)
        if isinstance(space, ShortRecurrence):
            # Rows that are not orthogonal any more leave nodes that are off by all of it.
            self.error += rounding
        return is_last or is_enough

    def _values(self, nodes: Floats) -> Floats:
        space = self.space
        try:
            return self.function(nodes, space.noise_floor, space.run.A)
        except DomainError as error:
            if isinstance(space, KrylovSpace):
                raise
            raise DomainError(
                f"{error} Without a stored basis eigenvalues are known to {space.noise_floor:.1e} only; with one, "
                f"stored_basis=True, some times better."
            ) from None
