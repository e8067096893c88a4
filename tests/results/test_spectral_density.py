"""The laws of a density: its mass, its shares and its integrals, with the errors of a few probes."""

import math

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st

from result_cases import ONE_PROBE, TWO_PROBES, density
from specop.errors import InvalidInputError
from specop.results import SpectralDensity

pytestmark = pytest.mark.torch  # result_cases.py has pairs of torch


@pytest.mark.parametrize("made", [ONE_PROBE, TWO_PROBES])
@pytest.mark.parametrize("sigma", [None, 0.05])
def test_pdf_has_mass_one(made: SpectralDensity, sigma: float | None) -> None:
    x = np.linspace(-60, 70, 200_001)
    assert scipy.integrate.trapezoid(made.pdf(x, sigma), x) == pytest.approx(1.0, abs=1e-9)


def test_cdf_jumps_at_nodes_by_their_weights() -> None:
    assert ONE_PROBE.cdf([-1.0, 0.0, 0.5, 1.0, 3.0]).tolist() == [0.0, 0.5, 0.5, 0.75, 1.0]


def test_integrals_of_a_constructed_density() -> None:
    # Probe means 0.25 and 1 on 99 of 100 eigenvalues, and one known 10.
    samples = 0.1 + 0.99 * np.array([0.25, 1.0])
    mean = TWO_PROBES.moment(1)
    assert mean.estimate == pytest.approx(samples.mean())
    assert mean.standard_error == pytest.approx(np.abs(np.diff(samples))[0] / 2)
    assert mean.interval[0] < mean.estimate < mean.interval[1]
    assert TWO_PROBES.moment(0).estimate == pytest.approx(1.0)
    known = TWO_PROBES.count(5, 20)
    assert (known.estimate, known.standard_error) == (pytest.approx(1.0), pytest.approx(0.0))


@given(st.floats(-1, 4), st.floats(-1, 4), st.floats(-1, 4))
def test_counts_add_up_and_agree_with_the_cdf(a: float, b: float, c: float) -> None:
    a, b, c = sorted((a, b, c))
    total = ONE_PROBE.count(a, c).estimate
    assert ONE_PROBE.count(a, b).estimate + ONE_PROBE.count(b, c).estimate == pytest.approx(total)
    assert total == pytest.approx(ONE_PROBE.n * (ONE_PROBE.cdf(c) - ONE_PROBE.cdf(a)))


def test_one_probe_has_the_error_of_a_random_vector() -> None:
    value = ONE_PROBE.moment(1)
    variance = ONE_PROBE.weights @ (ONE_PROBE.nodes - 1.0) ** 2
    assert value.estimate == 1.0
    assert value.standard_error == pytest.approx(math.sqrt(2 * variance / (ONE_PROBE.n + 2)))
    assert value.interval[1] - 1.0 == pytest.approx(1.959964 * value.standard_error)


def test_a_density_of_known_eigenvalues_only_is_exact() -> None:
    made = density([], known=[1.0, 2.0, 6.0], n=3)
    assert made.moment(1).interval == (pytest.approx(3.0), pytest.approx(3.0))
    assert "mean 3" in str(made)


@pytest.mark.parametrize(
    ("f", "text"),
    [(lambda x: 1.0, "one value a node"), (lambda x: x[1:], "one value a node"), (lambda x: x / 0, "not finite")],
)
def test_integrands_are_checked(f, text: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(InvalidInputError, match=text):
        ONE_PROBE.integrate(f)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(InvalidInputError, match="sigma must be positive"):
        ONE_PROBE.pdf(0.0, sigma)
