"""Two processes of two devices each that hold models, data and vectors together, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from parallel.jax_problems import DATA, RAW, SPECS, P, hosted, mesh
from specop_jax.groups import processes_on

RANK, COUNT = jax.process_index(), jax.process_count()
HERE = {name: jnp.asarray(value) for name, value in RAW.items()}


def processes():
    return processes_on(mesh("data"))


def everywhere(value, on):
    """An array that each process has whole, on all devices."""
    return jax.make_array_from_callback(np.shape(value), NamedSharding(on, P()), lambda place: np.asarray(value)[place])


def of_parts(array, on):
    """An array of which each process gives its half."""
    half = len(array) // COUNT
    return jax.make_array_from_process_local_data(NamedSharding(on, P("d")), array[RANK * half : (RANK + 1) * half])


def ours(kind, on, raw=RAW, data=DATA):
    """Parameters and batch on a mesh of all devices."""
    params = {
        name: jax.make_array_from_callback(
            value.shape, NamedSharding(on, SPECS[kind][name]), lambda place, value=value: value[place]
        )
        for name, value in raw.items()
    }
    return params, tuple(of_parts(array, on) for array in data)


def same_everywhere(*values):
    """All processes have the same bits."""
    told = processes().exchange([np.asarray(hosted(value)).tobytes() for value in values])
    assert all(one == told[0] for one in told)


def of_one(compute):
    """What the first process computes alone and tells the others: an answer to compare with is needed once."""
    group = processes()
    with group.together():
        found = compute() if RANK == 0 else None
    return group.of_first(found)


def told_by_all(call, kind):
    """The text of an error that all processes raise."""
    with pytest.raises(kind) as caught:
        call()
    return processes().exchange(str(caught.value))
