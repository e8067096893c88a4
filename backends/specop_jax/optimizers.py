"""What an optax optimizer does with a gradient, measured: its transformation is a function, and tells no settings.

It is called on gradients so small that their squares vanish beside the second moments, which are set so that a step
leaves them as the state has them. Its answers are linear then, and give rate, momentum, weight decay and each entry's
denominator at the state's own count, whatever schedules, masks or injected settings stand behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from specop.errors import InvalidInputError
from specop.objectives.update_rule import Step, UpdateRule, no_rule, no_state
from specop_jax.autodiff import JaxAutodiff
from specop_jax.readings import apart, ends, largest
from specop_jax.transformations import ADAM, DIVIDING, KNOWN, Answer, Named, Transformation

__all__ = ["update_rule"]

# Squares of these gradients vanish beside any second moment, and no clipping sees them.
_TINY = 1e-20
# A second moment and the size of a gradient of which it is the square.
_SQUARE, _ROOT = 1e-20, 1e-10
# A second moment beside whose root epsilons vanish, and gradients that it divides.
_HUGE, _SMALL = 1e12, 1e-12
# So many steps that no bias is corrected any more.
_LATE = 10**9
# Float32 has seven digits, of which powers of decays cost four.
_SAME = 1e-2
# What two readings of one setting may differ by.
_ROUNDED = 1e-6


def update_rule(autodiff: JaxAutodiff, optimizer: Any, gradient: Array) -> UpdateRule:
    """Return what a transformation of optax does with the gradient of the selected parameters."""
    with autodiff.place.processes.together():
        transformation, state = _parts_of(optimizer)
    call = Transformation(autodiff, transformation, state)
    name = DIVIDING.get(call.dividing, "SGD")
    decays = _second_decays(call, name, autodiff.names) if call.dividing else None
    along = call(gradient=_TINY, decays=decays)
    response = {one: -part / _TINY for one, part in along.updates.items()}
    held = _constants({one: jnp.sign(part) for one, part in response.items()}, name, "the sign of its steps")
    still = [one for one, sign in held.items() if sign <= 0]
    if still:
        raise InvalidInputError(
            f"this {name} does not move {still[0]!r} down the gradient: its rate is zero there, or it climbs. There is "
            f"no curvature up to which that is stable. Pass objective.restrict(...) to the parameters that it moves, "
            f"or lr= and momentum=."
        )
    decayed = call(params=_TINY, decays=decays)
    _check_linear(call, name, decays, along, decayed)
    momentum, gain, nesterov, kept = _momentum_of(call, name, decays, along)
    share = {one: 1.0 + b if nesterov else gain[one] for one, b in momentum.items()}
    scaled = {one: part / share[one] for one, part in response.items()}
    rates = _rates(call, name, decays, share, momentum) if call.dividing else _constants(scaled, name, "its rate")
    coupled, decoupled = _decays_of(call, name, along, decayed, response, rates)
    slopes, place = dict(zip(autodiff.names, autodiff.parts(gradient), strict=True)), autodiff.current()
    whole = {one: slope + coupled[one] * place[one] for one, slope in slopes.items()}
    if call.has_first and call.dividing in ("", *ADAM):
        taken = call(gradient=slopes, params=place, second=0.0).first
        small = {one: along.first[one] / _TINY * part for one, part in whole.items()}
    elif decays:
        taken = call(gradient=slopes, params=place, second=0.0).second
        small = {one: (1.0 - decays[one]) * part**2 for one, part in whole.items()}
    else:
        taken = call(gradient=slopes, params=place).updates
        small = {one: decayed.updates[one] / _TINY * place[one] - response[one] * part for one, part in slopes.items()}
    if not _alike(taken, small):
        raise InvalidInputError(
            f"the optimizer clips the gradient of this point, or changes it in another way before {name} sees it: its "
            f"steps do not follow the curvature here. The limit holds where nothing is clipped; pass lr= and momentum= "
            f"for that without the optimizer."
        )
    if kept:
        _check_steps(call, name, decays, momentum, scaled, nesterov, kept, decoupled, coupled, place)
    steps = tuple(
        Step(rates[one], momentum[one], gain[one], nesterov, coupled[one], decoupled[one]) for one in autodiff.names
    )
    scale = [jnp.sqrt(scaled[one] / rates[one]) for one in autodiff.names]
    if name == "Adam" and any(decoupled.values()):
        name = "AdamW"
    return UpdateRule(
        name,
        steps,
        autodiff.joined(scale) if call.dividing else None,
        autodiff.joined([kept[one] for one in autodiff.names]) if kept else None,
    )


def _parts_of(optimizer: Any) -> tuple[Any, Any]:
    """Return the transformation and its state."""
    if type(optimizer).__module__.partition(".")[0] == "flax" and hasattr(optimizer, "opt_state"):
        from flax import nnx

        return optimizer.tx, nnx.as_pure(optimizer.opt_state)
    is_pair = isinstance(optimizer, tuple) and len(optimizer) == 2 and not hasattr(optimizer, "update")
    if is_pair and hasattr(optimizer[0], "update"):
        return optimizer
    raise InvalidInputError(
        f"optimizer must be the pair (transformation, state) of optax, such as (tx, tx.init(params)) or what update "
        f"returned last, or an nnx.Optimizer; got {type(optimizer).__name__}. Without one, pass lr= and momentum=."
    )


def _second_decays(call: Transformation, name: str, names: tuple[str, ...]) -> dict[str, float]:
    """Return what a step leaves of second moments, or raise where they are kept otherwise or are not there yet."""
    lacking = [one for one in names if one not in call.second]
    if lacking:
        raise InvalidInputError(
            f"{name} moves a part of the parameters, and another rule {lacking[0]!r}: no one limit holds for both. "
            f"Pass objective.restrict(...) to the parameters of one rule."
        )
    if not largest(call.second.values()).any():
        raise no_state(name, names)
    left = call(second=_SQUARE).second
    added = call(second=_SQUARE, gradient=2.0 * _ROOT).second
    kept = _constants({one: part / _SQUARE for one, part in left.items()}, name, "the decay of its second moments")
    grown = {one: (part - left[one]) / _SQUARE for one, part in added.items()}
    if not all(0 < decay < 1 for decay in kept.values()) or not _alike(
        grown, {one: jnp.full_like(part, 4.0 * (1.0 - kept[one])) for one, part in grown.items()}
    ):
        raise _unlike(name, "keeps second moments that are no means of squared gradients")
    return kept


def _check_linear(
    call: Transformation, name: str, decays: dict[str, float] | None, along: Answer, decayed: Answer
) -> None:
    both = call(gradient=2 * _TINY, params=_TINY, decays=decays).updates
    if not _alike(both, {one: 2 * part + decayed.updates[one] for one, part in along.updates.items()}):
        raise _unlike(name, "takes steps that are not proportional to gradients, as signs and norms make them")


def _momentum_of(
    call: Transformation, name: str, decays: dict[str, float] | None, along: Answer
) -> tuple[dict[str, float], dict[str, float], bool, Named]:
    """Return momentum and gain of each parameter, whether steps look ahead, and the momenta in units of gradients."""
    if not call.has_first:
        return dict.fromkeys(along.updates, 0.0), dict.fromkeys(along.updates, 1.0), False, {}
    lacking = [one for one in along.updates if one not in call.first]
    if lacking:
        raise InvalidInputError(
            f"{name} moves {lacking[0]!r} without momentum and others with it: no one limit holds for both. Pass "
            f"objective.restrict(...) to the parameters of one rule."
        )
    moved = call(first=_TINY, decays=decays)
    momentum = _constants({one: part / _TINY for one, part in moved.first.items()}, name, "its momentum")
    taken = {one: part / _TINY for one, part in along.first.items()}
    gain = dict.fromkeys(momentum, 1.0)
    if call.dividing in ADAM:
        gain = {one: 1.0 - b for one, b in momentum.items()}
        if not _alike(taken, {one: jnp.full_like(part, gain[one]) for one, part in taken.items()}):
            raise _unlike(name, "takes gradients into their mean otherwise")
    # What a step makes of the mean after it: the same for what was there and for the gradient, unless it looks ahead.
    ahead = {False: 0, True: 0}
    for one, b in momentum.items():
        if b == 0:
            continue
        fresh, old = along.updates[one] / along.first[one], moved.updates[one] / moved.first[one]
        for nesterov, factor in ((False, 1.0), (True, (1.0 + b) / b)):
            ahead[nesterov] += _alike({one: fresh}, {one: factor * old})
    count = sum(b != 0 for b in momentum.values())
    if count not in ahead.values() or (ahead[True] and call.dividing in ADAM):
        raise _unlike(name, "looks ahead, as Nadam does")
    kept = {one: part * gain[one] / taken[one] for one, part in call.first.items()}
    return momentum, gain, bool(ahead[True]), kept


def _rates(
    call: Transformation,
    name: str,
    decays: dict[str, float] | None,
    share: dict[str, float],
    momentum: dict[str, float],
) -> dict[str, float]:
    """Return the rate of each parameter, from steps beside whose second moments an epsilon vanishes."""
    late = call(gradient=_SMALL, second=_HUGE, decays=decays, count=_LATE).updates
    scaled = {one: -part / _SMALL * _HUGE**0.5 / share[one] for one, part in late.items()}
    rates = _constants(scaled, name, "its rate")
    now = call(gradient=_SMALL, second=_HUGE, decays=decays).updates
    wanted = {}
    for one, rate in rates.items():
        expected = rate * share[one] * _SMALL / _HUGE**0.5
        if call.dividing in ADAM:
            expected /= 1.0 - momentum[one] ** call.taken
        if decays and call.taken and call.dividing != "ScaleByAmsgradState":
            expected *= (1.0 - decays[one] ** call.taken) ** 0.5
        wanted[one] = jnp.full_like(now[one], -expected)
    if not _alike(now, wanted):
        raise _unlike(name, "corrects the bias of its moments otherwise")
    return rates


def _decays_of(
    call: Transformation, name: str, along: Answer, decayed: Answer, response: Named, rates: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the weight decay that is added to gradients, and the share of parameters that a step takes besides."""
    taken = {one: -part / _TINY for one, part in decayed.updates.items()}
    if call.has_first:
        ratio = {one: part / along.first[one] for one, part in decayed.first.items()}
        coupled = _constants(ratio, name, "its weight decay")
        left = {one: part - coupled[one] * response[one] for one, part in taken.items()}
        rounding = dict(zip(taken, (1e-5 * largest(taken.values())).tolist(), strict=True))
        left = {one: jnp.where(jnp.abs(part) <= rounding[one], 0.0, part) for one, part in left.items()}
        return coupled, _constants(left, name, "its weight decay")
    none = dict.fromkeys(taken, 0.0)
    if not call.dividing:
        return none, _constants(taken, name, "its weight decay")
    if _are_constant(taken):
        return none, _constants(taken, name, "its weight decay")
    return _constants({one: part / response[one] for one, part in taken.items()}, name, "its weight decay"), none


