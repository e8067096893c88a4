"""A small network, its derivatives in float64 by NumPy, and ways to spread it over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

P = PartitionSpec
RNG = np.random.default_rng(0)
# 8 * 4 + 4 + 4 * 3 + 3 = 51 entries, no multiple of 4.
RAW = {
    "b1": RNG.standard_normal(4),
    "b2": RNG.standard_normal(3),
    "w1": RNG.standard_normal((8, 4)),
    "w2": RNG.standard_normal((4, 3)),
}
DATA = (RNG.standard_normal((16, 8)), RNG.integers(0, 3, 16))
AXES = {"data": ((4,), ("d",)), "fsdp": ((4,), ("d",)), "tensor": ((2, 2), ("d", "m"))}
SPECS = {
    "data": {name: P() for name in RAW},
    "fsdp": {"b1": P("d"), "b2": P(), "w1": P("d"), "w2": P("d", None)},
    "tensor": {"b1": P("m"), "b2": P(), "w1": P(None, "m"), "w2": P("m")},
}


def outputs(params, batch):
    return jnp.tanh(batch[0] @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def criterion(z, y):
    return -(jax.nn.one_hot(y, 3) * jax.nn.log_softmax(z)).sum(-1).mean()


def loss(params, batch):
    return criterion(outputs(params, batch), batch[1])


def mesh(kind, axis_type=AxisType.Auto):
    shape, names = AXES[kind]
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(shape))


def spread(kind, on, params=RAW, data=DATA):
    """Parameters and batch on a mesh."""
    placed = {name: jax.device_put(value, NamedSharding(on, SPECS[kind][name])) for name, value in params.items()}
    return placed, tuple(jax.device_put(array, NamedSharding(on, P("d"))) for array in data)


def hosted(array):
    """All entries as NumPy has them, also of what several processes hold."""
    several = isinstance(array, jax.Array) and not array.is_fully_addressable
    return multihost_utils.process_allgather(array, tiled=True) if several else np.asarray(array)


THETA = np.concatenate([value.ravel() for value in RAW.values()])
SLICES = dict(zip(RAW, (slice(0, 4), slice(4, 7), slice(7, 39), slice(39, 51)), strict=True))


def tree(vector):
    """Parameters of a vector, in the order of their names."""
    return {name: vector[place].reshape(RAW[name].shape) for name, place in SLICES.items()}


def close(found, expected, tol=1e-12):
    found, expected = hosted(found), hosted(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol * max(1.0, np.abs(expected).max(initial=0)))


def by_samples(centred=False):
    """Each sample's Jacobian, the Gauss-Newton matrix, and the samples' gradients.

    Parameters
    ----------
    centred : bool
        Whether the outputs' mean over the batch is taken off first.
    """
    x, y = DATA
    hidden = np.tanh(x @ RAW["w1"] + RAW["b1"])
    z = hidden @ RAW["w2"] + RAW["b2"]
    inner = (1 - hidden**2)[:, None, :] * RAW["w2"].T
    # Of z in b1, b2, w1 and w2, row by row.
    each = [
        inner,
        np.broadcast_to(np.eye(3), (16, 3, 3)),
        np.einsum("si,soh->soih", x, inner).reshape(16, 3, -1),
        np.einsum("sh,op->sohp", hidden, np.eye(3)).reshape(16, 3, -1),
    ]
    J = np.concatenate(each, axis=2)
    if centred:
        J, z = J - J.mean(0), z - z.mean(0)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    M = np.einsum("ij,jk->ijk", p, np.eye(3)) - np.einsum("ij,ik->ijk", p, p)
    ggn = np.einsum("ijn,ijk,ikm->nm", J, M, J) / 16
    return J, ggn, np.einsum("ij,ijn->in", p - np.eye(3)[y], J)


def derivatives():
    """Loss, gradient and Hessian."""
    (x, y), (_, ggn, each) = DATA, by_samples()
    hidden = np.tanh(x @ RAW["w1"] + RAW["b1"])
    z = hidden @ RAW["w2"] + RAW["b2"]
    value = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(16), y])
    # Of the outputs, times the criterion's slopes, which are the gradient in b2: along what goes into tanh, in which
    # they are curved, and along it and w2.
    slopes = each[:, SLICES["b2"]]
    inner = np.zeros((16, 4, 51))
    inner[:, range(4), range(4)] = 1.0
    for unit in range(4):
        inner[:, unit, SLICES["w1"]][:, unit::4] = x
    bend = (slopes @ RAW["w2"].T) * -2.0 * hidden * (1 - hidden**2)
    curved = np.einsum("sh,shn,shm->nm", bend, inner, inner)
    curved[SLICES["w2"]] += np.einsum("so,sh,shn->hon", slopes, 1 - hidden**2, inner).reshape(12, 51)
    curved[:, SLICES["w2"]] += curved[SLICES["w2"]].T
    return float(value), each.mean(0), ggn + curved / 16


LOSS, GRADIENT, HESSIAN = derivatives()
VALUES = np.linalg.eigvalsh(HESSIAN)
LARGEST = np.sort(VALUES[np.argsort(-np.abs(VALUES))][:3])
