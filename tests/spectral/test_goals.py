"""Goal: when an estimate is accurate enough, and how many probes that takes."""

import pytest

from specop.errors import InvalidInputError
from specop.spectral.goals import Goal, checked_goal


def test_probes_needed_grow_with_the_square_of_the_error():
    goal = Goal(rtol=0.1, atol=None)
    assert goal.probes_needed(8, -10.0, 2.0) == pytest.approx(24)
    assert goal.probes_needed(8, 10.0, 1.0) == pytest.approx(0)
    assert goal.probes_needed(8, 10.0, 0.5) < 0
    assert Goal(None, None).probes_needed(8, 10.0, 2.0) == 0


def test_the_larger_goal_counts_and_is_reached_where_it_is_met():
    goal = Goal(rtol=0.1, atol=0.5)
    assert (goal.tolerance(2.0), goal.tolerance(-20.0)) == (0.5, 2.0)
    assert goal.accepts(2.0, 0.5) and not goal.accepts(2.0, 0.51)
    assert not Goal(None, None).accepts(2.0, 0.0)


def test_a_goal_of_zero_is_met_by_no_error_only():
    goal = checked_goal(0.0, None, None, 0.02)
    assert goal.accepts(5.0, 0.0) and not goal.accepts(5.0, 1e-300)
    assert goal.probes_needed(8, 5.0, 1.0) == float("inf")


def test_defaults_hold_where_nothing_is_asked_for():
    assert checked_goal(None, None, None, 0.02) == Goal(0.02, None)
    assert checked_goal(None, None, 50, 0.02).is_budget
    assert checked_goal(None, 0.1, None, 0.02) == Goal(None, 0.1)
    for rtol, atol, name in [(-1.0, None, "rtol"), (None, float("nan"), "atol"), (float("inf"), None, "rtol")]:
        with pytest.raises(InvalidInputError, match=f"{name} must be a finite number >= 0"):
            checked_goal(rtol, atol, None, 0.02)
