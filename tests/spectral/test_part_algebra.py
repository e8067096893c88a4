"""Means over some of the samples, controls and lower sides: each number is that of the matrices it is said to be of."""

import itertools

import numpy as np
import pytest
from scipy.special import ndtri

from sample_means import mean
from specop.krylov.run import Run
from specop.spectral.part import control, enclosure, remainder
from specop.spectral.part.grouping import Grouping
from specop.spectral.part.part import part_of
from specop.spectral.part.sampled_mean import SampledMean, first_count, grown, halves_of
from specop.statistics.estimate import Estimate, normal_error
from specop.statistics.group_sums import GroupSum
from specop.statistics.strata import Stratum
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
        total += stratum.samples / len(chosen) * whole.x[chosen].T @ (whole.c[chosen, None] * whole.x[chosen])
    return total / whole.samples


def blocks_of(half, number):
    """The samples of each stratum in a half, group by group."""
    places, grouping = half.grouping.half(number), half.grouping
    return [[one.blocks[n] for j, n in places if j == i] for i, one in enumerate(grouping.strata)]


@pytest.mark.parametrize("count", [2, 5, 17])
@pytest.mark.parametrize("lacking", [-(10**9), 0, 1, 10**9])
def test_a_sampled_mean_weighs_each_sample_by_how_it_was_drawn(lacking, count, monkeypatch):
    some, read = part(samples=6000), []
    whole, groups = some.mean, some.mean.groups
    monkeypatch.setattr(whole, "groups", lambda chosen: read.append(len(chosen)) or groups(chosen))
    grouping = Grouping(some, count)
    samples = grouping.samples(grouping.half(1))
    whole.free = samples * whole.x[0].nbytes - lacking
    half = SampledMean(some, grouping, 1)
    blocks = blocks_of(half, 1)
    # Seventeen blocks of 32 are three groups of six, and where a stratum has no 36 it is whole.
    each = {2: 2, 5: 5, 17: 6}[count]
    for first, one, stratum, found in zip(grouping.firsts, grouping.strata, some.strata, blocks, strict=True):
        if first:
            assert (first, len(found)) == (-(-count // each), first) and len(found[0]) == each * len(stratum.blocks[0])
            assert found[0].tolist() == np.concatenate(stratum.blocks[first * each : (first + 1) * each]).tolist()
        else:
            assert 2 * count > len(stratum) - 2 * each and sum(map(len, found)) == stratum.samples == one.samples
    assert half.to_dense() == pytest.approx(dense(whole, some, blocks), abs=1e-13)
    assert half.size == samples == sum(len(block) for found in blocks for block in found)
    assert half.is_symmetric and not grouping.is_whole
    # Six products with it are as many with so many samples.
    assert whole.multiplied == 6 * half.size and some.run.products == -(-6 * half.size // whole.samples)
    # Groups that fit are held, and linearized at once, others read again for each product.
    assert len([number for number in read if number]) == (1 if lacking <= 0 else 7)
    assert {group.is_expected for _, _, group in half.groups()} == {lacking <= 0}


def test_halves_share_no_samples_but_those_of_strata_that_are_taken_whole():
    some = part()
    lengths = [len(one) for one in some.strata]
    count = sorted(lengths)[len(lengths) // 2] // 2
    first, second = halves_of(some, count)
    for stratum, left, right in zip(some.strata, blocks_of(first, 0), blocks_of(second, 1), strict=True):
        common = set(np.concatenate(left)) & set(np.concatenate(right))
        is_whole = 2 * count > len(stratum)
        size = len(stratum.blocks[0])
        assert sum(map(len, left)) == sum(map(len, right)) == (stratum.samples if is_whole else count * size)
        assert len(common) == (stratum.samples if is_whole else 0)
    # What both share is held once.
    whole = [place for place in first.grouping.half(0) if place in second.grouping.half(1)]
    held = [{id(group) for _, _, group in half.grouping.groups(whole)} for half in (first, second)]
    assert whole and held[0] == held[1]
    # It takes no more room for the second half.
    grouping = Grouping(some, count)
    SampledMean(some, grouping, 0)
    some.mean.free = (second.size - grouping.samples(whole)) * some.mean.x[0].nbytes
    half = SampledMean(some, grouping, 1)
    assert all(group.is_expected for _, _, group in half.groups())
    # The whole is one mean, and that of all samples.
    (one,) = halves_of(some, max(lengths))
    assert one.grouping.is_whole and one.size == some.mean.samples
    assert one.to_dense() == pytest.approx(some.mean.dense, abs=1e-13)
    assert first.grouping.samples_of(first.grouping.least) < some.mean.samples


@pytest.mark.parametrize("samples", [300, 1300, 6000, 18000, 40000])
def test_a_first_look_is_at_a_sixteenth_of_the_samples_within_limits(samples):
    some = part(samples)
    wanted = min(max(samples / 16, 768), 1536)

    def looked_at(count):
        return sum(len(block) for one in some.strata for block in one.blocks[: 2 * count])

    count = first_count(some)
    assert looked_at(count) >= min(wanted, samples)
    assert count == 2 or looked_at(count - 2) < wanted


@pytest.mark.parametrize(("factor", "blocks"), [(0.0, 6), (1.4, 6), (1.6, 7), (7.9, 32), (8.1, 32), (np.inf, 32)])
def test_the_next_look_is_at_half_as_much_again_at_least_and_eight_times_as_much_at_most(factor, blocks):
    assert grown(4, factor) == blocks


def test_no_more_samples_are_taken_together_than_are_known_to_fit_into_memory():
    some = part(samples=6000)
    for largest in (32, 100, 10**6):
        some.mean.largest = largest
        grouping = Grouping(some, 12)
        assert max(len(block) for one in grouping.strata for block in one.blocks) <= min(256, largest)


def test_what_a_mean_may_still_be_multiplied_with_is_counted_in_its_own_samples():
    some = part()
    some.run.limit = 7
    half = halves_of(some, 2)[0]
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
    halves, confidence = halves_of(some, 12), 0.9
    grouping = halves[0].grouping
    own = [blocks_of(half, number) for number, half in enumerate(halves)]
    ends = []
    for blocks in own:
        values, vectors = np.linalg.eigh(sign * dense(some.mean, some, blocks))
        bounds = np.array([0.01, 0.03]) * (len(ends) + 1)
        ends.append(enclosure.End(sign, values[:3:-1], bounds, vectors.T[:3:-1].copy()))
    enclosed = enclosure.Enclosure(some.run, grouping, ends, confidence)
    # Twelve blocks of a stratum are two groups; most strata are taken whole.
    assert set(grouping.firsts) == {0, 2}
    looked = [min(count + beside, len(one)) for count, one in zip(grouping.least, grouping.strata, strict=True)]
    for number, half in enumerate(halves[::-1]):
        for stratum, weight, group in half.groups():
            enclosed.measure(stratum, weight, group, number)
    for stratum, weight, group in grouping.groups(grouping.beside(grouping.least, looked)):
        enclosed.measure(stratum, weight, group, 0)
    found = enclosed.side()
    seen_by_first = [
        one.blocks[first : 2 * first + beside] if first else blocks
        for one, first, blocks in zip(grouping.strata, grouping.firsts, own[1], strict=True)
    ]
    others = [seen_by_first, own[0]]
    lightest, weights = some.strata[-1], some.weights
    heaviest = weights[np.concatenate(lightest.blocks)].max() / weights.sum() + 0.1 / len(weights)
    seen = sum(map(len, grouping.strata[-1].blocks[:4]))
    unseen = np.log(10.0) * lightest.samples / seen * heaviest
    for k in range(2):
        apart, directions = [], []
        for end, other, blocks, half in zip(ends, ends[::-1], others, own[::-1], strict=True):
            V = end.rows[: k + 1]
            inner = np.linalg.eigvalsh(sign * V @ dense(some.mean, some, half) @ V.T)[0]
            apart.append(enclosure._upper(backend, end, other)[k] - inner)
            across = np.linalg.eigh(sign * V @ dense(some.mean, some, blocks) @ V.T)[1]
            directions.append(across[:, 0] @ V)
        # The lower side is the sum of what each group is along the direction in which the other half's vectors are
        # least, and its chance that of the sum. Of strata that both share, each says half.
        total = GroupSum(grouping.strata, is_noisy=False)
        for stratum, (first, one) in enumerate(zip(grouping.firsts, grouping.strata, strict=True)):
            weight = some.strata[stratum].samples / one.samples / some.mean.samples * (1.0 if first else 0.5)
            values = [
                [weight * sign * np.sum(some.mean.c[block] * (some.mean.x[block] @ direction) ** 2) for block in blocks]
                for blocks, direction in zip([other[stratum] for other in others], directions, strict=True)
            ]
            for value in np.concatenate(values) if first else np.sum(values, axis=0):
                total.add(stratum, value)
        value, _ = total.estimate(confidence)
        low, chance, between = value.estimate, value.interval[1] - value.estimate, np.mean(apart)
        around = abs(between) / 2 + np.hypot(between, chance) + [0.015, 0.045][k] + unseen * abs(low)
        assert found.values[k].estimate == pytest.approx(sign * (low + between / 2))
        assert np.diff(found.values[k].interval)[0] == pytest.approx(2 * around)
        assert sum(found.values[k].interval) == pytest.approx(2 * found.values[k].estimate)
        assert found.sampling_errors[k] == pytest.approx(chance / ndtri(0.95))
        assert found.sums[k].foreseen(1.0, confidence) == pytest.approx(chance)
    # Rows are those of the first half, their residuals of the second.
    B = dense(some.mean, some, own[1])
    assert np.array(found.rows) == pytest.approx(ends[0].rows)
    assert found.residuals == pytest.approx([np.linalg.norm(B @ v - (v @ B @ v) * v) for v in ends[0].rows])


def test_of_all_samples_only_the_bounds_of_eigenvalues_are_left():
    some = part()
    (whole,) = halves_of(some, max(map(len, some.strata)))
    end = enclosure.End(-1.0, np.array([3.0, 2.0]), np.array([0.01, 0.03]), np.eye(6)[:2])
    assert whole.grouping.is_whole
    found = enclosure.whole_side(backend, end, 0.9)
    for value, eigenvalue, bound in zip(found.values, [-3.0, -2.0], end.bounds, strict=True):
        assert value.estimate == eigenvalue and value.confidence == 0.9
        assert value.interval == pytest.approx((eigenvalue - bound, eigenvalue + bound))
    assert not found.sampling_errors.any() and (found.bounds == found.residuals).all()
    assert (found.bounds == end.bounds).all() and (np.array(found.rows) == end.rows).all()


def side(values, apart):
    """A side whose interval has what values of one stratum of a thousand blocks leave to chance, and more."""
    total = GroupSum([Stratum(tuple(np.arange(1000)[:, None]))], is_noisy=False)
    for value in values:
        total.add(0, value)
    chance = total.foreseen(1.0, 0.95)
    limits = (1000.0 * np.mean(values) - apart - chance, 1000.0 * np.mean(values) + apart + chance)
    value = Estimate(1000.0 * np.mean(values), normal_error(limits, 0.95), limits, 0.95)
    return enclosure.Side([value], [total], np.zeros(1), [], np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_plan_takes_as_many_more_samples_as_leave_the_error_that_is_asked_for(share):
    rng = np.random.default_rng(0)
    values = 1.0 + 0.2 * rng.standard_normal(40)
    wished = side(values, 0.0).values[0].standard_error / 1.3 / (1000.0 * np.mean(values))
    apart = share * wished * 1000.0 * np.mean(values) * ndtri(0.975)
    growth, more = side(values, apart).plan(0, wished)
    assert growth == 0.0
    # What is left beside chance, of an error that falls with the root of samples.
    least = (1.3 / (1.0 - share)) ** 2
    assert 0.9 * least <= more <= max(1.0 + 1.35 * (least - 1.0), 1.75) or more == 4.0 < least
    # Nothing where the error is as small as that, larger halves where chance is not what it comes from.
    assert side(values, apart).plan(0, 2.0 * wished) == (0.0, 0.0)
    growth, more = side(values, 3.0 * wished * 1000.0 * np.mean(values)).plan(0, wished)
    assert growth > 2.0 and more == 0.0


def test_each_group_s_part_of_a_trace_is_off_by_its_size_or_by_as_much_as_such_parts_scatter():
    some = part(samples=2000)
    found = remainder.Remainder(some.run, some)
    lengths = [len(one) for one in some.strata]
    # Eight values, and whole rounds of strata that have no more blocks.
    counts = [8 if blocks > 8 else -(-8 // blocks) * blocks for blocks in lengths]
    assert found.first() == counts and min(lengths) == 1
    found.take(found.first())
    assert [len(values) for values in found.total.values] == counts
    found.take([max(pair) for pair in zip(lengths, counts, strict=True)])
    variance = 0.0
    for blocks, values, bounds in zip(lengths, found.total.values, found.total.noises, strict=True):
        assert bounds == pytest.approx(np.square(values))
        rounds = np.reshape(values, (-1, blocks))
        inside = np.mean(bounds) if len(rounds) == 1 else np.mean(np.var(rounds, axis=0, ddof=1))
        variance += blocks**2 * min(inside, np.var(values, ddof=1)) / len(values)
    value, by_choice = found.total.estimate(0.9)
    assert (value.standard_error, by_choice) == (pytest.approx(variance**0.5), 0.0)
    assert abs(value.estimate - np.trace(some.mean.dense)) < 4 * value.standard_error


@pytest.mark.parametrize("most", [16, 6, 2])
def test_a_trace_of_parts_is_the_sum_over_all_of_them_or_as_many_times_that_over_some(most, monkeypatch):
    monkeypatch.setattr(remainder, "_MOST", most)
    some = part(samples=2000)
    # Of a single entry a random sign gives the diagonal's, exactly.
    found = remainder.Apart(some.run, some, [slice(j, j + 1) for j in range(6)])
    size = len(some.strata[-1].blocks[0])
    assert (found.cost, remainder.Remainder(some.run, some).cost) == (min(most, 6) * size, size)
    found.take([len(one) for one in some.strata])
    assert some.run.products == pytest.approx(min(most, 6), abs=1)
    for stratum, values, bounds in zip(some.strata, found.total.values, found.total.noises, strict=True):
        for block, value, bound in zip(stratum.blocks, values, bounds, strict=True):
            diagonal = some.mean.c[block] @ some.mean.x[block] ** 2 / some.mean.samples
            if most < 6:
                sums = [3 * (diagonal[i] + diagonal[j]) for i, j in itertools.combinations(range(6), 2)]
                assert min(abs(value - one) for one in sums) < 1e-12 and bound == value**2
            else:
                assert (value, bound) == pytest.approx((diagonal.sum(), diagonal @ diagonal))
