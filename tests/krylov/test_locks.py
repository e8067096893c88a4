"""One checkpoint, two runs: the second is refused by name, and a killed one leaves nothing in the way."""

import signal
import subprocess
import sys

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

pytest.importorskip("fcntl")

A = np.diag(np.arange(300.0))

HOLDER = """
import sys, time
import numpy as np, specop

def wait(state):
    print("running", flush=True)
    time.sleep(60)

specop.eigsh(np.diag(np.arange(300.0)), k=4, checkpoint=sys.argv[1], callback=wait)
"""


def test_a_second_process_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
    path = tmp_path / "run.npz"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "running\n"
            with pytest.raises(InvalidInputError, match=r"run.npz' belongs to a run that is under way"):
                specop.eigsh(A, k=4, checkpoint=path)
            # Another path is free.
            specop.eigsh(A, k=4, checkpoint=tmp_path / "other.npz")
        finally:
            holder.send_signal(signal.SIGKILL)
    assert specop.eigsh(A, k=4, checkpoint=path).converged
    assert list(tmp_path.iterdir()) == []


def test_a_run_inside_of_a_run_is_refused(tmp_path):
    path = tmp_path / "run.npz"

    def again(state):
        specop.eigsh(A, k=4, checkpoint=path)

    with pytest.raises(InvalidInputError, match="under way, here or in another process"):
        specop.eigsh(A, k=4, checkpoint=path, callback=again)
    # The lock went with the run that failed, although its error is still held.
    assert specop.eigsh(A, k=4, checkpoint=path).converged
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    import fcntl

    path, flock, calls = tmp_path / "run.npz", fcntl.flock, []

    def late(file, operation):
        # As if its last owner had removed the lock between opening and locking.
        if not calls:
            (tmp_path / "run.npz.lock").unlink()
        calls.append(operation)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert specop.eigsh(A, k=4, checkpoint=path).converged
    assert len(calls) == 2 and list(tmp_path.iterdir()) == []
