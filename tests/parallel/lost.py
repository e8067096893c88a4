"""A run of two processes that is saved at each step and of which the second one is lost."""

import numpy as np
import pytest

import specop
from specop.errors import ProcessError
from specop.krylov import checkpoint


def check_that_the_run_goes_on_alone(operator, entries, folder, callback):
    """Lose the second process in the callback, and find the eigenvalues 58 and 59 of these entries in the first one."""
    checkpoint.INTERVAL, checkpoint._LARGEST_SHARE = -1.0, np.inf
    options = {"k": 2, "ncv": 14, "tol": 1e-8, "checkpoint": folder / "dying.npz"}
    with pytest.raises(ProcessError, match="process 0 of 2 has lost the others"):
        specop.eigsh(operator, **options, callback=callback)
    found = specop.eigsh(entries, **options)
    assert np.allclose(found.eigenvalues, [58, 59], atol=1e-6)
    assert found.matvecs > 20
