"""compare: two points side by side, with differences that say whether they are more than chance."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, objective_of, quadratic
from specop.errors import InvalidInputError
from specop.landscape import compare, flatness
from specop.results import Measure


def bowl(curvatures, framework="torch"):
    return objective_of(framework, *quadratic(np.diag(curvatures), at=np.ones(3), minimum=1.0, floor=0.5))


@each_framework
def test_two_bowls(framework):
    wide, sharp = bowl([3.0, 1.0, 1.0], framework), bowl([12.0, 4.0, 4.0], framework)
    measures = ["largest_eigenvalue", "trace", "frobenius_norm", "ball_sharpness", "fisher_rao_norm", "pac_bayes_sigma"]
    found = compare(wide, sharp, names=("wide", "sharp"), measures=measures)
    for name, factor in (("largest_eigenvalue", 4), ("trace", 4), ("frobenius_norm", 4), ("ball_sharpness", 4)):
        one = found.measures[name]
        np.testing.assert_allclose(one.b.estimate, factor * one.a.estimate, rtol=1e-6)
        np.testing.assert_allclose(one.estimate, one.b.estimate - one.a.estimate, rtol=1e-12)
    assert found["trace"].significant and found.flatter["trace"] == "wide"
    assert not found["ball_sharpness"].significant and found.flatter["ball_sharpness"] is None
    # More noise is allowed where it is wide.
    assert found["pac_bayes_sigma"].estimate < 0 and found.flatter["pac_bayes_sigma"] == "wide"
    # Nothing is flatter by a norm that is zero at both.
    assert found["fisher_rao_norm"].estimate == 0 and found.flatter["fisher_rao_norm"] is None
    assert found["fisher_rao_norm"].invariant and not found["trace"].invariant
    turned = compare(sharp, wide, names=("sharp", "wide"), measures=measures)
    assert turned.flatter == found.flatter
    low, high = found["trace"].interval
    np.testing.assert_allclose(turned["trace"].interval, (-high, -low), rtol=1e-9)


def test_what_chance_explains_is_not_significant():
    values = np.random.default_rng(5).exponential(0.2, 300)

    def objective(factor):
        def loss(xp, params, batch):
            return 0.3 + 0.5 * factor * xp.sum(xp.array(values) * params["w"] ** 2) + 0 * xp.sum(batch[0])

        return objective_of("torch", loss, {"w": np.zeros(300)})

    names = ["trace", "log_determinant", "average_rise"]
    chance = [
        compare(flatness(objective(1.0), measures=names, seed=2 * seed), objective(1.0), seed=2 * seed + 1)
        for seed in range(5)
    ]
    assert sum(one[name].significant for one in chance for name in names) <= 3
    apart = compare(objective(1.0), objective(2.0), measures=names)
    assert all(apart[name].significant for name in names)
    assert set(apart.flatter.values()) == {"a"}


def test_intervals_join_those_of_both():
    def measured(estimate, low, high):
        base = flatness(bowl([3.0, 1.0, 1.0]), measures=["trace"])
        return type(base)(**{**vars(base), "measures": {"trace": Measure(estimate, 1.0, (low, high), 0.95)}})

    one = compare(measured(10.0, 7.0, 14.0), measured(20.0, 17.0, 22.0))["trace"]
    np.testing.assert_allclose(one.interval, (10 - 5.0, 10 + 13**0.5), rtol=1e-12)
    np.testing.assert_allclose(one.standard_error, 2**0.5, rtol=1e-12)
    assert one.significant and not compare(measured(10.0, 7.0, 18.0), measured(15.0, 10.0, 22.0))["trace"].significant
    endless = compare(measured(np.inf, 5.0, np.inf), measured(np.inf, 7.0, np.inf))["trace"]
    assert endless.estimate == 0 and endless.interval == (-np.inf, np.inf) and not endless.significant


def test_an_objective_takes_the_settings_of_the_result_beside_it(tmp_path):
    before = flatness(bowl([3.0, 1.0, 1.0]), measures=["ball_sharpness", "log_determinant"], ball=0.2, prior=0.5)
    before.save(tmp_path / "before.npz")
    for first, second, sign in (
        (specop.load(tmp_path / "before.npz"), bowl([6.0, 1.0, 1.0]), 1),
        (bowl([6.0, 1.0, 1.0]), before, -1),
    ):
        found = compare(first, second)
        assert list(found.measures) == ["ball_sharpness", "log_determinant"]
        np.testing.assert_allclose(found["ball_sharpness"].estimate, sign * 0.5 * 0.2**2 * 3, rtol=1e-6)
        np.testing.assert_allclose(found["log_determinant"].estimate, sign * np.log(13 / 7), rtol=1e-6)


def test_what_is_refused():
    first = flatness(bowl([3.0, 1.0, 1.0]), measures=["trace"], ball=0.2)
    other = flatness(bowl([3.0, 1.0, 1.0]), measures=["trace"])
    with pytest.raises(InvalidInputError, match=r"different settings: ball 0.2 and 0.05.*flatness\(objective, ball="):
        compare(first, other)
    with pytest.raises(InvalidInputError, match="log_determinant is not among trace and trace"):
        compare(other, other, measures=["log_determinant"])
    with pytest.raises(InvalidInputError, match="names must be two different texts"):
        compare(other, other, names=("a", "a"))
    with pytest.raises(InvalidInputError, match=r"confidence 0.95 and 0.9"):
        compare(other, other, confidence=0.9)
    with pytest.raises(InvalidInputError, match="compare takes objectives and results of flatness, got int"):
        compare(other, 3)


def test_the_text_and_the_picture():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    found = compare(bowl([3.0, 1.0, 1.0]), bowl([12.0, 4.0, -4.0]), names=("small batch", "large batch"))
    text = str(found)
    assert text.startswith("flatness of small batch (loss 0.5) and large batch (loss 0.5)")
    assert "large batch: the Hessian has negative eigenvalues" in text and "(bounds)" in text
    assert max(map(len, text.splitlines())) < 200
    ax = found.plot()
    assert ax.get_xlabel() == "large batch / small batch" and ax.get_xscale() == "log"
    pyplot.close(ax.figure)
