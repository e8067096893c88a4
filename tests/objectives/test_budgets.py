"""The memory budget that all operators of an objective share."""

import gc

import numpy as np
import pytest

from parity.cases import FRAMEWORKS, objective
from specop.arrays.memory import MemoryBudget


class Holder:
    """Holds bytes until it is told not to."""

    def __init__(self, budget, size=0):
        self.held_bytes = 0
        self.budget = budget
        self.take(size)

    def take(self, size):
        self.budget.use(self)
        reach = self.budget.reach()
        if size <= reach:
            self.budget.leave(reach - size, self)
            self.held_bytes = size

    def release(self):
        self.held_bytes = 0


def test_the_least_recently_used_is_released_first():
    budget = MemoryBudget(100, lambda: 0)
    first, second, third = (Holder(budget, size) for size in (40, 40, 20))
    budget.use(first)
    fourth = Holder(budget, 30)
    assert [holder.held_bytes for holder in (first, second, third, fourth)] == [40, 0, 20, 30]
    assert budget.room() == 10
    third.take(60)
    assert [holder.held_bytes for holder in (first, second, third, fourth)] == [0, 0, 60, 30]


def test_nothing_is_released_for_what_does_not_fit_at_all():
    budget = MemoryBudget(100, lambda: 0)
    first = Holder(budget, 90)
    assert Holder(budget, 101).held_bytes == 0 and first.held_bytes == 90


def test_kept_data_count_and_stay():
    budget, data = MemoryBudget(100, lambda: 0), Holder(MemoryBudget(0, lambda: 0))
    budget.reserve(data, 30)
    assert budget.room() == budget.reach() == 70
    first, second = Holder(budget, 50), Holder(budget, 71)
    assert (first.held_bytes, second.held_bytes) == (50, 0)
    del data
    gc.collect()
    second.take(71)
    assert (first.held_bytes, second.held_bytes) == (0, 71)


def test_what_is_not_needed_any_more_holds_nothing():
    budget = MemoryBudget(100, lambda: 0)
    first = Holder(budget, 90)
    assert budget.room() == 10
    del first
    gc.collect()
    assert budget.room() == 100


def test_half_of_what_is_free_is_shared():
    memory = 1000
    holders = []
    budget = MemoryBudget(None, lambda: memory - sum(holder.held_bytes for holder in holders))
    for size in (300, 150, 60):
        holders.append(Holder(budget, size))
        assert budget.total == 500
        assert sum(holder.held_bytes for holder in holders) <= 500
    assert [holder.held_bytes for holder in holders] == [0, 150, 60]
    holders.append(Holder(budget))
    assert budget.reach() == 500


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_operators_of_an_objective_share_its_memory(framework):
    """With room for one of them, each is linearized when it is used; and products are right all along."""
    ample = objective(framework, "mlp", "float64", memory_budget=2**30)
    kinds = {"hessian": ample.hessian(), "ggn": ample.ggn()}
    held = {kind: A.plan().bytes for kind, A in kinds.items()}
    assert all(A.plan().bytes == held[kind] for kind, A in kinds.items())
    tight = objective(framework, "mlp", "float64", memory_budget=max(held.values()) + min(held.values()) - 1)
    H, G = tight.hessian(), tight.ggn()
    v = H.backend.from_host(np.linspace(-1, 1, tight.n), H.domain)
    for _ in range(2):
        for A, kind in ((H, "hessian"), (G, "ggn")):
            for _ in range(3):
                np.testing.assert_allclose(
                    *(A.backend.to_numpy(product) for product in (A @ v, kinds[kind] @ v)), rtol=0, atol=1e-12
                )
            assert A.plan().recomputed == 0
        assert H.products[0].held_bytes < held["hessian"] and G.products[0].held_bytes == held["ggn"]
