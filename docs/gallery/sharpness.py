"""
Sharpness while a network is trained
====================================

Gradient descent with the rate 0.4 starts where the largest eigenvalue of the Hessian is above 2 / rate = 5, and cannot
stay there. It ends a little above that limit and not below it: at the edge of stability.
"""

import torch

import specop

torch.manual_seed(0)
x = torch.randn(100, 5)
y = torch.sin(2 * x[:, :1]) * x[:, 1:2]
model = torch.nn.Sequential(torch.nn.Linear(5, 40), torch.nn.Tanh(), torch.nn.Linear(40, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
objective = specop.objective(model, torch.nn.functional.mse_loss, (x, y))
monitor = specop.training.Monitor(objective, every=20, what=("stability",), optimizer=optimizer)

for step in range(400):
    monitor.record(step)
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
monitor.plot()

# %%
# The limit as :func:`specop.landscape.stability` reads it off the optimizer, and the ratio at the end:
history = monitor.history
print("sharpness over the limit:", [round(float(ratio), 2) for ratio in history["ratio"][::3]])
