"""stability of the optimizers that people have: modules' own, what is refused, and all left as it was."""

import numpy as np
import pytest

import specop
from landscape_cases import host
from optimizer_cases import jax_run, torch_run
from specop.landscape import stability


@pytest.mark.torch
def test_the_result_reads_saves_and_draws(tmp_path):
    run = torch_run("Adam", 0.1 * np.ones(5), lr=1e-3)
    found = stability(run.objective, run.optimizer, k=2)
    found.save(tmp_path / "kept.npz")
    again = specop.load(tmp_path / "kept.npz")
    assert str(again) == str(found) and again.behaviours == found.behaviours
    assert "of the limit 38000 of Adam" in str(found) and "decays" in str(found)
    pytest.importorskip("matplotlib")
    (line,) = [one for one in found.plot().lines if one.get_linestyle() == "--"]
    np.testing.assert_allclose(line.get_ydata(), 38000, rtol=1e-6)
    assert len(found.plot_steps().lines) == 3


@pytest.mark.torch
def test_optimizers_without_a_known_limit_are_refused_by_name():
    import torch

    run = torch_run("SGD", np.ones(5), lr=0.1)
    weights = [weight for group in run.optimizer.param_groups for weight in group["params"]]
    objective = run.objective

    class Own(torch.optim.SGD):
        pass

    for optimizer, text in (
        (torch.optim.NAdam(weights), "NAdam"),
        (torch.optim.Adagrad(weights), "Adagrad"),
        (Own(weights, lr=0.1), "Own"),
        (torch.optim.SGD(weights, lr=0.1, maximize=True), "maximize=True"),
        (torch.optim.SGD(weights[:1], lr=0.1), "does not hold 'b'"),
        (torch.optim.Adam(weights), "no second moments yet for 'a', 'b'"),
        ("adam", "got str"),
        (
            torch.optim.SGD([{"params": weights[:1], "momentum": 0.9}, {"params": weights[1:]}], lr=0.1),
            "'a' with momentum 0.9 and 'b' with 0",
        ),
    ):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(objective, optimizer)
    part = objective.restrict("a")
    assert stability(part, torch.optim.SGD(weights[:1], lr=0.1)).ratio < 1
    for options, text in (
        ({"optimizer": run.optimizer, "lr": 0.1}, "brings its own"),
        ({"lr": -1.0}, "lr must be a positive"),
        ({"lr": 0.1, "momentum": 1.0}, "momentum must lie"),
        ({"steps": -1}, "steps must be"),
        ({"k": 9}, "k must be"),
        ({"max_matvecs": 1}, "at least 2, for"),
        ({"max_matvecs": 11, "lr": 0.1}, "at least 12, for"),
    ):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(objective, **options)


@pytest.mark.jax
def test_transformations_without_a_known_limit_are_refused():
    start = 0.1 * np.arange(1.0, 6.0)
    for make, text in (
        (lambda module: module.nadam(0.1, b2=0.99), "looks ahead, as Nadam does"),
        (lambda module: module.adamax(0.1, b2=0.99), "no means of squared gradients"),
        (lambda module: module.yogi(0.1, b2=0.99), "no means of squared gradients"),
        (lambda module: module.radam(0.1, b2=0.99), "corrects the bias"),
        (lambda module: module.lamb(0.1, b2=0.99), "not proportional"),
        (lambda module: module.lion(0.1), "ScaleByLionState"),
        (lambda module: module.adabelief(0.1), "ScaleByBeliefState"),
        (lambda module: module.sign_sgd(0.1), "not proportional to gradients"),
        (lambda module: module.sgd(-0.1), "down the gradient"),
        (lambda module: module.chain(module.clip_by_global_norm(1e-3), module.sgd(0.1)), "clips the gradient"),
        (lambda module: module.chain(module.clip(1e-3), module.adam(0.1, b2=0.99)), "clips the gradient"),
        (lambda module: module.chain(module.sgd(0.1, momentum=0.9), module.clip(1e-6)), "clips its steps"),
        (
            lambda module: module.multi_transform(
                {"a": module.sgd(0.1), "b": module.adam(0.1, b2=0.99)}, {"a": "a", "b": "b"}
            ),
            "another rule 'a'",
        ),
        (
            lambda module: module.chain(module.adam(0.1, b2=0.99), module.trace(0.9)),
            "holds ScaleByAdamState and TraceState",
        ),
    ):
        run = jax_run(make, start, decay=0.99)
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(run.objective, run.optimizer)
    transformation, state = run.optimizer
    for optimizer, text in ((transformation, "the pair"), (state, "the pair"), ("adam", "the pair")):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(run.objective, optimizer)
    adam = pytest.importorskip("optax").adam(0.1)
    with pytest.raises(specop.errors.InvalidInputError, match="no second moments yet for 'a', 'b'"):
        stability(run.objective, (adam, adam.init(run.params)))
    with pytest.raises(specop.errors.InvalidInputError, match="does not hold 'b'"):
        stability(run.objective, (adam, adam.init({"a": run.params["a"]})))


