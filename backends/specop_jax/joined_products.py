r"""joined_products: the sum of two matrix products as one product, of factors side by side.

What a linear layer gives, :math:`h W`, changes by :math:`dh\, W + h\, dW = [dh, h]\, [W; dW]`. Two products and their
sum write three arrays as large as the result and read two, one product writes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

__all__ = ["joined_products"]

# Of the factors' entries: where a result has less, copies of its factors take as long as the sum.
_LARGE = 2


def joined_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function, to be compiled, that on a processor joins such sums where they are larger than their factors.

    Parameters
    ----------
    function : callable
        Function of pytrees of arrays that returns one.
    """

    def joined(*arguments: Any) -> Any:
        trace, kinds = jax.make_jaxpr(function, return_shape=True)(*arguments)
        found = _evaluated(trace, jax.tree_util.tree_leaves(arguments))
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(kinds), found)

    return joined


def _evaluated(trace: ClosedJaxpr, arguments: list[Any]) -> list[Any]:
    jaxpr, sums = trace.jaxpr, _sums(trace.jaxpr)
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*trace.consts, *arguments], strict=True))
    # What the products are made of is read when equations that are left out have named it.
    factors = {atom for pair in sums.values() for product in pair for atom in product.factors if isinstance(atom, Var)}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    first = 0
    for number, (left, right) in sums.items():
        _run(jaxpr, first, number, factors, values)
        values[jaxpr.eqns[number].outvars[0]] = left.plus(right, read)
        first = number + 1
    _run(jaxpr, first, len(jaxpr.eqns), factors, values)
    return [*map(read, jaxpr.outvars)]


def _sums(jaxpr: Jaxpr) -> dict[int, tuple[_Product, _Product]]:
    """Return the products that only their sum reads, by the number of the equation that adds them."""
    atoms = [*(atom for equation in jaxpr.eqns for atom in equation.invars), *jaxpr.outvars]
    uses = Counter(atom for atom in atoms if isinstance(atom, Var))
    products: dict[Any, _Product] = {}
    sums: dict[int, tuple[_Product, _Product]] = {}
    for number, equation in enumerate(jaxpr.eqns):
        name = equation.primitive.name
        given = [products.get(atom) if isinstance(atom, Var) else None for atom in equation.invars]
        product: _Product | None = None
        if name == "dot_general":
            product = _Product.of(equation)
        elif name == "transpose" and given[0] is not None:
            product = given[0].transposed(equation.params["permutation"])
        elif name in ("add", "add_any") and given[0] is not None and given[1] is not None:
            right = given[0].beside(given[1])
            if right is not None:
                sums[number] = given[0], right
        if product is not None and uses[equation.outvars[0]] == 1:
            products[equation.outvars[0]] = product
    return sums


def _run(jaxpr: Jaxpr, first: int, last: int, kept: set[Any], values: dict[Any, Any]) -> None:
    """Compute what equations define and others read, or what is kept, and add it to the values of variables."""
    equations, later = jaxpr.eqns[first:last], jaxpr.eqns[last:]
    atoms = [*(atom for equation in later for atom in equation.invars), *jaxpr.outvars]
    needed = kept | {atom for atom in atoms if isinstance(atom, Var)}
    made = [variable for equation in equations for variable in equation.outvars if variable in needed]
    given = [*values]
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    part = jaxpr.replace(constvars=[], invars=given, outvars=made, eqns=equations, debug_info=names)
    found = jaxpr_as_fun(ClosedJaxpr(part, []))(*values.values())
    values.update(zip(made, found, strict=True))


@dataclass(frozen=True)
class _Product:
    """A product of two factors, which a trace names, with one dimension of each summed over.

    Attributes
    ----------
    factors : pair of atoms
    summed : pair of int
        The dimension of each that is summed over.
    places : tuple of (int, int)
        For each dimension of the result, which factor's it is, and which of it.
    options : dict
        Precision and dtype.
    """

    factors: tuple[Any, Any]
    summed: tuple[int, int]
    places: tuple[tuple[int, int], ...]
    options: dict[str, Any]

    @classmethod
    def of(cls, equation: Any) -> _Product | None:
        """Return a product that is larger than its factors, or None."""
        options = dict(equation.params)
        summed, (batch, _) = options.pop("dimension_numbers")
        (result,), factors = equation.outvars, equation.invars
        if batch or len(summed[0]) != 1 or result.aval.size < _LARGE * sum(one.aval.size for one in factors):
            return None
        dimensions = summed[0][0], summed[1][0]
        places = [(side, i) for side in (0, 1) for i in range(factors[side].aval.ndim) if i != dimensions[side]]
        return cls((factors[0], factors[1]), dimensions, tuple(places), options)

    def transposed(self, permutation: tuple[int, ...]) -> _Product:
        """Return the product with dimensions of the result in another order."""
        return replace(self, places=tuple(self.places[i] for i in permutation))

    def exchanged(self) -> _Product:
        """Return the same product with its second factor first."""
        places = tuple((1 - side, i) for side, i in self.places)
        return replace(self, factors=self.factors[::-1], summed=self.summed[::-1], places=places)

    def beside(self, other: _Product) -> _Product | None:
        """Return the other product with factors in the order in which they can stand beside these, or None."""

        def facts(product: _Product) -> Any:
            return [side for side, _ in product.places], [one.aval.dtype for one in product.factors], product.options

        return next((one for one in (other, other.exchanged()) if facts(one) == facts(self)), None)

    def plus(self, other: _Product, read: Callable[[Any], Array]) -> Array:
        """Return the sum with another product that can stand beside this one."""

        def joined(*factors: Array) -> Array:
            return self._multiplied(*map(self._side_by_side, (0, 1), factors[:2], factors[2:], [other] * 2))

        def added(*factors: Array) -> Array:
            return self._multiplied(*factors[:2]) + other._multiplied(*factors[2:])

        # Libraries of other devices add a product to what is there.
        found: Array = lax.platform_dependent(*map(read, self.factors + other.factors), cpu=joined, default=added)
        return found

    def _side_by_side(self, side: int, factor: Array, theirs: Array, other: _Product) -> Array:
        order = {self.summed[side]: other.summed[side]}
        order |= {mine: its for (of, mine), (_, its) in zip(self.places, other.places, strict=True) if of == side}
        return jnp.concatenate(
            [factor, lax.transpose(theirs, [order[i] for i in range(theirs.ndim)])], self.summed[side]
        )

    def _multiplied(self, *factors: Array) -> Array:
        dimensions = (((self.summed[0],), (self.summed[1],)), ((), ()))
        found = lax.dot_general_p.bind(*factors, dimension_numbers=dimensions, **self.options)
        own = sorted(self.places)
        return lax.transpose(found, [own.index(place) for place in self.places])
