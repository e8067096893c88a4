"""Noise scales: unbiased numbers, intervals that cover, and no advice where nothing is known."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, objective_of
from specop.statistics.ratio import jackknife_covariance

SCALES = np.array([4.0, 2.0, 1.0, 0.5, 0.25])
WEIGHTS = np.full(5, 0.4)
# Near enough to the minimum that noise is most of the plug-in.
SMALL = np.full(5, 0.1)


def linear(xp, params, batch):
    return xp.sum(batch[0] * params["w"], -1)


def criterion(xp):
    return lambda outputs, y: 0.5 * xp.mean((outputs - y) ** 2)


def regression(count, seed=0, weights=WEIGHTS, noise=1.0):
    """Return x and y whose residuals at `weights` are those of a truth at zero: g = A w, H = A = diag(SCALES)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 5)) * np.sqrt(SCALES)
    return x, noise * rng.normal(size=count)


def least_squares(framework, batches, weights=WEIGHTS, **options):
    from landscape_cases import functions

    made = criterion(functions(framework))
    return objective_of(framework, linear, {"w": weights}, batches, criterion=made, **options)


def truth(weights=WEIGHTS, draws=1_000_000):
    """Return tr S, |g|^2, tr(HS), g'Hg of the population, S by Gaussian moments."""
    # g_i = x (x'w + e): the covariance is (w'Aw + s^2) A + A w w'A by Isserlis.
    A = np.diag(SCALES)
    S = (weights @ A @ weights + 1.0) * A + np.outer(A @ weights, A @ weights)
    g = A @ weights
    return np.trace(S), g @ g, np.trace(A @ S), g @ A @ g


def rows_of(x, y, weights=WEIGHTS):
    return x * (x @ weights - y)[:, None]


@each_framework
def test_few_samples_that_are_all_there_are_give_exact_scales(framework):
    x, y = regression(12)
    found = specop.landscape.noise(least_squares(framework, (x, y)), population=False)
    G, H = rows_of(x, y), x.T @ x / 12
    g, S = G.mean(0), np.cov(G.T, bias=True)
    for estimate, right in [
        (found.variance, np.trace(S)),
        (found.squared_gradient, g @ g),
        (found.noise_curvature, np.trace(H @ S)),
        (found.gradient_curvature, g @ H @ g),
        (found.simple_scale, np.trace(S) / (g @ g)),
        (found.curvature_scale, np.trace(H @ S) / (g @ H @ g)),
    ]:
        np.testing.assert_allclose([estimate.estimate, *estimate.interval], right, rtol=1e-9)
        assert estimate.standard_error == 0.0
    assert found.batch_size == max(1, round(np.trace(H @ S) / (g @ H @ g)))
    assert found.advised_by == "curvature"
    assert found.matvecs == 13


@each_framework
def test_data_of_a_population_give_unbiased_numbers(framework):
    x, y = regression(60)
    batches = [(x[:24], y[:24]), (x[24:48], y[24:48]), (x[48:], y[48:])]
    found = specop.landscape.noise(least_squares(framework, batches), parts=6)
    G = rows_of(x, y)
    gram = G @ G.T
    assert found.squared_gradient.estimate == pytest.approx((gram.sum() - np.trace(gram)) / (60 * 59), rel=1e-9)
    assert found.variance.estimate == pytest.approx(np.trace(np.cov(G.T)), rel=1e-9)
    # The jackknife over samples, one after the other.
    without = np.array([_numbers(np.delete(G, i, 0)) for i in range(60)])
    error = np.sqrt(np.diag(jackknife_covariance(without)))
    assert [found.variance.standard_error, found.squared_gradient.standard_error] == pytest.approx(error, rel=1e-9)
    assert found.matvecs == 36
    low, high = found.simple_scale.interval
    assert low < found.simple_scale.estimate < high
    for right, estimate in zip(truth()[2:], (found.noise_curvature, found.gradient_curvature), strict=True):
        assert abs(estimate.estimate - right) < 5 * estimate.standard_error


def _numbers(G):
    gram, m = G @ G.T, len(G)
    square = (gram.sum() - np.trace(gram)) / (m * (m - 1))
    return np.array([np.trace(np.cov(G.T)), square])


