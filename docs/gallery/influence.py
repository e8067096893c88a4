"""
Wrong labels by influence
=========================

Ten of 120 labels are turned around. What the removal of each sample would do to the test loss, predicted by one solve
with the Hessian, points at them.
"""

import matplotlib.pyplot as plt
import numpy
import torch

import specop

torch.manual_seed(0)
x, x_test = torch.randn(120, 4), torch.randn(300, 4)
y, y_test = ((inputs[:, 0] + 0.5 * inputs[:, 1] > 0).long() for inputs in (x, x_test))
wrong = numpy.arange(0, 120, 12)
y[wrong] = 1 - y[wrong]
decay, model = 1e-2, torch.nn.Linear(4, 2)
optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")


def closure():
    optimizer.zero_grad()
    penalty = decay / 2 * sum((p**2).sum() for p in model.parameters())
    loss = torch.nn.functional.cross_entropy(model(x), y) + penalty
    loss.backward()
    return loss


optimizer.step(closure)
train, test = (specop.objective(model, torch.nn.functional.cross_entropy, data) for data in ((x, y), (x_test, y_test)))
found = specop.analysis.influence(train, test, damping=decay)

fig, ax = plt.subplots()
order = numpy.argsort(found.scores)
ax.bar(range(120), found.scores[order], color=["C3" if i in wrong else "C7" for i in order], width=1.0)
ax.set(xlabel="training samples, most harmful first", ylabel="change of the test loss without it")
ax.set_title("wrong labels in red")

# %%
# The prediction beside true retraining, for some samples:
check = specop.analysis.validate_influence(train, test, found, indices=[*order[:4], *order[-4:]])
check.plot()
print(check)
