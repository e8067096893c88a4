"""Checks of fully_shard over tensor parallel in four processes: derivatives, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import specop
from parallel.torch_arrays import same_everywhere, spread
from parallel.torch_mesh_models import MESH, PARTS, PLAN, RANK, Block, bare, model, parted, sharded
from parallel.torch_shards import close, refused
from specop_torch.sharded import sharded as sharded_backend

BATCH = PARTS[MESH.get_local_rank("data")][:1]


def check_fully_sharded_layers_of_tensor_parallelism():
    objective = parted(BATCH)
    # Whether products are what differences say is looked at elsewhere.
    objective._autodiff.accepts_stopped_gradients = True
    net = model()
    x, y = (torch.cat(arrays) for arrays in zip(PARTS[0][0], PARTS[1][0], strict=True))
    points = list(net.parameters())
    v = np.random.default_rng(0).standard_normal(objective.n)
    pieces = [
        piece.view(one.shape)
        for piece, one in zip(torch.from_numpy(v).split([one.numel() for one in points]), points, strict=True)
    ]

    def flat(tensors):
        return torch.cat([one.reshape(-1) for one in tensors]).detach().numpy()

    def along(slopes, vectors):
        return sum((slope * vector).sum() for slope, vector in zip(slopes, vectors, strict=True))

    loss = F.cross_entropy(net(x), y)
    slopes = torch.autograd.grad(loss, points, create_graph=True)
    curved = torch.autograd.grad(along(slopes, pieces), points)
    close(objective.theta, flat(points), 0)
    close(objective.loss(), loss.item())
    close(objective.gradient(), flat(slopes))
    same_everywhere(np.array(objective.loss()), objective.theta.full_tensor().numpy())
    # Parameters that tensor parallelism leaves whole count once.
    theta = flat(points)
    assert float(sharded_backend.norm(objective.theta)) == pytest.approx(np.linalg.norm(theta), rel=1e-14)
    H = objective.hessian()
    close(H @ spread(v), flat(curved))
    close(H @ spread(v), flat(curved))
    assert objective._autodiff.model.layers.whole == set()


def check_refusals_of_meshes():
    params = dict(sharded().named_parameters())
    refused("different batches.*the same", parted(PARTS[RANK][:1], params=params).loss)
    refused("0 and 2 of 4 have the same first batch", parted(PARTS[0][:1], params=params).loss)
    data = TensorDataset(*PARTS[0][0])
    sampler = DistributedSampler(data, num_replicas=4, rank=RANK, shuffle=False, drop_last=True)
    refused("", lambda: parted(DataLoader(data, sampler=sampler), params=params))
    with torch.device("meta"):
        plain = Block()
    refused("module without hooks must be cut, too", lambda: parted(BATCH, params=params, net=plain))
    other = {**PLAN, "up": RowwiseParallel(input_layouts=Replicate()), "down": ColwiseParallel()}
    refused("'up.weight' of params= as .*dim=0.*the same plan", lambda: parted(BATCH, params=params, net=bare(other)))
    fewer = {name: PLAN[name] for name in ("up", "down")}
    refused("'embedding.weight'.*as not at all", lambda: parted(BATCH, params=params, net=bare(fewer)))
    for mesh in (MESH["data"], MESH["tensor"], init_device_mesh("cpu", (2, 1, 1, 2))):
        refused(
            "pass the mesh along one dimension",
            lambda: specop.objective(bare(), F.cross_entropy, BATCH, params=params, parallel=mesh),  # noqa: B023
        )
    # Cut along the data's dimension first: other entries than those that fully_shard leaves to a process.
    first = {"up.weight": distribute_tensor(model().up.weight.detach(), MESH, [Shard(0), Shard(0)])}
    refused("'up.weight' has the placements", lambda: parted(BATCH, params=params | first))
    refused("gradients of single samples", lambda: next(iter(parted(BATCH, params=params).per_sample_gradients())))
    for name in ("norm.bias", "down.bias"):
        with torch.no_grad():
            params[name].to_local()[:1] += 1e-9 * (RANK % 2)
        refused("0 and 1 of 4 hold the same parts", parted(BATCH, params=params).loss)
        with torch.no_grad():
            params[name].to_local()[:1] -= 1e-9 * (RANK % 2)


class Dropping(Block):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(super().forward(x))


def check_refusals_of_layers():
    refused("active dropout", parted(BATCH, kind=Dropping).loss)
    # Outputs that are cut over processes have no criterion of their own.
    left = {**PLAN, "head": ColwiseParallel(output_layouts=Replicate(), use_local_output=False)}
    refused("are DTensors", parted(BATCH, plan=left, criterion=lambda z, y: z.square().mean()).loss)


def check_an_error_of_one_process_of_a_mesh():
    def failing(outputs, y):
        if RANK == 3:
            raise KeyError("no such label")
        return F.cross_entropy(outputs, y)

    with pytest.raises(KeyError, match="no such label"):
        parted(BATCH, criterion=failing).loss()
