"""check_objective: each law of an objective has something that breaks it, and that must be caught by name."""

import numpy as np
import pytest

import specop
from specop.testing import check_objective

# Each function gets a right method of the adapter in tests/third_party and returns one that breaks a law.


@pytest.fixture
def regression(minicupy):
    """A model of five parameters, its objective over two batches, and its Hessian by differences of the gradient."""
    model = minicupy.Regression(4)
    rng = np.random.default_rng(1)
    data = [tuple(minicupy.asarray(rng.standard_normal(shape)) for shape in [(k, 4), (k,)]) for k in (5, 9)]
    objective = specop.objective(model, None, data)
    here, dense = objective.flatten(model.parameters), np.zeros((5, 5))
    for i, step in enumerate(np.eye(5) * 1e-5):
        ahead, behind = (objective.gradient(here + minicupy.asarray(sign * step)).get() for sign in (1, -1))
        dense[i] = (ahead - behind) / 2e-5
    return model, objective, dense


@pytest.fixture
def replace(minicupy, monkeypatch):
    """Replace a method of the adapter."""
    from specop_minicupy.autodiff import MinicupyAutodiff

    def do(**methods):
        for name, wrong in methods.items():
            monkeypatch.setattr(MinicupyAutodiff, name, wrong(getattr(MinicupyAutodiff, name)))

    return do


def scaled_gradient(right):
    def wrong(self, theta, batch):
        loss, gradient = right(self, theta, batch)
        return loss, gradient * 1.001

    return wrong


def reversed_gradient(right):
    def wrong(self, theta, batch):
        loss, gradient = right(self, theta, batch)
        return loss, gradient[::-1].copy()

    return wrong


def scaled_products(right):
    def wrong(self, theta, batch, vector, matrix):
        made = right(self, theta, batch, vector, matrix)
        return type(made)(made.first * 1.001, lambda v: made.apply(v) * 1.001, made.bytes)

    return wrong


def gauss_newton(right):
    def wrong(self, theta, batch, vector, matrix):
        # Without the term that the residuals bring.
        exact = self.model._outputs(self._values(theta), batch)
        return right(self, theta, (batch[0], exact), vector, matrix)

    return wrong


def products_in_one_buffer(right):
    def wrong(self, theta, batch, vector, matrix):
        made = right(self, theta, batch, vector, matrix)
        buffer = made.first.copy()

        def apply(v):
            buffer[:] = made.apply(v)
            return buffer

        return type(made)(made.first, apply, made.bytes)

    return wrong


def flatten_backwards(right):
    return lambda self, tree: right(self, {name: tree[name][::-1] for name in tree})


def unflatten_anything(right):
    return lambda self, vector: right(self, vector[: self.layout.n])


def blind(right):
    return lambda self, *, fixed=False: ()


def training_loss(right):
    def wrong(self, theta, batch):
        self.model.parameters["bias"] += 1e-15
        return right(self, theta, batch)

    return wrong


def loading_loss(right):
    def wrong(self, theta, batch):
        # Loads theta into the model, and puts the old parameters back unless something goes wrong.
        before = self.model.parameters
        self.model.parameters = self._values(theta)
        loss = right(self, theta, batch)
        self.model.parameters = before
        return loss

    return wrong


def unchecked_loss(right):
    return lambda self, theta, batch: self.model.loss(self._values(theta), batch)


def stale_values(right):
    return lambda self, theta: (
        right(self, theta)
        if theta is not None
        else {name: value * 1.0001 for name, value in self.model.parameters.items()}
    )


def restrict_to_all(right):
    return lambda self, select: right(self, None)


def restrict_and_double(right):
    def wrong(self, theta, batch):
        loss, gradient = right(self, theta, batch)
        return loss, gradient * (2.0 if len(self.names) == 1 else 1.0)

    return wrong


def restrict_and_double_products(right):
    def wrong(self, multiply, vector):
        return right(self, multiply, vector) * (2.0 if len(self.names) == 1 else 1.0)

    return wrong


BROKEN_OBJECTIVES = {
    "gradient off by a factor": ({"gradient": scaled_gradient}, "gradient: is that of the loss, by differences"),
    "gradient in another order": ({"gradient": reversed_gradient}, "gradient: is that of the loss, by differences"),
    "products off by a factor": ({"linearize": scaled_products}, "hessian: is the derivative of the gradient"),
    "products of Gauss-Newton": ({"linearize": gauss_newton}, "hessian: is the derivative of the gradient"),
    "products in one buffer": (
        {"linearize": products_in_one_buffer},
        "matvec: (returns fresh storage|is deterministic)",
    ),
    "flatten in another order": ({"flatten": flatten_backwards}, "flatten: undoes unflatten"),
    "any length": ({"unflatten": unflatten_anything}, r"unflatten: refuses a vector of length n \+ 1"),
    "model trained by the loss": (
        {"loss": training_loss, "fingerprint": blind},
        r"(loss|gradient|flatten)\S*: is left as it was found by loss and gradient: bit for bit",
    ),
    "model left at a bad theta": ({"loss": loading_loss}, r"is left as it was found, also after loss\(NaN\) failed"),
    "NaN without a word": ({"loss": unchecked_loss}, r"loss\(NaN\): raises NonFiniteError"),
    "another current point": ({"_values": stale_values}, "loss: at theta equal to the current parameters"),
    "restricted to everything": ({"restrict": restrict_to_all}, "restrict: to each name in turn covers all"),
    "restricted gradient": ({"gradient": restrict_and_double}, "restrict: to 'weight' has its block of the gradient"),
    "restricted products": (
        {"_apply": restrict_and_double_products},
        "restrict: to 'weight' has its block of the Hessian",
    ),
}


@pytest.mark.parametrize("name", BROKEN_OBJECTIVES)
def test_broken_objectives_are_caught(name, regression, replace):
    model, objective, _ = regression
    methods, message = BROKEN_OBJECTIVES[name]
    replace(**methods)
    with pytest.raises(AssertionError, match=message):
        check_objective(objective, params=model.parameters)


def test_a_right_objective_passes(regression):
    model, objective, dense = regression
    check_objective(objective)
    check_objective(objective, params=model.parameters)
    # Differences are good to 1e-10 here; the tolerance for a dense Hessian is meant for exact ones.
    with pytest.raises(AssertionError, match="hessian: has the products of the dense Hessian"):
        check_objective(objective, params=model.parameters, dense=dense + 1e-8)
    check_objective(objective, params=model.parameters, dense=np.asarray(objective.hessian().to_dense().get()))
    with pytest.raises(AssertionError, match=r"dense: has the size of the objective \(\(4, 4\) for n = 5\)"):
        check_objective(objective, dense=dense[1:, 1:])
