"""A monitor records right numbers, at right times, goes on after a crash, and says what is wrong."""

import importlib
import warnings

import numpy as np
import pytest

import specop
from landscape_cases import FRAMEWORKS, each_framework, host, objective_of
from specop.training import Monitor, _schedule

START = {"w": np.array([0.5, -1.0, 2.0, 3.0]), "v": np.array([1.5, 0.2])}


def quartic(xp, params, batch):
    """sum(w^4)/12, whose Hessian is the diagonal matrix of w^2, times the mean of the batch."""
    return (xp.sum(params["w"] ** 4) + xp.sum(params["v"] ** 4)) / 12.0 * xp.mean(batch[0])


def quartic_objective(framework, samples=3, start=START):
    return objective_of(framework, quartic, start, (np.ones((samples, 1)),))


class Training:
    """Parameters that shrink in each step: in place in torch and TensorFlow, by new arrays in JAX."""

    def __init__(self, framework, objective, rate=0.1):
        self.framework, self.objective, self.rate = framework, objective, rate
        self.params = objective.unflatten(objective.theta)

    def step(self):
        theta = self.objective.flatten(self.params) * (1.0 - self.rate)
        self.params = self.objective.unflatten(theta)
        autodiff = self.objective._autodiff
        if self.framework == "torch":
            torch = importlib.import_module("torch")
            with torch.no_grad():
                for name, tensor in autodiff.parameters.items():
                    tensor.copy_(self.params[name])
        if self.framework == "tensorflow":
            for name, variable in autodiff.parameters.items():
                variable.assign(self.params[name])

    def passed(self):
        return {"params": self.params} if self.framework == "jax" else {}

    def square(self):
        return np.sort(host(self.objective.flatten(self.params)) ** 2)[::-1]


@each_framework
def test_numbers_are_those_of_the_point_within_their_errors(framework):
    training = Training(framework, quartic_objective(framework))
    monitor = Monitor(training.objective, every=1, what=("lambda_max", "trace", "eigenvalues", "density"), lr=0.1)
    for step in range(4):
        record = monitor.record(step, **training.passed())
        square = training.square()
        numbers = record.numbers
        assert abs(numbers["lambda_max"] - square[0]) <= numbers["lambda_max_error"] + 1e-12
        assert numbers["lambda_max_error"] <= 1e-2 * square[0]
        assert numbers["trace"] == pytest.approx(square.sum())
        found = [numbers[f"eigenvalue_{i}"] for i in range(1, 6)]
        np.testing.assert_allclose(found, square[:5], rtol=1e-4)
        # Lanczos on all dimensions: each probe's rule has the right support.
        assert numbers["density_mean_negative"] == pytest.approx(0.0, abs=1e-12)
        assert record["loss"].estimate == pytest.approx((square**2).sum() / 12.0)
        assert record.matvecs > 0 and record.results["trace"].estimate == numbers["trace"]
        training.step()
    history = monitor.history
    assert len(history) == 4 and history.matvecs == history["record_matvecs"].sum()
    np.testing.assert_allclose(history["lambda_max"], [9 * 0.81**i for i in range(4)], rtol=1e-4)
    assert history.samples == 3