def _check_steps(
    call: Transformation,
    name: str,
    decays: dict[str, float] | None,
    momentum: dict[str, float],
    scaled: Named,
    nesterov: bool,
    kept: Named,
    decoupled: dict[str, float],
    coupled: dict[str, float],
    place: Named,
) -> None:
    """Raise where the step that follows from the momenta as they are is not proportional to them."""
    # A decay that is added to gradients would go into the second moments.
    still = any(coupled.values())
    found = call(first=None, decays=decays, params=0.0 if still else place).updates
    factor = {one: -b * b if nesterov else -b for one, b in momentum.items()}
    expected = {
        one: factor[one] * scaled[one] * kept[one] - (0.0 if still else decoupled[one]) * place[one] for one in momentum
    }
    if not _alike(found, expected):
        raise _unlike(name, "clips its steps, or scales them by their size or that of the parameters")


def _constants(parts: Mapping[str, Array], name: str, what: str) -> dict[str, float]:
    """Return the one number that all entries of each parameter share."""
    found_ends = ends(parts.values())
    for one, (low, high) in zip(parts, found_ends, strict=True):
        if not high - low <= _SAME * max(abs(low), abs(high)):
            raise _unlike(name, f"differs within {one!r} in {what}")
    found: dict[str, float] = {}
    for one, value in zip(parts, map(float, found_ends.mean(1)), strict=True):
        # One setting is read from each parameter, with roundings of its own where that is cut over devices.
        found[one] = next((known for known in found.values() if abs(value - known) <= _ROUNDED * abs(known)), value)
    return found


def _are_constant(parts: Mapping[str, Array]) -> bool:
    found = ends(parts.values())
    return bool((np.ptp(found, axis=1) <= _SAME * np.abs(found).max(1)).all())


def _alike(found: Named, expected: Named) -> bool:
    """Whether all entries agree to a hundredth of the largest one of their parameter."""
    distance, size = apart((part, expected[one]) for one, part in found.items()).T
    return bool((distance <= _SAME * size).all())


def _unlike(name: str, what: str) -> InvalidInputError:
    return no_rule(f"an optimizer with the state of {name} that {what},", KNOWN)
