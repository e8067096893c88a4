"""Checks of what is made of samples, of which two processes have parts, against one process that has all of them."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

import specop
from parallel.torch_arrays import hosted, of_one, same_everywhere
from parallel.torch_parts import CUTS, RANK, close, cut, network, samples, told_by_all
from specop.errors import InvalidInputError

FOLDER = Path(os.environ["SPECOP_GROUP"])


def pair(model=None, criterion=F.cross_entropy, data=None, **options):
    """The objective of both processes, and that of one which has the same batches in the same order."""
    model, (x, y) = model or network(), data or samples()
    ours = specop.objective(model, criterion, cut(x, y), parallel=True, **options)
    batches = [(x[start:stop], y[start:stop]) for part in CUTS for start, stop in part]
    return ours, specop.objective(model, criterion, batches, parallel=False, **options)


def check_gradients_of_samples():
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64))
    for criterion in (weighted, nn.CrossEntropyLoss(ignore_index=1)):
        ours, own = pair(criterion=criterion)
        for theta in (None, 0.5 * own.theta):
            mine = None if theta is None else ours.flatten(own.unflatten(theta))
            # Blocks of two rows, and of all that a process has.
            for size in (2 * 31 * 8, None):
                blocks = list(ours.per_sample_gradients(mine, block_bytes=size))
                rows = torch.cat(list(own.per_sample_gradients(theta)))
                close(np.concatenate([hosted(block) for block in blocks]), rows.numpy())
            # In any order, from all processes at once.
            numbers, blocks = zip(*ours.numbered_gradients(mine), strict=True)
            order = np.argsort(np.concatenate(numbers))
            assert sorted(np.concatenate(numbers)) == list(range(11)) and len(blocks) <= 2
            close(np.concatenate([hosted(block) for block in blocks])[order], rows.numpy())
        inverse, alone = (one.inverse_fisher(damping=0.1) for one in (ours, own))
        close(inverse @ ours.gradient(), hosted(alone @ own.gradient()), 1e3)
        close(inverse.diagonal(), hosted(alone.diagonal()), 1e3)
        assert inverse.samples == alone.samples == 11
        close(ours.importance(), own.importance())
    loss = specop.objective(
        network(), None, cut(*samples()), forward=lambda m, b: F.cross_entropy(m(b[0]), b[1]), parallel=True
    )
    told = told_by_all(lambda: next(loss.per_sample_gradients()), specop.errors.MissingOutputsError)
    assert all("outputs" in text for text in told)
    assert np.array_equal(loss.importance(), np.ones(11))


def check_samples_that_fit_leave_the_weights_to_the_others():
    # Outputs of one process are right to the last bit, so that it sees no weight in any of its samples.
    x, y = samples()
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        fitted = model(x[: CUTS[0][-1][1]])
    y = torch.cat([fitted, torch.zeros(11 - len(fitted), 2, dtype=torch.float64)])
    forward = lambda model, batch: model(batch[0])  # noqa: E731
    criterion = lambda z, batch: (z - batch[1]).abs().pow(3).mean()  # noqa: E731
    ours, own = pair(model, criterion, (x, y), forward=forward)
    close(ours.importance(), own.importance())


def check_parts_of_the_samples():
    # Labels that do not count make terms other than samples.
    ours, own = pair(criterion=nn.CrossEntropyLoss(ignore_index=1))
    # In both processes, and in one of them only.
    for chosen in ([0, 3, 7, 10], [9, 8, 6]):
        part, alone = ours.subset(chosen), own.subset(chosen)
        assert (part.samples, part.terms) == (alone.samples, alone.terms)
        close(part.loss(), alone.loss())
        same_everywhere(hosted(part.loss()), hosted(part.loss_and_gradient()[0]))
        close(part.gradient(), alone.gradient())
        x, y = part.gradient(), alone.gradient()
        for name in ("hessian", "empirical fisher"):
            A, B = part.matrix(name), alone.matrix(name)
            # The second time with what was linearized.
            close(A @ x, B @ y)
            close(A @ x, B @ y)
        drawn, alone_drawn = (one.fisher(kind="mc", draws=2, seed=1) for one in (part, alone))
        close(drawn @ x, alone_drawn @ y)
        last = [0, len(chosen) - 1]
        close(part.subset(last).gradient(), alone.subset(last).gradient())
        assert part.plan().batches == alone.plan().batches
        rows = np.concatenate([hosted(one) for one in part.per_sample_gradients()])
        close(rows, torch.cat(list(alone.per_sample_gradients())).numpy())
        close(part.jacobian() @ x, alone.jacobian() @ y)
        close(part.restrict("2.*").gradient(), alone.restrict("2.*").gradient())
        part.release()
    batches = ours.batches(), own.batches()
    assert [one.samples for one in batches[0]] == [4, 2, 5]
    for one, other in zip(*batches, strict=True):
        close(one.gradient(), other.gradient())
        close(one.hessian() @ x, other.hessian() @ y)
    # A process whose samples do not count.
    inputs, labels = samples()
    labels[: CUTS[0][-1][1]] = 1
    ours, own = pair(criterion=nn.CrossEntropyLoss(ignore_index=1), data=(inputs, labels))
    close(ours.gradient(), own.gradient())
    close(ours.hessian() @ x, own.hessian() @ y)
    told = told_by_all(lambda: ours.subset([0, 1]), InvalidInputError)
    assert all("weight zero" in text for text in told)
    told = told_by_all(lambda: ours.subset([RANK, 8]), InvalidInputError)
    assert all("different samples" in text for text in told)
    assert all("11" in text for text in told_by_all(lambda: ours.subset([11]), InvalidInputError))
    # Nothing of all that moves the objective itself.
    close(ours.hessian() @ ours.gradient(), own.hessian() @ own.gradient())


def check_jacobians():
    for outputs in (3, 1):
        y = samples()[1]
        labels = y if outputs > 1 else y[:, None].double()
        criterion = F.cross_entropy if outputs > 1 else F.mse_loss
        ours, own = pair(network(outputs=outputs), criterion, (samples()[0], labels))
        J, K = ours.jacobian(), own.jacobian()
        assert J.shape == K.shape == (11 * outputs, ours.n)
        close(J.to_dense(), K.to_dense())
        close(J.T.to_dense(), K.T.to_dense())
        kernel, alone = (one @ one.T for one in (J, K))
        close(specop.eigsh(kernel, k=2, tol=1e-11).eigenvalues, specop.eigsh(alone, k=2, tol=1e-11).eigenvalues)


def check_estimates_from_a_part_of_the_samples():
    x, y = samples(600)
    model = network()
    mine = range(380) if RANK == 0 else range(380, 600)
    ours = specop.objective(model, F.cross_entropy, [(x[mine], y[mine])], parallel=True)
    own = specop.objective(model, F.cross_entropy, [(x[:380], y[:380]), (x[380:], y[380:])], parallel=False)
    for call in (
        # One process finds the traces of other matrices in another way.
        lambda o: specop.trace(o.fisher(kind="empirical"), data="part", max_matvecs=2, seed=3),
        lambda o: specop.spectral_norm(o.hessian(), data="part", rtol=0.3, seed=3),
    ):
        found, alone = call(ours), of_one(lambda call=call: call(own))
        assert found.samples_used == alone.samples_used < 600 or found.samples_used == 600
        assert found.estimate == pytest.approx(alone.estimate, rel=1e-8)
        assert found.standard_error == pytest.approx(alone.standard_error, rel=1e-6)
        same_everywhere(found.estimate, found.standard_error)
    told = told_by_all(lambda: specop.trace(ours.fisher(kind="mc"), data="part", max_matvecs=2), InvalidInputError)
    assert all("sampled fisher" in text for text in told)


def check_optimizers():
    model = network()
    ours, own = pair(model)
    for make in (
        lambda: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        lambda: torch.optim.AdamW(model.parameters(), lr=1e-3),
    ):
        optimizer = make()
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(samples()[0]), samples()[1]).backward()
            optimizer.step()
        rule, alone = (one.update_rule(optimizer, one.gradient()) for one in (ours, own))
        assert rule.steps == alone.steps
        for name in ("scale", "average"):
            vectors = getattr(rule, name), getattr(alone, name)
            assert (vectors[0] is None) == (vectors[1] is None)
            if vectors[0] is not None:
                close(*vectors)
        found = specop.landscape.stability(ours, optimizer, steps=2)
        single = of_one(lambda optimizer=optimizer: specop.landscape.stability(own, optimizer, steps=2))
        assert found.ratio == pytest.approx(single.ratio, rel=1e-3)
        same_everywhere(found.sharpness.estimate)
    optimizer.state[model[0].weight]["exp_avg"][0, 0] += RANK
    told = told_by_all(lambda: ours.update_rule(optimizer, ours.gradient()), InvalidInputError)
    assert all("differ in their settings or" in text and "AdamW" in text for text in told)


def check_monitor():
    """Under DistributedDataParallel, beside one in one process of a model that is trained alike."""
    path = FOLDER / "history.npz"
    what = {"lambda_max": {"tol": 1e-4}, "stability": {"tol": 1e-4}, "noise": {"parts": 4}}

    def run(model, objective, steps, **options):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        monitor = specop.training.Monitor(objective, every=2, what=what, optimizer=optimizer, **options)
        x, y = samples()
        for step in steps:
            monitor.record(step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return monitor.history

    model, twin = network(), network()
    ddp = nn.parallel.DistributedDataParallel(model)
    before = [one.clone() for one in model.parameters()]
    ours, _ = pair(ddp)
    _, own = pair(twin)
    found, alone = run(ddp, ours, range(3), history=path), of_one(lambda: run(twin, own, range(3)))
    assert list(found.steps) == [0, 2] and found.quantities == alone.quantities
    for name, mine, theirs in zip(found.quantities, found.values.T, alone.values.T, strict=True):
        assert np.allclose(mine, theirs, rtol=1e-4, equal_nan=True), (name, mine, theirs)
    same_everywhere(found.values, found.errors)
    # The same training as without a monitor, to the last bit.
    plain = network()
    x, y = samples()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.2)
    wrapped = nn.parallel.DistributedDataParallel(plain)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), plain.parameters(), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    # It goes on from the file, which one process has written.
    distributed.barrier()
    again = run(ddp, ours, range(3, 5), history=path)
    assert list(again.steps) == [0, 2, 4] and np.array_equal(again.values[:2], found.values, equal_nan=True)
    assert len(list(FOLDER.glob("history*"))) == 1
    told = told_by_all(lambda: specop.training.Monitor(ours), InvalidInputError)
    assert all("every=" in text for text in told)
    monitor = specop.training.Monitor(ours, every=1, what="lambda_max")
    told = told_by_all(lambda: monitor.record(RANK), InvalidInputError)
    assert all("record(step=0) and record(step=1)" in text for text in told)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moment = monitor.record(3)
    assert len(caught) == (RANK == 0) and moment.gap
    same_everywhere(np.array([moment.gap]))