@pytest.mark.jax
@pytest.mark.parametrize("kind", ["flax", "equinox"])
def test_modules_of_jax_with_their_own_optimizers(kind):
    import jax
    import jax.numpy as jnp
    import optax as library

    x, y = (jnp.array(np.random.default_rng(seed).normal(size=(12, width))) for seed, width in ((0, 3), (1, 2)))

    def criterion(outputs, y):
        return ((outputs - y) ** 2).mean()

    rate = library.linear_schedule(0.1, 0.0, 10)
    if kind == "flax":
        nnx = pytest.importorskip("flax.nnx")
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        optimizer = nnx.Optimizer(model, library.adamw(rate, weight_decay=0.0), wrt=nnx.Param)
        for _ in range(3):
            optimizer.update(model, nnx.grad(lambda model: criterion(model(x), y))(model))
        objective = specop.objective(model, criterion, (x, y))
        second = nnx.as_pure(optimizer.opt_state)[0].nu
        moments = np.concatenate([np.ravel(second[name]) for name in objective.names])
    else:
        equinox = pytest.importorskip("equinox")
        model = equinox.nn.Linear(3, 2, key=jax.random.key(0), dtype=jnp.float64)
        transformation = library.adam(rate)
        state = transformation.init(equinox.filter(model, equinox.is_inexact_array))
        for _ in range(3):
            slopes = equinox.filter_grad(lambda model: criterion(jax.vmap(model)(x), y))(model)
            updates, state = transformation.update(slopes, state, model)
            model = equinox.apply_updates(model, updates)
        optimizer = (transformation, state)
        objective = specop.objective(
            lambda model, batch: criterion(jax.vmap(model)(batch[0]), batch[1]), params=model, data=(x, y)
        )
        moments = np.concatenate([np.ravel(getattr(state[0].nu, name)) for name in objective.names])
    found = stability(objective, optimizer)
    P = (1 - 0.9**3) * (np.sqrt(moments / (1 - 0.999**3)) + 1e-8)
    H = host(objective.hessian().to_dense())
    largest = np.linalg.eigvalsh(H / np.sqrt(np.outer(P, P)))[-1]
    np.testing.assert_allclose(found.sharpness.estimate, largest, rtol=1e-4)
    np.testing.assert_allclose(found.limit, 38 / 0.07, rtol=1e-4)
    assert found.optimizer == "Adam"


@pytest.mark.tensorflow
def test_a_compiled_keras_model_and_what_is_refused_of_keras():
    import keras as library
    import tensorflow as tf

    library.utils.set_random_seed(0)
    x, y = (np.random.default_rng(seed).normal(size=(12, width)).astype("float32") for seed, width in ((0, 3), (1, 2)))

    def trained(optimizer, **options):
        model = library.Sequential([library.Input((3,)), library.layers.Dense(2, **options)])
        model.compile(optimizer=optimizer, loss="mse")
        model.fit(x, y, batch_size=12, epochs=3, verbose=0)
        data = tf.constant(x), tf.constant(y)
        return model.trainable_variables, specop.objective(model, library.losses.MeanSquaredError(), data)

    schedule = library.optimizers.schedules.PolynomialDecay(0.1, 10, end_learning_rate=0.0)
    adam = library.optimizers.AdamW(schedule, weight_decay=0.5)
    adam.exclude_from_weight_decay(var_names=["bias"])
    variables, objective = trained(adam)
    found = stability(objective, adam)
    P = np.concatenate([np.ravel(one.numpy()) for one in adam._velocities])
    P = (1 - 0.9**3) / np.sqrt(1 - 0.999**3) * (np.sqrt(P) + 1e-7)
    decay = 0.07 * 0.5 * np.repeat([1.0, 0.0], [6, 2])
    D = np.diag(1 / np.sqrt(P * (1 - decay / 2)))
    largest = np.linalg.eigvalsh(D @ host(objective.hessian().to_dense()) @ D)[-1]
    np.testing.assert_allclose(found.sharpness.estimate, largest, rtol=1e-3)
    np.testing.assert_allclose(found.limit, 38 / 0.07, rtol=1e-4)

    sgd = library.optimizers.SGD(0.1, clipnorm=1e3)
    sgd.build(variables)
    assert stability(objective, sgd).limit == pytest.approx(20)
    part = library.optimizers.SGD(0.1)
    part.build(variables[:1])
    for optimizer, text in (
        (library.optimizers.Nadam(0.1), "Nadam"),
        (library.optimizers.Adam(0.1), "no second moments yet"),
        (library.optimizers.SGD(0.1, clipnorm=1e-3), "clipnorm=0.001 where it has"),
        (library.optimizers.SGD(0.1, global_clipnorm=1e-3), "global_clipnorm=0.001"),
        (library.optimizers.SGD(0.1, clipvalue=1e-3), "clipvalue=0.001"),
        (library.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=5), "ema_overwrite_frequency"),
        (part, "does not hold"),
        ("sgd", "got str"),
    ):
        with pytest.raises(specop.errors.InvalidInputError, match=text):
            stability(objective, optimizer)
    bound = library.optimizers.SGD(0.1)
    with pytest.raises(specop.errors.InvalidInputError, match="has a constraint"):
        stability(trained(bound, kernel_constraint=library.constraints.NonNeg())[1], bound)


@pytest.mark.torch
def test_parameters_that_the_optimizer_never_saw_a_slope_of_are_named():
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    x, y = torch.randn(40, 4), torch.randn(40, 2)
    criterion = torch.nn.functional.mse_loss
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    # In training mode batch normalization takes the bias before it away; in evaluation mode the loss has a slope in it.
    objective = specop.objective(model.eval(), criterion, (x, y))
    found = stability(objective, optimizer, condition_matvecs=0, steps=0)
    assert "for '0.bias': it was trained on another one" in found.notes and "'0.bias'" in str(found)
    rest = objective.restrict(["0.weight", "1", "3"])
    assert not stability(rest, optimizer, condition_matvecs=0, steps=0).notes


@pytest.mark.torch
def test_the_optimizer_and_the_model_stay_as_they_are():
    run = torch_run("Adam", np.ones(5), lr=0.1)
    before = repr(run.optimizer.state_dict()), run.place()
    stability(run.objective, run.optimizer)
    assert repr(run.optimizer.state_dict()) == before[0] and (run.place() == before[1]).all()
    assert host(run.objective.theta).tolist() == run.place().tolist()
