"""slices: against closed forms of quadratics, cubics and quartics, filters by hand, and paths with a known barrier."""

import itertools

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, host, objective_of, quadratic
from specop.arrays.backend import backend_of
from specop.errors import ConvergenceWarning, InvalidInputError, NonFiniteError
from specop.landscape import slices

MATRIX = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, -1.0], [0.0, -1.0, -2.0]])
AT = np.array([1.0, 2.0, 3.0])


def native(objective, values):
    """Return a NumPy array as the objective's framework has it."""
    backend = backend_of(objective.theta)
    return backend.from_host(np.asarray(values, dtype=float), backend.layout(objective.theta))


def polynomial(slope=0.0, curvature=0.0, third=0.0, fourth=0.0, level=1.0):
    """Return (loss, params) of a polynomial of one variable at 0, beside another variable that is squared."""

    def loss(xp, params, batch):
        x, y = params["w"][0], params["w"][1]
        return (
            level
            + slope * x
            + curvature * x**2 / 2
            + third * x**3 / 6
            + fourth * x**4 / 24
            + y**2
            + 0.0 * xp.sum(batch[0])
        )

    return loss, {"w": np.zeros(2)}


def ring(xp, params, batch):
    """A valley of minima on the unit circle, with a hill of height one inside."""
    return (xp.sum(params["w"] * params["w"]) - 1.0) ** 2 + 0.0 * xp.sum(batch[0])


@each_framework
def test_a_quadratic_is_its_own_model(framework):
    objective = objective_of(framework, *quadratic(MATRIX, at=AT, floor=10.0))
    values, vectors = np.linalg.eigh(MATRIX)
    found = slices(objective, 2, points=5)
    a, b = found.coordinates
    for i, j in itertools.product(range(5), repeat=2):
        at = AT + a[i] * host(found.direction(0)) + b[j] * host(found.direction(1))
        np.testing.assert_allclose(found.losses[i, j], 10.0 + 0.5 * at @ MATRIX @ at, rtol=1e-12)
    np.testing.assert_allclose(found.remainder, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.curvatures, values[:0:-1], rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.slopes), np.abs(vectors.T @ MATRIX @ AT)[:0:-1], rtol=1e-3)
    np.testing.assert_allclose(found.thirds, 0.0, atol=1e-10)
    assert np.isinf(found.limits).all() and (found.third_errors < 1e-10).all()


@each_framework
def test_directions_are_taken_as_they_are(framework):
    objective = objective_of(framework, *quadratic(MATRIX, at=AT, floor=10.0))
    u, v = np.array([2.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0])
    columns = backend_of(objective.theta).stack_columns([native(objective, u), native(objective, v)])
    eigen = specop.eigsh(objective.hessian(), k=3)
    for given in (
        [native(objective, u), native(objective, v)],
        columns,
        [objective.unflatten(native(objective, u)), native(objective, v)],
    ):
        found = slices(objective, given, span=(-1.0, 0.5), points=4)
        assert found.coordinates[:, 0].tolist() == [-1, -1] and found.coordinates[:, -1].tolist() == [0.5, 0.5]
        np.testing.assert_allclose(found.curvatures, [u @ MATRIX @ u, v @ MATRIX @ v], rtol=1e-12)
        np.testing.assert_allclose(found.slopes, [u @ MATRIX @ AT, v @ MATRIX @ AT], rtol=1e-12)
        np.testing.assert_allclose(found.lengths, [2.0, 2.0**0.5])
        np.testing.assert_allclose(found.quadratic, found.losses, rtol=1e-12)
    # Of an eigenresult the two largest in size: a negative one may be among them.
    sizes = eigen.eigenvalues[np.argsort(-np.abs(eigen.eigenvalues))[:2]]
    np.testing.assert_allclose(slices(objective, eigen, points=3).curvatures, sizes, rtol=1e-6)
    gradient = MATRIX @ AT
    along = slices(objective, "gradient", points=3)
    np.testing.assert_allclose(host(along.direction(0)), gradient / np.linalg.norm(gradient), rtol=1e-12)
    np.testing.assert_allclose(along.slopes, np.linalg.norm(gradient), rtol=1e-12)


