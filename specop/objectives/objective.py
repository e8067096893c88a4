"""objective: what its arguments mean, whichever framework they come from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from specop.arrays.backend import framework_adapter
from specop.arrays.memory import MemoryBudget
from specop.errors import InvalidInputError, is_number
from specop.objectives.autodiff import Autodiff
from specop.objectives.calling import is_pair, needs_criterion
from specop.objectives.counting import Counting
from specop.objectives.data import Batches
from specop.objectives.dealt import DealtBatches
from specop.objectives.keras_models import compiled_loss, is_keras_loss, weight_of
from specop.objectives.mean import Objective
from specop.objectives.parallel import ParallelObjective
from specop.objectives.refusals import check_compiles, check_processes
from specop.objectives.trees import leaves_of

__all__ = ["objective"]


def objective(
    model: Any,
    criterion: Callable[..., Any] | None = None,
    data: Any = None,
    *,
    params: Any = None,
    select: Any = None,
    forward: Callable[[Any, Any], Any] | None = None,
    weight: Callable[[Any], Any] | None = None,
    batches: str | None = None,
    likelihood: str | None = None,
    memory_budget: int | None = None,
    fixed_randomness: int | None = None,
    parallel: Any = None,
    compile: bool = False,
    accept_stopped_gradients: bool = False,
) -> Objective:
    r"""Describe the mean loss of a model over data as a function of a parameter vector.

    .. math:: L(\theta) = \sum_b \frac{w_b}{\sum_c w_c} \, \ell_b(\theta)

    with the mean loss :math:`\ell_b` of batch b and its number of terms :math:`w_b`: the exact mean over all data,
    however they are split into batches. Nothing of the model is changed: parameters, buffers, ``.grad``,
    ``requires_grad``, modes and random states are left as they were found, also after an exception.

    Parameters
    ----------
    model : torch.nn.Module, keras.Model, tf.Module, flax.nnx.Module, equinox.Module, flax.linen.Module or callable
        A module; one of flax.linen comes with its variables as `params`, or as its TrainState. Or
        ``fun(params, batch)``, which returns the mean loss, or outputs if there is a criterion.
    criterion : callable, optional
        Mean loss ``criterion(outputs, y)`` of a batch ``(x, y)``; with `forward`, ``criterion(outputs, batch)``.
        A module without one returns the mean loss itself, as those of Hugging Face do: batches are mappings, and
        ``model(**batch).loss`` or ``["loss"]`` is it. Then there are loss, gradient and Hessian.
        A ``keras.losses.Loss`` is called as Keras does, ``criterion(y, outputs)``, with the weights of samples where a
        batch is ``(x, y, weights)``; weights of classes, which `fit` takes apart, are given as such. A compiled model
        of Keras without one takes the loss that it was compiled with, times its ``loss_weights``. In torch and
        TensorFlow it may read the model's parameters, as a penalty does; then there are loss, gradient and Hessian,
        but no matrices of the outputs and no gradients of samples, which would lack it.
    data : batch or re-iterable of batches
        A tuple, mapping, dataclass or array is one batch. Lists and data loaders are iterables of batches. Arrays are
        moved to the parameters' device batch by batch. Batches of a loader are kept as far as they fit into memory, so
        that what it shuffles, augments or draws, as samplers with replacement do, is what its first pass gave.
    params : structure of arrays, optional
        The parameters of a plain function: nested dicts, lists and tuples, in JAX any pytree. In JAX the function is
        compiled: Python values that it reads are those of the first call. In torch with ``parallel=mesh`` also those of
        a module, by name, that processes hold in parts; its own are then never read.
    select : str, list, module or callable, optional
        A part of the parameters: a name pattern such as ``"blocks.*.attn.*"``, the name of a module, a list of
        those or of parameters, a module, or a predicate of (name, parameter). A parameter that several modules hold
        goes by each of its names. Default: all that require grad.
    forward : callable, optional
        ``forward(model, batch) -> outputs``, for batches that are not pairs, and for models of single samples:
        ``lambda model, batch: jax.vmap(model)(batch[0])`` for most of equinox. Without a criterion it returns the mean
        loss, such as ``lambda model, batch: model.training_step(batch, 0)``.
    weight : callable, optional
        ``weight(batch)``: number of terms in the batch's mean. Default: what a criterion of torch's own divides by
        (samples, summed weights of classes, labels that are not ignored, entries), for others samples: the leading
        dimension that most arrays of the batch share.
        For language models with padding and a criterion of your own, the number of counted tokens; see the second
        example.
    batches : {"as given"}, optional
        ``"as given"`` makes the objective the mean over the losses of the batches as they are, weighted by `weight` or
        else equally. By default it is the loss of all data at once, and several batches raise where they do not add
        up to it: where the loss of a batch is not the mean over its halves, as with contrastive losses, statistics of
        a batch, or sums.
    likelihood : {"categorical", "bernoulli", "gaussian"}, optional
        What the criterion is the negative logarithm of, for `Objective.fisher`, where that cannot be told from the
        criterion itself: cross-entropy of class logits, cross-entropy of single logits, squared error. It is checked.
    memory_budget : int, optional
        Bytes for kept batches and the linearizations of all operators together, those used least recently being
        released first; default: half of what is free on the device. Beyond it, products are recomputed batch by batch.
    fixed_randomness : int, optional
        Seed under which every forward pass runs, for the curvature of a loss with dropout under one fixed mask, or
        with batch normalization in training mode. Without it both raise. Batches then count as they are given.
    parallel : bool or torch.distributed.device_mesh.DeviceMesh, optional
        What one process of several is to do. In JAX nothing is said where parameters lie on a mesh of the devices of
        several processes, which then make each call together. Otherwise, in a group (torch.distributed,
        jax.distributed, tf.distribute), False looks at the model and the data of this process alone, and sees through
        DistributedDataParallel. True, in torch, takes the data of each process for its part of all, and the parameters
        for the same in each, as under DistributedDataParallel; all processes then make each call together, and vectors
        are DTensors, n/R entries in each of R processes. A one-dimensional mesh is the same for the processes in it;
        where parameters are DTensors it must be the mesh that these lie on: those of fully_shard (FSDP2), passed as
        `params` of the same module without hooks, go with a part of the data in each process and as many batches, also
        on a mesh of two dimensions, copies times parts; those
        of a module that parallelize_module has cut go with the same data in each. A module inside of fully_shard's
        hooks is taken too: it has loss, gradient and `Objective.finite_difference_hessian`. In a group of more than one
        process the default raises.
    compile : bool
        Whether torch's compiler is to fuse what products consist of, for thousands of them with one matrix: on a CPU
        they took 0.86 to 1 of the time, and the second product half a minute more. It needs a C++ compiler.
        Products are the same up to rounding; the first is not compiled, nor are those of batches beyond the memory
        budget. On CUDA devices it takes CUDA graphs, which is not tested. JAX and TensorFlow compile without it.
    accept_stopped_gradients : bool
        Whether parts that the model detaches from its parameters, such as ``w.detach() * w**2``, are to count as
        constants. Otherwise a Hessian whose first product is not the derivative of the gradient raises.

    Returns
    -------
    Objective

    Examples
    --------
    >>> import torch, specop
    >>> model = torch.nn.Linear(3, 1)
    >>> data = (torch.randn(8, 3), torch.randn(8, 1))
    >>> H = specop.objective(model, torch.nn.functional.mse_loss, data).hessian()
    >>> H.shape
    (4, 4)

    A language model whose padding, labelled -100, does not count:

    >>> import torch.nn.functional as F
    >>> model = torch.nn.Sequential(torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6))
    >>> tokens = torch.tensor([[1, 2, 3], [4, 5, 0]])
    >>> batches = [(tokens, torch.tensor([[2, 3, 1], [5, -100, -100]])), (tokens, tokens)]
    >>> objective = specop.objective(
    ...     model,
    ...     lambda logits, labels: F.cross_entropy(logits.flatten(0, 1), labels.flatten()),
    ...     batches,
    ...     weight=lambda batch: (batch[1] != -100).sum(),
    ...     likelihood="categorical",
    ... )
    >>> objective.fisher().is_psd
    True
    """
    if params is None and (inspect.isroutine(model) or isinstance(model, functools.partial)):
        raise InvalidInputError(
            "a plain function needs the parameters it is given: objective(fun, params=..., data=...)."
        )
    if criterion is not None and not callable(criterion):
        raise InvalidInputError(
            f"criterion must be a function, criterion(outputs, y), or a loss object that can be called; got "
            f"{criterion!r}. Names are not looked up: pass what they stand for, of Keras the class in keras.losses."
        )
    if inspect.isclass(criterion):
        raise InvalidInputError(
            f"criterion is the class {criterion.__name__}: pass an object of it, {criterion.__name__}(...)."
        )
    adapter = framework_adapter(_representative(model, params, data))
    if not hasattr(adapter, "make_autodiff"):
        raise InvalidInputError(
            f"{adapter.backend.name} arrays have no derivatives: pass parameters of a framework that has automatic "
            f"differentiation, or wrap your own product in specop.FunctionOperator."
        )
    if batches not in (None, "as given"):
        raise InvalidInputError(f'batches must be "as given" or left out, got {batches!r}; data holds the batches.')
    # Where arrays tell which processes hold them, nobody has to say it.
    are_told = hasattr(adapter, "joined")
    if not are_told:
        check_processes(adapter.processes() if hasattr(adapter, "processes") else 1, parallel, hasattr(adapter, "team"))
    if data is None and params is None:
        raise InvalidInputError("data is missing: objective(model, criterion, data).")
    if criterion is None and forward is None:
        criterion = compiled_loss(model)
    if criterion is None and forward is None and params is None and (isinstance(data, tuple) or hasattr(data, "shape")):
        raise needs_criterion("with the mean loss criterion(outputs, y)")
    if memory_budget is not None and not (is_number(memory_budget) and memory_budget >= 0):
        raise InvalidInputError(f"memory_budget must be a number of bytes >= 0, got {memory_budget!r}.")
    options = {
        "params": params,
        "select": select,
        "forward": forward,
        "likelihood": likelihood,
        "fixed_randomness": fixed_randomness,
    }
    # Parameters in parts: then processes run the model together, and not each its own.
    spread = None
    if parallel not in (None, False) and hasattr(adapter, "make_spread"):
        spread = adapter.make_spread(model, criterion, parallel, **options)
    autodiff = adapter.make_autodiff(model, criterion, **options) if spread is None else spread
    if accept_stopped_gradients:
        autodiff.accepts_stopped_gradients = True
    if compile:
        check_compiles(compile, adapter.backend.name, spread is None and hasattr(autodiff, "compiles"))
        autodiff.compiles = True
    budget = MemoryBudget(None if memory_budget is None else int(memory_budget), autodiff.free_memory)
    is_told = weight is not None
    if weight is None and batches is not None:
        weight = _equally
    if weight is None and forward is None:
        weight = weight_of(criterion)
    if weight is None and forward is None and hasattr(adapter, "normalizer"):
        weight = _own_weight(adapter.normalizer(criterion), autodiff)
    if weight is None and criterion is None and forward is None and hasattr(adapter, "terms_of"):
        weight = adapter.terms_of(model)
    divisor_is_known = weight is not None and not is_told
    # A mask under a fixed seed belongs to a batch, not to its samples.
    as_given = batches is not None or fixed_randomness is not None
    said = {"memory_budget": memory_budget, "batches": batches, "accept_stopped_gradients": accept_stopped_gradients}
    joined = adapter.joined(autodiff, parallel, said) if are_told else None
    if joined is not None:
        data, weight = joined.data(data), joined.weight(weight)
    if spread is not None:
        weight = spread.weighing(data, weight, as_given)
    are_weighted = forward is None and is_keras_loss(criterion)
    counting = Counting(autodiff, weight, are_weighted, divisor_is_known)
    kind = DealtBatches if hasattr(autodiff, "placed") else Batches
    own = Objective(autodiff, kind(data, autodiff, counting, budget, as_given), budget)
    if are_told or spread is not None or parallel in (None, False):
        return own
    return ParallelObjective(own, adapter.team(parallel, autodiff))


def _equally(batch: Any) -> float:
    return 1.0


def _own_weight(normalizer: Callable[[Any], float] | None, autodiff: Autodiff) -> Callable[[Any], float] | None:
    """Return the weight of a batch (x, y) by what its criterion divides by, if that is known."""
    if normalizer is None:
        return None

    return functools.partial(_terms, normalizer, autodiff)


def _terms(normalizer: Callable[[Any], float], autodiff: Autodiff, batch: Any) -> float:
    return normalizer(batch[1]) if is_pair(batch) else autodiff.count(batch)


def _representative(model: Any, params: Any, data: Any) -> Any:
    """Return what shows the framework: a module, or of a parameter structure its first native array.

    Parameters of a restored checkpoint are NumPy arrays: then the data or a compiled function show it.
    """
    if params is None:
        return model
    leaves = list(leaves_of(params))
    if not leaves:
        raise InvalidInputError("params is empty: there is nothing to differentiate with respect to.")
    # Numbers, settings and NumPy arrays may stand beside the framework's own arrays.
    arrays = [leaf for leaf in leaves if hasattr(leaf, "shape")]
    native = [array for array in arrays if not _is_numpy(array)]
    if native or not arrays:
        return (native or leaves)[0]
    others = [model, *(leaf for leaf in leaves_of(data) if hasattr(leaf, "shape"))]
    found = next((one for one in others if not (_is_numpy(one) or inspect.isfunction(one))), None)
    if found is None:
        raise InvalidInputError(
            "the parameters are NumPy arrays, as a checkpoint holds them, and nothing shows the framework of the "
            "function. Pass jax.tree.map(jax.numpy.asarray, params); in torch and TensorFlow make a tensor of each."
        )
    return found


def _is_numpy(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "numpy"
