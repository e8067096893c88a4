"""check_operator: each law of an operator has something that breaks it, and that must be caught by name."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

import specop
from cases import each_case
from specop.errors import NoiseWarning
from specop.testing import check_operator


class Explicit(specop.LinearOperator):
    """A matrix with products that a test may replace."""

    def __init__(self, case, matrix, matvec=None, rmatvec=None, **facts):
        rows, columns = matrix.shape
        super().__init__(case.backend, case.layout(columns), case.layout(rows), **facts)
        self.case, self.matrix = case, case.array(matrix)
        self._replaced = matvec, rmatvec
        self.calls = 0
        self.kept = None

    def _matvec(self, x):
        self.calls += 1
        return self._replaced[0](self, x) if self._replaced[0] else self.right(x)

    def _rmatvec(self, y):
        self.calls += 1
        return self._replaced[1](self, y) if self._replaced[1] else self.right_transposed(y)

    def right(self, x):
        return self.backend.apply_rows(self.matrix, x)

    def right_transposed(self, y):
        return self.backend.combine_rows(self.matrix, y)


class TimesTranspose(Explicit):
    def __matmul__(self, x):
        return super().__matmul__(x) if len(x.shape) == 1 else self.backend.stack_columns([x[:, 0]] * x.shape[1])


class WrongView(Explicit):
    def to_scipy(self):
        return (2 * self).to_scipy()


class OtherSize(Explicit):
    @property
    def shape(self):
        return 3, 3


def square(n=12):
    return np.random.default_rng(0).standard_normal((n, n))


def symmetric(n=12):
    return square(n) + square(n).T


def with_one_negative(n=30):
    turn = np.linalg.qr(square(n))[0]
    return turn @ np.diag([-0.3, *np.linspace(1, 2, n - 1)]) @ turn.T


def mutating(self, x):
    product = self.right(x)
    self.backend.scale_(x, 2.0)
    return product


def own_buffer(self, x):
    # Writes every product into the same memory.
    product = self.right(x)
    if self.kept is None:
        self.kept = product
    else:
        self.backend.axpy_(self.backend.scale_(self.kept, 0.0), 1.0, product)
    return self.kept


def memoized(self, x):
    # Gives the product of the same operand out again, and again, in the same memory.
    values = self.case.numpy(x).tobytes()
    if self.kept is None or self.kept[0] != values:
        self.kept = values, self.right(x), self.kept and self.kept[1]
    return self.kept[1]


def drifting(size):
    def product(self, x):
        return self.backend.scale_(self.right(x), 1.0 + size * self.calls)

    return product


def affine(self, x):
    return self.backend.axpy_(self.right(x), 1.0, self.case.array(np.ones(len(self.matrix))))


def absolute(self, x):
    return self.case.array(np.abs(self.case.numpy(self.right(x))))


def normalizing(self, x):
    (length,) = self.backend.to_host(self.backend.norm(x))
    return self.backend.scale_(self.right(x), 1.0 / length)


def in_half(self, x):
    product = self.case.numpy(self.matrix).astype(np.float16) @ self.case.numpy(x).astype(np.float16)
    return self.case.array(product)


def not_transposed(self, y):
    return self.right(y)


def sign_off(self, y):
    return self.backend.scale_(self.right_transposed(y), -1.0)


def other_dtype(self, x):
    return self.case.other_dtype.array(self.case.numpy(self.right(x)))


def too_long(self, x):
    return self.case.array(np.zeros(len(self.matrix) + 1))


def as_column(self, x):
    return self.backend.stack_columns([self.right(x)])


def with_nan(self, x):
    return self.backend.scale_(self.right(x), np.nan)


BROKEN_OPERATORS = {
    "writes into the operand": (Explicit, square(), {"matvec": mutating}, "matvec: leaves its operand alone"),
    "transposed writes into the operand": (
        Explicit,
        square(),
        {"rmatvec": mutating},
        "rmatvec: leaves its operand alone",
    ),
    "returns the operand": (
        Explicit,
        np.eye(12),
        {"matvec": lambda self, x: x},
        "writing into a product leaves the operand alone|became unreadable",
    ),
    "returns its buffer": (Explicit, square(), {"matvec": own_buffer}, "a later product leaves an earlier one alone"),
    "returns a memory": (Explicit, square(), {"matvec": memoized}, "writing into a product leaves the next ones alone"),
    "drifts": (Explicit, square(), {"matvec": drifting(1e-2)}, "matvec: .*(is deterministic|the next ones alone)"),
    "has a constant term": (Explicit, square(), {"matvec": affine}, "matvec: is linear"),
    "takes absolute values": (Explicit, square(), {"matvec": absolute}, "matvec: is linear"),
    "normalizes": (Explicit, square(), {"matvec": normalizing}, "matvec: is linear"),
    "transposed has a constant term": (Explicit, square(), {"rmatvec": affine}, "rmatvec: is linear"),
    "multiplies in float16": (Explicit, square(), {"matvec": in_half}, "matvec: is linear"),
    "is not symmetric": (Explicit, square(), {"is_symmetric": True}, r"matvec: is symmetric, as claimed: u'\(Av\)"),
    "is almost symmetric": (
        Explicit,
        symmetric() + 1e-3 * square(),
        {"is_symmetric": True},
        "matvec: is symmetric, as claimed",
    ),
    "forgets to transpose": (Explicit, square(), {"rmatvec": not_transposed}, "rmatvec: is the transpose of matvec"),
    "transposes with a sign": (Explicit, square(), {"rmatvec": sign_off}, "rmatvec: is the transpose of matvec"),
    "symmetric with another transpose": (
        Explicit,
        symmetric(),
        {"rmatvec": sign_off, "is_symmetric": True},
        "rmatvec: is the transpose of matvec",
    ),
    "is indefinite": (Explicit, with_one_negative(), {"is_psd": True}, "matvec: is positive semidefinite, as claimed"),
    "is negative": (Explicit, -np.eye(12), {"is_psd": True}, "matvec: is positive semidefinite, as claimed"),
    "has another dtype": (Explicit, square(), {"matvec": other_dtype}, "matvec: returns a vector of .*dtype"),
    "has another length": (Explicit, square(), {"matvec": too_long}, r"matvec: returns a vector of .*got \(13,\)"),
    "has another shape": (Explicit, square(), {"matvec": as_column}, r"matvec: returns a vector of .*got \(12, 1\)"),
    "has a transpose of another length": (
        Explicit,
        square(),
        {"rmatvec": too_long},
        r"rmatvec: returns a vector of .*got \(13,\)",
    ),
    "has NaN": (Explicit, square(), {"matvec": with_nan}, "matvec: of a finite vector is finite"),
    "multiplies blocks another way": (TimesTranspose, square(), {}, r"__matmul__: of a block \(12, [13]\)"),
    "has another operator's view": (WrongView, square(), {}, "to_scipy: and aslinearoperator are inverse"),
    "has another shape than its layouts": (OtherSize, square(), {}, "shape: fits its domain"),
}


# Cannot be done to arrays that nobody can write into.
NEEDS_MUTABLE_ARRAYS = {
    "writes into the operand",
    "transposed writes into the operand",
    "returns the operand",
    "returns its buffer",
    "returns a memory",
}


@pytest.mark.parametrize("name", BROKEN_OPERATORS)
@each_case
def test_broken_operators_are_caught(case, name):
    if name in NEEDS_MUTABLE_ARRAYS and not case.has_mutable_arrays:
        pytest.skip("arrays are immutable")
    kind, matrix, broken, message = BROKEN_OPERATORS[name]
    with warnings.catch_warnings():
        # float16 overflows nowhere here; what differs by rounding is another test's subject.
        warnings.simplefilter("error")
        with pytest.raises(AssertionError, match=message):
            check_operator(kind(case, matrix, **broken))


@each_case
def test_right_operators_pass(case):
    check_operator(Explicit(case, square()))
    check_operator(Explicit(case, square()[:7]))
    check_operator(Explicit(case, symmetric(), is_symmetric=True))
    check_operator(Explicit(case, square() @ square().T, is_psd=True))
    check_operator(Explicit(case, np.ones((30, 30)), is_psd=True))
    check_operator(Explicit(case, np.array([[0.0]]), is_psd=True))
    check_operator(specop.FunctionOperator(lambda x: x * 2, (5, 5), like=case.array([0.0])))


@each_case
def test_noise_within_the_precision_is_reported(case):
    A = Explicit(case, square(), matvec=drifting(2 * case.eps))
    with pytest.warns(NoiseWarning, match="with the same vector differ by .*within its precision"):
        check_operator(A)


@each_case
def test_a_transpose_that_raises_is_not_taken_for_a_missing_one(case):
    A = specop.FunctionOperator(lambda x: x, (3, 3), like=case.array([0.0]), rmatvec=lambda y: None)
    with pytest.raises(AssertionError, match=r"rmatvec: takes a vector of the codomain \(what rmatvec returns must"):
        check_operator(A)


def test_tolerance_is_the_users_choice():
    A = Explicit(each_case.args[1][1], symmetric() + 1e-9 * square(), is_symmetric=True)
    check_operator(A, rtol=1e-6)
    with pytest.raises(AssertionError, match=r"allowed 1.0e-10 of that"):
        check_operator(A, rtol=1e-10)


def test_they_hold_without_assertions_and_without_a_test_runner():
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import numpy as np, specop\n"
        "print('specop.testing' in sys.modules)\n"
        "from specop.testing import check_operator\n"
        "try:\n"
        "    check_operator(specop.FunctionOperator(lambda x: x + 1, (3, 3), like=np.zeros(3)))\n"
        "except AssertionError as error:\n"
        "    print(error)\n"
        "print('pytest' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=600)
    loaded, text, runner = done.stdout.splitlines()
    assert (loaded, runner) == ("False", "False") and "matvec: is linear" in text
