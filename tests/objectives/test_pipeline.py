"""How products reach the framework: in few steps, and with no batch tried that cannot be held."""

import dataclasses
import sys

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS, models
from parity.problems import PROBLEMS
from specop.krylov.run import Run
from specop.objectives.products import Products

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


class Spy:
    """Looks on while the core calls an adapter: what, and how many frames of specop's lie above, from a Run's on.

    `sizes` is what linearizations then say that they hold, one after the other.
    """

    def __init__(self, monkeypatch, adapter, sizes=()):
        self.calls = []
        sizes = iter(sizes)
        self.depths = []
        linearize, product = adapter.linearize, adapter.product

        def spied_linearize(autodiff, theta, batch, vector, matrix):
            self.note("linearize")
            made = linearize(autodiff, theta, batch, vector, matrix)

            def apply(vector):
                self.note("apply")
                return made.apply(vector)

            return dataclasses.replace(made, apply=apply, bytes=next(sizes, made.bytes))

        def spied_product(*arguments):
            self.note("product")
            return product(*arguments)

        monkeypatch.setattr(adapter, "linearize", spied_linearize)
        monkeypatch.setattr(adapter, "product", spied_product)

    def note(self, call):
        frames, frame = 0, sys._getframe(2)
        if not is_core(frame):  # one method of an adapter may call another
            return
        self.calls.append(call)
        while frame is not None:
            frames += is_core(frame)
            if frame.f_code is Run.multiply.__code__:
                self.depths.append(frames)
                return
            frame = frame.f_back


def is_core(frame):
    return frame.f_globals["__name__"].partition(".")[0] == "specop"


def made(framework, **keywords):
    # Without the witness of the first product, which multiplies as well.
    return models(framework).objective(PROBLEMS["mlp"], "float64", accept_stopped_gradients=True, **keywords)


@pytest.mark.parametrize("budget", [2**30, 0])
@each_framework
def test_a_product_is_at_most_eight_frames_above_the_adapter(framework, budget, monkeypatch):
    """The first, which linearizes, the second, held against it, and those that are replayed or computed anew."""
    found = made(framework, memory_budget=budget)
    H = found.hessian()
    spy = Spy(monkeypatch, type(H.point.autodiff))
    with Run(H, "frames") as run:
        for expected in ({"linearize"}, {"apply"}, {"apply"}) if budget else ({"linearize", "product"}, {"product"}):
            spy.calls.clear()
            run.multiply(found.theta)
            assert set(spy.calls) == expected
    assert spy.depths and max(spy.depths) <= 8


@each_framework
def test_a_batch_that_would_not_fit_is_not_linearized(framework, monkeypatch):
    """A linearization takes memory while it is made: the largest so far tells whether the next one is worth a try."""
    found = made(framework, memory_budget=2500)
    H, vector = found.hessian(), found.theta
    spy = Spy(monkeypatch, type(H.point.autodiff), sizes=[1000, 1000])
    first = H @ vector
    assert spy.calls == ["linearize", "linearize", "product"]
    assert (H.plan().batches, H.plan().linearized, H.plan().bytes) == (3, 2, 2000)
    np.testing.assert_allclose(H.backend.to_numpy(H @ vector), H.backend.to_numpy(first), atol=1e-12)


@each_framework
def test_the_largest_linearization_so_far_says_what_the_next_may_take(framework, monkeypatch):
    found = made(framework, memory_budget=2500)
    spy = Spy(monkeypatch, type(found.hessian().point.autodiff), sizes=[1000, 600, 600])
    found.hessian() @ found.theta
    assert spy.calls == ["linearize", "linearize", "product"]


@each_framework
def test_what_was_replayed_wrong_is_not_replayed_again(framework, monkeypatch):
    """Where the second product does not fit the first, none is made of what was linearized, nor of anything new."""
    found = made(framework)
    H, vector = found.hessian(), found.theta
    expected = H @ vector
    monkeypatch.setattr(Products, "_agrees", lambda self, *vectors: False)
    spy = Spy(monkeypatch, type(H.point.autodiff))
    for multiply in (lambda: H @ vector, lambda: H.block_diagonal([[*found.names]]) @ vector):
        np.testing.assert_allclose(H.backend.to_numpy(multiply()), H.backend.to_numpy(expected), atol=1e-12)
    assert "linearize" not in spy.calls and spy.calls.count("product") == 6


@each_framework
def test_the_model_is_looked_at_once_for_a_product_that_is_replayed(framework, monkeypatch):
    """And at entry and exit where code of the user's may run: the first products, and those of an algorithm."""
    found = made(framework)
    H, vector = found.hessian(), found.theta
    looks = []
    adapter = type(H.point.autodiff)
    fingerprint = adapter.fingerprint
    monkeypatch.setattr(adapter, "fingerprint", lambda self, **fixed: looks.append(1) or fingerprint(self, **fixed))
    counts = []
    shifted, block = H + specop.identity_like(H), H.backend.stack_columns([vector])
    for multiply in [*[lambda: H @ vector] * 3, lambda: shifted @ vector, lambda: H @ block]:
        multiply()
        counts.append(len(looks))
        looks.clear()
    assert counts == [2, 2, 1, 1, 2]