@pytest.mark.torch
def test_numbers_are_unbiased_and_intervals_cover_the_population():
    pytest.importorskip("torch")
    right, draws = truth(SMALL), 40
    found, plugged, covered = [], [], np.zeros(2)
    for seed in range(draws):
        x, y = regression(48, seed)
        one = specop.landscape.noise(least_squares("torch", (x, y), SMALL), parts=4, seed=seed)
        g, H = rows_of(x, y, SMALL).mean(0), x.T @ x / 48
        plugged.append(g @ H @ g)
        found.append([one.variance, one.squared_gradient, one.noise_curvature, one.gradient_curvature])
        for i, scale in enumerate((one.simple_scale, one.curvature_scale)):
            covered[i] += scale.interval[0] <= right[2 * i] / right[2 * i + 1] <= scale.interval[1]
    values = np.array([[number.estimate for number in numbers] for numbers in found])
    error = values.std(0, ddof=1) / draws**0.5
    assert (np.abs(values.mean(0) - right) < 3.5 * error).all()
    # What noise adds to g'Hg, and H and g from the same samples, is far more than that.
    added = np.array(plugged) - values[:, 3]
    assert added.mean() > 3 * added.std() / draws**0.5
    assert (covered >= 0.85 * draws).all()
    stated = np.array([[number.standard_error for number in numbers] for numbers in found])
    assert (np.abs(np.sqrt((stated**2).mean(0)) / values.std(0) - 1) < 0.5).all()


@pytest.mark.torch
def test_two_batch_sizes_say_the_same():
    pytest.importorskip("torch")
    x, y = regression(256)
    found = specop.landscape.noise(least_squares("torch", (x, y)), population=False)
    G, rng, sizes = rows_of(x, y), np.random.default_rng(1), (4, 64)
    norms = [np.array([np.sum(G[rng.integers(256, size=b)].mean(0) ** 2) for _ in range(8000)]) for b in sizes]
    (small, large), (b, B) = [norm.mean() for norm in norms], sizes
    square, variance = (B * large - b * small) / (B - b), (small - large) / (1 / b - 1 / B)
    errors = [norm.std() / 8000**0.5 for norm in norms]
    error = np.hypot(*errors) / (1 / b - 1 / B)
    assert abs(found.variance.estimate - variance) < 4 * error
    assert abs(found.squared_gradient.estimate - square) < 4 * np.hypot(B * errors[1], b * errors[0]) / (B - b)
    assert variance / square == pytest.approx(found.simple_scale.estimate, rel=0.2)


@each_framework
def test_without_a_slope_there_is_no_batch_size(framework):
    x, y = regression(64)
    found = specop.landscape.noise(least_squares(framework, (x, y), weights=np.zeros(5)))
    assert found.batch_size is None
    assert found.saving is None
    assert found.advised_by == ""
    assert found.simple_scale.interval[0] > 0
    assert found.simple_scale.interval[1] == found.curvature_scale.interval[1] == np.inf
    assert "no batch size" in str(found)
    for call in (found.steps, found.work, found.rate):
        with pytest.raises(specop.errors.InvalidInputError, match="not told"):
            call(32)


@each_framework
def test_parameters_fitted_to_the_data_are_noticed(framework):
    x, y = regression(64)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    objective = least_squares(framework, (x, y), weights=best)
    found = specop.landscape.noise(objective)
    assert found.batch_size is None
    assert "fitted to these samples" in found.notes
    assert found.simple_scale.interval[1] == found.curvature_scale.interval[1] == np.inf
    # All there are: the gradient is zero to rounding, not tiny and exact.
    assert specop.landscape.noise(objective, population=False).batch_size is None


@each_framework
def test_downward_curvature_along_the_gradient_leaves_the_simple_scale(framework):
    rng = np.random.default_rng(0)
    x = 0.3 * rng.normal(size=(64, 2))

    def loss(xp, params, batch):
        return xp.mean(xp.sum(batch[0] * params["w"], -1)) - 0.5 * xp.sum(params["w"] ** 2)

    objective = objective_of(framework, loss, {"w": np.array([1.0, 2.0])}, (x,))
    found = specop.landscape.noise(objective)
    # Without outputs samples' gradients come one by one: g_i = x_i - w.
    G = x - [1.0, 2.0]
    assert found.variance.estimate == pytest.approx(np.trace(np.cov(G.T)), rel=1e-9)
    assert found.curvature_scale.estimate == pytest.approx(found.simple_scale.estimate, rel=0.5)
    assert found.gradient_curvature.interval[1] < 0
    assert found.noise_curvature.estimate < 0


@each_framework
def test_a_function_without_outputs_gives_the_same(framework):
    x, y = regression(10)

    def loss(xp, params, batch):
        return 0.5 * xp.mean((linear(xp, params, batch) - batch[1]) ** 2)

    plain = specop.landscape.noise(objective_of(framework, loss, {"w": WEIGHTS}, (x, y)))
    apart = specop.landscape.noise(least_squares(framework, (x, y)))
    for name in ("variance", "squared_gradient", "noise_curvature", "gradient_curvature"):
        one, other = getattr(plain, name), getattr(apart, name)
        assert [one.estimate, *one.interval] == pytest.approx([other.estimate, *other.interval], rel=1e-8), name
    # Fewer than two units a part: fewer parts.
    assert plain.parts == 5


