"""What an import costs and brings along."""

import itertools
import os
import subprocess
import sys

import pytest

from cases import CASES

FRAMEWORKS = ["torch", "jax", "tensorflow", "keras", "flax", "equinox", "matplotlib", "sklearn"]


def run(code, env=None):
    """Standard output of a fresh interpreter with this one's search path."""
    setting = f"import sys; sys.path[:] = {sys.path!r}\n"
    done = subprocess.run([sys.executable, "-c", setting + code], capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_core_imports_no_framework():
    assert run(f"import specop; print([name for name in {FRAMEWORKS} if name in sys.modules])") == "[]"


def test_import_is_quick(tmp_path):
    # In processor time, beside what NumPy and SciPy take themselves: both grow alike on a slow or busy machine. From
    # bytecode, as Python keeps it by default: where it is told not to, every process compiles what pip has not.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if sys.dont_write_bytecode:
        env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    code = (
        "from time import process_time; start = process_time()\n"
        "import numpy, scipy.linalg, scipy.sparse.linalg, scipy.special; between = process_time()\n"
        "import specop; print(between - start, process_time() - between)"
    )
    theirs, ours = zip(*(map(float, run(code, env).split()) for _ in range(4)), strict=True)
    assert min(ours) < min(theirs)


def test_numpy_needs_no_other_framework():
    absent = "".join(f"sys.modules[{name!r}] = None\n" for name in FRAMEWORKS)
    code = absent + (
        "import numpy as np, specop, scipy.sparse\n"
        "A = specop.aslinearoperator(scipy.sparse.diags(np.arange(1.0, 31.0)))\n"
        "print(round(float(specop.eigsh(A, k=1).eigenvalues[-1]), 6), specop.trace(A, method='hutchinson').estimate)"
    )
    value, estimate = run(code).split()
    assert abs(float(value) - 30) < 1e-3
    assert abs(float(estimate) - 465) < 1e-6


def test_an_adapter_is_loaded_by_the_first_array_that_needs_it():
    code = (
        "import numpy as np\n"
        "from specop.arrays import backend_of\n"
        "backend_of(np.zeros(2))\n"
        "print([name for name in sys.modules if name in "
        "('specop_numpy', 'specop_torch', 'specop_jax', 'specop_tensorflow')])"
    )
    assert run(code) == "['specop_numpy']"


def test_a_first_product_in_torch_loads_no_compiler_and_no_algebra():
    pytest.importorskip("torch")
    code = (
        "import torch, specop\n"
        "model, data = torch.nn.Linear(3, 2), (torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))\n"
        "objective = specop.objective(model, torch.nn.functional.cross_entropy, data); H = objective.hessian()\n"
        "specop.eigsh(H, k=1); specop.trace(objective.ggn(), max_matvecs=5)\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    assert run(code) == "[]"


NATIVE = {"torch": "torch.ones(30)", "jax": "jax.numpy.ones(30)", "tensorflow": "tensorflow.ones(30)"}
ORDERS = list(itertools.permutations(sorted({case.framework for case in CASES} & set(NATIVE))))


# Of two that are each other's reverse, one has each pair in each order; the second comes after the test command. The
# others are slow only because an import of TensorFlow takes seconds.
@pytest.mark.parametrize(
    "order",
    [
        pytest.param(
            order, marks=[] if i == 0 else pytest.mark.repetition if i == len(ORDERS) - 1 else pytest.mark.slow
        )
        for i, order in enumerate(ORDERS)
    ],
    ids="-".join,
)
def test_frameworks_live_in_one_process_in_any_order(order):
    uses = "".join(
        f"import {name}\nprint(float(specop.eigsh(specop.DiagonalOperator({NATIVE[name]}), k=1).eigenvalues[0]))\n"
        for name in order
    )
    found = [float(word) for word in run("import specop\n" + uses).split()]
    assert found == pytest.approx([1.0] * len(order))


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process may have all cores")
def test_a_worker_of_this_run_has_one_thread():
    threads = pytest.importorskip("threadpoolctl").threadpool_info()
    told = int(os.environ["OMP_NUM_THREADS"])
    assert {one["num_threads"] for one in threads if one["user_api"] == "blas"} == {told}
