"""How processes hold a parameter that is cut once or twice, against what `torch.chunk` gives each of them."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch")
exchange = pytest.importorskip("specop_torch.exchange")

pytestmark = pytest.mark.torch


def cuts_of(shape):
    """Cuts of six processes: by three or by two of them, and first by three and then by two, along any dimensions."""
    dimensions = range(len(shape))
    yield ()
    for one, step in itertools.product(dimensions, (1, 2)):
        yield (exchange.Cut(one, 2 if step == 1 else 3, step),)
    for one, other in itertools.product(dimensions, dimensions):
        yield exchange.Cut(one, 3, 2), exchange.Cut(other, 2)
        yield exchange.Cut(one, 2), exchange.Cut(other, 3, 2)


@pytest.mark.parametrize("shape", [(), (5,), (7, 5), (3, 8), (2, 3, 4), (4, 1, 3), (0, 3)])
def test_what_processes_hold_is_what_chunks_leave(shape):
    whole = torch.arange(math.prod(shape)).reshape(shape)
    for cuts in cuts_of(shape):
        place, told = exchange.Place(shape, cuts), []
        for process in range(6):
            own = whole
            for cut in cuts:
                chunks = torch.chunk(own, cut.count, cut.dimension)
                part = process // cut.step % cut.count
                own = chunks[part] if part < len(chunks) else own.narrow(cut.dimension, 0, 0)
            flat = own.reshape(-1)
            assert place.local_shape(process) == own.shape
            for entry in range(-1, whole.numel() + 2):
                assert place.before(process, entry) == (flat < entry).sum()
            for start in range(len(flat)):
                found = place.entries(process, start, len(flat), flat.device)
                if isinstance(found, slice):
                    found = torch.arange(found.start, found.stop)
                assert torch.equal(found, flat[start:])
            if place.first(process) == process:
                told += flat.tolist()
        # Those who come first hold each entry once.
        assert sorted(told) == whole.reshape(-1).tolist()
