"""The example of a network that two processes train, whose Hessian they look at, against one process with all data."""

import contextlib
import io

import numpy as np
from torch.nn import functional as F

import ddp_torch
import specop
from parallel.launch import place


def check_the_example():
    folder, rank, _ = place()
    told = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(told):
        ddp_torch.main(steps=5)
    lines = told.getvalue().splitlines()
    if rank:
        assert not lines
        return
    inputs, labels = ddp_torch.data().tensors
    model = ddp_torch.network()
    ddp_torch.train(model, [(inputs[:300], labels[:300])], 5)
    own = specop.objective(model, F.cross_entropy, (inputs, labels), parallel=False)
    exact = np.linalg.eigvalsh(own.hessian().to_dense().double().numpy())
    assert lines[0] == f"2 processes, 301 samples, loss {float(own.loss()):.6f}"
    assert lines[1].startswith("each holds 194 of 387 entries")
    assert np.allclose([float(word) for word in lines[2].split()[2:]], exact[-3:], rtol=1e-4)
    _, estimate, _, error, *_ = lines[3].replace(",", "").split()
    assert abs(float(estimate) - exact.sum()) < 5 * float(error) + 1e-4
    assert lines[4].endswith("converged: True")
    assert np.allclose(specop.load(folder / "eigen.npz").eigenvalues, exact[-3:], rtol=1e-4)
