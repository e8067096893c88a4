"""What a monitor takes of the time while models are trained, and what warm starts save."""

import time
from collections.abc import Sequence

import torch

from models import RECIPES, Recipe
from tables import Row, print_table

# The fixed sample that curvature is recorded on: a part of the training data.
_SAMPLES = {"cnn": 256, "transformer": 32, "wide_deep": 512}


def measure_monitor(names: Sequence[str], steps: int, records: int) -> list[Row]:
    """Train each model with a monitor of its largest eigenvalue, and print a table.

    Beside each record but the first, the same eigenvalue is computed from a random start, to the same tolerance for its
    products and to a finer one for the error. That is outside of all times.

    Parameters
    ----------
    names : sequence of str
        Models, of `models.RECIPES`.
    steps : int
        Steps of training.
    records : int
        Records, at equal distances from the first step on.

    Returns
    -------
    list of dict
        A row for each model.
    """
    rows = [_measured(RECIPES[name](), steps, records) for name in names]
    print_table(f"{records} records of the largest eigenvalue in {steps} steps", rows)
    return rows


def _measured(recipe: Recipe, steps: int, records: int) -> Row:
    import specop

    model, criterion, samples = recipe.model, recipe.criterion, _SAMPLES[recipe.name]
    objective = specop.objective(model, criterion, (recipe.inputs[:samples], recipe.targets[:samples]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.rate, total_steps=steps)
    monitor = specop.training.Monitor(objective, every=steps // records, what="lambda_max")
    generator = torch.Generator().manual_seed(0)
    training, cold, errors = 0.0, [], []
    model.train()
    for step in range(steps):
        record = monitor.record(step)
        if record is not None and step:
            H = objective.hessian()
            cold.append(specop.eigsh(H, k=1, which="LA", tol=1e-2).matvecs)
            right = specop.eigsh(H, k=1, which="LA", tol=1e-5).eigenvalues[-1]
            errors.append(abs(record["lambda_max"].estimate / right - 1))
            objective.release()
        started = time.perf_counter()
        rows = torch.randint(len(recipe.inputs), (recipe.batch,), generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(criterion(model(recipe.inputs[rows]), recipe.targets[rows]))
        optimizer.step()
        schedule.step()
        training += time.perf_counter() - started
    history = monitor.history
    warm = history["record_matvecs"][1:].sum() / len(cold)
    return {
        "model": recipe.name,
        "sample": samples,
        "ms a step": 1e3 * training / steps,
        "s a record, first": float(history["record_seconds"][0]),
        "later": float(history["record_seconds"][1:].mean()),
        "% of the time (goal 10)": 100 * history.seconds / (history.seconds + training),
        "products, warm": float(warm),
        "cold": sum(cold) / len(cold),
        "warm / cold (goal 0.67)": float(warm) * len(cold) / sum(cold),
        "largest error": max(errors),
    }
