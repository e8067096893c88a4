"""Real optimizers on a quadratic whose second moments are held, as the limits take them."""

import functools
import importlib
from types import SimpleNamespace

import numpy as np

import specop

SIZES = (2, 3)
SPLIT = np.cumsum(SIZES)[:-1]
MATRIX = (lambda B: B @ B.T / 5 + 0.1 * np.eye(5))(np.random.default_rng(3).normal(size=(5, 5)))
MOMENTS = np.array([0.3, 2.0, 0.05, 1.0, 0.6])
MEANS = np.array([0.1, -0.5, 0.05, 0.2, -0.3])


def torch_run(kind, start, *, taken=7, groups=None, **options):
    """Return a run of an optimizer of torch.optim that has taken some steps; a step leaves second moments as they are.

    Parameters
    ----------
    kind : str
        Name in torch.optim.
    start : ndarray (5,)
        Small, so that squares of gradients vanish beside the second moments.
    taken : int
        Number of steps in the state.
    groups : list of two dicts, optional
        Options of the two parameters, where they differ.
    **options
        Of the optimizer.
    """
    torch = importlib.import_module("torch")
    matrix = torch.tensor(MATRIX)
    weights = [torch.tensor(part, requires_grad=True) for part in np.split(np.asarray(start, dtype=float), SPLIT)]

    def loss(params, batch):
        x = torch.cat([params["a"], params["b"]])
        return 0.5 * x @ (matrix @ x) + 0.0 * batch.sum()

    held = [{"params": [weight], **own} for weight, own in zip(weights, groups or [{}, {}], strict=True)]
    optimizer = getattr(torch.optim, kind)(held, **options)

    def hold(steps, after):
        """Set the second moments and the number of steps to what they are before, or after, a step."""
        for group, weight, v, mean in zip(
            optimizer.param_groups, weights, np.split(MOMENTS, SPLIT), np.split(MEANS, SPLIT), strict=True
        ):
            state = optimizer.state[weight]
            if "step" in state:
                state["step"].fill_(steps)
            kept = group["betas"][1] if "betas" in group else group.get("alpha", 1.0)
            factor = 1.0 if after else 1.0 / kept
            for name in ("exp_avg_sq", "square_avg"):
                if name in state:
                    state[name].copy_(torch.tensor(v * factor))
            if "max_exp_avg_sq" in state:
                state["max_exp_avg_sq"].copy_(torch.tensor(1.5 * v))
            if "grad_avg" in state:
                state["grad_avg"].copy_(torch.tensor(mean * factor))

    def step():
        hold(taken - 1, after=False)
        optimizer.zero_grad()
        loss(dict(zip("ab", weights, strict=True)), torch.zeros(1)).backward()
        optimizer.step()
        hold(taken, after=True)

    def place():
        return np.concatenate([weight.detach().numpy() for weight in weights])

    objective = specop.objective(
        loss, params=dict(zip("ab", weights, strict=True)), data=torch.zeros(1, 1, dtype=torch.float64)
    )
    step()
    return SimpleNamespace(objective=objective, optimizer=optimizer, step=step, place=place)


@functools.cache
def jax_loss():
    """The quadratic as one function, which JAX compiles once."""
    jnp = importlib.import_module("jax.numpy")

    def loss(params, batch):
        x = jnp.concatenate([params["a"], params["b"]])
        return 0.5 * x @ (jnp.array(MATRIX) @ x) + 0.0 * batch.sum()

    return loss


