"""What a framework's adapter provides for one batch; everything around it is written once, in the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.objectives.hidden import HiddenState
from specop.objectives.trees import Joined
from specop.statistics.numbers import Floats, Integers

__all__ = ["HESSIAN", "LIKELIHOODS", "Autodiff", "Linearization", "Matrix", "Same"]

LIKELIHOODS = ("categorical", "bernoulli", "gaussian")
"""The likelihoods whose Fisher information is known in closed form."""


@dataclass(frozen=True)
class Matrix:
    r"""A matrix of one batch that is known by its products.

    With outputs z, their Jacobian J, and the batch's mean loss :math:`\ell = \sum_i c_i \ell_i(z_i)` over terms i:

    ====================  ==============================================================================
    hessian               :math:`\nabla_\theta^2 \ell`
    ggn                   :math:`J^T (\nabla_z^2 \ell) J`
    output curvature      :math:`\sum_k r_k \nabla_\theta^2 z_k` with :math:`r = \nabla_z \ell`: the Hessian without
                          the Gauss-Newton matrix
    fisher                :math:`J^T M J`, M of blocks :math:`c_i E[s s^T]`, score s of a label drawn from the model
    sampled fisher        the same with a mean over `draws` labels instead of the expectation
    empirical fisher of   :math:`J^T M J`, M of blocks :math:`r_i r_i^T` for the part i of
    samples               :math:`r = \nabla_z \ell` that belongs to sample i: no mean is taken
    empirical fisher of   the same with blocks :math:`r_i r_i^T / c_i` for the terms i
    terms
    jacobian              :math:`J`, from parameters to all entries of the outputs in order
    transposed jacobian   :math:`J^T`
    ====================  ==============================================================================

    Parameters
    ----------
    kind : str
        Name of the matrix, one of the first column of the table.
    draws : int
        Labels drawn for each term.
    seed : int
        Seed of the draws.
    first : int
        Number, in the data, of the batch's first sample: draws belong to a sample, not to a batch.
    """

    kind: Literal[
        "hessian",
        "ggn",
        "output curvature",
        "fisher",
        "sampled fisher",
        "empirical fisher of samples",
        "empirical fisher of terms",
        "jacobian",
        "transposed jacobian",
    ]
    draws: int = 1
    seed: int = 0
    first: int = 0


HESSIAN = Matrix("hessian")


@dataclass(frozen=True)
class Linearization:
    """A product with one vector, and what multiplies the next ones.

    Attributes
    ----------
    first : native vector
        The product with the vector given.
    apply : callable
        Multiplies another vector, without another look at model or data.
    bytes : int
        Memory held by `apply`.
    """

    first: Array
    apply: Callable[[Array], Array]
    bytes: int


class Same:
    """An object that is equal to itself only; held, so that no other one gets its identity."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.array is other.array

    def __repr__(self) -> str:
        # The same in every process.
        return "Same()"

    __hash__ = None  # type: ignore[assignment]


