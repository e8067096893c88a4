"""
The whole spectrum of a network
===============================

Which curvatures does a trained network have? A density shows all of them from some hundred products: a peak at zero,
a thin bulk, and a few large eigenvalues that stand apart.
"""

import torch

import specop

torch.manual_seed(0)
x = torch.randn(256, 10)
labels = (x[:, :3].argmax(1) + (x[:, 3] > 1)).long()
model = torch.nn.Sequential(torch.nn.Linear(10, 24), torch.nn.Tanh(), torch.nn.Linear(24, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(150):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    optimizer.step()

objective = specop.objective(model, torch.nn.functional.cross_entropy, (x, labels))
density = specop.spectral_density(objective.hessian(), probes=8)
density.plot()

# %%
# The same object answers questions in numbers, each with an interval.
print(density)
print("negative eigenvalues:", density.cdf(-1e-3))
