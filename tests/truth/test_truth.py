"""The judge knows second derivatives, and no row of the page is wrong without a word."""

import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from truth.judge import curvature, directions, noting, verdict


def products(hessian):
    return lambda v: hessian @ v


def test_the_judge():
    theta = np.array([0.3, -0.7, 1.2])
    hessian = np.diag(np.exp(theta)) + 0.5
    truth = curvature(lambda p: np.exp(p).sum() + 0.25 * p.sum() ** 2, theta)
    np.testing.assert_allclose(truth.values, [v @ hessian @ v for v in directions(3)], rtol=1e-8)
    assert verdict(products(hessian), 3, truth) == "right"
    assert verdict(products(1.001 * hessian), 3, truth) == "wrong: 0.1%"
    assert verdict(products(np.nan * hessian), 3, truth) == "not finite"
    hessian_with_notes = SimpleNamespace(notes=("a part counts as constant",))
    assert verdict(lambda v: noting(hessian_with_notes, 1.001 * hessian @ v), 3, truth) == "noted: 0.1%"
    assert verdict(lambda v: 1 / 0, 3, truth) == "error: ZeroDivisionError"


@pytest.mark.parametrize("kink", [np.abs, lambda p: np.maximum(p, 0) ** 2, lambda p: p * np.abs(p)])
def test_where_there_is_no_second_derivative(kink):
    truth = curvature(lambda p: kink(p).sum() + (p**2).sum(), np.zeros(3))
    assert truth is None and verdict(products(np.eye(3)), 3, truth) == "a value"


@pytest.mark.parametrize(
    "only",
    [
        ["torch", "--only", "cumprod", "norm", "weight_norm", "elu", "det", "stopped"],
        *(pytest.param([framework], marks=pytest.mark.slow) for framework in ("torch", "jax", "tensorflow")),
    ],
    ids=lambda only: " ".join(only[:1]),
)
def test_specop_is_wrong_nowhere(only):
    run = pathlib.Path(__file__).with_name("run.py")
    page = subprocess.run(
        [sys.executable, run, "--frameworks", *only], capture_output=True, text=True, timeout=3000, check=True
    ).stdout
    rows = [line.split(" | ") for line in page.partition("| | point |")[2].splitlines()[2:] if line]
    wrong = {(name.removeprefix("| "), point) for name, point, specop, *_ in rows if "wrong" in specop}
    assert len(rows) > 10 and not wrong