@each_framework
def test_another_theta_leaves_the_model_alone(framework):
    objective = objective_of(framework, *quadratic(MATRIX, at=AT, floor=10.0))
    before = host(objective.theta)
    elsewhere = np.array([-1.0, 0.5, 0.0])
    found = slices(objective, native(objective, [1.0, 0, 0]), theta=native(objective, elsewhere), points=3)
    np.testing.assert_allclose(found.loss, 10.0 + 0.5 * elsewhere @ MATRIX @ elsewhere, rtol=1e-12)
    np.testing.assert_array_equal(host(objective.theta), before)


@each_framework
@pytest.mark.parametrize(
    ("coefficients", "right", "left"),
    [
        # |c| x^3 / 6 = 0.1 h x^2 / 2 at x = 0.3 h / |c|; f x^4 / 24 = 0.1 h x^2 / 2 at x = sqrt(1.2 h / f).
        ({"curvature": 3.0, "third": 1.5}, 0.6, 0.6),
        ({"curvature": -3.0, "third": -0.5}, 1.8, 1.8),
        ({"curvature": 2.0, "fourth": 6.0}, 0.4**0.5, 0.4**0.5),
        # c x^3 / 6 = 0.1 |g| x at x = sqrt(0.6 |g| / c).
        ({"slope": -2.0, "third": 3.0}, 0.4**0.5, 0.4**0.5),
        # x^3 / 6 = 0.1 (x + x^2 / 2): also where the two terms cancel, on the left.
        ({"slope": 1.0, "curvature": 1.0, "third": 1.0}, 0.15 + 0.6225**0.5, 0.15 + 0.6225**0.5),
        # x^4 / 4 against x^3 / 2: of a sum, on one side only.
        ({"curvature": 2.0, "third": 3.0, "fourth": -6.0}, None, None),
        ({"curvature": 1.0, "third": 3e-6, "level": 0.0}, np.inf, np.inf),
    ],
)
def test_the_model_is_good_to_a_tenth_as_far_as_it_is(framework, coefficients, right, left):
    objective = objective_of(framework, *polynomial(**coefficients))
    found = slices(objective, native(objective, [1.0, 0.0]), points=3)
    if right is None:
        x = np.linspace(1e-3, 2.0, 400_000)
        right, left = (x[np.abs(sign * 0.5 * x**3 - 0.25 * x**4) >= 0.1 * x**2][0] for sign in (1, -1))
    np.testing.assert_allclose(found.limits, [[left, right]], rtol=1e-3)
    third = coefficients.get("third", 0.0)
    np.testing.assert_allclose(found.thirds, [third], atol=1e-7)
    assert abs(found.thirds[0] - third) <= found.third_errors[0] + 1e-12
    np.testing.assert_allclose(found.curvatures, [coefficients.get("curvature", 0.0)], atol=1e-12)


