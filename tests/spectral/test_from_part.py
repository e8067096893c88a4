"""Numbers of all data from a part of them: intervals cover, also where samples are unlike each other."""

import numpy as np
import pytest

import specop
from sample_means import KINDS, mean
from specop.errors import ConvergenceWarning, InvalidInputError
from specop.spectral.part import trace


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_of_a_trace_cover_it(kind):
    A = mean(kind)
    truth = np.trace(A.dense)
    rtol = 0.15 if kind in ("indefinite", "misled") else 0.05
    found = [specop.trace(A, rtol=rtol, data="part", seed=seed) for seed in range(30)]
    assert all(one.converged and one.standard_error <= rtol * abs(one.estimate) for one in found)
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 26
    apart = np.array([one.estimate for one in found]) - truth
    assert abs(apart.mean()) < 4.0 * apart.std() / len(apart) ** 0.5


def test_no_run_is_far_off_because_two_controls_were_alike():
    """Of two pairs whose controls lie next to each other a slope alone may be any number."""
    A = mean("even", samples=8192)
    A.claimed = np.ones(A.samples)
    deflate = specop.eigsh(A.x[:1000].T @ A.x[:1000] / 1000, k=10)
    # Where such slopes were believed, the largest error of these was 45 times the median.
    errors = [specop.trace(A, max_matvecs=1, data="part", seed=s, deflate=deflate).standard_error for s in (58, 198)]
    assert max(errors) < 0.05 * np.trace(A.dense)


