"""Exclusion: where a missed eigenvalue is looked for, and what a space rules out, each by its definition."""

import types

import numpy as np
import pytest
import scipy.stats

from specop.krylov.projected import Ritz
from specop.spectral.ends import End
from specop.spectral.exclusion import Exclusion, Seen, level
from specop.statistics.measure import GaussRule, christoffel

VALUES = np.array([-9.0, 0.5, 1.0, 4.0, 8.0, 10.0])
RESIDUALS = np.array([1e-5, 1e-5, 1e-5, 2e-5, 1e-3, 3e-5])
HELD = Ritz(np.arange(6), VALUES, np.eye(6), RESIDUALS, RESIDUALS)
LARGEST = End((1,), 2)
FLOOR = 1e-6


def exclusion(tol=1e-3, confidence=0.99, **facts):
    space = types.SimpleNamespace(**{"error_floor": FLOOR, "has_closed": False, "n": 100, "size": 20, **facts})
    return Exclusion(space, tol, confidence)


def ruling_out(is_excluded, **options):
    """Return an exclusion in which a function of the keys says what is excluded."""
    found = exclusion(**options)
    found.excluded = lambda end, keys, held, each_side=False: (
        np.stack([is_excluded(keys)] * len(end.sides)) if each_side else is_excluded(keys)
    )
    return found


@pytest.mark.parametrize(
    ("cleared", "lowest"),
    [([1, 1, 1, 1], 1.0), ([0, 1, 1, 1], 2.0), ([1, 0, 1, 0], 3.0), ([1, 1, 0, 0], 4.0), ([0, 0, 0, 0], 4.0)],
)
def test_the_level_is_the_lowest_rung_from_which_on_all_are_cleared(cleared, lowest):
    assert level([1.0, 2.0, 3.0, 4.0], np.array(cleared, dtype=bool)) == lowest
    assert level([2.5], [False]) == 2.5


def test_more_certainty_is_asked_for_where_copies_are_likely():
    plain, closed, doubted = exclusion(), exclusion(has_closed=True), exclusion()
    doubted.is_doubted = True
    assert plain.certainty == pytest.approx(0.99)
    assert 1 - closed.certainty == pytest.approx(1e-6) and doubted.certainty == closed.certainty


@pytest.mark.parametrize(
    ("end", "tol", "last", "width"),
    [
        (LARGEST, 1e-3, 8.0, 0.016),
        (End((-1,), 2), 1e-3, -0.5, 0.001),
        (End((1, -1), 2), 1e-3, 9.0, 0.018),
        # As near to another wanted one as that: the border is drawn as close as its own error.
        (LARGEST, 0.2, 8.0, 2e-3),
        (End((1,), 1), 0.2, 10.0, 4.0),
        # A residual that says less than the tolerance does.
        (LARGEST, 0.13, 8.0, 2e-3),
    ],
)
def test_the_ladder_reaches_from_the_last_wanted_key_to_the_border(end, tol, last, width):
    ladder = exclusion(tol).ladder(end, HELD)
    assert ladder[0] == last and ladder[-1] == pytest.approx(last + width + FLOOR, rel=1e-12)
    np.testing.assert_allclose(ladder[1:], last + FLOOR + width * 0.5 ** np.arange(20.0, -1.0, -1.0), rtol=1e-14)


def test_a_copy_draws_the_border_no_farther_than_the_tolerance():
    held = Ritz(np.arange(2), np.array([5.0, 5.0]), np.eye(2), np.full(2, 0.5), np.full(2, 0.5))
    assert exclusion(1e-3).ladder(LARGEST, held)[-1] == pytest.approx(5.01 + FLOOR, rel=1e-12)


@pytest.mark.parametrize("limit", [8.0, 8.5, 9.2, 11.0])
def test_the_first_doubt_is_the_last_point_of_a_grid_before_what_is_not_excluded(limit):
    found = ruling_out(lambda keys: keys < limit).first_doubt(LARGEST, 8.1, HELD)
    grid = np.linspace(8.1, 10.0, 33)
    assert found == pytest.approx(max(8.1, grid[grid < limit].max(initial=8.1)))
    # Two beyond the border: from there to the lower one.
    assert ruling_out(lambda keys: keys < np.inf).first_doubt(LARGEST, 3.0, HELD) == 8.0
    assert ruling_out(lambda keys: keys < np.inf).first_doubt(LARGEST, 10.5, HELD) is None