@each_framework
def test_random_directions_are_as_long_as_each_filter(framework):
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 2), "b": (3,), "c": (4, 3, 2, 5), "d": {"kernel": (2, 3), "weight": (2, 3), "scale": ()}}
    flat = {"a": shapes["a"], "b": shapes["b"], "c": shapes["c"], **{f"d.{k}": s for k, s in shapes["d"].items()}}
    values = {name: rng.normal(size=shape) for name, shape in flat.items()}
    values["a"][1] = 0.0

    def loss(xp, params, batch):
        return sum(xp.sum(part * part) for part in params.values()) + 0.0 * xp.sum(batch[0])

    objective = objective_of(framework, loss, values)
    found = slices(objective, ["random", "random"], points=3, seed=3)
    first = 0 if framework == "torch" else -1
    axes = {"a": first, "c": first, "d.kernel": -1, "d.weight": 0}
    for direction in (host(found.direction(0)), host(found.direction(1))):
        for name, where in objective.slices.items():
            part = direction[where].reshape(flat[name])
            if name not in axes:
                assert not part.any()
                continue
            lengths = [
                np.linalg.norm(np.moveaxis(array, axes[name], 0).reshape(flat[name][axes[name]], -1), axis=1)
                for array in (part, values[name])
            ]
            np.testing.assert_allclose(*lengths, rtol=1e-12, err_msg=name)
    assert abs(host(found.direction(0)) @ host(found.direction(1))) < 0.5 * np.prod(found.lengths)
    assert found.coordinates[:, [0, -1]].tolist() == [[-1, 1], [-1, 1]]
    other = host(slices(objective, "random", points=3, seed=3, filter_axis=1).direction(0))
    part = other[objective.slices["a"]].reshape(3, 2)
    np.testing.assert_allclose(np.linalg.norm(part, axis=0), np.linalg.norm(values["a"], axis=0), rtol=1e-12)
    # Also where nothing is normalized.
    for directions in ("random", "gradient"):
        with pytest.raises(InvalidInputError, match="filter_axis=2 is no axis of a"):
            slices(objective, directions, filter_axis=2)
        with pytest.raises(InvalidInputError, match="filter_axis must be the number of an axis"):
            slices(objective, directions, filter_axis="rows")


