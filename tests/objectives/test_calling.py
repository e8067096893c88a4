"""Functions that are not called as they expect are named before anything is computed."""

import numpy as np
import pytest

import specop
from specop.errors import InvalidInputError

torch = pytest.importorskip("torch")

MODEL, DATA = torch.nn.Linear(2, 2), (torch.ones(3, 2), torch.ones(3, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: specop.objective(lambda p: (p["w"] ** 2).sum(), params={"w": torch.ones(2)}),
            r"the function is called with two arguments, \(params, batch\), and takes \(p\)",
        ),
        (
            lambda: specop.objective(MODEL, lambda z: z.mean(), DATA),
            r"the criterion is called with two arguments, \(outputs, y\), and takes \(z\)",
        ),
        (
            lambda: specop.objective(MODEL, lambda z, y: z.mean(), DATA, forward=lambda model: model(DATA[0])),
            r"forward is called with two arguments, \(model, batch\), and takes \(model\)",
        ),
        (
            lambda: specop.objective(MODEL, lambda z, y, w: z.mean(), DATA),
            r"the criterion is called .* missing a required argument: 'w'",
        ),
    ],
    ids=["function", "criterion", "forward", "three"],
)
def test_functions_of_another_number_of_arguments_are_named(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_functions_that_leave_the_batch_unused():
    found = specop.objective(lambda p, _: (p["w"] ** 2).sum(), params={"w": torch.ones(2)})
    np.testing.assert_allclose(found.hessian().to_dense(), 2 * np.eye(2))


def test_functions_whose_signature_nobody_knows():
    found = specop.objective(max, params={"w": torch.ones(2)}, data=torch.ones(1))
    with pytest.raises(TypeError):
        found.loss()
