"""Whatever is written into a model after an operator was made is noticed, however it is written."""

from importlib import import_module

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS, models
from specop.errors import ParametersChangedError
from specop.objectives.checksums import WORDS, checksum

# --- What is written: it keeps as much as it can of what a sum or a parity sees ---------------------------------------


def one_bit(first, second):
    second.view(np.uint8)[-1] ^= 1


def all_signs(first, second):
    """An even number of changes, all at the highest bit: they cancel modulo a power of two."""
    first *= -1
    second *= -1


def two_signs(first, second):
    first[[3, 9]] *= -1


def two_entries(first, second):
    first[3], first[5] = first[5], first[3]


def two_layers(first, second):
    first[:], second[:] = second.copy(), first.copy()


def reversed_order(first, second):
    first[:] = first[::-1].copy()


def symmetric_about_the_middle(first, second):
    """Bits change by 1, -1, -1, 1: weights that grow evenly cancel this."""
    bits = second.view(f"i{second.itemsize}")
    bits[2:6] += np.array([1, -1, -1, 1], bits.dtype)


def twice(first, second):
    first *= 2


CHANGES = [one_bit, all_signs, two_signs, two_entries, two_layers, reversed_order, symmetric_about_the_middle, twice]
each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def layers(dtype):
    """Two of an even size, with entries whose bits are zero but for the highest."""
    first = np.array([0.0, 2.0, 1.0, 0.0, -1.0, 2.0, 4.0, 0.5, 1.0, 2.0, 8.0, 1.0], dtype)
    return first, first[::-1] * 3


# --- How it is written ------------------------------------------------------------------------------------------------


def by_data_copy(params, new):
    for param, value in zip(params, new, strict=True):
        param.data.copy_(value)


def by_new_data(params, new):
    for param, value in zip(params, new, strict=True):
        param.data = value.clone()


def by_numpy_view(params, new):
    for param, value in zip(params, new, strict=True):
        param.detach().numpy()[...] = value.numpy()


def by_vector(params, new):
    torch = import_module("torch")
    torch.nn.utils.vector_to_parameters(torch.cat(list(new)), params)


def by_assign(params, new):
    for param, value in zip(params, new, strict=True):
        param.assign(value)


def by_indices(params, new):
    tf = import_module("tensorflow")
    for param, value in zip(params, new, strict=True):
        param.scatter_nd_update(tf.range(value.shape[0])[:, None], value)


def in_place(params, new):
    for param, value in zip(params[:2], new[:2], strict=True):
        param[...] = value


WAYS = {
    "torch": [by_data_copy, by_new_data, by_numpy_view, by_vector],
    "tensorflow": [by_assign, by_indices],
    "jax": [in_place],
}


def parameters(framework, values, dtype):
    """What a framework's users can write into: in JAX only NumPy's arrays, among at least one of its own."""
    if framework == "jax":
        return [*(value.copy() for value in values), models("jax").array(np.ones(()), dtype)]
    native = [models(framework).array(value, dtype) for value in values]
    return native if framework == "torch" else [import_module("tensorflow").Variable(value) for value in native]


def loss(params, _):
    square = (params[0] * params[1]) ** 2
    return square.mean() if hasattr(square, "mean") else import_module("tensorflow").reduce_mean(square)


@each_dtype
@pytest.mark.parametrize(("framework", "way"), [(name, way) for name in FRAMEWORKS for way in WAYS[name]])
def test_writes_into_parameters(framework, way, dtype):
    params = parameters(framework, layers(dtype), dtype)
    objective = specop.objective(loss, params=params)
    vector = objective.theta
    for change in CHANGES:
        way(params, parameters(framework, layers(dtype), dtype))
        H = objective.hessian()
        H @ vector
        after = layers(dtype)
        change(*after)
        way(params, parameters(framework, after, dtype))
        for use in (lambda H=H: H @ vector, lambda H=H: H.to_scipy() @ np.ones(H.shape[0])):
            with pytest.raises(ParametersChangedError, match="changed since this operator was made"):
                use()


# --- Checksums --------------------------------------------------------------------------------------------------------


def on_the_host(values):
    return checksum(values)


def on_torch_devices(values):
    found = pytest.importorskip("specop_torch.checksums")
    torch = import_module("torch")
    return int(found.weighted_sum(torch.from_numpy(values.view(np.int32))))


def on_tensorflow_devices(values):
    found = pytest.importorskip("specop_tensorflow.checksums")
    return int(found.weighted_sum(import_module("tensorflow").constant(values.view(np.int32))))


@each_change
@each_dtype
@pytest.mark.parametrize("place", [0, WORDS - 17, 2 * WORDS])
@pytest.mark.parametrize("kind", [on_the_host, on_torch_devices, on_tensorflow_devices], ids=lambda kind: kind.__name__)
def test_checksums_see_every_change(kind, place, dtype, change):
    """Also across and beyond the border of a chunk."""
    values = np.random.default_rng(0).standard_normal(2 * WORDS + 100).astype(dtype)
    start = place * 4 // values.itemsize
    start = min(start, len(values) - 24)
    values[start : start + 24] = np.concatenate(layers(dtype))
    before = kind(values)
    change(values[start : start + 12], values[start + 12 : start + 24])
    assert kind(values) != before
