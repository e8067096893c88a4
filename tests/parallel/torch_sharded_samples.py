"""Checks of samples where two processes hold the parameters in parts, against one process that has all of both.

Samples count batch after batch, and in a batch of fully sharded parameters process after process.
"""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import specop
from parallel.torch_arrays import hosted, of_one, same_everywhere, spread
from parallel.torch_shards import (
    COUNT,
    PARTS,
    RANK,
    UNION,
    close,
    data,
    fsdp,
    model,
    refused,
    tensor_parallel,
)

SAMPLES = sum(len(y) for _, y in UNION)
# Of both processes in both batches, and of one of them in one batch.
SOME, ONE = [0, 4, 5, 8, 9, 12], [1, 2]
EVERY = {
    "hessian": lambda one: one.hessian(),
    "ggn": lambda one: one.ggn(),
    "drawn": lambda one: one.fisher(kind="mc", draws=3, seed=1),
    "of terms": lambda one: one.fisher(kind="empirical", of="terms"),
    "of samples": lambda one: one.fisher(kind="empirical", of="samples"),
}


def alone(criterion=F.cross_entropy, given=UNION):
    return specop.objective(model(), criterion, given, parallel=False)


def close_to(ours, own):
    close(ours, hosted(own))


def same_answers(ours, own, *matrices):
    v = np.random.default_rng(0).standard_normal(own.n)
    x, y = spread(v), torch.from_numpy(v)
    assert (ours.samples, ours.terms) == (own.samples, own.terms)
    close(ours.loss(), float(own.loss()))
    close_to(ours.gradient(), own.gradient())
    for one in (ours, own):
        # Whether products are what differences say is looked at elsewhere, at half of the cost.
        one._autodiff.accepts_stopped_gradients = True
    products = of_one(lambda: {name: hosted(EVERY[name](own) @ y) for name in matrices})
    for name, expected in products.items():
        A = EVERY[name](ours)
        # The first product linearizes, the second one uses that.
        close(A @ x, expected)
        close(A @ x, expected)
    importance = ours.importance()
    assert importance.shape == (own.samples,)
    close(importance, own.importance())
    same_everywhere(importance)

    def rows(one):
        return np.concatenate([hosted(block) for block in one.per_sample_gradients(block_bytes=3000)])

    close(rows(ours), of_one(lambda: rows(own)))


def check_subsets_of_fully_sharded_models():
    ours, own = fsdp(), alone()
    same_answers(ours.subset(SOME), own.subset(SOME), *EVERY)
    same_answers(ours.subset(ONE), own.subset(ONE), "hessian", "drawn")
    x = np.random.default_rng(1).standard_normal(own.n)
    J, K = (one.subset(ONE).jacobian() for one in (ours, own))
    close_to(J @ spread(x), K @ torch.from_numpy(x))


def check_subsets_of_tensor_parallel_models():
    ours, own = tensor_parallel(UNION), alone()
    same_answers(ours.subset(SOME), own.subset(SOME), "hessian", "drawn", "of samples")


def check_samples_that_do_not_count():
    """Where none of a process's samples has a loss, another one stands in for its loss, and for no output."""
    criterion = nn.CrossEntropyLoss(ignore_index=1)
    ours, own = fsdp(criterion=criterion), alone(criterion)
    labels = torch.cat([y for _, y in UNION]).numpy()
    first = np.arange(len(PARTS[0][0][1]))
    last = np.arange(len(PARTS[0][0][1]), len(UNION[0][1]))
    chosen = [*first[labels[first] == 1][:2], *last[labels[last] != 1][:2]]
    assert len(chosen) > 2
    part, single = ours.subset(chosen), own.subset(chosen)
    same_answers(part, single, "hessian", "ggn", "drawn")
    x = np.random.default_rng(1).standard_normal(own.n)
    close_to(part.jacobian() @ spread(x), single.jacobian() @ torch.from_numpy(x))
    refused("weight zero", lambda: ours.subset(np.flatnonzero(labels == 1)).loss())


def estimates_from_a_part(make):
    """Compare with one process, for what is made of this process's batches and of those of all."""
    parts = [data((8, 5), seed=5), data((7, 4), seed=6), data((6, 3), seed=7)][:COUNT]
    union = [tuple(torch.cat(arrays) for arrays in zip(*some, strict=True)) for some in zip(*parts, strict=True)]
    ours, own = make(parts[RANK], union), alone(given=union)

    def norm(one):
        return specop.frobenius_norm(one.hessian(), data="part", max_matvecs=2, seed=3)

    found, single = norm(ours), of_one(lambda: norm(own))
    assert found.samples_used == single.samples_used
    assert found.estimate == pytest.approx(single.estimate, rel=1e-8)
    assert found.standard_error == pytest.approx(single.standard_error, rel=1e-6)
    same_everywhere(found.estimate, found.standard_error)
    refused("sampled fisher", lambda: specop.trace(ours.fisher(kind="mc"), data="part", max_matvecs=2))


def check_estimates_from_a_part_of_the_samples():
    estimates_from_a_part(lambda part, union: fsdp(given=part))


def check_what_is_made_of_samples():
    ours, own = fsdp(), alone()
    inverse, single = (one.inverse_fisher(damping=0.1) for one in (ours, own))
    close(inverse @ ours.gradient(), hosted(single @ own.gradient()), 1e-10)
    options = {"indices": [2, 7, 13], "damping": 0.5, "matrix": "ggn", "rtol": 1e-7}
    with pytest.warns(specop.errors.QuadraticModelWarning):
        found = specop.analysis.influence(ours, **options)
    assert list(found.indices) == [2, 7, 13]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", specop.errors.QuadraticModelWarning)
        close(found.scores, of_one(lambda: specop.analysis.influence(own, **options).scores), 1e-5)


def check_what_samples_must_agree_on():
    ours = fsdp()
    refused("different samples", lambda: ours.subset([RANK, 8]).loss())
    refused(f"{SAMPLES}", lambda: ours.subset([SAMPLES]))
    refused("lists of batches and others loaders", lambda: fsdp(given=PARTS[RANK] if RANK else Loader(PARTS[RANK])))
    refused("different samples", lambda: tensor_parallel(UNION).subset([RANK, 8]).loss())


class Loader:
    """Batches that are read anew in each pass."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)
