"""
The loss around a minimum
=========================

Along two random directions, filter by filter as long as the weights, and beside it how far the quadratic model is good.
"""

import torch

import specop

torch.manual_seed(0)
x = torch.randn(128, 4)
labels = (x[:, 0] * x[:, 1] > 0).long()
model = torch.nn.Sequential(torch.nn.Linear(4, 24), torch.nn.Tanh(), torch.nn.Linear(24, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    optimizer.step()

objective = specop.objective(model, torch.nn.functional.cross_entropy, (x, labels))
surface = specop.landscape.slices(objective, ["random", "random"], points=13)
surface.plot()

# %%
print(surface)
