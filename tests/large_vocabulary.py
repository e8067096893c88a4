"""A network of many classes, for what products of frameworks hold: tanh(x w) v, and cross-entropy with labels."""

import numpy as np

ROWS, CLASSES = 8, 5000
LABELS = np.array([7, 4999, 0, 7, 1, 2, 3, 4])


def by_hand(kind, params, x, along):
    """Return the product of the Hessian, or of the Gauss-Newton or Fisher matrix, with `along`, in NumPy."""
    x, w, v = np.asarray(x), *(np.asarray(params[name]) for name in "wv")
    dw, dv = (np.asarray(along[name]) for name in "wv")
    h = np.tanh(x @ w)
    bend, dh = 1 - h**2, (1 - h**2) * (x @ dw)
    p = np.exp(h @ v)
    p /= p.sum(1, keepdims=True)
    u = dh @ v + h @ dv
    curved = p * (u - (p * u).sum(1, keepdims=True)) / ROWS
    product = {"w": x.T @ (bend * (curved @ v.T)), "v": h.T @ curved}
    if kind == "hessian":
        slopes = (p - np.eye(CLASSES)[LABELS]) / ROWS
        product["w"] += x.T @ (bend * (slopes @ dv.T) - 2 * h * dh * (slopes @ v.T))
        product["v"] += dh.T @ slopes
    return product
