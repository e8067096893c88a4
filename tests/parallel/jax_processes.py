"""Checks of objectives in two processes of jax.distributed: the same answers as on one device, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

import specop
from parallel.calls import different_calls
from parallel.jax_problems import (
    DATA,
    GRADIENT,
    HESSIAN,
    LARGEST,
    LOSS,
    RAW,
    THETA,
    VALUES,
    P,
    by_samples,
    close,
    criterion,
    hosted,
    loss,
    mesh,
    outputs,
    tree,
)
from parallel.jax_together import HERE, RANK, everywhere, of_one, of_parts, ours, same_everywhere, told_by_all
from specop.errors import InvalidInputError, NonFiniteError

SIZE = np.abs(VALUES).max()


HALVES = [tuple(array[part] for array in DATA) for part in (slice(0, 8), slice(8, 16))]


def matrices(objective):
    yield "hessian", objective.hessian()
    yield "ggn", objective.ggn()
    yield "drawn", objective.fisher(kind="mc", draws=3, seed=5)
    yield "empirical", objective.fisher(kind="empirical")
    yield "of samples", objective.fisher(kind="empirical", of="samples")


def drawn_by_one():
    B = specop.objective(outputs, criterion, DATA, params=HERE, likelihood="categorical", parallel=False)
    return np.asarray(B.fisher(kind="mc", draws=3, seed=5).to_dense())


def has_loss_and_gradient(objective, params):
    assert (objective.n, objective.samples, objective.processes.count) == (51, 16, 2)
    close(objective.theta, THETA, 0)
    close(objective.loss(), LOSS)
    value, gradient = objective.loss_and_gradient()
    close(value, LOSS)
    close(gradient, GRADIENT)
    same_everywhere(value, gradient)
    slopes = objective.unflatten(gradient)
    close(hosted(slopes["w1"]).ravel(), GRADIENT[7:39])
    assert slopes["w1"].sharding.is_equivalent_to(params["w1"].sharding, 2)


def multiplies_as(A, matrix):
    """The first product, which is linearized, and those that replay it."""
    for v in np.random.default_rng(7).standard_normal((3, 51)):
        close(A @ A.flatten(tree(v)), matrix @ v)


def check_parameters_cut_by_tensor_parallel_layers():
    params, batch = ours("tensor", mesh("tensor"))
    objective = specop.objective(loss, params=params, data=batch)
    has_loss_and_gradient(objective, params)
    multiplies_as(objective.hessian(), HESSIAN)


def check_every_matrix_with_parameters_cut_as_fsdp_cuts_them():
    params, batch = ours("fsdp", mesh("fsdp"))
    objective = specop.objective(outputs, criterion, batch, params=params, likelihood="categorical")
    has_loss_and_gradient(objective, params)
    _, ggn, each = by_samples()
    empirical = each.T @ each / 16
    expected = {"hessian": HESSIAN, "ggn": ggn, "empirical": empirical, "of samples": empirical}
    for name, A in matrices(objective):
        assert A.is_symmetric and A.samples == 16
        if name == "drawn":
            # Draws belong to samples, not to devices.
            expected[name] = of_one(drawn_by_one)
        multiplies_as(A, expected[name])


def check_algorithms_on_a_model():
    params, batch = ours("data", mesh("data"))
    objective = specop.objective(outputs, criterion, batch, params=params, likelihood="categorical")
    has_loss_and_gradient(objective, params)
    H, B = objective.hessian(), specop.DenseOperator(HESSIAN, is_symmetric=True)
    found = specop.eigsh(H, k=3, ncv=9, tol=1e-8)
    close(found.eigenvalues, LARGEST, 1e-12 * SIZE)
    assert found.matvecs > 18 and found.converged and found.samples == 16
    same_everywhere(found.eigenvalues, found.bounds, found.residuals)
    # Each device holds a quarter of every row, filled up from 51 to 52.
    assert {part.data.shape for part in found.rows.rows.addressable_shards} == {(3, 13)}
    again = specop.eigsh(H, k=3, v0=specop.eigsh(B, k=3, tol=1e-11), tol=1e-8, check_multiplicity=False)
    close(again.eigenvalues, LARGEST, 1e-8)
    assert again.matvecs <= 8
    close(*(specop.trace(A, max_matvecs=12, seed=3).estimate for A in (H, B)), 51 * 1e-12 * SIZE)
    close(*(specop.spectral_density(A, probes=2, steps=8, seed=3).nodes for A in (H, B)), 1e-12 * SIZE)
    _, ggn, _ = by_samples()
    assert specop.rank(objective.ggn()).rank == np.linalg.matrix_rank(ggn)
    step = objective.solve(objective.gradient(), matrix="ggn", damping=0.1, rtol=1e-13).x
    close(step, np.linalg.solve(ggn + 0.1 * np.eye(51), GRADIENT), 1e-11)
    same_everywhere(step)
    assert objective.plan().linearized == 1


def check_several_batches_and_arrays_of_numpy():
    """Batches of parts, whole ones, the same NumPy arrays in each process, and such as cannot be cut evenly."""
    on = mesh("data")
    params, _ = ours("data", on)
    x, y = DATA
    # Batches that lie alike have one program.
    batches = [
        tuple(of_parts(array[:4], on) for array in DATA),
        (x[4:8], y[4:8]),
        (x[8:12], y[8:12]),
        tuple(everywhere(array[12:14], on) for array in DATA),
        (x[14:], y[14:]),
    ]

    class Loader:
        def __iter__(self):
            yield from (tuple(array[start : start + 4] for array in DATA) for start in range(0, 16, 4))

    # A loader beyond the budget is read again in each pass.
    for data, options in ((batches, {}), (Loader(), {"memory_budget": 1})):
        H = specop.objective(loss, params=params, data=data, **options).hessian()
        close(H @ H.flatten(RAW), HESSIAN @ THETA)


def check_arrays_of_one_process_are_refused():
    on = mesh("data")
    params, batch = ours("data", on)
    made = "make_array_from_process_local_data"
    for call in (
        lambda: specop.objective(loss, params={**params, "b1": HERE["b1"]}, data=batch),
        lambda: specop.objective(loss, params=params, data=tuple(map(jnp.asarray, DATA))).loss(),
    ):
        told = told_by_all(call, InvalidInputError)
        assert all(made in text and "alone" in text for text in told), told
    assert (
        "'b1'"
        in told_by_all(
            lambda: specop.objective(loss, params={**params, "b1": HERE["b1"]}, data=batch), InvalidInputError
        )[0]
    )
    H = specop.objective(loss, params=params, data=batch).hessian()
    assert "operand" in told_by_all(lambda: H @ jnp.ones(51), InvalidInputError)[0]
    told = told_by_all(lambda: specop.objective(loss, params=HERE, data=DATA), InvalidInputError)
    assert all("one of 2 processes" in text and "parallel=False" in text for text in told)
    told = told_by_all(lambda: specop.objective(loss, params=params, data=batch, parallel=False), InvalidInputError)
    assert all("parallel=False" in text and "2 processes" in text for text in told)
    told = told_by_all(lambda: specop.objective(loss, params=HERE, data=DATA, parallel=True), InvalidInputError)
    assert all("NamedSharding" in text for text in told)


def check_what_differs_between_processes_is_refused():
    on = mesh("data")
    params, batch = ours("data", on)

    def refused(call, *words):
        told = told_by_all(call, InvalidInputError)
        assert all(word in text for word in words for text in told), told

    # Meant to be the same on all devices.
    other = {**RAW, "b2": RAW["b2"] + 1e-9 * RANK}
    refused(lambda: specop.objective(loss, params=ours("data", on, other)[0], data=batch), "'b2'", "broadcast")
    refused(lambda: specop.objective(loss, params=params, data=tuple(HALVES[RANK])), "'array 0'", "batch 0", "part")
    uneven = tuple(array[: 7 + RANK] for array in DATA)
    refused(lambda: specop.objective(loss, params=params, data=uneven), "7", "8", "part")
    refused(lambda: specop.objective(loss, params=params, data=HALVES[: 1 + RANK]), "end after 1 batches")
    refused(
        lambda: specop.objective(lambda p, b: (1 + RANK) * loss(p, b), params=params, data=batch).loss(), "function"
    )
    shift = jnp.asarray(float(RANK))
    refused(lambda: specop.objective(lambda p, b: shift + loss(p, b), params=params, data=batch).loss(), "entries")
    refused(lambda: specop.objective(loss, params=params, data=batch, select=("w1", "w2")[RANK]), "'w1'", "'w2'")
    refused(lambda: specop.objective(loss, params=params, data=batch, weight=lambda b: 1 + RANK).loss(), "weight")
    refused(lambda: specop.objective(loss, params=params, data=batch, memory_budget=1 + RANK), "memory_budget")
    # All of it leaves the processes as they were.
    close(specop.objective(loss, params=params, data=batch).loss(), LOSS)


def check_calls_that_differ_are_refused():
    params, batch = ours("data", mesh("data"))
    objective = specop.objective(loss, params=params, data=batch)
    H = objective.hessian()
    for call, words in different_calls(objective, H, RANK):
        told = told_by_all(call, InvalidInputError)
        assert all(f"processes 0 and 1 of 2 make different calls, {words}." in text for text in told), told
    # Nothing is left of it, and who shows a bar is no other call.
    close(specop.eigsh(H, k=3, tol=1e-11, progress=RANK == 0).eigenvalues, LARGEST)


def check_an_error_of_one_process_is_one_of_all():
    params, batch = ours("data", mesh("data"))

    class Poison:
        def __init__(self):
            self.error = None

        def __call__(self, params, batch):
            if self.error is not None:
                raise self.error
            return loss(params, batch)

    def fails(call):
        told = told_by_all(call, OSError)
        assert told[1] == "poison" and "process 1 of 2" in told[0] and "poison" in told[0], told

    for use in ("loss", "gradient", "hessian"):
        poison = Poison()
        objective = specop.objective(poison, params=params, data=batch)
        v = objective.theta
        poison.error = OSError("poison") if RANK else None
        fails(
            lambda use=use, objective=objective, v=v: (
                objective.hessian() @ v if use == "hessian" else getattr(objective, use)()
            )
        )

    class Loader:
        def __iter__(self):
            yield HALVES[0]
            if RANK:
                raise OSError("poison")
            yield HALVES[1]

    fails(lambda: specop.objective(loss, params=params, data=Loader()).loss())

    def weight(batch):
        if RANK:
            raise OSError("poison")
        return 1.0

    fails(lambda: specop.objective(loss, params=params, data=batch, weight=weight).loss())
    H = specop.objective(loss, params=params, data=batch).hessian()

    def callback(state):
        if RANK and state.matvecs == 4:
            raise OSError("poison")

    fails(lambda: specop.eigsh(H, k=2, callback=callback))
    # Everything goes on.
    close(specop.eigsh(H, k=3, tol=1e-11).eigenvalues, LARGEST)
    told = told_by_all(
        specop.objective(lambda p, b: jnp.log(-jnp.abs(p["b1"]).sum()), params=params, data=batch).loss, NonFiniteError
    )
    assert told[0] == told[1]


def check_each_process_may_look_at_its_own_devices():
    on = NamedSharding(Mesh(np.array(jax.local_devices()), ("d",)), P())
    params = {name: jax.device_put(value, on) for name, value in RAW.items()}
    H = specop.objective(loss, params=params, data=DATA, parallel=False).hessian()
    close(H @ H.flatten(params), HESSIAN @ THETA)
    other = H.flatten(params)
    joint = specop.objective(loss, params=ours("data", mesh("data"))[0], data=DATA).hessian()
    assert "operand" in told_by_all(lambda: joint @ other, InvalidInputError)[0]
