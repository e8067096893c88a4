"""Cross-entropy over many classes: the derivatives of torch's own function, in less memory."""

import math
import tracemalloc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import specop
from specop.objectives import products, witness
from specop_torch.cross_entropy import cross_entropy
from specop_torch.linear import linear
from specop_torch.parameters import TorchParameters

ROWS, CLASSES = 6, 4100


def logits():
    return (3 * torch.sin(torch.arange(ROWS * CLASSES, dtype=torch.float64))).reshape(ROWS, CLASSES)


def labels():
    return torch.arange(ROWS) * 677 % CLASSES


ARGUMENTS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "class weights": {"weight": torch.rand(CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))},
    "ignored": {"ignore_index": int(labels()[2])},
    "saturated": {},
    "label smoothing": {"label_smoothing": 0.1},
}


def derivatives(function, case):
    """The loss, its gradient, and two further derivatives along a direction."""
    scale = 300.0 if case == "saturated" else 1.0
    z = (scale * logits()).requires_grad_()
    along = torch.cos(torch.arange(z.numel(), dtype=torch.float64)).reshape(z.shape)
    loss = function(z, labels(), **ARGUMENTS[case])
    found = [(loss * torch.arange(1.0, ROWS + 1, dtype=torch.float64)).sum() if loss.ndim else loss.square()]
    for _ in range(3):
        (slope,) = torch.autograd.grad(
            found[-1] if len(found) == 1 else (found[-1] * along).sum(), z, create_graph=True
        )
        found.append(slope)
    return [one.detach().numpy() for one in found]


@pytest.mark.parametrize("case", ARGUMENTS)
def test_derivatives_up_to_the_third(case):
    for found, expected in zip(derivatives(cross_entropy, case), derivatives(F.cross_entropy, case), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14 * (1 + np.abs(expected).max()))