@pytest.mark.slow
def test_intervals_cover_where_few_samples_of_a_fitted_network_have_the_curvature():
    """Values are the squares of normal numbers there, and few of them may look alike by chance."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    x = torch.randn(64, 10)
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    H = specop.objective(model, torch.nn.functional.cross_entropy, [(x[:32], y[:32]), (x[32:], y[32:])]).hessian()
    truth = float(H.to_dense().double().trace())
    found = [specop.trace(H, rtol=0.1, data="part", seed=seed) for seed in range(100, 150)]
    assert sum(one.interval[0] <= truth <= one.interval[1] for one in found) >= 42


@pytest.mark.parametrize("pairs", [0, 10])
def test_where_most_samples_are_taken_the_error_is_that_of_the_probes(pairs):
    A = mean("even", samples=8192)
    A.claimed = np.ones(A.samples)
    deflate = specop.eigsh(A.x[:1000].T @ A.x[:1000] / 1000, k=pairs) if pairs else None
    found = [specop.trace(A, max_matvecs=1, data="part", seed=seed, deflate=deflate) for seed in range(60)]
    assert all(one.matvecs == 1 and one.samples_used > 0.7 * A.samples for one in found)
    apart = np.std([one.estimate for one in found])
    assert 0.75 * apart < np.mean([one.standard_error for one in found]) < 1.4 * apart


def test_importance_saves_products():
    A, B = mean("trained"), mean("trained")
    B.claimed = np.ones(B.samples)
    for one in (A, B):
        for seed in range(5):
            specop.trace(one, rtol=0.05, data="part", seed=seed)
    assert A.multiplied < 0.8 * B.multiplied


def test_both_errors_are_told_apart():
    A = mean("misled")
    found = specop.trace(A, rtol=0.15, data="part")
    assert 0 < found.sampling_error < found.standard_error
    assert found.samples_used < A.samples and found.matvecs == -(-A.multiplied // A.samples)
    assert found.estimates.mean() == pytest.approx(found.estimate)
    assert f"on {found.samples_used} samples" in str(found)
    exact = specop.trace(A, rtol=0.02, data="part")
    assert exact.sampling_error == 0.0 and exact.samples_used == A.samples and exact.standard_error > 0


def test_all_pairs_of_a_similar_matrix_leave_less_to_chance():
    A = mean("even")
    # Not asked for gradients beside the pairs.
    A.split = NotImplemented
    part = A.x[:1000].T @ A.x[:1000] / 1000
    deflate = specop.eigsh(part, k=10)
    truth = np.trace(A.dense)
    deflated = specop.trace(A, rtol=0.01, data="part", deflate=deflate)
    A.split = None
    plain = specop.trace(A, rtol=0.01, data="part")
    assert deflated.interval[0] <= truth <= deflated.interval[1]
    # What they have in common is found without them too.
    assert deflated.matvecs < plain.matvecs


def test_what_groups_have_in_common_is_taken_out(monkeypatch):
    """One direction has most of the curvature of each sample, and samples of a tenth of the weight a tenth of it."""
    A = mean("even", samples=4_000)
    direction = np.random.default_rng(2).standard_normal(30)
    A.x = A.x + np.random.default_rng(1).standard_normal((A.samples, 1)) * direction
    A.c = np.repeat([0.1, 1.0], A.samples // 2)
    A.claimed = A.c.copy()
    taken = []
    for allowed in (trace.LARGEST_SKETCH, 0):
        monkeypatch.setattr(trace, "LARGEST_SKETCH", allowed)
        A.multiplied = 0
        found = [specop.trace(A, rtol=0.025, data="part", seed=seed) for seed in range(5)]
        apart = np.array([one.estimate for one in found]) - np.trace(A.dense)
        assert abs(apart.mean()) < 4.0 * apart.std() / len(apart) ** 0.5
        assert sum(abs(apart) <= [one.interval[1] - one.estimate for one in found]) >= 4
        taken.append(A.multiplied)
    assert taken[0] < 0.6 * taken[1]


def test_what_groups_have_in_common_is_looked_for_where_products_and_vectors_have_room(monkeypatch):
    """Four products and vectors of each of eight strata, and four vectors more, in nine tenths of what is free."""
    A = mean("even", samples=4000)
    row = A.backend.row_bytes(A.domain)

    def estimate(entries, rows):
        monkeypatch.setattr(trace, "LARGEST_SKETCH", entries)
        monkeypatch.setattr(type(A.backend), "free_memory", lambda self, layout: rows * row + A.working_bytes)
        return specop.trace(A, max_matvecs=1, data="part").estimate

    without, ample = estimate(0, 10**6), estimate(10**6, 10**6)
    assert without != ample
    held = 2 * 8 * 4 + 4
    assert [estimate(held * 30, 77), estimate(held * 30 - 1, 77), estimate(held * 30, 76)] == [ample, without, without]


def test_a_limit_on_products_holds():
    A = mean("indefinite")
    with pytest.warns(ConvergenceWarning, match="samples"):
        found = specop.trace(A, rtol=1e-6, data="part", max_matvecs=3)
    assert found.matvecs <= 3 and A.multiplied <= 3 * A.samples and not found.converged
    assert specop.trace(A, data="part", max_matvecs=2).matvecs == 2


@pytest.mark.parametrize("samples", [1, 3, 17, 100])
def test_few_samples(samples):
    A = mean("even", samples=samples)
    found = specop.trace(A, rtol=0.05, data="part")
    assert abs(found.estimate - np.trace(A.dense)) <= 4.0 * found.standard_error


@pytest.mark.parametrize("samples", [1, 3, 17, 100, 1000, 3000])
@pytest.mark.parametrize("call", [specop.trace, specop.diagonal, specop.frobenius_norm])
def test_few_products_are_no_more_than_the_limit(call, samples):
    """Also where random vectors would be asked for several times of the same few samples."""
    for limit in (1, 2, 3, 33):
        A = mean("even", samples=samples)
        found = call(A, max_matvecs=limit, data="part")
        assert found.matvecs <= limit and A.multiplied <= limit * samples
        # What a single vector leaves open is not stated.
        errors = found.standard_errors if call is specop.diagonal else found.standard_error
        assert np.all(np.isnan(errors)) or np.all(errors > 0)


def test_methods_that_need_all_data_are_refused():
    with pytest.raises(InvalidInputError, match="xtrace"):
        specop.trace(mean("even"), method="xtrace", data="part")
    with pytest.raises(InvalidInputError, match="data"):
        specop.trace(mean("even"), data="half")
