"""
Weights removed, the others moved
=================================

A network of which seven of ten inputs do nothing. Removing its smallest weights raises the loss;
removing those that cost least by the curvature, and moving the others to make up for them, does so much later.
"""

import matplotlib.pyplot as plt
import torch

import specop

torch.manual_seed(0)
x = torch.randn(200, 10)
y = x[:, :3].sum(1, keepdim=True)
model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(500):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
objective = specop.objective(model, torch.nn.functional.mse_loss, (x, y))

fig, ax = plt.subplots()
for method in ("magnitude", "obs"):
    pruned = specop.analysis.prune(objective, 0.6, method=method)
    ax.semilogy([0, *pruned.sparsities], pruned.losses, "o-", ms=3, label=method)
ax.set(xlabel="share of weights that are zero", ylabel="loss")
ax.legend()
