"""Checks in two processes of jax.distributed: what spans both is refused by name, and each can look at its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

import specop
from parallel.jax_problems import DATA, HESSIAN, RAW, THETA, P, close, loss
from specop.errors import InvalidInputError


def check_arrays_of_both_processes_are_refused():
    on = NamedSharding(jax.make_mesh((jax.device_count(),), ("d",)), P("d"))
    vector = jax.make_array_from_callback((8,), on, lambda place: np.arange(8.0)[place])
    with pytest.raises(InvalidInputError, match=r"devices of 2 processes.*jax\.local_devices\(\)"):
        specop.DiagonalOperator(vector)
    with pytest.raises(InvalidInputError, match=r"devices of 2 processes.*parallel=False"):
        specop.objective(lambda p, x: (p * x).sum() ** 2, params=vector, data=np.ones(8), parallel=False)


def check_data_of_one_process_ask_for_a_word():
    here = {name: jnp.asarray(value) for name, value in RAW.items()}
    with pytest.raises(InvalidInputError, match=r"one of 2 processes.*parallel=False"):
        specop.objective(loss, params=here, data=DATA)


def check_each_process_has_its_own_devices():
    on = Mesh(np.array(jax.local_devices()), ("d",))
    params = {name: jax.device_put(value, NamedSharding(on, P())) for name, value in RAW.items()}
    batch = tuple(jax.device_put(array, NamedSharding(on, P("d"))) for array in DATA)
    H = specop.objective(loss, params=params, data=batch, parallel=False).hessian()
    close(H @ H.flatten(params), HESSIAN @ THETA)
