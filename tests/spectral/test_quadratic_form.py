"""The curvature along a direction, exactly by one product or from a part of the samples."""

import numpy as np
import pytest

import specop
from sample_means import KINDS, mean
from specop.errors import InvalidInputError


def direction(A, kind):
    if kind == "top":
        return np.linalg.eigh(A.dense)[1][:, -1]
    return np.random.default_rng(7).standard_normal(A.shape[1])


def test_one_product_gives_it():
    A = np.random.default_rng(0).standard_normal((9, 9))
    v = np.random.default_rng(1).standard_normal(9)
    found = specop.quadratic_form(A, v)
    assert found.estimate == pytest.approx(v @ A @ v, rel=1e-13) and found.matvecs == 1
    assert found.standard_error == 0.0 and found.interval[0] <= v @ A @ v <= found.interval[1]
    assert found.interval[1] - found.interval[0] < 1e-12 * np.abs(A).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("along", ["top", "random"])
def test_intervals_from_a_part_cover_it(kind, along):
    A = mean(kind, samples=6000)
    v = direction(A, along)
    truth = v @ A.dense @ v
    found = [specop.quadratic_form(A, v, atol=0.05 * abs(truth), data="part", seed=seed) for seed in range(30)]
    assert all(one.converged and one.matvecs == 1 for one in found)
    assert all(one.sampling_error == pytest.approx(one.standard_error) for one in found)
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 26
    apart = np.array([one.estimate for one in found]) - truth
    assert abs(apart.mean()) < 4.0 * apart.std() / len(apart) ** 0.5


def test_a_part_suffices_where_few_samples_weigh_most():
    A = mean("trained", samples=20_000)
    v = direction(A, "top")
    found = specop.quadratic_form(A, v, rtol=0.05, data="part")
    assert found.samples_used == A.multiplied < 0.3 * A.samples
    assert found.estimates.mean() == pytest.approx(found.estimate) and f"on {found.samples_used} samples" in str(found)


@pytest.mark.parametrize("samples", [1, 3, 100])
def test_all_samples_leave_nothing_to_chance(samples):
    A = mean("even", samples=samples)
    v = direction(A, "random")
    found = specop.quadratic_form(A, v, rtol=1e-9, data="part")
    assert found.estimate == pytest.approx(v @ A.dense @ v, rel=1e-12)
    assert found.standard_error == 0.0 and found.samples_used == samples and found.matvecs == 1


def test_multiples_and_products_with_a_matrix_of_no_data():
    A = mean("trained", samples=6000)
    v = direction(A, "random")
    entries = np.linspace(0.5, 2.0, A.shape[1])
    S = specop.DiagonalOperator(entries)
    for B, dense in ((-2.0 * A, -2.0 * A.dense), (A @ S, A.dense * entries), (S @ A, entries[:, None] * A.dense)):
        form = specop.quadratic_form(B, v, rtol=1e-9, data="part")
        assert form.estimate == pytest.approx(v @ dense @ v, rel=1e-12) and form.samples_used == A.samples
        found = [specop.trace(B, rtol=0.05, data="part", seed=seed) for seed in range(20)]
        assert all(one.converged for one in found)
        assert sum(one.interval[0] <= np.trace(dense) <= one.interval[1] for one in found) >= 17
    norm = specop.spectral_norm(-2.0 * A, rtol=0.1, data="part")
    assert norm.interval[0] <= 2.0 * np.linalg.norm(A.dense, 2) <= norm.interval[1]


def test_what_has_no_part_is_refused():
    A, v = mean("even"), np.ones(30)
    for B in (A @ A, A + specop.identity_like(A), np.eye(30)):
        with pytest.raises(InvalidInputError, match="needs a mean over data samples"):
            specop.quadratic_form(B, v, data="part")
    with pytest.raises(InvalidInputError, match="needs a symmetric mean"):
        specop.spectral_norm(A @ specop.DiagonalOperator(v), data="part")
    with pytest.raises(InvalidInputError, match="one product"):
        specop.quadratic_form(A, v, rtol=0.1)
    for wrong in (np.zeros(30), np.full(30, np.inf), np.ones(29)):
        with pytest.raises(InvalidInputError, match="v must have"):
            specop.quadratic_form(A, wrong)
