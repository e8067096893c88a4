"""Two results side by side: the differences are those of the numbers, the joint errors those that both state."""

import json

import numpy as np
import pytest

import specop
from specop import results
from specop.errors import InvalidInputError

RAMP = np.arange(1.0, 101.0)


def test_eigenvalues_beside_their_bounds():
    found = results.compare(specop.eigsh(np.diag(RAMP), k=3), specop.eigsh(np.diag(RAMP + 0.25), k=3, seed=5))
    # Within bounds, and one is what the numbers are apart.
    np.testing.assert_allclose(found.differences, 0.25, atol=float(found.errors.max()))
    assert found.quantities == ("eigenvalues[0]", "eigenvalues[1]", "eigenvalues[2]")
    assert found.others["seed"] == (0, 5) and (found.differ == (np.abs(found.differences) > found.errors)).all()
    same = results.compare(specop.eigsh(np.diag(RAMP), k=3), specop.eigsh(np.diag(RAMP), k=3, seed=5))
    assert not same.differ.any()


@pytest.mark.parametrize(("which", "ends"), [("LA", (100, 99)), ("SA", (1, 2))])
def test_other_numbers_of_eigenvalues_are_matched_at_the_end_that_both_hold(which, ends):
    few, more = (specop.eigsh(np.diag(RAMP), k=k, which=which, tol=1e-8) for k in (2, 4))
    found = results.compare(few, more)
    assert sorted(found.a.round(6)) == sorted(found.b.round(6)) == sorted(ends)
    assert not found.differ.any() and found.others["eigenvalues"] == "2 and 4, of which 2 are compared"


def test_eigenvalues_of_both_signs_are_not_matched_by_place():
    few, more = (specop.eigsh(np.diag(np.r_[-RAMP, RAMP[::2]]), k=k) for k in (2, 5))
    found = results.compare(few, more)
    assert not found.quantities and len(found.others["eigenvalues"]) == 2


def test_estimates_have_joint_standard_errors():
    one, other = (specop.trace(np.diag(scale * RAMP**2), rtol=0.05, seed=seed) for scale, seed in ((1.0, 1), (1.5, 2)))
    found = results.compare(one, other)
    assert found.quantities == ("trace",)
    assert found.differences[0] == other.estimate - one.estimate
    assert found.errors[0] == np.hypot(one.standard_error, other.standard_error)
    assert found.differ[0] == (found.differences[0] > 1.959964 * found.errors[0])


def test_what_differs_beside_numbers_is_listed(tmp_path):
    one, other = specop.rank(np.diag(RAMP)), specop.rank(np.diag(RAMP), 0.5)
    object.__setattr__(other, "versions", {**other.versions, "numpy": "1.0"})
    one.save(tmp_path / "a.npz")
    other.save(tmp_path / "b.npz")
    found = results.compare(tmp_path / "a.npz", str(tmp_path / "b.npz"))
    assert found.others["versions.numpy"] == (np.__version__, "1.0") and found.names == ("a.npz", "b.npz")
    assert found.others["threshold"] == (one.threshold, 0.5)
    assert "versions.numpy: " in str(found) and "1.0" in str(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["others"]["threshold"] == [one.threshold, 0.5]
    pytest.importorskip("pandas")
    assert list(found.to_frame()["quantity"]) == ["estimate"]


def test_kinds_are_refused_by_name(tmp_path):
    specop.trace(np.diag(RAMP)).save(tmp_path / "trace.npz")
    with pytest.raises(InvalidInputError, match=r"trace\.npz is a TraceResult and b a RankResult"):
        results.compare(tmp_path / "trace.npz", specop.rank(np.diag(RAMP)))
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(InvalidInputError, match="holds no result"):
        results.compare(tmp_path / "trace.npz", tmp_path / "other.npz")


def test_results_without_numbers_that_have_errors_say_so():
    one, other = (specop.spectral_density(np.diag(scale * RAMP), probes=2, steps=9) for scale in (1.0, 2.0))
    found = str(results.compare(one, other))
    assert "SpectralDensity a and b: no number of both has an error to compare by; what else differs:" in found
    assert "nodes: arrays of shape" in found and "joint error" not in found
    assert "and nothing else differs" in str(results.compare(one, one))