@each_framework
def test_batches_take_the_place_of_samples_that_depend_on_each_other(framework):
    x, y = regression(96)

    def centred(xp, params, batch):
        return linear(xp, params, batch) - xp.mean(linear(xp, params, batch))

    from landscape_cases import functions

    made = criterion(functions(framework))

    def objective(batches):
        return objective_of(framework, centred, {"w": WEIGHTS}, batches, criterion=made, batches="as given")

    found = specop.landscape.noise(objective([(x[i : i + 8], y[i : i + 8]) for i in range(0, 96, 8)]), parts=4)
    G = []
    for i in range(0, 96, 8):
        part = x[i : i + 8] - x[i : i + 8].mean(0)
        G.append(part.T @ (part @ WEIGHTS - y[i : i + 8]) / 8)
    variance, square = _numbers(np.array(G))
    assert found.variance.estimate == pytest.approx(8 * variance, rel=1e-8)
    assert found.squared_gradient.estimate == pytest.approx(square, rel=1e-8)
    assert "12 batches of 8 samples" in found.notes
    for scale, top, bottom in (
        (found.simple_scale, found.variance, found.squared_gradient),
        (found.curvature_scale, found.noise_curvature, found.gradient_curvature),
    ):
        assert scale.estimate == pytest.approx(top.estimate / bottom.estimate)
    with pytest.raises(specop.errors.InvalidInputError, match=r"8 or more batches.* has 2 of 48 samples"):
        specop.landscape.noise(objective([(x[:48], y[:48]), (x[48:], y[48:])]))


@pytest.mark.torch
def test_a_convolutional_network_in_single_precision():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(3), torch.nn.Flatten(), torch.nn.Linear(16, 3)
    )
    x, y = torch.randn(96, 1, 8, 8), torch.randint(3, (96,))
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)]
    objective = specop.objective(model, torch.nn.functional.cross_entropy, batches)
    found = specop.landscape.noise(objective, population=False)
    double = specop.objective(model.double(), torch.nn.functional.cross_entropy, (x.double(), y))
    G = np.concatenate([block.numpy() for block in double.per_sample_gradients()])
    g = G.mean(0)
    H = double.hessian() @ torch.eye(double.n, dtype=torch.float64)
    assert found.variance.estimate == pytest.approx(np.sum((G - g) ** 2) / 96, rel=1e-5)
    assert found.squared_gradient.estimate == pytest.approx(g @ g, rel=1e-5)
    assert found.gradient_curvature.estimate == pytest.approx(g @ H.numpy() @ g, rel=1e-4)
    A = (G - g) @ H.numpy() @ (G - g).T / 96
    error = (2 * (np.sum(A**2) - np.sum(np.diag(A) ** 2)) / 16) ** 0.5
    assert abs(found.noise_curvature.estimate - np.trace(A)) < 3 * error
    assert 0.3 * error < found.noise_curvature.standard_error < 3 * error


@pytest.mark.torch
def test_what_is_wrong_is_named():
    torch = pytest.importorskip("torch")
    noise, error = specop.landscape.noise, specop.errors.InvalidInputError
    x, y = regression(32)
    good = least_squares("torch", (x, y))
    with pytest.raises(error, match="the data have 7 samples"):
        noise(good.subset(range(7)))
    with pytest.raises(error, match="parts must be at least 4, got 3"):
        noise(good, parts=3)
    with pytest.raises(specop.errors.NonFiniteError, match="these parameters hold NaN or infinity: w"):
        noise(good, theta=torch.full((5,), float("nan"), dtype=torch.float64))
    summed = objective_of("torch", lambda xp, p, b: xp.sum((linear(xp, p, b) - b[1]) ** 2), {"w": WEIGHTS}, (x, y))
    contrasted = specop.objective(
        torch.nn.Linear(5, 3).double(),
        lambda z, _: torch.nn.functional.cross_entropy(z @ z.T, torch.arange(len(z))),
        tuple(map(torch.from_numpy, (x, y))),
    )
    for coupled in (summed, contrasted):
        with pytest.raises(error, match=r"the mean of those of every second sample.* 8 or more batches of one size"):
            noise(coupled)


@pytest.mark.torch
def test_the_result_reads_well_and_is_kept(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    x, y = regression(64)
    found = specop.landscape.noise(least_squares("torch", (x, y)), population=False)
    scale = found.curvature_scale.estimate
    assert found.steps(scale) == pytest.approx(2.0)
    assert found.work(scale) == pytest.approx(2.0)
    assert found.saving == pytest.approx(found.work(64) / found.work(found.batch_size))
    best = found.squared_gradient.estimate / found.gradient_curvature.estimate
    assert found.rate(scale) == pytest.approx(best / 2)
    assert f"batch size {found.batch_size}" in str(found)
    found.save(tmp_path / "noise.npz")
    again = specop.load(tmp_path / "noise.npz")
    assert again.curvature_scale == found.curvature_scale
    assert again.steps(10) == found.steps(10)
    ax = found.plot()
    assert ax.get_xlabel() == "batch size"
    ax.figure.clf()
    frame = pytest.importorskip("pandas") and found.to_frame()
    assert next(iter(frame["estimate"])) == found.simple_scale.estimate