class Autodiff(Protocol):
    """What a framework provides for one batch. Losses are means over the batch; vectors follow `layout`.

    ``theta=None`` stands for the model's current parameters.
    """

    backend: Backend
    layout: Layout
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """Number of entries of each of `names`."""

    shapes: tuple[tuple[int, ...], ...]
    """Shape of each of `names`."""

    output_axis: int
    """Axis of a parameter of two or more dimensions that the outputs of this framework's own layers lie along."""

    likelihood: str | None
    """What the criterion is the negative logarithm of: one of `LIKELIHOODS`, or None if that is not known."""

    accepts_stopped_gradients: bool
    """Whether the user says that what their model detaches is to count as a constant."""

    was_checked: bool
    """Whether `check_trained` has found nothing."""

    witness_samples: int | None
    """How many samples a first product is verified on; None for a whole batch, where other shapes would be compiled."""

    witness_bytes: float
    """What a batch's linearization may take before fewer samples are verified; infinity for no end."""

    @property
    def precision(self) -> float:
        """Relative rounding error of a product."""

    def restrict(self, select: Any) -> Autodiff:
        """Return the same for a part of the parameters."""

    def point(self) -> Array:
        """Return the selected parameters' current values as a vector."""

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure as a vector."""

    def unflatten(self, vector: Array) -> Any:
        """Return a vector as a parameter structure."""

    def fingerprint(self, *, fixed: bool = False) -> Any:
        """Return something comparable that changes with all that the loss depends on besides the data.

        At a fixed theta that is less: the selected parameters do not count.
        """

    def named_checksums(self) -> dict[str, Any]:
        """Return checksums of the arrays that the loss depends on, by name; needed where processes work together."""

    def free_memory(self) -> int:
        """Return the free bytes on the device."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error says that the device's memory is used up."""

    def preserved(self) -> Any:
        """Return a context manager that puts the framework's random state back."""

    def evaluating(self) -> AbstractContextManager[Any]:
        """Return a context in which the model is in evaluation mode and computes in the dtypes of its parameters.

        Modes are put back on leaving. Under a fixed seed they are left as they are: the loss is then that of training.
        """

    def prepare(self, batch: Any) -> Any:
        """Return the batch on the device."""

    def count(self, batch: Any) -> int:
        """Return the number of samples in a batch."""

    def array_shapes(self, structure: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the arrays in a batch or a part of one, those without dimensions left out."""

    def take(self, batch: Any, start: int, stop: int) -> Any:
        """Return the batch's samples from `start` to `stop`."""

    def pick(self, batch: Any, indices: Integers) -> Any:
        """Return the batch's samples at these places."""

    def gather(self, chosen: Iterable[tuple[Any, Integers]]) -> list[tuple[list[int], Joined]]:
        """Return samples at these places of several batches, those of batches of the same kind together."""

    def batch_bytes(self, batch: Any) -> int:
        """Return the memory that a batch takes."""

    def batch_versions(self, batch: Any) -> tuple[Any, ...]:
        """Return something comparable that changes when a batch's arrays are replaced or written into."""

    def batch_fingerprint(self, batch: Any) -> tuple[int, ...]:
        """Return a checksum of a batch."""

    def loss(self, theta: Array | None, batch: Any) -> Array:
        """Return the loss."""

    def gradient(self, theta: Array | None, batch: Any) -> tuple[Array, Array]:
        """Return loss and gradient."""

    def hidden_state(self) -> HiddenState:
        """Put back what calls of the model change in plain attributes of its layers, and give what names it."""

    def check_trained(self, theta: Array | None, batch: Any, changed: Callable[[], list[str]]) -> None:
        """Raise unless two calls of the loss agree, and the gradient is that of a plain call in the framework.

        `changed` names what calls have changed in the model.
        """

    def moving(self, vector: Array) -> Array:
        """Return the vector, with zeros where parameters count as constants; it may be consumed."""

    def constant_parts(self) -> tuple[str, ...]:
        """Return a remark on each part of a trained parameter that counts as a constant."""

    def in_float64(self, batch: Any, most_bytes: int) -> AbstractContextManager[tuple[Autodiff, Any]]:
        """Return a context that gives the same derivatives in float64, and the batch for them.

        It raises where the model cannot run there, or not within that memory.
        """

    def outputs(self, theta: Array | None, batch: Any) -> Array:
        """Return what the criterion is given as a vector."""

    def output_gradient(self, theta: Array | None, batch: Any, shift: Array) -> Array:
        """Return the criterion's gradient in the outputs as a vector, at outputs moved by another, maybe consumed."""

    def importance(self, theta: Array | None, batch: Any) -> Floats:
        """Return what each row of the outputs may add to curvature, as far as outputs and labels tell.

        The trace of the criterion's second derivative plus the length of its gradient, term by term, where the
        likelihood is known; otherwise the length of the gradient.
        """

    def linearize(self, theta: Array | None, batch: Any, vector: Array, matrix: Matrix) -> Linearization:
        """Return the matrix's product with a vector, and what multiplies further vectors."""

    def product(self, theta: Array | None, batch: Any, vector: Array, matrix: Matrix) -> Array:
        """Return the matrix's product with a vector and keep nothing."""

    def sample_gradients(self, theta: Array | None, batch: Any) -> Callable[[int, int], Array]:
        """Return ``rows(start, stop)``: what these samples of the batch add to the gradient of its mean loss.

        A native (stop - start, n) block with a row for each sample; all rows of the batch add up to the gradient.
        """

    def sample_traces(
        self, theta: Array | None, batch: Any, signs: Callable[[int], NDArray[np.int8]]
    ) -> Callable[[int, int], Floats]:
        """Return ``traces(start, stop)``: what these samples of the batch add to the trace of its matrix J' M J.

        M = L L' is the information of the likelihood, or where none is known the criterion's second derivative if that
        is the information of some likelihood. For random signs u of a sample's outputs that is ``|J' L u|^2`` on
        average, and exactly where the sample has one output. It takes the sample's gradient once.

        Parameters
        ----------
        theta : native vector or None
        batch : batch
        signs : callable
            ``signs(count)`` returns an array with a row of `count` signs for each sample.

        Raises
        ------
        InvalidInputError
            If there is no such likelihood, or samples have no outputs of their own.
        """
