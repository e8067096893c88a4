"""A torch module with batch normalization, dropout, a frozen layer, gradients and hooks."""

import torch
from torch import nn
from torch.nn import functional as F

from stateful.cases import INPUTS, LABELS, Subject
from torch_cases import snapshot


def subject():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 4), nn.Linear(4, 3)
    ).double()
    x, y = torch.from_numpy(INPUTS[0]), torch.from_numpy(LABELS[0]).long()
    F.cross_entropy(model(x), y).backward()  # statistics that are not the initial ones, and gradients that must stay
    model.eval()[4].requires_grad_(False)
    model[2].register_forward_hook(lambda *_: None)
    return Subject(model, F.cross_entropy, array, lambda: snapshot(model), {"likelihood": "categorical"})


def array(values):
    tensor = torch.from_numpy(values.copy())
    return tensor if tensor.is_floating_point() else tensor.long()
