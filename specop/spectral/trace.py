"""trace: the sum of the eigenvalues from far fewer products than there are."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.errors import DomainError, InvalidInputError, check_choice
from specop.krylov.known import Complement
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.results.trace import TraceResult
from specop.spectral import sampling
from specop.spectral.estimation import Estimation
from specop.spectral.goals import PRODUCTS, Goal, checked_goal, told
from specop.spectral.part.part import DATA, DEFLATE, told_of_part
from specop.spectral.part.trace import trace_of_part
from specop.statistics.estimate import check_confidence

__all__ = ["trace"]

_METHODS = {
    "auto": sampling.adaptive,
    "hutchinson": sampling.hutchinson,
    "hutch++": sampling.hutch_plus_plus,
    "xtrace": sampling.xtrace,
    "xnystrace": sampling.xnystrace,
    "exact": sampling.exact,
}


def trace(
    A: Any,
    *,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    data: str = "all",
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> TraceResult:
    r"""Estimate the trace of a square operator, with a confidence interval.

    Every method averages estimates that belong to random probes. Hutchinson's [1]_ are :math:`z^\top A z`, with a
    variance of :math:`2(\|A\|_F^2 - \sum_i a_{ii}^2)` for random signs and a symmetric A. The others spend part of the
    products on a sketch Q of the range of A, whose part :math:`\operatorname{tr} Q^\top A Q` of the trace is then
    known, and probe the rest: far better where eigenvalues decay, somewhat worse where they do not.

    Where one eigenvalue dominates, a few probes may scatter little by chance, and then their mean is too small. The
    standard error of m probes therefore has an allowance, 1 + c / m of it, for the skewness of quadratic forms [4]_: of
    "hutchinson" for the worst spectrum, of "auto" for what the products show of it.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square, n x n; symmetric or not.
    method : {"auto", "hutchinson", "hutch++", "xtrace", "xnystrace", "exact"}
        - "hutchinson": random signs; holds no vectors.
        - "hutch++" [2]_: a third of the products each for the sketch, its products, and probes of the rest.
        - "xtrace" [3]_: half for the sketch, half for its products; each probe in turn is left out of the sketch and
          probes the rest.
        - "xnystrace" [3]_: all for the Nystrom approximation of a positive semidefinite A, each probe left out in turn.
          The best where eigenvalues decay exponentially; where they fall to a flat bulk it is worse than "xtrace".
        - "exact": n unit vectors.
        - "auto": reads the diagonal of an array, a SciPy sparse matrix or a `DiagonalOperator`, without a product, if
          a tolerance or nothing is given. Otherwise it sees from the products how fast the eigenvalues decay, grows a
          sketch as in "xtrace" while that pays, and then probes the rest, which includes plain Hutchinson and plain
          XTrace as its two ends. It takes "exact" for n up to 16, where the limit allows that and there is no
          tolerance, and where the first eight probes would leave too few products for it. With a tolerance, and n
          within the limit, later probes are orthogonal to each other, as long as n of them can be held: m of these have
          (n - m) / n of the variance, so that without `deflate` it never takes more than n products beside those of the
          first look and one for each further vector that is drawn for the sketch. The result's `method` and `message`
          say what was done and why. The probes that it chooses by are part of the estimate, whose mean over seeds was
          off by about a tenth of its standard error.

        With m products the sketching methods hold at most about m vectors (two for each of m / 2 probes, three if A is
        not known to be symmetric), "xnystrace" 2 m. "auto" holds at most 1e8 entries; where n leaves no room for a
        sketch it is Hutchinson's, which `deflate` helps.
    rtol : float, optional
        Goal for the standard error, relative to the estimate: it stops at ``max(atol, rtol |estimate|)``. With neither,
        ``rtol = 0.02``, or the whole of `max_matvecs` if that is given.
    atol : float, optional
        Goal for the standard error in units of the trace.
    max_matvecs : int, optional
        Limit on all products; default 1000.
    deflate : EigenResult, optional
        Known eigenpairs of A, from whatever framework or file. They enter exactly, and only the rest is
        estimated, whose variance is much smaller if they are the largest. One product shows whether they belong to A;
        those of another matrix are refused.
    data : {"all", "part"}
        Whether every product is to be that of all data samples. "part" is for an A that is a mean over samples, as
        ``objective.hessian()``, ``ggn()`` and ``fisher()`` are. One forward pass (`Objective.importance`) sorts the
        samples into strata by what they may add; from each, samples are drawn without replacement until the goal is
        met. The standard error then holds both kinds of chance, and the interval is still one for the trace of all
        samples; the result's `sampling_error` and `samples_used` say what the choice of samples contributes and how
        many there were. Samples count as their part of a product each time they are multiplied or their gradient is
        taken.

        Where the criterion's second derivative in the outputs is that of a categorical, a Bernoulli or a Gaussian
        likelihood, as of cross entropy or squared error in whatever words, `method` is "gradients". The trace of the
        Gauss-Newton part
        :math:`J^\top L L^\top J` is a sum over samples of :math:`|J^\top L u|^2` for random signs u of the outputs,
        which takes a gradient of each sample. The rest of a Hessian, often next to nothing, is found by products with
        groups of samples, by a random vector for each array of parameters where what couples these is most of it.
        Of several outputs `sampling_error` is then a lower bound. Otherwise, and with `deflate`, `method` is
        "hutchinson": groups of up to 32 samples are multiplied, each by a random vector of its own. Directions that
        the products of the first groups have in common are a control variate for the others, which takes no product
        and holds up to 72 vectors, or none where these do not fit. Eigenpairs in `deflate` take its place: they may be
        those of any similar matrix, such as the same Hessian on fewer samples, and the estimate is right whatever
        they are.
    confidence : float
        Probability with which the interval covers the trace.
    seed : int
        Seed of the probes. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    TraceResult

    Raises
    ------
    InvalidInputError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.
    DomainError
        By "xnystrace", if A turns out not to be positive semidefinite.
    AsymmetryError
        If A is said to be symmetric, and products in a sketch show that it is not.

    References
    ----------
    .. [1] M. F. Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
       splines, Commun. Stat. Simul. Comput. 18 (1989), 1059-1076.
    .. [2] R. A. Meyer, C. Musco, C. Musco and D. P. Woodruff, Hutch++: Optimal stochastic trace estimation, SOSA
       (2021), 142-155.
    .. [3] E. N. Epperly, J. A. Tropp and R. J. Webber, XTrace: Making the most of every sample in stochastic trace
       estimation, SIAM J. Matrix Anal. Appl. 45 (2024), 1-23.
    .. [4] P. Hall, The Bootstrap and Edgeworth Expansion, Springer (1992), section 2.6.

    Examples
    --------
    >>> import numpy as np, specop
    >>> rng = np.random.default_rng(0)
    >>> G = rng.normal(size=(200, 200)) / 200**0.5
    >>> result = specop.trace(G @ G.T, max_matvecs=50)
    >>> low, high = result.interval
    >>> bool(low < np.trace(G @ G.T) < high)
    True
    """
    limit = PRODUCTS if max_matvecs is None else max_matvecs
    run = Run(A, "trace", square=True, limit=limit, seed=seed, progress=progress, raise_on_failure=raise_on_failure)
    check_choice("method", method, _METHODS)
    check_choice("data", data, DATA)
    check_confidence(confidence)
    if data == "part" and method not in ("auto", "hutchinson"):
        raise InvalidInputError(
            f"data='part' multiplies groups of samples by probes of their own: method={method!r} "
            f"needs products with all data. Leave one of both out."
        )
    goal = checked_goal(rtol, atol, max_matvecs, 0.02)
    with run:
        if method == "xnystrace" and run.A.is_psd is False:
            raise DomainError(
                f"method='xnystrace' needs a positive semidefinite operator, and {run.A!r} is known not to be one. "
                f"Use method='xtrace' or 'auto'."
            )
        if data == "part":
            return _of_part(run, goal, confidence, deflate)
        entries = run.A.read_diagonal() if goal.may_read(method, deflate) else None
        estimation = Estimation(Complement(run, deflate), goal, confidence, may_turn=method == "auto")
        if entries is not None and np.isfinite(entries).all():
            used, message = estimation.settle(float(entries.sum()), "the diagonal of the matrix was read")
        elif estimation.space.dimension == 0:
            used, message = estimation.settle(estimation.space.known, "all eigenvalues were given")
        else:
            used, message = _METHODS[method](estimation)
    remedy = "Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) to take the largest eigenvalues out."
    return run.result(
        TraceResult,
        **told(run, estimation.value, goal.is_budget or estimation.accepted, message, remedy),
        method=used,
        estimates=estimation.samples,
    )


def _of_part(run: Run, goal: Goal, confidence: float, deflate: EigenResult | None) -> TraceResult:
    found = trace_of_part(run, goal, confidence, deflate)
    return run.result(TraceResult, **told_of_part(run, found, goal, DEFLATE), method=found.method)
