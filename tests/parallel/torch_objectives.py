"""Checks of objectives whose data two processes have in parts, against one process that has all."""

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

import specop
from parallel.torch_arrays import hosted, of_one, same_everywhere, spread
from parallel.torch_parts import COUNT, RANK, close, cut, network, pair, samples, told_by_all
from specop.errors import InvalidInputError
from specop.krylov.run import Run
from specop.krylov.space import KrylovSpace
from specop_torch.groups import Group


def check_loss_and_gradient():
    ours, own = pair()
    assert (ours.n, ours.samples, ours.terms) == (31, 11, 11)
    theta = own.theta + 0.1 * torch.randn(31, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spread = ours.flatten(own.unflatten(theta))
    for mine, there in ((None, None), (spread, theta)):
        close(ours.loss(mine), own.loss(there))
        close(ours.gradient(mine), own.gradient(there))
        loss, gradient = ours.loss_and_gradient(mine)
        close(loss, own.loss(there))
        close(gradient, own.gradient(there))
        same_everywhere(loss, ours.loss(mine), hosted(gradient))
    assert isinstance(ours.theta, DTensor) and ours.theta.to_local().shape == ((16, 15)[RANK],)
    close(ours.theta, own.theta)
    tree = ours.unflatten(spread)
    assert all(torch.equal(tree[name], part) for name, part in own.unflatten(theta).items())


V = np.random.default_rng(3).standard_normal((3, 31))


def matrices(objective, theta=None):
    yield "hessian", objective.hessian(theta)
    yield "ggn", objective.ggn(theta)
    yield "fisher", objective.fisher(theta)
    yield "drawn", objective.fisher(theta, kind="mc", draws=3, seed=5)
    yield "empirical", objective.fisher(theta, kind="empirical")
    yield "of samples", objective.fisher(theta, kind="empirical", of="samples")
    yield "covariance", objective.gradient_covariance(theta)
    yield "by layers", objective.hessian(theta).block_diagonal()
    yield "of samples by layers", objective.fisher(theta, kind="empirical", of="samples").block_diagonal()
    yield "coupling", objective.hessian(theta).coupling("0.*", "2.*")


def check_every_matrix():
    ours, own = pair()

    def products(B):
        # Of three vectors: two matrices that agree on them differ nowhere.
        return [hosted(B @ torch.from_numpy(v)) for v in V[:, : B.shape[1]]]

    for (name, A), (_, B) in zip(matrices(ours), matrices(own), strict=True):
        for v, expected in zip(V[:, : B.shape[1]], of_one(lambda B=B: products(B)), strict=True):
            assert np.abs(hosted(A @ spread(v)) - expected).max() <= 1e-12 * np.abs(expected).max(), name
        assert (A.is_symmetric, A.is_psd, A.samples) == (B.is_symmetric, B.is_psd, B.samples), name
        assert A.shape == B.shape
    A, B = (objective.hessian().coupling("0.*", "2.*").T for objective in (ours, own))
    close(A.to_dense(), B.to_dense())


def check_matrices_at_a_point():
    ours, own = pair()
    theta = 0.5 * own.theta
    close(ours.hessian(0.5 * ours.theta).to_dense(), own.hessian(theta).to_dense())
    difference = ours.finite_difference_hessian()
    assert np.abs(hosted(difference.to_dense()) - hosted(own.hessian().to_dense())).max() < 1e-7
    same_everywhere(difference.precision)
    part = ours.restrict("2.*")
    assert part.n == 15 and part.samples == 11
    close(part.hessian().to_dense(), own.restrict("2.*").hessian().to_dense())


def check_terms_that_are_no_samples():
    # The mean is over weights of classes, and over labels that count: 6 and 5 samples, other numbers of terms.
    weights = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
    for criterion in (nn.CrossEntropyLoss(weight=weights), nn.CrossEntropyLoss(ignore_index=1)):
        ours, own = pair(criterion=criterion)
        assert ours.terms == pytest.approx(own.terms) and ours.terms != 11
        close(ours.loss(), own.loss())
        v = torch.randn(31, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        spread = ours.flatten(own.unflatten(v))
        expected = of_one(lambda own=own, v=v: [hosted(B @ v) for _, B in list(matrices(own))[:7]])
        for (_, A), product in zip(list(matrices(ours))[:7], expected, strict=True):
            close(A @ spread, product)


def check_algorithms_on_a_model():
    ours, own = pair()
    H, B = ours.hessian(), own.hessian()

    def estimates(A):
        pair = [np.array(function(A, seed=3).estimate) for function in (specop.trace, specop.frobenius_norm)]
        return [*pair, specop.spectral_density(A, probes=2, steps=10, seed=3).nodes]

    dense, alone, *single = of_one(
        lambda: (hosted(B.to_dense()), specop.eigsh(B, k=4, ncv=14, tol=1e-10), *estimates(B))
    )
    size = np.abs(np.linalg.eigvalsh(dense)).max()
    found = specop.eigsh(H, k=4, ncv=14, tol=1e-10)
    close(found.eigenvalues, alone.eigenvalues, size)
    assert found.samples == 11 and found.converged
    same_everywhere(found.eigenvalues, found.bounds)
    tree = found.eigenvector_tree(0)
    assert {name: tuple(part.shape) for name, part in tree.items()} == ours.shapes
    again = specop.eigsh(H, k=4, v0=alone, tol=1e-8, check_multiplicity=False)
    close(again.eigenvalues, alone.eigenvalues, 1e4 * size)
    for mine, theirs, tolerance in zip(estimates(H), single, (31 * size, 31 * size, size), strict=True):
        close(mine, theirs, tolerance)

    def rank_and_solution(one):
        solution = one.solve(one.gradient(), matrix="ggn", damping=0.1, rtol=1e-13).x
        return specop.rank(one.fisher()).rank, hosted(solution)

    (rank, x), (alone_rank, y) = rank_and_solution(ours), of_one(lambda: rank_and_solution(own))
    assert rank == alone_rank
    close(x, y, 10 * np.abs(y).max())
    assert H.plan().batches == 3 and ours.plan().cost == pytest.approx(own.plan().cost)


def check_a_model_under_ddp_and_layers_with_modes():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    ddp = nn.parallel.DistributedDataParallel(model)
    x, y = samples()
    with pytest.raises(InvalidInputError, match=r"dropout|normalization"):
        specop.objective(ddp, F.cross_entropy, cut(x, y), parallel=True).gradient()
    ddp.eval()
    ours, own = pair(ddp, data=(x, y))
    close(ours.hessian().to_dense(), own.hessian().to_dense())
    ddp.train()
    with ours.evaluating():
        close(ours.gradient(), own.gradient())
    assert model.training and model[3].training


def check_a_process_may_look_at_its_own_part():
    model, part = network(), cut(*samples())
    ddp = nn.parallel.DistributedDataParallel(model)
    told = told_by_all(lambda: specop.objective(ddp, F.cross_entropy, part), InvalidInputError)
    assert all("parallel=True" in text and "parallel=False" in text for text in told)
    # Hooks of DistributedDataParallel would wait for the other process.
    if RANK == 0:
        alone = specop.objective(ddp, F.cross_entropy, part, parallel=False)
        plain = specop.objective(model, F.cross_entropy, part, parallel=False)
        assert alone.names == plain.names and torch.equal(alone.gradient(), plain.gradient())
    distributed.barrier()


def check_a_step_takes_four_collectives_and_its_share_of_the_basis():
    ours, _ = pair()
    with Run(ours.hessian(), "eigsh", symmetric=True) as run:
        space = KrylovSpace(run, 20)
        space.start()
        for _ in range(6):
            space.expand()
        calls, real = [], Group._call

        def counted(self, collective, *arguments, **options):
            calls.append((collective.__name__, sum(one.numel() * one.element_size() for one in arguments)))
            real(self, collective, *arguments, **options)

        Group._call = counted
        try:
            space.expand()
        finally:
            Group._call = real
    names = [name for name, _ in calls]
    assert sorted(name.partition("_")[0] for name in names) == ["all", "all", "all", "reduce"], names
    assert sum(name == "all_reduce" for name in names) == 2
    (gather,), (scatter,) = (
        [size for name, size in calls if name.startswith(kind)] for kind in ("all_gather", "reduce_scatter")
    )
    # Of 31 entries each process has at most 16: it gives those and gets 32, and the other way round with a number that
    # tells of errors. The two sums are over coefficients along rows.
    assert (gather, scatter) == (8 * (16 + 32), 8 * (2 * 17 + 17))
    assert max(size for name, size in calls if name == "all_reduce") <= 8 * 9
    # As RowBlocks takes short rows: all that fit, which are one more than are multiplied, and of no more entries than
    # this process holds.
    held = sum(block.untyped_storage().nbytes() for block in space._rows._basis.blocks)
    assert held == 8 * 21 * (16, 15)[RANK]


def check_loaders_of_parts():
    x, y = samples(33)
    parts = DataLoader(Subset(TensorDataset(x, y), range(RANK, 33, COUNT)), batch_size=5)
    model = network()
    ours = specop.objective(model, F.cross_entropy, parts, parallel=True)
    own = specop.objective(model, F.cross_entropy, [(x, y)], parallel=False)
    close(ours.gradient(), own.gradient())
    close(ours.hessian().to_dense(), own.hessian().to_dense())
    whole = TensorDataset(x[:32], y[:32])
    even = DataLoader(whole, batch_size=5, sampler=DistributedSampler(whole, shuffle=False))
    ours = specop.objective(model, F.cross_entropy, even, parallel=init_device_mesh("cpu", (COUNT,)))
    close(ours.gradient(), specop.objective(model, F.cross_entropy, [(x[:32], y[:32])], parallel=False).gradient())