def test_gaps_are_open_where_errors_meet_and_must_be_ruled_out_elsewhere():
    end, ladder = End((1,), 3), np.array([4.0, 4.008])
    yes = np.ones_like
    assert ruling_out(lambda keys: yes(keys, bool)).open_gaps(end, ladder, HELD) == set()
    # Nothing is ruled out in a gap: go on. One point of a gap is enough.
    for low, high in ((8.0, 10.0), (4.0, 8.0)):
        inside = [low + 0.01, high - 0.01]
        nowhere = ruling_out(lambda keys, ends=inside: (keys < ends[0]) | (keys > ends[1]))
        assert nowhere.open_gaps(end, ladder, HELD) is None
        third = 0.6 * low + 0.4 * high
        once = ruling_out(lambda keys, ends=inside, third=third: (keys < max(ends[0], third)) | (keys > ends[1]))
        assert once.open_gaps(end, ladder, HELD) == set()
    # Beyond all of them, at most the margin of the tolerance away.
    seen = []
    ruling_out(lambda keys: seen.append(keys) or yes(keys, bool)).open_gaps(end, ladder, HELD)
    assert seen[-1] == pytest.approx(10 + 160 * (3e-5 + FLOOR), rel=1e-12)
    tight = ruling_out(lambda keys: seen.append(keys) or yes(keys, bool), tol=1e-4)
    tight.open_gaps(end, np.array([4.0, 4.0008]), HELD)
    assert seen[-1] == pytest.approx(10 + 2e-4 * 10 + FLOOR, rel=1e-12)
    assert ruling_out(lambda keys: keys < 10).open_gaps(end, ladder, HELD) is None
    # All wanted ones below the border: only what lies beyond it counts.
    assert ruling_out(lambda keys: keys > 10.1).open_gaps(end, np.array([4.0, 10.2]), HELD) == set()
    assert ruling_out(lambda keys: keys < 10.1).open_gaps(end, np.array([4.0, 10.2]), HELD) is None


@pytest.mark.parametrize(
    ("apart", "error", "tol", "is_open"),
    # Errors of both, 2e-3 each, and four times the tolerance.
    [(3.9e-3, 2e-3, 1e-3, True), (4.1e-3, 2e-3, 1e-3, False), (3.9e-3, 2e-3, 1e-4, True), (3.9e-3, 2e-3, 9e-5, False)],
)
def test_gaps_as_narrow_as_their_errors_are_open(apart, error, tol, is_open):
    values, errors = np.array([1.0, 10.0 - apart, 10.0]), np.array([1e-5, error, error])
    held = Ritz(np.arange(3), values, np.eye(3), errors, errors)
    found = ruling_out(lambda keys: np.ones_like(keys, bool), tol=tol, error_floor=0.0)
    assert found.open_gaps(End((1,), 3), np.array([1.0, 1.002]), held) == ({0} if is_open else set())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("apart", "is_open"), [(1.9e-3, True), (2.1e-3, False)])
def test_the_gap_above_the_border_is_as_wide_as_one_error(apart, is_open, count):
    errors = np.array([1.0, 2e-3])
    held = Ritz(np.arange(2), np.array([1.0, 10.0]), np.eye(2), errors, errors)
    found = ruling_out(lambda keys: np.ones_like(keys, bool), error_floor=0.0)
    assert found.open_gaps(End((1,), count), np.array([9.0, 10.0 - apart]), held) == ({0} if is_open else set())


def test_what_is_excluded_is_what_the_weight_of_a_random_vector_does_not_allow():
    rng = np.random.default_rng(0)
    weights, couplings = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    rule, keys = GaussRule(VALUES, weights, couplings), np.linspace(-12, 12, 40)
    held = Ritz(np.arange(7, 13), VALUES, np.eye(6), RESIDUALS, RESIDUALS)
    space = {"rule": lambda ritz: rule if ritz is held else None, "n": 100, "size": 20}
    for told, dimension in ((held, 93), (Seen(VALUES, RESIDUALS, rule), 80), (Seen(VALUES, RESIDUALS, held), 93)):
        found = exclusion(confidence=0.9, **space)
        least = scipy.stats.chi2.ppf(0.1, 1) / dimension
        expected = christoffel(rule, keys) <= least
        assert expected.any() and not expected.all()
        np.testing.assert_array_equal(found.excluded(LARGEST, keys, told), expected)
        both = found.excluded(End((1, -1), 2), keys, told, each_side=True)
        np.testing.assert_array_equal(both, [expected, christoffel(rule, -keys) <= least])
        np.testing.assert_array_equal(found.excluded(End((1, -1), 2), keys, told), both[0] & both[1])


def test_a_second_chain_rules_out_what_lies_beyond_all_that_it_shows():
    ladder, seen = np.array([9.0, 9.5, 10.0, 10.5, 11.0]), Seen(VALUES, RESIDUALS, HELD)
    found = ruling_out(lambda keys: keys != 10.5)
    assert found.beyond(LARGEST, ladder, seen, False).tolist() == [False, False, False, False, True]
    found = ruling_out(lambda keys: keys < 11)
    assert found.beyond(LARGEST, ladder, seen, False).tolist() == [False, False, False, True, True]
    for end, is_restarted in ((LARGEST, True), (End((1, -1), 2, is_interior=True), False)):
        assert found.beyond(end, ladder, seen, is_restarted).tolist() == [False] * 4 + [True]
