"""Objective: the mean loss as a function of a parameter vector, its matrices, and the inverses of these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from specop.arrays.backend import Array
from specop.errors import checked_number
from specop.objectives.matrices import MATRICES, Matrices
from specop.operators.identity import identity_like
from specop.results.solve import SolveResult
from specop.solvers.solve import solve
from specop.solvers.woodbury.sherman_morrison import ShermanMorrison

__all__ = ["Objective"]


class Objective(Matrices):
    """The mean loss over a data set as a function of a parameter vector; made by `objective`.

    Parameters
    ----------
    autodiff : Autodiff
        Derivatives of the model for one batch.
    data : Batches
        What the loss is the mean over.
    budget : MemoryBudget
        What batches and linearizations may take.
    """

    def solve(
        self,
        b: Any,
        *,
        theta: Array | None = None,
        matrix: str = "hessian",
        damping: float,
        method: str = "auto",
        rtol: float = 1e-5,
        atol: float = 0.0,
        max_matvecs: int | None = None,
        preconditioner: Any = None,
        x0: Any = None,
        seed: int = 0,
        progress: bool = False,
        raise_on_failure: bool = False,
    ) -> SolveResult:
        r"""Multiply by the inverse of a damped curvature matrix: solve (H + damping * I) x = b.

        All matrices are of the *mean* loss. With a sum over m samples, or with a weight decay that belongs to one, the
        same damping is m times smaller here; the result states the system that was solved.

        Parameters
        ----------
        b : native array (n,) or (n, k), or parameter structure
            Right-hand sides, such as ``objective.gradient()``.
        theta : native vector (n,), optional
            Parameters at which the matrix is taken; default: the model's current parameters.
        matrix : {"hessian", "ggn", "fisher", "empirical fisher"}
            Which matrix, as `hessian`, `ggn`, ``fisher()`` and ``fisher(kind="empirical", of="samples")`` make it.
        damping : float
            Multiple of the identity that is added, at least 0. The last three matrices are singular without it for most
            models, and the Hessian indefinite.
        method : {"auto", "lanczos", "cg", "minres", "neumann"}
            How to solve; see `specop.solve`.
        rtol, atol : float
            Goal for the residual of each column: ``max(rtol * |b|, atol)``.
        max_matvecs : int, optional
            Limit on products for each column; default ``min(10 n, 10_000)``, at least 20.
        preconditioner : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator, optional
            An approximation of the inverse of the damped matrix, symmetric positive definite.
        x0 : like b, optional
            Solution to start from, such as the solution of a similar system. It costs one product for each column.
        seed : int
            Seed of the random vectors that a breakdown of the Krylov space asks for.
        progress : bool
            Whether to show a progress bar if standard error is a terminal.
        raise_on_failure : bool
            Whether to raise NotConvergedError where a column does not converge, instead of warning.

        Returns
        -------
        SolveResult
            The solution, with ``damping`` and ``system``.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> objective.solve(objective.gradient(), damping=0.1).system
        '(H + 0.1 I) x = b, H the Hessian of the mean loss'
        """
        self.processes.agree()
        damping = checked_number("damping", damping)
        operator = self.matrix(matrix, theta)
        found = solve(
            operator + damping * identity_like(operator) if damping else operator,
            b,
            method=method,
            rtol=rtol,
            atol=atol,
            max_matvecs=max_matvecs,
            preconditioner=preconditioner,
            x0=x0,
            seed=seed,
            progress=progress,
            raise_on_failure=raise_on_failure,
        )
        letter, text = MATRICES[matrix]
        left = f"({letter} + {damping:g} I)" if damping else letter
        return replace(found, system=f"{left} x = b, {letter} {text}", damping=damping)

    def inverse_fisher(
        self,
        *,
        damping: float,
        theta: Array | None = None,
        count: int | None = None,
        blocks: int | Iterable[slice] | None = None,
        store: str = "device",
        half: bool = False,
    ) -> ShermanMorrison:
        r"""Return the inverse of the damped empirical Fisher matrix, :math:`(F + \delta I)^{-1}`, in closed form.

        It takes one pass over the samples' gradients. Vectors and parameter structures can be multiplied; there is a
        diagonal, and rows can be added and taken out.

        Parameters
        ----------
        damping : float
            Multiple :math:`\delta` of the identity that is added, at least 0.
        theta : native vector (n,), optional
            Parameters at which it is computed; default: the model's current ones.
        count : int, optional
            Number of samples that the mean is taken over; default: that of the data.
        blocks : int or sequence of slice, optional
            Keep only diagonal blocks of the matrix: all of this size, the last one smaller, or those of consecutive
            slices that cover all entries, such as ``objective.slices.values()``.
        store : {"device", "host"}
            Memory that gradients are kept in. From the host they are moved for each product.
        half : bool
            Whether to keep gradients in float16; the matrix is then that of the rounded ones.

        Examples
        --------
        >>> import torch, specop
        >>> data = (torch.randn(8, 3), torch.randn(8, 1))
        >>> objective = specop.objective(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, data)
        >>> inverse = objective.inverse_fisher(damping=0.1)
        >>> (inverse @ objective.gradient()).shape, inverse.samples
        (torch.Size([4]), 8)
        """
        self.processes.agree()
        rows = (block for _, block in self.numbered_gradients(theta))
        return ShermanMorrison(
            damping=damping, rows=rows, structure=self, count=count, blocks=blocks, store=store, half=half
        )
