"""Checks of all functions that take an objective, over two processes, against one process that has all data."""

import warnings

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional as F

import specop
from parallel.torch_arrays import of_one
from parallel.torch_parts import network, samples
from parallel.torch_samples import pair

FEW = ["largest_eigenvalue", "trace", "average_rise", "fisher_rao_norm"]
# One for each way in which functions use an objective: solves, rows, parts of the parameters and of the samples,
# moments, labels, losses elsewhere, optimizers. The others are in `torch_slow`.
QUICK = [
    "influence",
    "leave_one_out",
    "prune of rows",
    "blocks",
    "flatness",
    "noise",
    "outliers",
    "stability of an optimizer",
]


def calls(labels, optimizer):
    """Every function by its name, with what stands behind it where there are several ways."""
    analysis, landscape = specop.analysis, specop.landscape
    return {
        "influence": lambda o: analysis.influence(o, damping=0.3),
        "influence on each of some": lambda o: analysis.influence(o, o.subset([1, 7]), damping=0.3, per_sample=True),
        "leave_one_out": lambda o: analysis.leave_one_out(o, damping=0.3),
        "prune": lambda o: analysis.prune(o, 0.2, steps=1),
        "prune of rows": lambda o: analysis.prune(o, 0.3, groups="rows", method="magnitude"),
        "retrain": lambda o: analysis.retrain(o, damping=0.3, without=[0, 8], steps=1),
        "saliency": lambda o: analysis.saliency(o, damping=0.3),
        "validate_influence": lambda o: analysis.validate_influence(
            o, o, analysis.influence(o, damping=0.3, indices=[0, 9])
        ),
        "blocks": landscape.blocks,
        "compare": lambda o: landscape.compare(o, o.subset(range(9)), measures=FEW[:2]),
        "covariance": lambda o: landscape.covariance(o, winners=10, offspring=4),
        "critical_point": landscape.critical_point,
        "flatness": lambda o: landscape.flatness(o, measures=FEW),
        "hessian_spread": lambda o: landscape.hessian_spread(o, batches=3),
        "learning_coefficient": landscape.learning_coefficient,
        "noise": lambda o: landscape.noise(o, parts=4),
        "noise of these data": lambda o: landscape.noise(o, population=False),
        "outliers": lambda o: landscape.outliers(o, labels),
        "slices": lambda o: landscape.slices(o, [o.gradient()], points=3),
        "stability": landscape.stability,
        "stability of an optimizer": lambda o: landscape.stability(o, optimizer),
        "Monitor": lambda o: specop.training.Monitor(o, every=1).record(0).estimates["loss"],
    }


def check_functions_of_objectives_are_right():
    public = {*specop.analysis.__all__, *specop.landscape.__all__, *specop.training.__all__}
    assert public == {name.partition(" ")[0] for name in calls(None, None)}
    are_right(QUICK)


def are_right(names):
    """Fail unless functions of a network near a minimum, but not in it, give what they give in one process."""
    model, (x, y) = network(), samples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + 0.15 * sum(p.square().sum() for p in model.parameters())).backward()
        optimizer.step()
    functions, (ours, own) = calls(y.numpy(), optimizer), pair(model)
    for name in names:
        same(name, functions[name], ours, own)


def check_functions_of_a_minimum_are_right():
    are_right_at_a_minimum(["covariance"])


def are_right_at_a_minimum(names):
    x, _ = samples()
    y = torch.sin(3.0 * x).sum(1, keepdim=True)
    model = nn.Linear(3, 1).double()
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(11, 1)], 1), y).solution[:, 0].contiguous()
    # The same bits in both.
    distributed.broadcast(solution, 0)
    nn.utils.vector_to_parameters(solution, model.parameters())
    ours, own = pair(model, F.mse_loss, (x, y))
    for name in names:
        same(name, calls(None, None)[name], ours, own)


def same(name, call, ours, own):
    with warnings.catch_warnings():
        # What they say is the same in one process.
        warnings.simplefilter("ignore", specop.errors.QuadraticModelWarning)
        warnings.simplefilter("ignore", specop.errors.ConvergenceWarning)
        mine, theirs = told_of(call(ours)), of_one(lambda: told_of(call(own)))
    for key in {key for key in theirs if not key.endswith("seconds")} - {"versions", "matvecs", "message"}:
        # Ranks of samples that are all but equal may change places.
        is_near = key == "rank_correlation" and abs(mine[key] - theirs[key]) < 0.1
        assert is_near or agree(mine[key], theirs[key]), (name, key, mine[key], theirs[key])


def told_of(found):
    return found.summary() if hasattr(found, "summary") else vars(found)


def agree(one, other):
    """Whether two parts of summaries are the same but for rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, float):
        return bool(np.isclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True))
    return one == other