def jax_run(make, start, *, taken=7, decay=1.0):
    """Return a run of ``make(optax)``; its state is a fresh one after each step, as optax has it.

    Parameters
    ----------
    make : callable
        Returns the transformation.
    start, taken
        As for `torch_run`.
    decay : float
        What a step leaves of second moments.
    """
    jax, jnp, optax = (importlib.import_module(name) for name in ("jax", "jax.numpy", "optax"))
    transformation, loss = make(optax), jax_loss()

    def tree(values):
        return dict(zip("ab", map(jnp.array, np.split(np.asarray(values, dtype=float), SPLIT)), strict=True))

    def hold(state, steps, factor):
        def held(node):
            kind, new = type(node).__name__, {}
            if not kind.startswith("ScaleByA") and not kind.startswith("ScaleByR"):
                return node
            if "count" in node._fields:
                new["count"] = jnp.asarray(steps, node.count.dtype)
            if "nu_max" in node._fields:
                new["nu_max"] = masked(node.nu_max, 1.5 * MOMENTS / (1 - decay**taken))
            if "StdDev" in kind:
                new["mu"] = masked(node.mu, MEANS * factor)
            return node._replace(nu=masked(node.nu, MOMENTS * factor), **new)

        def masked(like, values):
            return {name: part if hasattr(like[name], "shape") else like[name] for name, part in tree(values).items()}

        return jax.tree.map(held, state, is_leaf=lambda node: "nu" in getattr(node, "_fields", ()))

    @jax.jit
    def advanced(params, state):
        slopes = jax.grad(loss)(params, jnp.zeros(1))
        updates, state = transformation.update(slopes, hold(state, taken - 1, 1.0 / decay), params)
        return optax.apply_updates(params, updates), hold(state, taken, 1.0)

    run = SimpleNamespace(params=tree(start))
    run.state = transformation.init(run.params)

    def step():
        run.params, run.state = advanced(run.params, run.state)
        run.optimizer = (transformation, run.state)
        run.objective = specop.objective(loss, params=run.params, data=jnp.zeros((1, 1)))

    run.step = step
    run.place = lambda: np.concatenate([np.asarray(run.params[name]) for name in "ab"])
    step()
    return run


@functools.cache
def tensorflow_objective():
    """The quadratic, its variables and its objective, traced once."""
    tf = importlib.import_module("tensorflow")
    weights = [tf.Variable(part) for part in np.split(np.ones(5), SPLIT)]

    def loss(params, batch):
        x = tf.concat([params["a"], params["b"]], 0)
        return 0.5 * tf.reduce_sum(x * tf.linalg.matvec(tf.constant(MATRIX), x)) + 0.0 * tf.reduce_sum(batch)

    params = dict(zip("ab", weights, strict=True))
    return loss, weights, specop.objective(loss, params=params, data=tf.zeros((1, 1), tf.float64))


def tensorflow_run(kind, start, *, taken=7, decay=1.0, exclude=None, **options):
    """Return a run of an optimizer of Keras, as `torch_run` and `jax_run` do."""
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    loss, weights, objective = tensorflow_objective()
    for weight, part in zip(weights, np.split(np.asarray(start, dtype=float), SPLIT), strict=True):
        weight.assign(part)
    optimizer = getattr(keras.optimizers, kind)(**options)
    if exclude is not None:
        optimizer.exclude_from_weight_decay(var_list=[weights[exclude]])

    def hold(steps, factor):
        optimizer._iterations.assign(steps)
        for name, values in (("_velocities", MOMENTS), ("_average_gradients", MEANS)):
            for variable, part in zip(getattr(optimizer, name, ()), np.split(values * factor, SPLIT), strict=False):
                variable.assign(part)
        for variable, part in zip(
            getattr(optimizer, "_velocity_hats", ()), np.split(1.5 * MOMENTS, SPLIT), strict=False
        ):
            variable.assign(part)

    def step():
        hold(taken - 1, 1.0 / decay)
        with tf.GradientTape() as tape:
            value = loss(dict(zip("ab", weights, strict=True)), tf.zeros(1, tf.float64))
        optimizer.apply(tape.gradient(value, weights), weights)
        hold(taken, 1.0)

    optimizer.build(weights)
    step()
    return SimpleNamespace(
        objective=objective,
        optimizer=optimizer,
        step=step,
        place=lambda: np.concatenate([weight.numpy() for weight in weights]),
    )


def growth(run, steps=60):
    """Return how much longer the parameters are after the second half of some steps than after the first."""
    sizes = []
    for _ in range(2):
        for _ in range(steps // 2):
            run.step()
        sizes.append(np.linalg.norm(run.place()))
    return sizes[1] / sizes[0]
