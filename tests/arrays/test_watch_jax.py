"""When a process of jax.distributed counts as missing, and that nothing else does."""

import pytest

from specop.errors import InvalidInputError

pytest.importorskip("jax")
from specop_jax.watch import State, late_for, limit_of_user, missing

LIMIT = 60.0


def at_work(met, entered, seconds):
    return State(met, entered, False, seconds)


def waits(met, entered, seconds):
    return State(met, entered, True, seconds)


@pytest.mark.parametrize(
    ("own", "other", "is_late"),
    [
        # In a loader, while the other one is at the next meeting, or in the next program.
        (at_work(4, 2, 61), waits(5, 0, 61), True),
        (at_work(4, 2, 61), waits(4, 3, 61), True),
        # Not for so long yet.
        (at_work(4, 2, 59), waits(5, 0, 59), False),
        (at_work(4, 2, 61), waits(5, 0, 10), False),
        # Both are in one program, and it takes an hour.
        (waits(4, 3, 3600), waits(4, 3, 3600), False),
        # This one is through, and the other's device is slower.
        (at_work(4, 3, 61), waits(4, 3, 61), False),
        (at_work(5, 0, 61), waits(4, 3, 61), False),
        # Nobody waits: each trains for an hour.
        (at_work(4, 3, 3600), at_work(4, 3, 3600), False),
    ],
)
def test_who_is_late(own, other, is_late):
    assert (late_for(own, {1: other}, LIMIT) == 1) is is_late
    # Seen from the other side it is missing.
    assert (missing(other, {0: own}, LIMIT) == 0) is is_late


@pytest.mark.parametrize("said", ["soon", "0", "-1", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch, said):
    monkeypatch.setenv("SPECOP_JAX_TIMEOUT", said)
    with pytest.raises(InvalidInputError, match=f"SPECOP_JAX_TIMEOUT is '{said}'"):
        limit_of_user()


def test_the_limit_is_the_user_s(monkeypatch):
    monkeypatch.delenv("SPECOP_JAX_TIMEOUT", raising=False)
    assert limit_of_user() == 1800
    for said, limit in {"2.5": 2.5, "inf": float("inf")}.items():
        monkeypatch.setenv("SPECOP_JAX_TIMEOUT", said)
        assert limit_of_user() == limit
