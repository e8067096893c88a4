"""
What an error costs
===================

How many products does a trace need? That depends on how fast the eigenvalues decay: where few carry the trace, a sketch
takes their part exactly, and only the rest is estimated.
"""

import matplotlib.pyplot as plt
import numpy

import specop

rng = numpy.random.default_rng(0)
Q, _ = numpy.linalg.qr(rng.standard_normal((400, 400)))
spectra = {"eigenvalues 1 / k": 1 / numpy.arange(1, 401), "eigenvalues 1 / k²": 1 / numpy.arange(1, 401) ** 2}
goals = [0.1, 0.05, 0.02]

fig, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for ax, (name, eigenvalues) in zip(axes, spectra.items(), strict=True):
    # A multiple has no entries to be read: it is known by its products, as a model's Hessian is.
    A = 1.0 * specop.DenseOperator((Q * eigenvalues) @ Q.T, is_symmetric=True)
    for method in ("hutchinson", "auto"):
        products = [specop.trace(A, method=method, rtol=goal, max_matvecs=40_000).matvecs for goal in goals]
        ax.loglog(goals, products, "o-", label=method)
    ax.set(title=name, xlabel="rtol")
axes[0].set_ylabel("products")
axes[0].legend()

# %%
# Left to itself, :func:`specop.trace` chooses by what the first probes show, and stops when the error is as asked.
print(specop.trace(A, rtol=0.01))
