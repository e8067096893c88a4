"""Means over some of the samples, controls and lower sides: each number is that of the matrices it is said to be of."""

import numpy as np
import pytest

from sample_means import mean
from specop.krylov.run import Run
from specop.spectral.part import control, enclosure
from specop.spectral.part.grouping import Grouping
from specop.spectral.part.part import part_of
from specop.spectral.part.sampled_mean import SampledMean, halves_of, samples_of
from specop.statistics.group_sums import GroupSum
from specop_numpy import backend

RNG = np.random.default_rng(0)


def part(samples=1300, seed=3):
    run = Run(mean("indefinite", samples=samples, n=6), "test", symmetric=True)
    return part_of(run, seed)


def dense(whole, some, blocks):
    """Each sample counts by the inverse of the probability that it was drawn."""
    total = np.zeros((6, 6))
    for stratum, taken in zip(some.strata, blocks, strict=True):
        chosen = np.concatenate(taken)
        total += len(stratum) / len(taken) * whole.x[chosen].T @ (whole.c[chosen, None] * whole.x[chosen])
    return total / whole.samples


@pytest.mark.parametrize("lacking", [-(10**9), 0, 1, 10**9])
def test_a_sampled_mean_weighs_each_sample_by_how_it_was_drawn(lacking, monkeypatch):
    some, read = part(), []
    whole, groups = some.mean, some.mean.groups
    monkeypatch.setattr(whole, "groups", lambda chosen: read.append(1) or groups(chosen))
    counts = [min(2 + i, len(one)) for i, one in enumerate(some.strata)]
    samples = sum(count * len(one.blocks[0]) for one, count in zip(some.strata, counts, strict=True))
    whole.free = samples * whole.x[0].nbytes - lacking
    half = SampledMean(some, counts, 0)
    assert half.blocks == [one.blocks[:count] for one, count in zip(some.strata, counts, strict=True)]
    assert half.to_dense() == pytest.approx(dense(whole, some, half.blocks), abs=1e-13)
    assert half.size == sum(len(np.concatenate(blocks)) for blocks in half.blocks) and half.is_symmetric
    assert not half.is_whole
    # Six products with it are as many with so many samples.
    assert whole.multiplied == 6 * half.size and some.run.products == -(-6 * half.size // whole.samples)
    # Groups that fit are held, others read again for each product.
    assert len(read) == (1 if lacking <= 0 else 7)


def test_halves_share_no_samples_but_those_of_strata_that_are_taken_whole():
    some = part()
    lengths = [len(one) for one in some.strata]
    count = sorted(lengths)[len(lengths) // 2] // 2
    first, second = halves_of(some, count)
    for stratum, left, right in zip(some.strata, first.blocks, second.blocks, strict=True):
        common = set(np.concatenate(left)) & set(np.concatenate(right))
        is_whole = 2 * count > len(stratum)
        assert len(left) == len(right) == (len(stratum) if is_whole else count)
        assert len(common) == (len(np.concatenate(stratum.blocks)) if is_whole else 0)
    # The whole is one mean, and that of all samples.
    (one,) = halves_of(some, max(lengths))
    assert one.is_whole and samples_of([one]) == some.mean.samples
    assert one.to_dense() == pytest.approx(some.mean.dense, abs=1e-13)
    assert samples_of([first, second]) < some.mean.samples


def test_what_a_mean_may_still_be_multiplied_with_is_counted_in_its_own_samples():
    some = part()
    some.run.limit = 7
    half = SampledMean(some, [2] * len(some.strata), 0)
    for left in range(7 * 1300 // half.size, 0, -1):
        assert half.affordable == left
        half @ np.ones(6)
    assert half.affordable == 0 and some.run.products <= 7


def test_a_control_is_its_matrix():
    values, vectors = np.array([5.0, -2.0, 0.5]), np.linalg.qr(RNG.standard_normal((6, 3)))[0].T
    found = control.Control(Run(np.eye(6), "test"), values, list(vectors))
    C, z, y = vectors.T * values @ vectors, RNG.standard_normal(6), RNG.standard_normal(6)
    assert found.trace == pytest.approx(np.trace(C)) and found.square == pytest.approx((C**2).sum())
    assert found.diagonal() == pytest.approx(np.diag(C))
    assert found.forms(y.copy(), z) == pytest.approx([z @ C @ z, z @ C @ y, (C @ z) @ (C @ z)])
    assert found.subtract_(y.copy(), z) == pytest.approx(y - C @ z)
    none = control.control_of(Run(np.eye(6), "test"), None)
    assert none.trace == none.square == 0.0 and none.forms(y, z).tolist() == [0.0] * 3 and none.subtract_(y, z) is y
    assert not none.diagonal().any()


def test_what_products_have_in_common_is_found_with_its_sign():
    n, run = 40, Run(np.eye(40), "test")
    common = np.linalg.qr(RNG.standard_normal((n, 2)))[0].T
    vectors = [np.sign(RNG.standard_normal(n)) for _ in range(30)]
    images = []
    for scale, z in enumerate(vectors, start=1):
        rest = np.linalg.qr(RNG.standard_normal((n, n)))[0]
        # Whatever else a matrix holds, and however large it is.
        images.append(1e-3 * scale * (common.T @ (np.array([9.0, -6.0]) * (common @ z)) + 0.3 * rest @ z))
    alike = np.array([image / np.linalg.norm(image) for image in images])
    found = control.shared(run, [*images, np.zeros(n)], [*vectors, np.ones(n)])
    forms = [found.forms(q, q)[0] for q in common]
    assert forms[0] > 0 > forms[1]
    rows = np.array(found._vectors)
    # Of what the rows do not have in common little is kept.
    assert (np.linalg.norm(rows @ common.T, axis=0) > 0.95).all() and len(rows) <= 3
    # The values tell the directions' part of the products.
    assert [found.forms(row, row)[0] ** 2 for row in rows] == pytest.approx(((alike @ rows.T) ** 2).sum(axis=0))
    assert rows @ rows.T == pytest.approx(np.eye(len(rows)), abs=1e-9)
    # Products that have nothing in common make no control, and neither do zeros.
    apart = control.shared(run, [row.copy() for row in np.eye(n)[:9]], vectors[:9])
    assert apart.square == control.shared(run, [np.zeros(n)], [np.ones(n)]).square == 0.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("beside", [0, 2])
def test_an_interval_runs_from_the_lower_to_the_upper_side_with_chance_and_bound(sign, beside):
    some = part(samples=3000)
    halves, confidence = halves_of(some, 3), 0.9
    ends = []
    for half in halves:
        values, vectors = np.linalg.eigh(sign * dense(some.mean, some, half.blocks))
        bounds = np.array([0.01, 0.03]) * (len(ends) + 1)
        ends.append(enclosure.End(sign, values[:3:-1], bounds, vectors.T[:3:-1].copy()))
    grouping = Grouping(some, halves)
    enclosed = enclosure.Enclosure(some.run, grouping, ends, confidence)
    # No blocks are taken together where there are three; some strata are taken whole.
    assert set(grouping.firsts) == {0, 3} and grouping.whole
    looked = [min(count + beside, len(one)) for count, one in zip(grouping.least, grouping.strata, strict=True)]
    for places, number in (
        (grouping.half(1) + grouping.whole, 0),
        (grouping.half(0) + grouping.whole, 1),
        (grouping.beside(grouping.least, looked), 0),
    ):
        for stratum, weight, group in grouping.groups(places):
            enclosed.measure(stratum, weight, group, number)
    found = enclosed.side()
    others = [
        [
            blocks if len(blocks) == len(one) else one.blocks[3 : 6 + beside]
            for one, blocks in zip(some.strata, halves[1].blocks, strict=True)
        ],
        halves[0].blocks,
    ]
    lightest, weights = some.strata[-1], some.weights
    heaviest = weights[np.concatenate(lightest.blocks)].max() / weights.sum() + 0.1 / len(weights)
    unseen = np.log(10.0) * len(lightest) / 6 * heaviest
    for k in range(2):
        apart, directions = [], []
        for end, other, blocks, half in zip(ends, ends[::-1], others, halves[::-1], strict=True):
            V = end.rows[: k + 1]
            inner = np.linalg.eigvalsh(sign * V @ dense(some.mean, some, half.blocks) @ V.T)[0]
            apart.append(enclosure._upper(backend, end, other)[k] - inner)
            across = np.linalg.eigh(sign * V @ dense(some.mean, some, blocks) @ V.T)[1]
            directions.append(across[:, 0] @ V)
        # The lower side is the sum of what each group is along the direction in which the other half's vectors are
        # least, and its chance that of the sum.
        total = GroupSum(grouping.strata, is_noisy=False)
        for stratum, first in enumerate(grouping.firsts):
            for blocks, direction in zip(others, directions, strict=True):
                for block in blocks[stratum]:
                    x, c = some.mean.x[block], some.mean.c[block]
                    total.add(stratum, sign * np.sum(c * (x @ direction) ** 2) / some.mean.samples)
            if not first:
                # Both have seen the whole stratum, which has no chance.
                exact = sum(total.values[stratum]) / 2.0 / len(grouping.strata[stratum])
                total.values[stratum] = [exact] * len(grouping.strata[stratum])
                total.noises[stratum] = [0.0] * len(grouping.strata[stratum])
        value, _ = total.estimate(confidence)
        low, chance, between = value.estimate, value.interval[1] - value.estimate, np.mean(apart)
        around = abs(between) / 2 + np.hypot(between, chance) + [0.015, 0.045][k] + unseen * abs(low)
        assert found.values[k].estimate == pytest.approx(sign * (low + between / 2))
        assert np.diff(found.values[k].interval)[0] == pytest.approx(2 * around)
        assert sum(found.values[k].interval) == pytest.approx(2 * found.values[k].estimate)
        assert found.sampling_errors[k] == pytest.approx(value.standard_error)
        assert found.chances[k] == pytest.approx(chance)
    # Rows are those of the first half, their residuals of the second.
    B = dense(some.mean, some, halves[1].blocks)
    assert np.array(found.rows) == pytest.approx(ends[0].rows)
    assert found.residuals == pytest.approx([np.linalg.norm(B @ v - (v @ B @ v) * v) for v in ends[0].rows])


def test_of_all_samples_only_the_bounds_of_eigenvalues_are_left():
    some = part()
    (whole,) = halves_of(some, max(map(len, some.strata)))
    end = enclosure.End(-1.0, np.array([3.0, 2.0]), np.array([0.01, 0.03]), np.eye(6)[:2])
    assert whole.is_whole
    found = enclosure.whole_side(backend, end, 0.9)
    for value, eigenvalue, bound in zip(found.values, [-3.0, -2.0], end.bounds, strict=True):
        assert value.estimate == eigenvalue and value.confidence == 0.9
        assert value.interval == pytest.approx((eigenvalue - bound, eigenvalue + bound))
    assert not found.sampling_errors.any() and (found.bounds == found.residuals).all()
    assert (found.bounds == end.bounds).all() and (np.array(found.rows) == end.rows).all()
