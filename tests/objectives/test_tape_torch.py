"""Tapes of linear functions: another input through the tape is another input through the function."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specop_torch.compilation import program_of
from specop_torch.convolutions import _as_weight_gradient
from specop_torch.simplification import _add_product
from specop_torch.tape import Tape, Untapeable, record

A = torch.arange(12.0, dtype=torch.float64).reshape(3, 4) / 7
INDEX = torch.tensor([2, 0, 1, 2])


def matrix_products(x):
    return [torch.sin(A) @ x, A.mul(2) @ (3 * x), None]


def in_place_into_a_captured_buffer(x):
    buffer = torch.ones(4, dtype=x.dtype) - 1
    buffer.add_(x)
    buffer[1:3].mul_(2)
    return [buffer * 5]


def in_place_through_views(x):
    y = x.clone()
    y.view(2, 2)[0].add_(x[2:])
    y[::2] -= 1.5 * x[1::2]
    return [y]


def reading_a_view_after_the_base_was_written(x):
    y = 2 * x
    view = y[1:]
    y.mul_(3)
    return [view + 0]


def writing_the_base_through_a_late_view(x):
    y = 2 * x
    y.flip(0)  # dead, and dropped
    y.unsqueeze(1)[:, 0].mul_(x.new_tensor(4.0))
    return [y.sum(0, keepdim=True)]


def cat_and_stack(x):
    return [torch.cat([x, torch.zeros(2, dtype=x.dtype), 2 * x]), torch.stack([x, x.flip(0), 0 * A[0]]).T]


def split_and_unbind(x):
    first, second = x.split([1, 3])
    a, _, c = second.unbind()
    return [first * 2, a + c, second]


def lists_of_one_part(x):
    (whole,), (row,) = x.split([4]), x[None].unbind(0)
    return [whole * 2, row + A[0]]


def index_put_and_add(x):
    rows = torch.zeros(3, 4, dtype=x.dtype)
    rows.index_put_((INDEX,), x.expand(4, 4), accumulate=True)
    rows.index_add_(0, torch.tensor([0]), x[None])
    return [rows, torch.zeros(3, dtype=x.dtype).scatter_add(0, INDEX, x)]


def captured_index_of_a_recorded_value(x):
    return [x[INDEX], x.gather(0, INDEX[:2]), torch.where(A[0] > 0.2, x, 0.0)]


def views_of_one_constant(x):
    return [A[0] * x + A[1] * (x / 3), A.T[:3, 1] * x[1:]]


def backward_of_a_graph(x):
    weight = torch.linspace(-1, 1, 4, dtype=x.dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad((torch.tanh(A @ weight) ** 2).sum(), weight, create_graph=True)
    return torch.autograd.grad(gradient, weight, x)


def sums_with_zeros(x):
    zero = torch.zeros_like(2 * x)
    return [x + zero, (3 * x + zero) * 2, zero + torch.zeros_like(x), (zero + x).mul_(2), torch.cat([2 * x + zero, x])]


def operands_that_are_needed_again(x):
    y, z = 2 * x, x / 3
    view = y[:2]
    total = y + z
    return [total * 4 - y, view - z[2:], total, x.expand(3, 4) * 2 + A * y]


def backward_of_piecewise_linear_functions(x):
    weight = torch.linspace(-1, 1, 4, dtype=x.dtype, requires_grad=True)
    hidden = torch.relu(A @ weight) * torch.nn.functional.gelu(A @ weight) + torch.nn.functional.silu(A @ weight)
    (gradient,) = torch.autograd.grad((torch.sigmoid(hidden) ** 2).sum(), weight, create_graph=True)
    return torch.autograd.grad(gradient, weight, x)


def identity(x):
    return [x]


FUNCTIONS = [
    matrix_products,
    in_place_into_a_captured_buffer,
    in_place_through_views,
    reading_a_view_after_the_base_was_written,
    writing_the_base_through_a_late_view,
    cat_and_stack,
    split_and_unbind,
    lists_of_one_part,
    index_put_and_add,
    captured_index_of_a_recorded_value,
    views_of_one_constant,
    backward_of_a_graph,
    sums_with_zeros,
    operands_that_are_needed_again,
    backward_of_piecewise_linear_functions,
    identity,
]


def tape_of(function, x):
    outputs, tape = record(lambda inputs: function(*inputs), [x])
    assert isinstance(tape, Tape), tape.reason
    return outputs, tape


def equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_replay_equals_the_function(function):
    first, second = torch.arange(4.0, dtype=torch.float64) + 1, torch.tensor([5.0, -2.0, 0.5, 1.0]).double()
    outputs, tape = tape_of(function, first.clone())
    equal(outputs, function(first.clone()))
    # Twice, and in turn: a replay leaves nothing behind for the next one.
    for x in (second, first, second):
        given = x.clone()
        equal(tape.replay([given]), function(x.clone()))
        assert torch.equal(given, x)
    program, constants = program_of(tape, [first])
    for x in (second, first):
        equal(program.function()(x.clone(), *constants), function(x.clone()))


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [(0, 0), (2, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_second_derivatives_of_convolutions_are_replayed_as_weight_gradients(stride, padding, dilation):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 2, 9, 11, dtype=torch.float64, generator=generator)
    shapes = (4, 2, 1, 1), (3, 4, 3, 2)
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]

    def product(vectors):
        hidden = torch.nn.functional.conv2d(images, weights[0]).sin()
        outputs = torch.nn.functional.conv2d(hidden, weights[1], None, stride, padding, dilation)
        gradients = torch.autograd.grad((outputs**2).sum(), weights, create_graph=True)
        return torch.autograd.grad(gradients, weights, vectors)

    vectors = [[torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes] for _ in range(2)]
    _, tape = record(product, vectors[0])
    equal_up_to_rounding(tape.replay(vectors[1]), product(vectors[1]))
    kernels = [step.function for step in tape.steps]
    assert torch.ops.aten.convolution.default in kernels and _as_weight_gradient in kernels


@pytest.mark.parametrize(("size", "extent", "stride"), [(4, 3, 2), (5, 3, 3), (6, 5, 4), (7, 3, 2), (2, 1, 2)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_of_tiny_images_whose_strides_end_before_the_edge(size, extent, stride, dilation):
    """As in a ResNet whose last images have four pixels: the replay stopped with an error of the kernel's."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, size, size, dtype=torch.float64, generator=generator)
    shapes = (2, 2, 1, 1), (3, 2, extent, extent)
    weights = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]

    def product(vectors):
        hidden = torch.nn.functional.conv2d(images, weights[0]).sin()
        outputs = torch.nn.functional.conv2d(hidden, weights[1], None, stride, dilation * (extent // 2), dilation)
        gradients = torch.autograd.grad((outputs**2).sum(), weights, create_graph=True)
        return torch.autograd.grad(gradients, weights, vectors)

    vectors = [[torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes] for _ in range(2)]
    _, tape = record(product, vectors[0])
    equal_up_to_rounding(tape.replay(vectors[1]), product(vectors[1]))


def equal_up_to_rounding(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * float(other.abs().max()))


def test_several_inputs():
    def function(x, y):
        return [A @ x + y, (x.sum() + y.sum()).reshape(1)]

    x, y = torch.ones(4).double(), torch.arange(3.0).double()
    _, tape = record(lambda inputs: function(*inputs), [x, y])
    equal(tape.replay([2 * x, -y]), function(2 * x, -y))


def test_what_no_input_reaches_is_a_constant():
    _, tape = tape_of(matrix_products, torch.ones(4).double())
    assert len(tape) == 3  # two matrix products and a scaling: neither the sine nor the doubling of A
    assert len(tape.constants) == 2


def test_dead_steps_are_dropped():
    def function(x):
        torch.exp(x).sum().mul(3)
        return [2 * x]

    _, tape = tape_of(function, torch.ones(4).double())
    assert len(tape) == 1 and tape.constants == []


def test_intermediate_values_are_freed_during_a_replay():
    live = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            live.append(weakref.ref(result))
            assert sum(reference() is not None for reference in live) <= 3
            return result

    def chain(x):
        for _ in range(20):
            x = x.flip(0)
        return [x]

    x = torch.ones(4).double()
    _, tape = tape_of(chain, x)
    with Watch():
        tape.replay([x])
    assert len(live) == 20


def test_zeros_are_not_added_and_memory_is_used_again():
    def function(x):
        y = 2 * x
        return [(y + torch.zeros_like(y)) * 3 / 5 + x]

    _, tape = tape_of(function, torch.ones(4).double())
    functions = [step.function for step in tape.steps]
    aten = torch.ops.aten
    assert functions == [aten.mul.Tensor, aten.mul_.Tensor, aten.div_.Tensor, aten.add_.Tensor]


def test_products_are_added_where_they_are_computed():
    def function(x):
        rows = x.view(2, 2)
        return [((rows @ SQUARE[0]) + (SQUARE[1] @ rows).view(4).view(2, 2) + rows @ SQUARE[1]).flatten()]

    _, tape = tape_of(function, torch.ones(4).double())
    functions = [step.function for step in tape.steps]
    assert functions.count(torch.ops.aten.mm.default) == 1 and functions.count(_add_product) == 2
    x = torch.arange(4.0).double()
    equal(tape.replay([x]), function(x))


SQUARE = torch.tensor([[[1.0, 0.5], [-2.0, 0.25]], [[0.5, 1.0], [0.0, -1.0]]]).double()
OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "scale": lambda a, b: 3 * a,
    "divide": lambda a, b: a / 7,
    "negate": lambda a, b: -a,
    "zeros": lambda a, b: torch.zeros_like(a),
    "view": lambda a, b: a.view(2, 2).T.reshape(4),
    "part": lambda a, b: torch.cat([a[1:], b[:1]]),
    "alias": lambda a, b: a.view(4),
    "reverse": lambda a, b: b.flip(0),
    "masked": lambda a, b: torch.ops.aten.threshold_backward(a, A[0] - 0.2, 0),
    "in place": lambda a, b: a.clone().add_(b),
    "product": lambda a, b: (a.reshape(2, 2) @ SQUARE[0]).view(4),
    "product of a transpose": lambda a, b: torch.mm(SQUARE[0], a.view(2, 2).T).reshape(4),
    "products": lambda a, b: torch.bmm(a.view(2, 2, 1), SQUARE[:, :1, :1]).view(4),
}


@given(
    program=st.lists(
        st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=25
    ),
    outputs=st.lists(st.integers(0, 30), min_size=1, max_size=4),
)
def test_any_program_is_replayed(program, outputs):
    def function(x, y):
        values = [x, y]
        for name, one, other in program:
            values.append(OPERATIONS[name](values[one % len(values)], values[other % len(values)]))
        return [values[output % len(values)] for output in outputs]

    x, y = torch.arange(4.0).double() + 1, torch.tensor([5.0, -2.0, 0.5, 1.0]).double()
    _, tape = record(lambda inputs: function(*inputs), [x, y])
    assert isinstance(tape, Tape), tape.reason
    written, constants = program_of(tape, [x, y])
    for inputs in ([y, 2 * x], [x, y]):
        given = [tensor.clone() for tensor in inputs]
        equal(tape.replay(given), function(*inputs))
        equal(written.function()(*given, *constants), function(*inputs))
        assert all(torch.equal(one, other) for one, other in zip(given, inputs, strict=True))


def test_a_tape_keeps_no_autograd_graph_alive():
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    kept = []

    def function(x):
        middle = torch.sin(weight)
        kept.append(weakref.ref(middle))
        (gradient,) = torch.autograd.grad((middle**3).sum(), weight, create_graph=True)
        return torch.autograd.grad(gradient, weight, x)

    _, tape = tape_of(function, torch.ones(4).double())
    gc.collect()
    assert kept[0]() is None
    assert all(not constant.requires_grad for constant in tape.constants)


def branches_on_a_value(x):
    return [x * x.sum().item()]


def draws_random_numbers(x):
    return [torch.nn.functional.dropout(x, 0.5, training=True)]


def overwrites_what_it_captured(x):
    factor = torch.ones(4, dtype=x.dtype)
    y = x * factor
    factor.add_(1)
    return [y + x * factor]


def converts_through_numpy(x):
    y = 2 * x
    return [torch.from_numpy(y.detach().numpy()) * x]


def uses_a_data_alias(x):
    y = 2 * x
    y.data.mul_(3)
    return [y]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (branches_on_a_value, "looks at the values"),
        (draws_random_numbers, "random numbers"),
        (overwrites_what_it_captured, "a captured tensor was overwritten later"),
        (converts_through_numpy, "through an alias"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_replayed(function, reason):
    outputs, tape = record(lambda inputs: function(*inputs), [torch.ones(4).double()])
    assert isinstance(tape, Untapeable) and reason in tape.reason
    # The recorded call itself is none the worse.
    assert outputs[0].shape == (4,)


def test_an_alias_is_followed_or_refused():
    outputs, tape = record(lambda inputs: uses_a_data_alias(*inputs), [torch.ones(4).double()])
    equal(outputs, [torch.full((4,), 6.0).double()])
    if isinstance(tape, Tape):
        equal(tape.replay([torch.ones(4).double() * 2]), [torch.full((4,), 12.0).double()])
