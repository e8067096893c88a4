"""Hessians of mini-batches: their eigenvalues by NumPy, the bracket of the population's, and how many are enough."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, functions, objective_of

SCALES = np.concatenate([[4.0, 2.0, 1.0], np.full(9, 0.3)])


def data(count, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, len(SCALES))) * np.sqrt(SCALES)
    return x, x[:, 0]


def least_squares(framework, batches):
    xp = functions(framework)

    def outputs(xp, params, batch):
        return xp.sum(batch[0] * params["w"], -1)

    params = {"w": np.zeros(len(SCALES))}
    return objective_of(framework, outputs, params, batches, criterion=lambda z, y: 0.5 * xp.mean((z - y) ** 2))


def top(x):
    return np.linalg.eigvalsh(x.T @ x / len(x))[-1]


@each_framework
def test_spectra_of_batches_beside_that_of_all_data(framework):
    x, y = data(96)
    found = specop.landscape.hessian_spread(least_squares(framework, (x, y)), 2, batches=3, tol=1e-8)
    H = x.T @ x / 96
    values, vectors = np.linalg.eigh(H)
    np.testing.assert_allclose(found.whole_eigenvalues, values[:-3:-1], rtol=1e-8)
    assert found.batch_size == 32
    # All data are the mean of the batches.
    np.testing.assert_allclose(found.along.mean(0), values[:-3:-1], rtol=1e-8)
    assert abs(found.traces.mean() - np.trace(H)) < 3 * np.sqrt(np.sum(found.trace_errors**2)) / 3
    assert (np.cumsum(found.eigenvalues - found.along, axis=1) >= -1e-9).all()
    # The batches are known: a random permutation in three.
    order = np.random.Generator(np.random.Philox(key=[0, 96])).permutation(96)
    for i in range(3):
        part = x[order[32 * i : 32 * i + 32]]
        own, directions = np.linalg.eigh(part.T @ part / 32)
        np.testing.assert_allclose(found.eigenvalues[i], own[:-3:-1], rtol=1e-8)
        cosines = directions[:, -2:].T @ vectors[:, -2:]
        assert found.alignment[i] == pytest.approx(np.sum(cosines**2) / 2, rel=1e-6)
        assert found.along[i, 0] == pytest.approx(vectors[:, -1] @ part.T @ part @ vectors[:, -1] / 32, rel=1e-8)


@pytest.mark.torch
def test_the_population_lies_in_the_bracket_and_enough_batches_are_enough():
    pytest.importorskip("torch")
    x, y = data(4096)
    objective = least_squares("torch", (x, y))
    lower, upper, shares, fewer = [], [], [], []
    for seed in range(4):
        found = specop.landscape.hessian_spread(objective, batches=8, batch_size=32, rtol=0.1, seed=seed)
        lower.append(found.lower.estimate)
        upper.append(found.upper.estimate)
        rng = np.random.default_rng(seed)

        def share(count, rng=rng):
            tops = [top(x[rng.integers(4096, size=32 * count)]) for _ in range(200)]
            return np.mean(np.abs(np.array(tops) / top(x) - 1) <= 0.1)

        shares.append(share(found.batches_needed))
        fewer.append(share(max(1, found.batches_needed // 6)))
        assert found.needed(0.05) > found.batches_needed > 1
    assert np.mean(lower) < top(x) < np.mean(upper)
    assert np.mean(shares) > 0.85
    assert np.mean(fewer) < 0.75


@each_framework
def test_coupled_samples_are_refused(framework):
    x, y = data(64)

    def centred(xp, params, batch):
        found = xp.sum(batch[0] * params["w"], -1)
        return xp.mean((found - xp.mean(found) - batch[1]) ** 2)

    coupled = objective_of(framework, centred, {"w": np.ones(len(SCALES))}, (x, y))
    with pytest.raises(specop.errors.InvalidInputError, match="do not add up"):
        specop.landscape.hessian_spread(coupled)


@pytest.mark.torch
def test_alike_batches_need_one():
    pytest.importorskip("torch")
    x, y = np.ones((96, 12)) / 6, np.zeros(96)
    found = specop.landscape.hessian_spread(least_squares("torch", (x, y)), batches=4)
    assert found.batches_needed == 1
    np.testing.assert_allclose(found.alignment, 1.0, rtol=1e-6)
    assert found.trace_deviation < 1e-8 * found.traces.mean()


@pytest.mark.torch
def test_what_is_wrong_is_named_and_the_result_is_kept(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    objective = least_squares("torch", data(64))
    with pytest.raises(specop.errors.InvalidInputError, match="8 batches of 32 samples cannot be drawn from 64"):
        specop.landscape.hessian_spread(objective, batch_size=32)
    with pytest.raises(specop.errors.InvalidInputError, match="too few to show a spread"):
        specop.landscape.hessian_spread(objective, batches=2)
    found = specop.landscape.hessian_spread(objective, 2)
    found.save(tmp_path / "spread.npz")
    again = specop.load(tmp_path / "spread.npz")
    assert again.batches_needed == found.batches_needed
    assert f"{found.batches_needed} batches give it to 5 %" in str(found)
    ax = found.plot()
    assert ax.get_ylabel() == "eigenvalue"
    ax.figure.clf()
