"""Checks of what is refused where two processes have the data in parts, and of errors that one of them meets."""

import math
import time
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Subset, SubsetRandomSampler, TensorDataset

import specop
from parallel.calls import different_calls
from parallel.torch_parts import COUNT, RANK, close, cut, network, pair, samples, told_by_all
from specop.errors import InvalidInputError, NonFiniteError, ParametersChangedError


def check_data_that_are_no_parts_are_refused():
    model, (x, y) = network(), samples(33)
    whole = TensorDataset(x, y)

    def refused(data, *words):
        (text, *others) = told_by_all(
            lambda: specop.objective(model, F.cross_entropy, data, parallel=True), InvalidInputError
        )
        assert all(word in text for word in words), text
        assert all("process 0 of 2" in other or other == text for other in others), others

    refused(DataLoader(whole, batch_size=5, sampler=DistributedSampler(whole, shuffle=False)), "33", "34", "Subset")
    refused(DataLoader(whole, batch_size=5, sampler=DistributedSampler(whole)), "shuffle=False")
    refused(DataLoader(whole, batch_size=5, shuffle=True), "shuffle=False")
    by_batches = BatchSampler(DistributedSampler(whole, shuffle=False), 5, drop_last=False)
    refused(DataLoader(whole, batch_sampler=by_batches), "33", "34", "Subset")
    refused(DataLoader(whole, batch_size=5, sampler=SubsetRandomSampler(range(RANK, 33, 2))), "shuffle=False")
    refused(DataLoader(whole, batch_size=5), "same data", "DistributedSampler")
    other = DistributedSampler(whole, num_replicas=3, rank=RANK, shuffle=False)
    refused(DataLoader(whole, batch_size=5, sampler=other), "num_replicas=2")
    # Nothing at all in one of them: it says so, and the other as well.
    told = told_by_all(
        lambda: specop.objective(model, F.cross_entropy, [(x, y)] if RANK == 0 else [], parallel=True),
        InvalidInputError,
    )
    assert "process 1 of 2" in told[0] and all("no batch" in text for text in told)
    # Of one batch in each process nobody would see that they do not add up.
    coupled = specop.objective(model, lambda z, y: z.mean(0).square().sum(), cut(x, y)[:1], parallel=True)
    assert all("do not add up" in text for text in told_by_all(coupled.gradient, InvalidInputError))
    tokens = [(x[:4], torch.zeros(4, 2 + RANK))]
    told = told_by_all(lambda: specop.objective(model, lambda z, y: z.mean(), tokens, parallel=True), InvalidInputError)
    assert all("shapes" in text and "weight=" in text for text in told)


def check_lists_that_a_sampler_has_filled_up_are_told():
    whole = TensorDataset(*samples(33))
    model = network()

    def told(data):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            specop.objective(model, F.cross_entropy, data, parallel=True)
        return [str(one.message) for one in caught]

    filled = list(DataLoader(whole, batch_size=5, sampler=DistributedSampler(whole, shuffle=False)))
    (text,) = told(filled) if RANK == 0 else (*told(filled), "")
    assert RANK or ("last sample of process 1 is sample 0 of process 0" in text and "have 17" in text)
    own = list(DataLoader(Subset(whole, range(RANK, 33, COUNT)), batch_size=5))
    assert told(own) == []


def check_models_that_differ_are_refused():
    model = network()
    with torch.no_grad():
        model[2].bias[1] += 1e-6 * RANK
    told = told_by_all(lambda: pair(model), InvalidInputError)
    assert all("'2.bias'" in text and "broadcast" in text for text in told)
    model = network()
    ours, own = pair(model)
    H = ours.hessian()
    x = ours.gradient()
    model[0].weight.data[0, 0] += RANK
    told = told_by_all(lambda: H @ x, ParametersChangedError)
    assert "process 1 of 2" in told[0]
    assert all("'0.weight'" in text for text in told_by_all(ours.gradient, InvalidInputError))
    model[0].weight.data[0, 0] -= RANK
    # As it was again: everything goes on.
    close(ours.gradient(), own.gradient())
    model = network()
    if RANK:
        model.train(False)
    assert all("modes" in text for text in told_by_all(lambda: pair(model), InvalidInputError))
    told = told_by_all(lambda: pair(network(), select=f"{2 * RANK}.*"), InvalidInputError)
    assert all("select" in text for text in told)


def check_calls_that_differ_are_refused():
    ours, own = pair()
    H = ours.hessian()
    kinds = ("exact", "empirical")
    fishers = lambda: ours.fisher(kind=kinds[RANK])  # noqa: E731
    for call, words in [
        *different_calls(ours, H, RANK),
        (fishers, "fisher(kind='exact') and fisher(kind='empirical')"),
    ]:
        told = told_by_all(call, InvalidInputError)
        assert all(f"processes 0 and 1 of 2 make different calls, {words}." in text for text in told), told
    # Nothing is left of it, and who shows a bar is no other call.
    found = specop.eigsh(H, k=2, progress=RANK == 0).eigenvalues
    assert found == pytest.approx(specop.eigsh(own.hessian(), k=2).eigenvalues, rel=1e-6)


def check_what_cannot_be_is_refused_by_name():
    ours, _ = pair()
    told = told_by_all(
        lambda: specop.objective(network(), F.cross_entropy, cut(*samples()), parallel="yes"), InvalidInputError
    )
    assert all("DeviceMesh" in text for text in told)
    with pytest.raises(InvalidInputError, match="DTensor"):
        ours.hessian() @ torch.ones(31, dtype=torch.float64)


class Poisoned(nn.Module):
    """A criterion that fails in one process, and at one call."""

    def __init__(self):
        super().__init__()
        self.error = None

    def forward(self, z, y):
        if self.error is not None:
            raise self.error
        return F.cross_entropy(z, y)


class OwnError(Exception):
    """Of no class that another process would know."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def check_an_error_of_one_process_is_raised_in_all():
    criterion = Poisoned()
    ours, own = pair(criterion=criterion, memory_budget=0)
    H = ours.hessian()
    v = ours.gradient()
    H @ v
    longest = 0.0
    for error, kind in (
        (ValueError("poison"), ValueError),
        (KeyboardInterrupt("poison"), KeyboardInterrupt),
        (OwnError("poison", "itself"), (OwnError, specop.errors.ProcessError)),
        (NonFiniteError("poison"), NonFiniteError),
    ):
        for call in (ours.loss, ours.gradient, lambda: H @ v, lambda: specop.eigsh(H, k=2)):
            criterion.error = error if RANK == 1 else None
            began = time.monotonic()
            told = told_by_all(call, kind)
            longest = max(longest, time.monotonic() - began)
            assert "process 1 of 2" in told[0] and all("poison" in text for text in told), told
        criterion.error = None
        close(H @ v, own.hessian() @ own.gradient())
    # Both at once: the first process's is that of all.
    criterion.error = ValueError(f"poison {RANK}")
    assert all("poison 0" in text for text in told_by_all(ours.loss, ValueError))
    criterion.error = None
    print(f"an error is raised in all within {longest:.3f} s", flush=True)
    assert longest < 5.0
    close(ours.loss(), own.loss())


def check_numbers_that_are_not_finite_in_one_process():
    x, y = samples()
    if RANK == 1:
        x = x.clone()
        x[7, 0] = math.nan
    ours = specop.objective(network(), F.cross_entropy, cut(x, y), parallel=True)
    told = told_by_all(lambda: specop.eigsh(ours.hessian(), k=1), NonFiniteError)
    assert len(told) == COUNT
