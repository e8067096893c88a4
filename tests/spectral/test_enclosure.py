"""What is too large for an eigenvalue: the largest that is left where directions are taken out."""

import sys

import numpy as np
import pytest

import specop
from sample_means import mean
from specop.krylov.run import Run
from specop.spectral.part import enclosure
from specop.spectral.part.part import part_of
from specop.spectral.part.sampled_mean import SIZE, first_count, grown, halves_of
from specop.statistics.group_sums import GroupSum
from specop_numpy import backend


def end(values, vectors):
    return enclosure.End(1.0, values, np.zeros(len(values)), vectors)


def test_the_upper_side_is_the_largest_eigenvalue_of_the_projected_matrix():
    rng = np.random.default_rng(0)
    values = np.array([5.0, 3.0, 2.5, 1.0, 0.2, -1.0])
    vectors = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    H = vectors.T * values @ vectors
    others = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    found = enclosure._upper(backend, end(values, others), end(values, vectors))
    for i in range(6):
        P = np.eye(6) - others[:i].T @ others[:i]
        # What was taken out has the eigenvalue 0, which does not count.
        assert found[i] == pytest.approx(np.linalg.eigvalsh(P @ H @ P - 9.0 * (np.eye(6) - P))[-1])
        assert found[i] >= values[i] - 1e-12


def test_parts_that_agree_enclose_exactly():
    values, vectors = np.array([5.0, 3.0, 2.5]), np.eye(6)[:3]
    assert enclosure._upper(backend, end(values, vectors), end(values, vectors)) == pytest.approx(values)


@pytest.mark.parametrize("samples", [900, 5000, 20_000])
def test_groups_of_any_size_add_up_to_all_samples(samples):
    A = mean("trained", samples=samples)
    with Run(A, "eigsh", symmetric=True) as run:
        part = part_of(run, 0, size=SIZE)
        count = first_count(part)
        for blocks in (count, grown(count, 1.3), grown(count, 9.0)):
            halves = halves_of(part, blocks)
            if len(halves) == 1:
                continue
            grouping = halves[0].grouping
            looked = [min(count + 1, len(one)) for count, one in zip(grouping.least, grouping.strata, strict=True)]
            beside, seen = grouping.beside(grouping.least, looked), []
            for places in (grouping.half(0), grouping.half(1), grouping.half(1) + beside):
                total = GroupSum(grouping.strata, is_noisy=False)
                for i, weight, group in grouping.groups(places):
                    total.add(i, weight * group.share)
                value, error = total.estimate(0.95)
                assert value.estimate == pytest.approx(1.0) and error == pytest.approx(0.0, abs=1e-12)
                seen.append({int(one) for i, n in places for one in grouping.strata[i].blocks[n]})
                assert len(seen[-1]) == grouping.samples(places)
            assert [len(one) for one in seen[:2]] == [half.size for half in halves]
            # What is beside is in neither half.
            assert not (seen[2] - seen[1]) & seen[0]
            assert grouping.samples_of(looked) == len(seen[0] | seen[2])


def test_an_eigenvalue_that_one_half_missed_is_taken_from_the_other(monkeypatch):
    A, module = mean("trained", samples=8000), sys.modules[specop.eigsh.__module__]
    eigsh, calls = module.eigsh, []

    def missing(half, k, **keywords):
        calls.append(half)
        if len(calls) == 1:
            second = eigsh(half, 2, which="LA", tol=1e-12).eigenvector(0)
            keywords |= {"v0": second}
        return eigsh(half, k, **keywords)

    monkeypatch.setattr(module, "eigsh", missing)
    found = eigsh(A, 1, which="LA", rtol=0.1, data="part")
    assert len(calls) > 2
    assert found.intervals[0, 0] <= np.linalg.eigvalsh(A.dense)[-1] <= found.intervals[0, 1]
    assert found.standard_errors[0] <= 0.1 * found.eigenvalues[0]