def test_the_second_derivative_in_closed_form():
    z = logits().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(z, labels(), reduction="sum"), z, create_graph=True)
    u = torch.cos(torch.arange(z.numel(), dtype=torch.float64)).reshape(z.shape)
    (found,) = torch.autograd.grad(slope, z, u)
    p = np.exp(logits().numpy())
    p /= p.sum(1, keepdims=True)
    expected = p * (u.numpy() - (p * u.numpy()).sum(1, keepdims=True))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_classes_in_the_second_dimension(reduction):
    def derivatives(function):
        z = torch.stack([logits(), logits().flip(0)], dim=2).requires_grad_()
        y = torch.stack([labels(), labels().flip(0)], dim=1)
        loss = function(z, y, reduction=reduction, ignore_index=int(y[2, 1]))
        weighted = loss * torch.arange(1.0, 1 + loss.numel()).view(loss.shape)
        (slope,) = torch.autograd.grad(weighted.sum(), z, create_graph=True)
        return loss, slope, *torch.autograd.grad(slope, z, torch.cos(slope.detach()))

    for found, expected in zip(derivatives(cross_entropy), derivatives(F.cross_entropy), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_single_sample_without_a_batch():
    z, y = logits()[0], labels()[0]
    torch.testing.assert_close(cross_entropy(z, y), F.cross_entropy(z, y))


def test_rows_of_a_map():
    z = torch.stack([logits(), logits().flip(1)])
    y = labels().expand(2, -1)
    found = torch.func.vmap(torch.func.grad(cross_entropy))(z, y)
    torch.testing.assert_close(found, torch.func.vmap(torch.func.grad(F.cross_entropy))(z, y))


def layer(case):
    """A nonlinear function of what a layer to many outputs gives, and its arguments."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "steps": [(2, 3, 5), (CLASSES, 5)],
        "no rows": [(0, 5), (CLASSES, 5)],
        "bias": [(3, 5), (CLASSES, 5), (CLASSES,)],
        "a bias of steps": [(2, 3, 5), (CLASSES, 5), (3, CLASSES)],
    }.get(case, [(3, 5), (CLASSES, 5)])
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("case", ["rows", "steps", "no rows", "bias", "a bias of steps"])
@pytest.mark.parametrize("moving", ["all", "rows alone", "weight alone", "one number's slopes"])
def test_derivatives_of_a_layer_up_to_the_third(case, moving):
    def derivatives(function):
        given = layer(case)
        leaves = given if moving not in ("rows alone", "weight alone") else [given[moving == "weight alone"]]
        for leaf in leaves:
            leaf.requires_grad_()
        outputs = function(*given)
        bent = 0 if moving == "one number's slopes" else torch.sin(outputs).sum()
        found = [[outputs.sum().square() + bent]]
        for _ in range(3):
            along = [torch.cos(torch.arange(one.numel(), dtype=one.dtype)).reshape(one.shape) for one in found[-1]]
            slope = sum((one * direction).sum() for one, direction in zip(found[-1], along, strict=True))
            found.append(torch.autograd.grad(slope, leaves, create_graph=True))
        return [one.detach() for several in found for one in several]

    for found, expected in zip(derivatives(linear), derivatives(F.linear), strict=True):
        largest = max(expected.abs().flatten().tolist(), default=0.0)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * largest)


def jvp_by_dual_numbers(f, x):
    with torch.autograd.forward_ad.dual_level():
        return torch.autograd.forward_ad.unpack_dual(f(torch.autograd.forward_ad.make_dual(x, x.cos()))).tangent


def rows_at_once(f, x):
    given = x.clone().requires_grad_()
    out = f(given)
    (slope,) = torch.autograd.grad(out, given, create_graph=True)
    return torch.autograd.grad(slope, given, torch.stack([x, x.cos()]), is_grads_batched=True)[0]


# What a model may do itself with a layer of its own.
TRANSFORMS = {
    "map": lambda f, x: torch.func.vmap(torch.func.grad(f))(x),
    "forward": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "forward over backward": lambda f, x: torch.func.hessian(f)(x),
    "dual numbers": jvp_by_dual_numbers,
    "rows at once": rows_at_once,
}


# torch compiles its own rules of forward mode by what it advises against.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("moving", ["rows", "weight"])
def test_a_layer_in_transforms_of_the_model_itself(name, moving):
    rows, weight = layer("steps")
    along = rows if moving == "rows" else 0.1 * rows.mean(1)

    def result(function):
        if moving == "rows":
            return TRANSFORMS[name](lambda h: torch.sin(function(h, weight)).sum(), along)
        return TRANSFORMS[name](lambda s: torch.sin(function(rows[0], weight * s.sum())).sum(), along)

    torch.testing.assert_close(result(linear), result(F.linear))


def test_a_layer_under_autocast_gives_what_torch_gives():
    given = [one.float() for one in layer("bias")]
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = linear(*given), F.linear(*given)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.parametrize("moving", [0, 1])
def test_what_a_layer_reads_may_be_overwritten_where_the_other_factor_is_frozen(moving):
    given = layer("rows")
    leaf = given[moving].requires_grad_()

    def derivatives(function):
        used = [one.clone() for one in given]
        bent = torch.sin(function(*used)).sum()
        used[moving].zero_()
        (slope,) = torch.autograd.grad(bent, leaf, create_graph=True)
        return slope, torch.autograd.grad(slope.square().sum(), leaf)[0]

    torch.testing.assert_close(derivatives(linear), derivatives(F.linear))


def test_what_is_checkpointed_runs_again_by_the_same_operations():
    """Torch leaves function modes while it differentiates, and its own layers save other tensors."""
    batch = torch.cos(torch.arange(18.0, dtype=torch.float64)).reshape(ROWS, 3), labels()
    shapes = {"w": (3, 2), "g": (3, 1), "v": (2, CLASSES)}
    params = {
        name: torch.sin(torch.arange(1.0, 1 + math.prod(shape), dtype=torch.float64)).reshape(shape)
        for name, shape in shapes.items()
    }

    def inside(w, g, v):
        return F.cross_entropy(torch.tanh(batch[0] @ torch._weight_norm(w, g, 0)) @ v, batch[1])

    def by_hand(w, g, v):
        z = torch.tanh(batch[0] @ (w * g / w.square().sum(1, keepdim=True).sqrt())).unsqueeze(1).matmul(v)[:, 0]
        return (z.logsumexp(1) - z.gather(1, batch[1][:, None])[:, 0]).mean()

    def loss(p, batch):
        return checkpoint(inside, p["w"], p["g"], p["v"], use_reentrant=False)

    objective = specop.objective(loss, params=params, data=batch)
    along = {name: torch.cos(part) for name, part in params.items()}
    found = objective.unflatten(objective.hessian() @ objective.flatten(along))
    _, expected = torch.autograd.functional.hvp(by_hand, tuple(params.values()), tuple(along.values()))
    for part, right in zip((found[name] for name in params), expected, strict=True):
        torch.testing.assert_close(part, right)


def test_labels_out_of_range_raise():
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        cross_entropy(logits(), labels() + CLASSES)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 8)
        self.head = torch.nn.Linear(8, CLASSES, bias=False)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


@pytest.mark.parametrize(("kind", "held", "at_first"), [("hessian", 2, 4), ("ggn", 1, 3), ("fisher", 1, 5)])
@pytest.mark.parametrize("criterion", [F.cross_entropy, torch.nn.CrossEntropyLoss()], ids=["function", "module"])
def test_products_take_three_times_the_logits(kind, held, at_first, criterion):
    """Of which probabilities, and for a Hessian the gradient, are held from product to product.

    The first Hessian product needs those two beside its argument and its image. A Fisher matrix's asks first whether
    the criterion is of the likelihood.
    """
    rows = 500
    batch = torch.arange(rows) * 7 % 50, torch.arange(rows) * 677 % CLASSES
    A = getattr(specop.objective(Model(), criterion, batch), kind)()
    v = torch.sin(torch.arange(A.shape[0], dtype=torch.float32))
    size = rows * CLASSES * 4
    with A.session():
        with LargeArrays(size // 2) as arrays:
            first = A @ v
        assert arrays.peak <= at_first * size
        with LargeArrays(size // 2) as arrays:
            again = A @ v
    torch.testing.assert_close(again, first)
    assert sum(arrays.taken.values()) == held * size
    assert arrays.peak + held * size <= 3 * size


PRODUCTS = {
    "@": lambda h, v: h @ v,
    "matmul": torch.matmul,
    "mm": lambda h, v: torch.mm(h.flatten(0, -2), v).unflatten(0, h.shape[:-1]),
    "a method": lambda h, v: h.matmul(v),
    "a weight the other way": lambda h, v: h @ v.T.contiguous().T,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_layer_written_as_a_matrix_product_takes_no_more(name):
    rows = 500
    batch = torch.randn(rows, 8), torch.arange(rows) * 677 % CLASSES
    params = {"w": torch.randn(8, 8), "v": torch.randn(8, CLASSES)}
    objective = specop.objective(
        lambda p, batch: PRODUCTS[name](torch.tanh(batch[0] @ p["w"]), p["v"]), F.cross_entropy, batch, params=params
    )
    A, size = objective.ggn(), rows * CLASSES * 4
    with A.session(), LargeArrays(size // 2) as arrays:
        A @ torch.ones(A.shape[0])
    assert arrays.peak <= 3 * size


@pytest.mark.parametrize(
    ("dtype", "is_sparse"), [(torch.float64, False), (torch.complex128, False), (torch.float64, True)], ids=str
)
def test_products_of_complex_and_of_sparse_arrays_are_torchs_own(dtype, is_sparse):
    """A conjugate would be missing, and a sparse array has no rows to flatten."""
    turn = torch.randn(5, CLASSES, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def loss(w, batch):
        rows = torch.outer(w, torch.arange(1.0, 6.0, dtype=torch.float64)).to(dtype)
        spread = [rows.to_sparse() @ turn] if is_sparse else [rows @ turn, F.linear(rows, turn.T.contiguous())]
        return sum(torch.view_as_real(one + 0j).square().square().mean() for one in spread)

    w = torch.tensor([0.3, -0.7, 0.5], dtype=torch.float64)
    expected = torch.autograd.functional.hessian(lambda w: loss(w, None), w)
    found = specop.objective(loss, None, (torch.zeros(1),), params=w).hessian().to_dense()
    torch.testing.assert_close(found, expected)


def shifted(logits, tokens):
    return F.cross_entropy(logits[:, :-1].reshape(-1, CLASSES), tokens[:, 1:].reshape(-1))


def classes_second(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2), labels)


def overwriting(logits, labels):
    return F.cross_entropy(logits.mul_(2).flatten(0, -2), labels.flatten())


def test_a_criterion_may_overwrite_the_logits():
    places = torch.arange(6).reshape(3, 2)
    batch = places * 7 % 50, places * 677 % CLASSES
    model = Model().double()

    def doubled(logits, labels):
        return classes_second(2 * logits, labels)

    found, expected = (specop.objective(model, criterion, batch) for criterion in (overwriting, doubled))
    v = torch.cos(torch.arange(found.hessian().shape[0], dtype=torch.float64))
    torch.testing.assert_close(found.ggn() @ v, expected.ggn() @ v)


@pytest.mark.parametrize(
    ("kind", "criterion", "at_first"),
    [("hessian", shifted, 4), ("ggn", shifted, 3), ("ggn", classes_second, 3)],
)
def test_criteria_that_arrange_the_logits_take_no_more(kind, criterion, at_first):
    rows, steps = 50, 10
    places = torch.arange(rows * steps).reshape(rows, steps)
    A = getattr(specop.objective(Model(), criterion, (places * 7 % 50, places * 677 % CLASSES)), kind)()
    v = torch.sin(torch.arange(A.shape[0], dtype=torch.float32))
    size = rows * steps * CLASSES * 4
    with A.session(), LargeArrays(size // 2) as arrays:
        A @ v
    assert arrays.peak <= at_first * size


def test_the_check_of_a_product_of_long_samples_looks_at_one_of_them(monkeypatch):
    """In float64, where an array of all of them is twice as large as the logits."""
    rows, steps = 4, 125
    size = rows * steps * CLASSES * 4
    seen = {}

    def counted(*arguments):
        tracemalloc.start()
        with LargeArrays(size // 16) as arrays:
            verdict = witness.verify(*arguments)
        seen.update(on_device=arrays.peak / size, on_host=tracemalloc.get_traced_memory()[1] / size, verdict=verdict)
        tracemalloc.stop()
        return verdict

    monkeypatch.setattr(witness, "_SMALL", size // 16)
    monkeypatch.setattr(TorchParameters, "witness_bytes", size // 16)
    monkeypatch.setattr(products, "verify", counted)
    places = torch.arange(rows * steps).reshape(rows, steps)
    A = specop.objective(Model(), classes_second, (places * 7 % 50, places * 677 % CLASSES)).ggn()
    A @ torch.ones(A.shape[0])
    assert seen["verdict"].deviation < 1e-6
    # Three arrays, and four: an array of one of the samples takes half of what the logits of all of them take.
    assert seen["on_host"] <= 1.6
    assert seen["on_device"] <= 2.0


class LargeArrays(TorchDispatchMode):
    """Counts the bytes of large arrays that operations return, and of large ones from elsewhere that they take."""

    def __init__(self, least):
        super().__init__()
        self.least, self.own, self.taken, self.live, self.peak = least, set(), {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for given in args:
            if self.is_large(given) and given.untyped_storage()._cdata not in self.own:
                self.taken[given.untyped_storage().data_ptr()] = given.untyped_storage().nbytes()
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if self.is_large(made):
                self.note(made.untyped_storage())
        return result

    def is_large(self, value):
        return isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > self.least

    def note(self, storage):
        key = storage._cdata
        if key not in self.own and storage.data_ptr() not in self.taken:
            self.own.add(key)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.forget, key, storage.nbytes())

    def forget(self, key, size):
        self.own.discard(key)
        self.live -= size
