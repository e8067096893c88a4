"""Which patients matter for a logistic regression on scikit-learn's breast cancer data, in JAX.

    python examples/influence_jax.py

It finds the maximum of the penalized likelihood by Newton steps, predicts what the removal of each patient does to the
test loss, compares with fitting again, and takes some patients out of the fitted model for a fraction of the cost of a
new fit. It needs JAX and scikit-learn.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer

import specop

jax.config.update("jax_enable_x64", True)

L2 = 0.01
Params = dict[str, jax.Array]


class Answer(NamedTuple):
    """What was predicted, and what came true."""

    first: specop.results.InfluenceResult
    newton: specop.results.InfluenceResult
    check: specop.results.InfluenceCheck
    newton_correlation: float
    removed: specop.results.RetrainResult
    fitted_again: specop.results.RetrainResult


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean negative log-likelihood."""
    return jnp.mean(jnp.logaddexp(0.0, logits) - labels * logits)


def logits(params: Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return one logit for each patient."""
    return batch[0] @ params["w"] + params["b"]


def load_patients() -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return standardized features and labels of 426 patients to train with and 143 to test."""
    data = load_breast_cancer()
    features = (data.data - data.data.mean(0)) / data.data.std(0)
    order = np.random.default_rng(0).permutation(len(features))
    parts = order[:426], order[426:]
    train, test = ((jnp.array(features[part]), jnp.array(data.target[part] * 1.0)) for part in parts)
    return train, test


def main(checked: int = 50) -> Answer:
    """Fit, predict, fit again without some patients.

    Parameters
    ----------
    checked : int
        How many of the most influential patients are removed, one at a time.
    """
    training, test = load_patients()
    zeros: Params = {"w": jnp.zeros(30), "b": jnp.zeros(())}
    start = specop.objective(logits, loss, training, params=zeros)
    fit = specop.analysis.retrain(start, damping=L2, gtol=1e-9)
    print(fit, end="\n\n")

    train_loss = specop.objective(logits, loss, training, params=fit.parameters)
    test_loss = specop.objective(logits, loss, test, params=fit.parameters)
    first = specop.analysis.influence(train_loss, test_loss, damping=L2)
    print(first, end="\n\n")

    check = specop.analysis.validate_influence(train_loss, test_loss, first, samples=checked)
    print(check)
    newton = specop.analysis.influence(train_loss, test_loss, damping=L2, indices=check.indices, newton=True)
    newton_correlation = float(np.corrcoef(newton.scores, check.actual)[0, 1])
    print(f"predicted by a Newton step: correlation {newton_correlation:.4f}\n")

    harmful, _ = first.most_harmful(20)
    removed = specop.analysis.retrain(train_loss, without=harmful, damping=L2)
    fitted_again = specop.analysis.retrain(train_loss, without=harmful, damping=L2, theta=zeros)
    print(f"without 20 patients, from the old fit: {removed}\nwithout 20 patients, from zero: {fitted_again}")
    return Answer(first, newton, check, newton_correlation, removed, fitted_again)


if __name__ == "__main__":
    main()
