"""Checkpoints of a Hessian's eigsh: the first product is recorded, the others are replayed, in both runs."""

import pytest

import specop
from specop.errors import InvalidInputError
from specop.krylov import checkpoint

torch = pytest.importorskip("torch")


def hessian(shift=0.0):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 24), torch.nn.Tanh(), torch.nn.Linear(24, 3))
    data = [(torch.randn(32, 10), torch.randint(3, (32,))) for _ in range(2)]
    with torch.no_grad():
        model[0].weight += shift
    return specop.objective(model, torch.nn.functional.cross_entropy, data).hessian()


def test_a_hessian_gets_the_same_bits_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    path = tmp_path / "run.npz"
    whole = specop.eigsh(hessian(), k=4, checkpoint=path)
    stopped = specop.eigsh(hessian(), k=4, checkpoint=path, callback=lambda state: state.matvecs >= 9)
    assert stopped.matvecs == 9
    # The same model a step further is another matrix.
    with pytest.raises(InvalidInputError, match="another matrix"):
        specop.eigsh(hessian(shift=1e-3), k=4, checkpoint=path)
    again = specop.eigsh(hessian(), k=4, checkpoint=path)
    assert again.matvecs == whole.matvecs + 1
    assert (again.eigenvalues == whole.eigenvalues).all() and torch.equal(again.rows, whole.rows)
