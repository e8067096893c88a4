"""The plan says what functions do, and the table in the documentation is the plan's."""

from pathlib import Path

import numpy as np
import pytest

import specop
from cases import CASES
from specop.arrays.memory import in_bytes

NUMPY = next(case for case in CASES if case.framework == "numpy" and case.dtype == np.float64)
PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


def table():
    lines = [
        "| parameters | devices | a vector | a product | vectors that fit "
        "| `eigsh(k=10)` | `trace` | `spectral_density` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for billions in (1, 8, 70):
        for devices in (1, 8, 64):
            paper = specop.plan(n=billions * 10**9, free=80e9, devices=devices, k=10)
            calls = [paper[name] for name in ("eigsh", "trace", "spectral_density")]
            cells = [f"{billions}e9", str(devices), in_bytes(paper.row), in_bytes(paper.product), str(paper.rows)]
            cells += [f"{c.vectors} ({in_bytes(c.bytes)})" if c.fits else f"{c.vectors} do not fit" for c in calls]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_page_has_the_figures_that_plan_gives():
    assert table() in PAGE
    assert str(specop.plan(n=70_000_000_000, free=80e9, devices=64, product=22e9, k=4)) in PAGE


def test_the_figures_are_those_of_the_formulas():
    paper = specop.plan(n=8_000_000_000, free=80e9, devices=8, k=10)
    assert paper.row == 8e9 * 4 / 8
    assert paper.product == pytest.approx((0.4 + 5 / 8) * 8e9 * 4)
    assert paper.rows == int(0.9 * (80e9 - paper.product) // paper.row)
    assert specop.plan(n=10**9, free=80e9).product == pytest.approx(3.3 * 4e9)
    # The measured ones that the second formula goes through.
    for devices, measured in ((2, 2.9), (4, 1.65)):
        assert specop.plan(n=10**9, free=1e12, devices=devices, dtype="float64").product == pytest.approx(
            8e9 * measured
        )


@pytest.mark.parametrize("vectors", [14, 30, 60, 1000])
def test_functions_hold_what_the_plan_says(monkeypatch, vectors):
    n, kind, most = 900, type(NUMPY.backend), [0]
    written = kind.set_row_

    def set_row_(self, basis, i, x, alpha):
        most[0] = max(most[0], i + 1)
        return written(self, basis, i, x, alpha)

    monkeypatch.setattr(kind, "free_memory", lambda self, layout: (vectors - most[0]) * self.row_bytes(layout))
    monkeypatch.setattr(kind, "set_row_", set_row_)
    A = specop.DiagonalOperator(np.random.default_rng(0).standard_normal(n))
    told = specop.plan(A, k=2)
    for name, call in {
        "eigsh": lambda: specop.eigsh(A, k=2, tol=1e-7),
        "spectral_density": lambda: specop.spectral_density(A),
    }.items():
        most[0] = 0
        call()
        planned = told[name]
        assert planned.fits
        # Three vectors are two rows and the product.
        held = most[0] + (planned.vectors == 3)
        # Asked again after the first product, the device may have room for one more or less.
        assert held <= planned.vectors + 1
        assert held >= planned.vectors - 1 or (name == "eigsh" and vectors > 30)
    assert "no sketch" in told["trace"].how or vectors > 30
    with pytest.raises(specop.errors.InvalidInputError, match="it has eigsh"):
        told["nothing"]


def test_a_plan_needs_one_case():
    for wrong in ({}, {"n": 10}, {"A": np.eye(3), "n": 3}, {"A": np.eye(3), "devices": 2}):
        with pytest.raises(specop.errors.InvalidInputError, match="plan needs"):
            specop.plan(**wrong)
    told = specop.plan(np.eye(3), free=0, k=1)
    assert not any(call.fits for call in told.calls)
    assert "NO" in str(told)
    assert "<table>" in told._repr_html_()
