"""Lanczos runs that are read as quadrature rules: one probe, one rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specop.arrays.backend import Array
from specop.krylov.space import KrylovSpace, Ritz
from specop.statistics.measure import GaussRule

__all__ = ["gauss_rule", "run_probe"]


def run_probe(space: KrylovSpace, vector: Array, enough: Callable[[int], bool]) -> GaussRule:
    """Grow a Krylov space from a vector, return its rule and forget it again.

    Parameters
    ----------
    space : KrylovSpace
        Its rows, if it has any, are known eigenvectors: the run stays orthogonal to them.
    vector : native vector
    enough : callable
        ``enough(steps)``, asked after each step; `gauss_rule` shows what there is by then.
    """
    first, begun = space.rows, space.products
    space.start(vector)
    # Without a frontier the probe lies in an invariant subspace, and its rule is exact.
    while len(space.frontier):
        space.expand(int(space.frontier[-1]))
        if enough(space.products - begun):
            break
    rule = gauss_rule(space, space.ritz(first))
    space.truncate(first)
    return rule


def gauss_rule(space: KrylovSpace, ritz: Ritz) -> GaussRule:
    """Return the Gauss rule of the newest Lanczos run in a space, from its Ritz pairs."""
    frontier = space.frontier[space.frontier >= ritz.rows[0]]
    lead = ritz.coefficients[0]
    signs = np.where(lead < 0, -1.0, 1.0)
    # At most one row: the sum is over it, or over nothing.
    couplings = signs * (space.G[np.ix_(frontier, ritz.rows)] @ ritz.coefficients).sum(axis=0)
    return GaussRule(ritz.values, lead**2 / (lead @ lead), couplings)
