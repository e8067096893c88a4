"""blocks: against block-diagonal quadratics, dense Hessians, and distances in closed form and by quadrature."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, host, objective_of
from specop.errors import InvalidInputError
from specop.landscape import blocks

CURVATURES = {"first.w": np.array([1.0, 1.0, 3.0]), "first.b": np.array([-2.0]), "second.w": np.array([100.0, 200.0])}


def squares(curvatures):
    """Return (loss, params) of a sum of squares with these curvatures, by parameter."""

    def loss(xp, params, batch):
        return 0.0 * xp.sum(batch[0]) + sum(
            0.5 * xp.sum(xp.array(curvatures[name]) * params[name] * params[name]) for name in curvatures
        )

    return loss, {name: np.ones_like(values) for name, values in curvatures.items()}


@each_framework
def test_layers_of_a_quadratic(framework):
    objective = objective_of(framework, *squares(CURVATURES))
    found = blocks(objective)
    assert found.names == ("first", "second") and found.sizes.tolist() == [4, 2] and found.exact.all()
    np.testing.assert_allclose(found.traces, [3.0, 300.0], rtol=1e-12)
    np.testing.assert_allclose(found.shares, [3 / 303, 300 / 303], rtol=1e-12)
    assert not found.trace_errors.any() and not found.share_errors.any()
    np.testing.assert_allclose(found.smallest, [-2.0, 100.0])
    np.testing.assert_allclose(found.largest, [3.0, 200.0])
    np.testing.assert_allclose(found.spectrum("first")[0], [-2, 1, 1, 3])
    np.testing.assert_allclose(found.distances[0, 1], np.log(2) ** 0.5, rtol=1e-12)
    np.testing.assert_allclose(found.transports[0, 1], 150 - 0.75, rtol=1e-12)
    assert found.matvecs == 6 and found.share("second").interval == (300 / 303, 300 / 303)
    assert "sqrt" not in str(found) and "second" in str(found)


@each_framework
def test_given_blocks_and_another_point(framework):
    def quartic(xp, params, batch):
        return xp.sum(params["a"] ** 4) + xp.sum(params["b"] ** 2) + xp.sum(params["c"] ** 2) + 0.0 * xp.sum(batch[0])

    objective = objective_of(framework, quartic, {name: np.ones(2) for name in "abc"})
    found = blocks(objective, {"left": ["a", "c"], "right": "b"})
    assert found.names == ("left", "right")
    np.testing.assert_allclose(found.traces, [24 + 4, 4], rtol=1e-12)
    partly = blocks(objective, ["a", "b"])
    np.testing.assert_allclose(partly.shares, [24 / 28, 4 / 28], rtol=1e-12)
    assert "4 of 6 parameters" in str(partly)
    elsewhere = objective.flatten(objective.unflatten(objective.theta * 2.0))
    np.testing.assert_allclose(blocks(objective, theta=elsewhere).traces, [96, 4, 4], rtol=1e-12)


@each_framework
def test_large_blocks_are_estimated_within_their_errors(framework):
    rng = np.random.default_rng(0)
    truth = {"a.w": rng.exponential(0.1, 300), "b.w": rng.exponential(1.0, 20)}
    truth["a.w"][:3] = [5.0, 7.0, 9.0]
    found = blocks(objective_of(framework, *squares(truth)), steps=15, probes=6, confidence=0.99)
    assert found.exact.tolist() == [False, True] and found.matvecs == 90 + 20
    for name, values in (("a", truth["a.w"]), ("b", truth["b.w"])):
        low, high = found.trace(name).interval
        assert low - 1e-9 <= values.sum() <= high + 1e-9
        assert abs(found.largest[found.names.index(name)] - values.max()) <= found.largest_errors.max() + 1e-12
    total = sum(values.sum() for values in truth.values())
    low, high = found.share("b").interval
    assert low < truth["b.w"].sum() / total < high and 0 < found.share_errors[1] < 0.1
    # The share of one is what the other leaves.
    np.testing.assert_allclose(found.share_errors[0], found.share_errors[1], rtol=1e-9)


def test_shares_of_traces_that_cancel_are_open():
    pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    up = rng.exponential(1.0, 200)
    objective = objective_of("torch", *squares({"a.w": up, "b.w": -rng.permutation(up)}))
    found = blocks(objective, steps=10, probes=3)
    assert np.isnan(found.shares).all() and np.isinf(found.share_limits).all()


def test_a_network_against_its_dense_hessian():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    batches = [(torch.randn(6, 4), torch.arange(6) % 3) for _ in range(2)]
    objective = specop.objective(model, torch.nn.functional.cross_entropy, batches)
    dense = host(objective.hessian().to_dense()).astype(float)
    found = blocks(objective)
    assert found.names == ("0", "2")
    for name, part in (("0", dense[:25, :25]), ("2", dense[25:, 25:])):
        np.testing.assert_allclose(found.spectrum(name)[0], np.linalg.eigvalsh(part), atol=2e-6)
    np.testing.assert_allclose(found.traces.sum(), np.trace(dense), rtol=1e-4)
    assert blocks(objective, matrix="ggn").smallest.min() > -1e-6


@each_framework
def test_what_are_no_blocks_is_refused(framework):
    objective = objective_of(framework, *squares(CURVATURES))
    for given, told in (
        ({"select": ["first.*", "first.b"]}, "'first.b' is in the blocks 'first..' and 'first.b'"),
        ({"select": "first"}, "must be a list or a dict"),
        ({"select": []}, "must be a list or a dict"),
        ({"select": ["third"]}, "matches no parameter"),
        ({"matrix": "jacobian"}, "matrix must be one of"),
        ({"sigma": 0.0}, "sigma must be"),
        ({"sigma": 1e-9}, "more than a million points"),
        ({"probes": 0}, "probes must be"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            blocks(objective, **given)


def test_pictures_and_files(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    found = blocks(objective_of("torch", *squares(CURVATURES)))
    ax = found.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    ax.figure.savefig(tmp_path / "blocks.png")
    found.save(tmp_path / "blocks.npz")
    again = specop.load(tmp_path / "blocks.npz")
    np.testing.assert_array_equal(again.spectrum("second")[0], found.spectrum("second")[0])
    assert again.grid == found.grid
    pytest.importorskip("pandas")
    assert found.to_frame()["traces"].tolist() == found.traces.tolist()
