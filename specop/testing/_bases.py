"""The laws of a basis: rows that are set, projected on, combined and taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specop.arrays.backend import Basis
from specop.statistics.numbers import Floats
from specop.testing._laws import require, require_close, require_same
from specop.testing._native import Native

__all__ = ["check_basis"]


def check_basis(native: Native) -> None:
    """Check the life of a basis, from `allocate` to `take`."""
    _check_rows(native)
    _check_orthogonalize(native)
    _check_second_pass(native)
    _check_long_projections(native)
    _check_not_finite(native)
    _check_combine(native)
    _check_take(native)


def _check_rows(native: Native) -> None:
    backend, tolerance = native.backend, 10 * native.epsilon
    rows = _rounded(native, np.random.default_rng(21).standard_normal((21, 6)))
    # Capacity 21 with a lead of 3: most rows lie beyond the first block, wherever a backend draws its borders.
    basis = _filled(native, rows, lead=3)
    require_same(_read(native, basis, 21), rows, "set_row_", "keeps every row, beyond `lead` too")
    basis = backend.set_row_(basis, 11, native.array(rows[0]), -2.0)
    found = _read(native, basis, 21)
    require_close(found[11], -2 * rows[0], tolerance, "set_row_", "sets a row again, times alpha")
    changed = np.delete(found, 11, axis=0)
    require_same(changed, np.delete(rows, 11, axis=0), "set_row_", "leaves the other rows alone")

    x = native.array(rows[0])
    basis = backend.set_row_(backend.allocate(native.layout(6), 4, 2), 0, x, 1.0)
    require(native.holds(x, rows[0]), "set_row_", "consumes its first argument only")
    backend.scale_(x, 0.0)
    require_same(_read(native, basis, 1), rows[:1], "set_row_", "copies the vector")
    basis = _filled(native, rows[:1], lead=9)
    require_same(_read(native, basis, 1), rows[:1], "allocate", "takes a `lead` above the capacity")


def _check_orthogonalize(native: Native) -> None:
    # Orthonormal, as the rows of an algorithm are: a backend may take `near` rows together or one after the other.
    rng = np.random.default_rng(6)
    n, count = 40, 13
    rows = _rounded(native, np.linalg.qr(rng.standard_normal((n, count)))[0].T)
    cases: list[tuple[int, Sequence[int]]] = [(0, ()), (1, ()), (1, (0,)), (13, ()), (13, (12,)), (13, (12, 11))]
    # Rows that were set but lie beyond k do not count; `near` may be long, and in any order.
    cases += [(5, (4, 3)), (10, (2, 9, 0, 7)), (3, (0, 1, 2))]
    for k, near in cases:
        x = _rounded(native, rng.standard_normal(n))
        basis = _filled(native, rows, lead=3)
        w, *scalars = native.backend.orthogonalize_(native.array(x), basis, k, near)
        expected_c = rows[list(near)] @ x
        rest = x - rows[list(near)].T @ expected_c
        expected_h = rows[:k] @ rest
        rest = rest - rows[:k].T @ expected_h
        laws: dict[str, Any] = {
            "c = Q[near] x": expected_c,
            "h = Q[:k] x' with x' = x - Q[near].T c": expected_h,
            "w = x' - Q[:k].T h": rest,
            "beta = norm(w)": np.linalg.norm(rest),
        }
        case = f"k={k}, near={tuple(near)}"
        c, h, beta = native.backend.to_host(*scalars)
        for one, (law, expected) in zip((c, h, native.numpy(w), beta), laws.items(), strict=True):
            require_close(one, expected, 100 * native.epsilon, "orthogonalize_", f"has {law} for {case}")
        law = f"consumes its first argument only, and leaves the basis alone, for {case}"
        require_same(_read(native, basis, count), rows, "orthogonalize_", law)


def _check_second_pass(native: Native) -> None:
    """What is left of a vector close to the span of `near` must still be orthogonal to it."""
    rng = np.random.default_rng(7)
    rows = _rounded(native, np.linalg.qr(rng.standard_normal((200, 6)))[0].T)
    x = 3 * rows[4] - 2 * rows[5] + 1e-3 * rng.standard_normal(200) / np.sqrt(200)
    basis = _filled(native, rows, lead=3)
    w = native.numpy(native.backend.orthogonalize_(native.array(x), basis, 6, (5, 4))[0]).astype(np.float64)
    law = "passes twice over near rows, so that w is orthogonal to them to working precision"
    require_close(rows[4:] @ w / np.linalg.norm(w), np.zeros(2), 50 * native.epsilon, "orthogonalize_", law)


def _check_long_projections(native: Native) -> None:
    x, *rows = _rounded(native, 0.5 + np.random.default_rng(8).random((3, 1_000_000)))
    scaled = _rounded(native, np.stack([row / np.linalg.norm(row) for row in rows]))
    law = "projects to 1e-6 over a million entries of one sign"
    for near in ((), (1,)):
        basis = _filled(native, scaled, lead=1)
        _, *scalars = native.backend.orthogonalize_(native.array(x), basis, 2 - len(near), near)
        c, h, _ = native.backend.to_host(*scalars)
        ratio = c / (scaled[1:] @ x) if near else h / (scaled @ x)
        require_close(ratio, np.ones_like(ratio), native.summation, "orthogonalize_", law)


def _check_not_finite(native: Native) -> None:
    basis = _filled(native, np.eye(3, 5), lead=2)
    for bad in (np.nan, np.inf):
        x = native.array([1.0, bad, 2.0, 3.0, 4.0])
        _, _, h, beta = native.backend.orthogonalize_(x, basis, 3, (2,))
        h, beta = native.backend.to_host(h, beta)
        seen = f"h = {h}, beta = {beta}"
        require(not np.isfinite(beta), "orthogonalize_", f"passes {bad} on to beta, without an error", seen)


def _check_combine(native: Native) -> None:
    rng = np.random.default_rng(9)
    for start, p in ((0, 5), (2, 4), (2, 11), (5, 8), (12, 1), (0, 1)):
        # 20,000 columns, so that a backend that works in chunks has more than one.
        rows, coefficients = _rounded(native, rng.standard_normal((13, 20_000))), rng.standard_normal((13 - start, p))
        given, case = coefficients.copy(), f"start={start}, p={p}"
        basis = native.backend.combine_(_filled(native, rows, lead=3), coefficients, start)
        found = _read(native, basis, start + p)
        law = f"gives rows coefficients.T @ rows, none of them made of new rows, for {case}"
        require_close(found[start:], given.T @ rows[start:], 200 * native.epsilon, "combine_", law)
        require_same(found[:start], rows[:start], "combine_", f"leaves the rows before `start` alone, for {case}")
        require_same(coefficients, given, "combine_", "leaves its coefficients alone")
        if start + p < 13:
            basis = native.backend.set_row_(basis, start + p, native.array(rows[0]), 1.0)
            again = _read(native, basis, start + p + 1)
            law = f"after combine_ keeps the rows before and goes on behind them, for {case}"
            require_same(again, [*found, rows[0]], "set_row_", law)


def _check_take(native: Native) -> None:
    rows = _rounded(native, np.random.default_rng(13).standard_normal((13, 6)))
    for k in (1, 2, 3, 4, 13):
        taken = native.backend.take(_filled(native, rows, lead=3), k)
        require_same(native.numpy(taken), rows[:k], "take", f"gives the first {k} rows, lead 3")
        _filled(native, -rows, lead=3)
        law = "gives a basis storage of its own: the next one leaves rows that were taken alone"
        require_same(native.numpy(taken), rows[:k], "allocate", law)


def _rounded(native: Native, values: Floats) -> Floats:
    return values.astype(native.dtype).astype(np.float64)


def _filled(native: Native, rows: Floats, lead: int) -> Basis:
    basis = native.backend.allocate(native.layout(rows.shape[1]), len(rows), lead)
    for i, row in enumerate(rows):
        basis = native.backend.set_row_(basis, i, native.array(row), 1.0)
    return basis


def _read(native: Native, basis: Basis, k: int) -> Floats:
    return np.stack([native.numpy(native.backend.row(basis, i)).astype(np.float64) for i in range(k)])