@each_framework
def test_barriers_of_a_ring_are_those_of_the_closed_forms(framework):
    objective = objective_of(framework, ring, {"w": np.array([-1.0, 0.0])})
    there = native(objective, [1.0, 0.0])
    straight = slices(objective, to=objective.unflatten(there))
    assert (straight.path, straight.coordinates[0], straight.coordinates[-1]) == ("straight", 0, 1)
    np.testing.assert_allclose([straight.barrier, straight.barrier_at], [1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(straight.losses, ((1 - 2 * straight.coordinates) ** 2 - 1) ** 2, atol=1e-14)
    # With s = t (1 - t) the Bezier curve with its middle at (0, c) has the loss 16 s^2 (c^2 s - 1)^2, whose mean is
    # least for c^2 = E[s^3] / E[s^4] = 9 / 2; its maximum is 4 / 81, at s = 1 / 9.
    bent = slices(objective, to=there, bend=True)
    middle = host(bent.theta) + host(bent.direction(1))
    np.testing.assert_allclose(np.abs(middle), [0.0, 4.5**0.5], atol=4e-3)
    np.testing.assert_allclose(bent.barrier, 4 / 81, rtol=1e-2)
    nearest = min(bent.barrier_at, 1 - bent.barrier_at)
    np.testing.assert_allclose(nearest, 0.5 - (0.25 - 1 / 9) ** 0.5, atol=2e-3)
    for t in (0.0, 0.3, 1.0):
        by_hand = (1 - t) ** 2 * np.array([-1.0, 0.0]) + 2 * t * (1 - t) * middle + t**2 * np.array([1.0, 0.0])
        np.testing.assert_allclose(host(bent.point(t)), by_hand, atol=1e-12)


@each_framework
def test_a_barrier_is_above_the_line_between_the_ends(framework):
    # Two wells of different depth: at -1 and 1 the tilt adds -0.3 and 0.3, and nothing in the middle.
    def tilted(xp, params, batch):
        return xp.sum((params["w"] ** 2 - 1.0) ** 2) + 0.3 * xp.sum(params["w"]) + 0.0 * xp.sum(batch[0])

    objective = objective_of(framework, tilted, {"w": np.array([-1.0])})
    found = slices(objective, to=native(objective, [1.0]), points=10)
    np.testing.assert_allclose([found.barrier, found.barrier_at], [1.0, 0.5], atol=1e-5)
    # Downhill all the way.
    down = slices(objective, to=native(objective, [1.0]), theta=native(objective, [2.0]))
    assert (down.barrier, down.barrier_at) == (0.0, 0.0)


@each_framework
def test_losses_that_are_not_finite_are_kept_and_named(framework):
    def loss(xp, params, batch):
        return xp.sum(params["w"] - xp.log(params["w"])) + 0.0 * xp.sum(batch[0])

    objective = objective_of(framework, loss, {"w": np.array([1.0, 1.0])})
    found = slices(objective, native(objective, [1.0, 0.0]), span=2.0, points=5)
    assert np.isfinite(found.losses[2:]).all() and np.isnan(found.losses[0]) and np.isposinf(found.losses[1])
    assert "2 of 5 losses are NaN or infinite, the nearest at -1" in str(found)
    assert np.isfinite(found.limits).all()
    plane = slices(objective, [native(objective, [1.0, 0.0]), native(objective, [0.0, 1.0])], span=2.0, points=5)
    assert np.isfinite(plane.losses[2:, 2:]).all() and not np.isfinite(plane.losses[:2]).any()
    assert "16 of 25 losses are NaN or infinite" in str(plane)
    with pytest.raises(NonFiniteError, match="loss is nan"):
        slices(objective, "gradient", theta=native(objective, [-1.0, 1.0]))


@each_framework
def test_what_is_no_direction_is_refused(framework):
    objective = objective_of(framework, *quadratic(np.diag([2.0, 1.0]), at=[0.0, 0.0]))
    u = native(objective, [1.0, 0.0])
    for given, told in (
        ({"directions": "gradient"}, "'gradient' is zero"),
        ({"directions": native(objective, [0.0, 0.0])}, "'direction 1' is zero"),
        ({"directions": [u, native(objective, [-2.0, 1e-9])]}, "the same up to a factor"),
        ({"directions": "random"}, "'random' is zero here.*there are only w"),
        ({"directions": "sharpest"}, "'gradient' or 'random', got 'sharpest'"),
        ({"directions": 3}, "one or two eigenvectors"),
        ({"directions": [u, u, u]}, "one or two directions, got 3"),
        ({"directions": u, "to": u}, "not both"),
        ({"directions": u, "bend": True}, "needs to="),
        ({"to": [u, native(objective, [0.0, 1.0])], "bend": True}, "one other point"),
        ({"to": objective.theta}, "to the other point' is zero"),
        ({"to": u, "span": 2.0}, "takes no span"),
        ({"directions": u, "span": (1.0, 2.0)}, "around 0"),
        ({"directions": u, "span": "wide"}, "span must be .* got 'wide'"),
        ({"directions": u, "points": 2}, "at least 3"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            slices(objective, **given)
    other = objective_of(framework, *quadratic(np.eye(3), at=AT))
    for given in ({"directions": other.theta}, {"to": other.theta}, {"directions": specop.eigsh(other.hessian(), 1)}):
        with pytest.raises(InvalidInputError, match="3"):
            slices(objective, **given)
    with pytest.raises(NonFiniteError, match="direction 1"):
        slices(objective, native(objective, [np.nan, 1.0]))


@each_framework
def test_a_flat_direction_has_no_limit(framework):
    objective = objective_of(framework, *quadratic(np.diag([1.0, 0.0]), at=[1.0, 1.0]))
    found = slices(objective, native(objective, [0.0, 1.0]), points=3)
    assert np.isnan(found.limits).all() and found.curvatures == 0 and not found.remainder.any()


@each_framework
def test_two_points_span_a_plane(framework):
    objective = objective_of(framework, ring, {"w": np.array([-1.0, 0.0])})
    points = [native(objective, [1.0, 0.0]), native(objective, [0.0, 1.0])]
    found = slices(objective, to=points, points=7)
    zero, one = (
        np.flatnonzero(np.isclose(found.coordinates[0], 0.0)),
        np.flatnonzero(np.isclose(found.coordinates[0], 1.0)),
    )
    np.testing.assert_allclose(found.losses[zero, zero], 0.0, atol=1e-12)
    np.testing.assert_allclose([found.losses[one, zero], found.losses[zero, one]], 0.0, atol=1e-12)
    assert np.isnan(found.barrier) and not found.path


def test_a_bend_that_is_not_found_is_said(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("specop.landscape._slices._STEPS", 2)
    objective = objective_of("torch", ring, {"w": np.array([-1.0, 0.0])})
    with pytest.warns(ConvergenceWarning, match="limit of 2 steps"):
        assert not slices(objective, to=native(objective, [1.0, 0.0]), bend=True).converged


def test_a_network_in_float32_with_batches_and_a_checkpoint():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    def network():
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.Tanh(),
            torch.nn.Flatten(),
            torch.nn.Linear(64, 3),
        ).eval()

    model, other = network(), network()
    batches = [(torch.randn(8, 1, 6, 6), torch.arange(8) % 3) for _ in range(2)]
    objective = specop.objective(model, torch.nn.functional.cross_entropy, batches)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    found = slices(objective, "random", points=5)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    direction = objective.unflatten(found.direction(0))
    assert not direction["1.weight"].any() and not direction["0.bias"].any()
    torch.testing.assert_close(direction["0.weight"].flatten(1).norm(dim=1), model[0].weight.flatten(1).norm(dim=1))
    # The third derivative in float32 against that in float64.
    exact = slices(
        specop.objective(
            network_in_double := model.double(),
            torch.nn.functional.cross_entropy,
            [(x.double(), y) for x, y in batches],
        ),
        found.direction(0).double(),
        points=5,
    )
    assert abs(found.thirds[0] - exact.thirds[0]) < 2 * found.third_errors[0] + exact.third_errors[0]
    np.testing.assert_allclose(found.limits, exact.limits, rtol=3e-3)
    np.testing.assert_allclose(found.curvatures, exact.curvatures, rtol=1e-4)
    network_in_double.float()
    # A checkpoint has buffers that are no parameters.
    path = slices(objective, to=other.state_dict(), points=5)
    joined = {name: value for name, value in other.named_parameters()}
    torch.testing.assert_close(path.point(1.0), objective.flatten(joined), rtol=1e-5, atol=1e-6)


def test_pictures_and_files(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    objective = objective_of("torch", ring, {"w": np.array([-1.0, 0.0])})
    there = native(objective, [1.0, 0.0])
    curve, straight = slices(objective, native(objective, [1.0, 0.5])), slices(objective, to=there)
    plane = slices(objective, [there, native(objective, [0.0, 1.0])], span=2.0, points=5)
    assert {line.get_label() for line in curve.plot().get_lines()} >= {"loss", "quadratic model"}
    ax = straight.plot()
    assert slices(objective, to=there, bend=True).plot(ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["straight path", "Bezier curve"]
    assert plane.plot().name == "rectilinear" and plane.plot(surface=True).name == "3d"
    with pytest.raises(InvalidInputError, match="projection='3d'"):
        plane.plot(ax, surface=True)
    for number, figure in enumerate(map(pyplot.figure, pyplot.get_fignums())):
        figure.savefig(tmp_path / f"{number}.png")
    pyplot.close("all")
    plane.save(tmp_path / "plane.npz")
    again = specop.load(tmp_path / "plane.npz")
    np.testing.assert_array_equal(again.losses, plane.losses)
    np.testing.assert_allclose(again.point(1.0, 0.5), host(plane.point(1.0, 0.5)))
    eigen = specop.eigsh(objective.hessian(), k=1)
    eigen.save(tmp_path / "eigen.npz")
    np.testing.assert_allclose(slices(objective, specop.load(tmp_path / "eigen.npz"), points=3).curvatures, [8.0])
