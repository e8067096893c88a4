"""check_repeated: whether a loss is the same function when it is called again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval

from specop.arrays.processes import ALONE, Processes
from specop.objectives.refusals import changing_loss
from specop_jax.loss_program import LossProgram
from specop_jax.programs import Arguments, shape_of
from specop_jax.structures import checksum

__all__ = ["check_repeated"]


def check_repeated(
    program: LossProgram, arguments: Arguments, changed: Callable[[], list[str]], processes: Processes = ALONE
) -> None:
    """Raise NondeterministicError if the loss is another one in the next call.

    Two traces are compared, which takes a small part of the time of compiling: what Python draws, counts or remembers
    are constants in them. The second one is of a model as the first call has left it.

    Parameters
    ----------
    program : LossProgram
    arguments : tuple
        (points, others, arrays).
    changed : callable
        Names what calls have changed in Python.
    processes : Processes
        Processes that make this call together.
    """
    names: list[str] = []

    def again(*given: Any) -> Any:
        found, updated = program.functions.again(*given)
        names.extend(updated)
        return found

    shapes = jax.tree_util.tree_map(shape_of, arguments)
    # Functions of their own: JAX would find an earlier trace of the same one.
    with processes.together():
        traces = [jax.make_jaxpr(call)(*shapes) for call in (lambda *given: program.functions.value(*given), again)]
        described = [*map(_described, traces)]
    losses: list[Any] = []
    if processes.any(described[0] != described[1]):
        leaves = jax.tree_util.tree_leaves(arguments)
        losses = [program.compiled(jaxpr_as_fun(trace))(*leaves)[0] for trace in traces]
    elif processes.any("callback" in described[0][0]):
        losses = [program.loss(*arguments) for _ in range(2)]
    if losses and float(losses[0]) != float(losses[1]):
        raise changing_loss(float(losses[0]), float(losses[1]), [*changed(), *names])


def _described(trace: Any) -> tuple[str, list[int]]:
    """Return the text of what the result depends on, and checksums of the constants in it."""
    used, _ = partial_eval.dce_jaxpr(trace.jaxpr, [True])
    read = {id(variable) for equation in used.eqns for variable in equation.invars}
    kept = {name: value for name, value in zip(used.constvars, trace.consts, strict=True) if id(name) in read}
    # Functions are printed with their addresses.
    text = re.sub("0x[0-9a-f]+", "", str(used.replace(constvars=[*kept])))
    return text, [checksum(value) for value in kept.values()]
