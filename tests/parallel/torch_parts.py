"""A small model and samples of which two processes have parts, and how what they find is compared with one process."""

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

import specop
from parallel.torch_arrays import hosted

RANK, COUNT = distributed.get_rank(), distributed.get_world_size()
# Two batches for the first process and one for the second: shares 6/11 and 5/11.
CUTS = ([(0, 4), (4, 6)], [(6, 11)])


def network(seed=0, outputs=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def samples(count=11):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (count,), generator=generator)


def cut(x, y):
    return [(x[start:stop], y[start:stop]) for start, stop in CUTS[RANK]]


def pair(model=None, criterion=F.cross_entropy, data=None, **options):
    """The objective of both processes, and that of one which has all data."""
    model, data = model or network(), data or samples()
    ours = specop.objective(model, criterion, cut(*data), parallel=True, **options)
    return ours, specop.objective(model, criterion, [data], parallel=False, **options)


def close(found, expected, size=None):
    found, expected = hosted(found), hosted(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-12 * (np.abs(expected).max() if size is None else size)


def told_by_all(call, kind):
    """The text of an error that all processes raise."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    told = [None] * COUNT
    distributed.all_gather_object(told, text)
    return told
