"""Numbers of samples are those of the user's data set, or are refused: a loader that shuffles has none that last."""

import numpy as np
import pytest

import specop
from cases import Case
from parity.cases import FRAMEWORKS
from specop.analysis import influence, leave_one_out, retrain, validate_influence
from specop.errors import NondeterministicError
from specop.landscape import outliers

X = np.random.default_rng(0).standard_normal((8, 2))
Y = X @ np.ones((2, 1)) + np.random.default_rng(1).standard_normal((8, 1))
BEST = np.linalg.lstsq(X, Y, rcond=None)[0]
each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


class Loader:
    """Batches in an order of its own, or augmented, anew in each pass."""

    def __init__(self, array, shuffles=False, augments=False):
        self.array, self.shuffles, self.augments = array, shuffles, augments
        self.rng = np.random.default_rng(2)

    def __iter__(self):
        order = self.rng.permutation(8) if self.shuffles else np.arange(8)
        moved = X + self.augments * self.rng.standard_normal(X.shape)
        for part in np.split(order, 2):
            yield self.array(moved[part]), self.array(Y[part])


def squares(framework, data):
    case = Case(framework, np.dtype("float64"))
    return specop.objective(
        lambda params, batch: batch[0] @ params["w"],
        lambda z, y: case.mean((z - y) ** 2),
        data(case.array) if callable(data) else data,
        params={"w": case.array(BEST)},
    )


NUMBERED = {
    "influence": lambda train, test: influence(train, test, damping=0.0),
    "influence on itself": lambda train, _: influence(train, damping=0.0, indices=[3]),
    "leave_one_out": lambda train, _: leave_one_out(train, [3], damping=0.0),
    "retrain": lambda train, _: retrain(train, without=[3], damping=0.0),
    "outliers": lambda train, _: outliers(train, np.arange(8) % 2),
    "a subset": lambda train, test: influence(train.subset([0, 1, 2, 3]), test, damping=0.0),
    "each test sample": lambda train, test: influence(test, train, damping=0.0, per_sample=True),
}


def whole(array):
    return array(X), array(Y)


@pytest.mark.parametrize("call", NUMBERED)
@pytest.mark.parametrize("options", [{"shuffles": True}, {"augments": True}], ids=["shuffles", "augments"])
def test_samples_without_lasting_numbers_are_refused(call, options):
    framework = FRAMEWORKS[0]
    train, test = squares(framework, lambda array: Loader(array, **options)), squares(framework, whole)
    with pytest.raises(NondeterministicError, match=r"numbered in the order.*shuffle=False.*list\(loader\)"):
        NUMBERED[call](train, test)


@each_framework
def test_numbers_are_those_of_a_list_of_batches(framework):
    inverse, gradients = np.linalg.inv(2 * X.T @ X / 8), 2 * (X @ BEST - Y) * X
    test = squares(framework, lambda array: (array(X[:3]), array(Y[:3])))
    expected = gradients @ inverse @ gradients[:3].mean(0) / 8
    found = influence(squares(framework, Loader), test, damping=0.0)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-9)
    assert validate_influence(squares(framework, Loader), test, found, samples=4).samples == 8
    train = squares(framework, lambda array: Loader(array, shuffles=True))
    with pytest.raises(NondeterministicError, match="numbered in the order"):
        validate_influence(train, test, found)
    # What is no matter of single samples does not ask for their numbers.
    np.testing.assert_allclose(np.asarray(train.hessian().to_dense()), 2 * X.T @ X / 8, rtol=1e-12)


def test_loaders_of_frameworks_that_shuffle_and_their_generators_torch():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    own = torch.Generator().manual_seed(0)
    before = torch.get_rng_state(), own.get_state()
    for options in ({}, {"generator": own}):
        loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, **options)
        with pytest.raises(NondeterministicError, match="numbered in the order"):
            influence(squares("torch", loader), damping=0.0)
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(own.get_state(), before[1])
    assert influence(squares("torch", torch.utils.data.DataLoader(data, batch_size=4)), damping=0.0).samples == 8


def test_loaders_of_frameworks_that_shuffle_tensorflow():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    with pytest.raises(NondeterministicError, match="numbered in the order"):
        influence(squares("tensorflow", data.shuffle(8, seed=0).batch(4)), damping=0.0)
    for stays in (data, data.shuffle(8, seed=0, reshuffle_each_iteration=False)):
        assert influence(squares("tensorflow", stays.batch(4)), damping=0.0).samples == 8
