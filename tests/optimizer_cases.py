"""Real optimizers on a quadratic whose second moments are held, as the limits take them."""

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


RUNS = {"torch": torch_run}


def growth(run, steps=300):
    """Return how much longer the parameters are after the second half of some steps than after the first."""
    sizes = []
    for _ in range(2):
        for _ in range(steps // 2):
            run.step()
        sizes.append(np.linalg.norm(run.place()))
    return sizes[1] / sizes[0]