@each_framework
def test_a_function_of_the_present_parameters(framework):
    shrunk = iter([1.0, 0.5])

    def make(factor=None):
        scale = next(shrunk) if factor is None else factor
        return quartic_objective(framework, start={name: scale * array for name, array in START.items()})

    monitor = Monitor(make, every=1, what="lambda_max")
    assert monitor.record(0)["lambda_max"].estimate == pytest.approx(9.0, rel=1e-3)
    assert monitor.record(1)["lambda_max"].estimate == pytest.approx(2.25, rel=1e-3)
    assert monitor.record(2, params=2.0)["lambda_max"].estimate == pytest.approx(36.0, rel=1e-3)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when told to, and by a second in each record."""
    now = [0.0]
    monkeypatch.setattr(_schedule, "clock", lambda: now[0])
    measured = Monitor._measured

    def slow(self, *arguments):
        now[0] += 1.0
        return measured(self, *arguments)

    monkeypatch.setattr(Monitor, "_measured", slow)
    return now


FIRST = FRAMEWORKS[:1]


@pytest.mark.parametrize("framework", FIRST)
@pytest.mark.parametrize("budget", [0.02, 0.1, 0.5])
def test_records_stay_within_the_budget(framework, budget, clock):
    training = Training(framework, quartic_objective(framework), rate=1e-3)
    monitor, shares = Monitor(training.objective, budget=budget, what="lambda_max"), []
    for step in range(round(60 / budget)):
        monitor.record(step, **training.passed())
        shares.append(len(monitor._rows.steps) / max(clock[0], 1e-9))
        training.step()
        clock[0] += 0.25
    history = monitor.history
    # The first record has no time before it; from the second one on the share is within the budget, and most of it.
    second = history.steps[1]
    assert max(shares[second:]) <= budget + 1e-9
    assert history.share == pytest.approx(budget, rel=0.15) and history.share <= budget
    assert history.steps[0] == 0
    # The same distances but for rounding to whole steps.
    assert np.ptp(np.diff(history.steps)[1:]) <= 2


@pytest.mark.parametrize("framework", FIRST)
def test_every_so_many_steps_and_what_that_takes(framework, clock):
    training = Training(framework, quartic_objective(framework), rate=1e-3)
    monitor = Monitor(training.objective, every=50, what="lambda_max")
    for step in range(3, 200, 2):
        monitor.record(step, **training.passed())
        training.step()
        clock[0] += 0.5
    assert monitor.history.steps.tolist() == [3, 53, 103, 153]
    assert monitor.history.share == pytest.approx(4 / (98 * 0.5 + 4))
    assert "7.5 % of the time (every 50 steps)" in str(monitor.history)


@pytest.mark.parametrize("framework", FIRST)
def test_a_history_goes_on_after_a_crash(framework, tmp_path, clock):
    path = tmp_path / "run.npz"

    def run(steps, rate=0.1):
        training = Training(framework, quartic_objective(framework), rate)
        monitor = Monitor(training.objective, every=10, what="lambda_max", history=path)
        for step in range(max(steps)):
            if step in steps:
                monitor.record(step, **training.passed())
            training.step()
            clock[0] += 1.0
        return monitor.history

    whole = Monitor(quartic_objective(framework), history=None).history
    assert len(whole) == 0
    first = run(range(0, 36))
    assert first.steps.tolist() == [0, 10, 20, 30]
    # Training goes on from a checkpoint at step 18: what was recorded later is of training that is lost.
    second = run(range(18, 60))
    assert second.steps.tolist() == [0, 10, 20, 30, 40, 50]
    np.testing.assert_allclose(second["lambda_max"], 9 * 0.81**second.steps, rtol=1e-3)
    assert second.elapsed > first.elapsed and second.seconds == pytest.approx(first.seconds + 4)
    loaded = specop.load(path)
    np.testing.assert_array_equal(loaded["lambda_max"], second["lambda_max"])
    assert (loaded.quantities, loaded.structure.shapes) == (second.quantities, second.structure.shapes)
    assert loaded.to_frame()["step"].tolist() == second.steps.tolist()
    resumed = Monitor(quartic_objective(framework), every=10, what="lambda_max", history=loaded)
    assert resumed.record(51) is None and resumed.record(60) is not None
    # Only once: a number that falls is otherwise a step counted by the epoch.
    with pytest.raises(specop.errors.InvalidInputError, match=r"got 5 after a record at step 60\. Count steps over"):
        resumed.record(5)


@pytest.mark.parametrize("framework", FIRST)
def test_a_history_of_another_model_is_refused_by_name(framework):
    monitor = Monitor(quartic_objective(framework), what="lambda_max")
    monitor.record(0)
    others = {
        r"'v' has the shape \(2,\) there and \(3,\) here": {**START, "v": np.ones(3)},
        "'v' is missing now": {"w": START["w"]},
        "'u' is new": {**START, "u": np.ones(1)},
    }
    for text, start in others.items():
        with pytest.raises(
            specop.errors.InvalidInputError, match=f"history that was passed is of another model.*{text}"
        ):
            Monitor(quartic_objective(framework, start=start), history=monitor.history)
    with pytest.raises(specop.errors.InvalidInputError, match="of 3 samples, and the objective has 5"):
        Monitor(quartic_objective(framework, samples=5), history=monitor.history)
    # Nobody knows what a function returns before it is called, and it may return another model each time.
    changing = iter([START, {"w": START["w"]}])
    monitor = Monitor(lambda: quartic_objective(framework, start=next(changing)), every=1, what="lambda_max")
    monitor.record(0)
    with pytest.raises(
        specop.errors.InvalidInputError, match=r"the history so far is of another model.*'v' is missing"
    ):
        monitor.record(1)


@each_framework
def test_nan_is_said_once_and_training_goes_on(framework):
    training = Training(framework, quartic_objective(framework))
    monitor = Monitor(training.objective, every=1, what="lambda_max")
    monitor.record(0, **training.passed())
    fine = training.params
    training.params = training.objective.unflatten(training.objective.flatten(fine) * np.nan)
    training.step()
    with pytest.warns(specop.errors.NonFiniteWarning, match="at step 1 nothing could be recorded: the loss is nan"):
        record = monitor.record(1, **training.passed())
    assert record.matvecs == 0 and "w" in record.gap
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.record(2, **training.passed()).estimates == {}
        training.params = fine
        training.step()
        assert monitor.record(3, **training.passed())["lambda_max"].estimate == pytest.approx(7.29, rel=1e-3)
    history = monitor.history
    assert np.isnan(history["lambda_max"]).tolist() == [False, True, True, False]
    assert list(history.gaps) == [1, 2] and "gap at step 1: the loss is nan" in str(history)


def test_parameters_that_stay_as_they_were_are_noticed_in_jax():
    pytest.importorskip("jax")
    monitor = Monitor(quartic_objective("jax"), every=1, what="lambda_max")
    monitor.record(0)
    with pytest.warns(UserWarning, match=r"those of the last record.*monitor.record\(step, params=params\)"):
        monitor.record(1)
    # Said once.
    monitor.record(2)


def crossing(xp, params, batch):
    """Two eigenvectors that never mix: the curvature along one falls while that along the other rises."""
    x = params["x"]
    weights = xp.array(np.concatenate([np.zeros(2), np.linspace(0.0, 1.0, 1998)]))
    first, second = xp.array(np.eye(2000)[0]), xp.array(np.eye(2000)[1])
    time = xp.sum(params["t"])
    curvature = (10.0 - time) * xp.sum(first * x) ** 2 + (1.5 + time) * xp.sum(second * x) ** 2
    return 0.5 * (curvature + xp.sum(weights * x * x)) + 0.0 * xp.sum(batch[0])


@pytest.mark.parametrize("framework", FIRST)
def test_an_eigenvalue_that_overtakes_is_not_missed_for_long(framework):
    times = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 6.0, 6.0, 6.0]

    def make(time):
        start = {"x": np.full(2000, 1e-3 * (1.0 + time)), "t": np.array([time])}
        return objective_of(framework, crossing, start, select="x")

    monitor = Monitor(make, every=1, what="lambda_max")
    products = []
    for step, time in enumerate(times):
        time += 1e-6 * step
        record = monitor.record(step, params=time)
        products.append(record.matvecs)
        found, right = record["lambda_max"].estimate, max(10.0 - time, 1.5 + time)
        assert found <= right * (1 + 1e-9) <= record["lambda_max_level"].estimate
        assert record["lambda_max"].interval[1] >= record["lambda_max_level"].estimate
        # It may be missed in the record after it has overtaken, and in no later one.
        if step != times.index(6.0):
            assert found == pytest.approx(right, rel=1e-2)
    assert max(products[1:5]) < products[0]


@pytest.mark.parametrize("framework", FIRST)
def test_nothing_is_held_between_records(framework):
    objective = quartic_objective(framework)
    Monitor(objective, what=("lambda_max", "trace")).record(0)
    assert objective._kept == {} and objective._budget.room() == objective._budget.total


@pytest.mark.parametrize("framework", FIRST)
def test_the_plot_shows_the_moving_limit(framework):
    training = Training(framework, quartic_objective(framework))
    monitor = Monitor(training.objective, every=1, what=("lambda_max", "trace"), lr=lambda step: 0.1 / (1 + step))
    for step in range(3):
        monitor.record(step, **training.passed())
        training.step()
    ax = monitor.plot()
    assert [line.get_label() for line in ax.lines][-1] == "2 / lr"
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [20.0, 40.0, 60.0])
    assert monitor.plot(quantity="trace").get_ylabel() == "trace"
    with pytest.raises(specop.errors.InvalidInputError, match=r"quantity must be one of .*lambda_max.*got 'sharpnes'"):
        monitor.history.plot(quantity="sharpnes")


@pytest.mark.parametrize("framework", FIRST)
def test_bad_input_is_named(framework):
    objective = quartic_objective(framework)
    refused = specop.errors.InvalidInputError
    with pytest.raises(refused, match=r"Monitor takes an objective.*got dict"):
        Monitor({})
    with pytest.raises(refused, match=r"each of what must be one of .*lambda_max.*got 'lambda'"):
        Monitor(objective, what=("lambda",))
    with pytest.raises(refused, match="what names nothing"):
        Monitor(objective, what=())
    with pytest.raises(refused, match="budget is a share of the time above 0 and at most 1, got 10"):
        Monitor(objective, budget=10)
    with pytest.raises(refused, match="every must be a positive integer, got 0"):
        Monitor(objective, every=0)
    with pytest.raises(refused, match=r"history must be a HistoryResult.*got dict"):
        Monitor(objective, history={})
    with pytest.raises(refused, match="returned NoneType; it must return what"):
        Monitor(lambda: None).record(0)
    for step in (-1, 1.5, "3", True):
        with pytest.raises(refused, match="step is the number of steps"):
            Monitor(objective).record(step)
    monitor = Monitor(objective, what="lambda_max", every=5)
    monitor.record(np.int64(7))
    with pytest.raises(refused, match="step must not fall: got 6 after a record at step 7"):
        monitor.record(6)
    # Such as within an accumulation of gradients.
    assert Monitor(objective, what="lambda_max", budget=1, history=monitor.history).record(7) is None
    with pytest.raises(refused, match="nothing was recorded yet"):
        Monitor(objective).plot()
    with pytest.raises(KeyError, match="'trace' was not recorded; there are step, loss"):
        monitor.history["trace"]


@pytest.mark.parametrize("name", ["lambda_max", "eigenvalues", "trace", "density", "stability", "noise", "flatness"])
def test_options_are_looked_at_before_training(name):
    objective = quartic_objective(FRAMEWORKS[0])
    for option in ("rtoll", "seed", "theta"):
        with pytest.raises(
            specop.errors.InvalidInputError, match=rf"what\['{name}'\] has no option '{option}'; it has"
        ):
            Monitor(objective, what={name: {option: 1}})
    right = {"lambda_max": "tol", "eigenvalues": "tol", "trace": "atol", "density": "steps"}
    right |= {"stability": "tol", "noise": "parts", "flatness": "draws"}
    Monitor(objective, what={name: {right[name]: 2}})


@pytest.mark.parametrize("lr", [-1.0, 0.0, float("nan"), float("inf"), True, "fast", np.ones(2)])
def test_rates_out_of_range(lr):
    objective = quartic_objective(FRAMEWORKS[0])
    with pytest.raises(specop.errors.InvalidInputError, match=r"lr must be a positive number, got"):
        Monitor(objective, what="lambda_max", lr=lr)
    if lr is not True and np.all(lr == 0.0):
        return
    with pytest.raises(specop.errors.InvalidInputError, match=r"lr\(3\) must be a finite number >= 0, got"):
        Monitor(objective, what="lambda_max", lr=lambda step: lr).record(3)


def test_a_schedule_that_stands_still_has_no_limit():
    monitor = Monitor(quartic_objective(FRAMEWORKS[0]), every=1, lr=lambda step: np.array([0.1 * step]))
    numbers = monitor.record(0).numbers
    assert (numbers["lr"], numbers["limit"], numbers["ratio"]) == (0.0, np.inf, 0.0)
    np.testing.assert_allclose(numbers["sharpness"], 9.0, rtol=1e-2)


@pytest.mark.torch
def test_what_needs_no_optimizer_is_recorded_before_its_first_step():
    torch = importlib.import_module("torch")
    model, data = torch.nn.Linear(2, 1), (torch.randn(16, 2), torch.randn(16, 1))
    objective = specop.objective(model, torch.nn.functional.mse_loss, data)
    monitor = Monitor(objective, what=("stability", "noise"), optimizer=torch.optim.Adam(model.parameters()))
    assert "simple_scale" in monitor.record(0).numbers
    assert "sharpness" not in monitor.history.quantities and "step 0: " in monitor.history.notes


def test_a_history_whose_folder_is_missing_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere' to write run\.npz in\. Make it first"):
        Monitor(quartic_objective(FRAMEWORKS[0]), history=tmp_path / "nowhere" / "run.npz")
    with pytest.raises(specop.errors.InvalidInputError, match=r"Use run\.npz"):
        Monitor(quartic_objective(FRAMEWORKS[0]), history=tmp_path / "run.txt")
