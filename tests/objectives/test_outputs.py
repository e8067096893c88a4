"""What outputs, criterion and likelihood must be for matrices made of them, in every framework."""

import numpy as np
import pytest

import specop
from parity.cases import FRAMEWORKS, models, numpy, operator
from specop.errors import InvalidInputError, NonFiniteError

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)
KINDS = ["ggn", "fisher", "mc", "empirical", "jacobian"]
_rng = np.random.default_rng(8)
V, W, INPUTS = (_rng.standard_normal(shape) for shape in [(4, 3), (3, 4), (8, 3)])
LABELS = (np.arange(8) % 3).astype(np.int32)


def network(framework):
    return lambda p, batch: models(framework).tanh(batch[0] @ p["w"]) @ p["v"]


def make(framework, outputs=None, criterion=None, likelihood="categorical", y=LABELS, **keywords):
    module = models(framework)
    batch, params = [tuple(module.array(part, "float64") for part in parts) for parts in ((INPUTS, y), (V, W))]
    return specop.objective(
        outputs or network(framework),
        criterion or module.cross_entropy,
        batch,
        params=dict(zip("vw", params, strict=True)),
        likelihood=likelihood,
        **keywords,
    )


def product(A):
    return numpy(A @ A.backend.from_host(np.ones(A.shape[1]), A.domain))


# --- Outputs ----------------------------------------------------------------------------------------------------------


@each_framework
def test_a_function_of_the_loss_alone_has_no_outputs(framework):
    module = models(framework)
    found = specop.objective(
        lambda p, _: module.squared_error(p, 0 * p), params=module.array(np.ones(3), "float64"), likelihood=None
    )
    for kind in KINDS:
        with pytest.raises(InvalidInputError, match=r"without a criterion|likelihood of labels"):
            product(operator(found, kind))
    for call in (lambda: product(found.gradient_covariance()), lambda: list(found.per_sample_gradients())):
        with pytest.raises(InvalidInputError, match=r"without a criterion"):
            call()


@each_framework
def test_outputs_that_are_not_one_array(framework):
    cross_entropy = models(framework).cross_entropy
    pair = make(framework, lambda p, batch: (network(framework)(p, batch), 1), lambda z, y: cross_entropy(z[0], y))
    with pytest.raises(InvalidInputError, match=r"outputs must be one real array, got tuple.*logits alone"):
        product(pair.ggn())


@each_framework
def test_outputs_that_are_not_finite_name_the_parameters(framework):
    found = make(framework)
    theta = numpy(found.theta)
    theta[0] = np.inf
    theta = found.hessian().backend.from_host(theta, found.hessian().domain)
    for call in (
        lambda: product(found.ggn(theta)),
        lambda: product(found.jacobian(theta)),
        lambda: list(found.per_sample_gradients(theta)),
    ):
        with pytest.raises(NonFiniteError, match=r"(outputs hold NaN or infinity|the loss is nan).*: v"):
            call()


@each_framework
def test_samples_that_depend_on_each_other_are_refused(framework):
    module = models(framework)
    mixing = make(framework, lambda p, batch: network(framework)(p, (module.centred(batch[0]), None)))
    with pytest.raises(InvalidInputError, match="outputs of samples 0 to 7 depend on the rest of their batch"):
        list(mixing.per_sample_gradients())
    fewer = make(
        framework,
        lambda p, batch: network(framework)(p, batch)[:6],
        lambda z, y: module.cross_entropy(z, y[:6]),
    )
    with pytest.raises(InvalidInputError, match=r"outputs have shape \(6, 3\), but the batch has 8 samples"):
        product(fewer.fisher(kind="empirical", of="samples"))


@each_framework
def test_gradients_of_samples_at_another_point(framework):
    found = make(framework)
    theta = found.gradient()
    rows = np.concatenate([numpy(block) for block in found.per_sample_gradients(theta, block_bytes=3 * found.n * 8)])
    np.testing.assert_allclose(rows.mean(0), numpy(found.gradient(theta)), rtol=0, atol=1e-12)
    expected = rows.T @ (rows @ np.ones(found.n)) / 8
    np.testing.assert_allclose(
        product(found.fisher(theta, kind="empirical", of="samples")), expected, rtol=0, atol=1e-12
    )


# --- Likelihoods ------------------------------------------------------------------------------------------------------


@each_framework
def test_a_wrong_likelihood_is_noticed(framework):
    module = models(framework)
    one_hot = module.array(np.eye(3)[LABELS], "float64")
    # Where each matrix is compiled, each of them meets some of the criteria.
    every = ("ggn", "fisher", "mc")
    some = [every] * 5 if framework == "torch" else [every[i % 3 :][:1] for i in range(5)]
    wrong = [
        (lambda z, y: module.squared_error(z, one_hot), "categorical"),
        (module.cross_entropy, "bernoulli"),
        (module.cross_entropy, "gaussian"),
        (lambda z, y: -module.squared_error(z, one_hot), "gaussian"),
        (lambda z, y: module.cross_entropy(2 * z, y), "categorical"),
    ]
    for (criterion, claimed), kinds in zip(wrong, some, strict=True):
        found = make(framework, criterion=criterion, likelihood=claimed)
        for kind in kinds:
            with pytest.raises(InvalidInputError, match=rf"not the negative log-likelihood of a {claimed} variable"):
                product(operator(found, kind))


@each_framework
def test_a_likelihood_that_is_not_known(framework):
    cross_entropy = models(framework).cross_entropy
    found = make(framework, criterion=lambda z, y: cross_entropy(z, y), likelihood=None)
    for kind in ("exact", "mc"):
        with pytest.raises(InvalidInputError, match=rf"fisher\(kind='{kind}'\) needs to know the .*empirical"):
            found.fisher(kind=kind)
    assert found.ggn().is_psd is None and np.isfinite(product(found.fisher(kind="empirical", of="samples"))).all()
    with pytest.raises(InvalidInputError, match="likelihood must be one of categorical, bernoulli, gaussian, got 'po"):
        make(framework, likelihood="poisson")


@pytest.mark.parametrize("claimed", ["categorical", "bernoulli", "gaussian"])
@each_framework
def test_the_sampled_fisher_converges_to_the_exact_one(framework, claimed):
    """Which is the Gauss-Newton matrix."""
    module = models(framework)
    criterion, y = {
        "categorical": (module.cross_entropy, LABELS),
        "bernoulli": (module.binary_cross_entropy, np.eye(3)[LABELS]),
        "gaussian": (module.squared_error, np.eye(3)[LABELS]),
    }[claimed]
    found = make(framework, criterion=criterion, likelihood=claimed, y=y)
    exact = product(found.fisher())
    np.testing.assert_allclose(exact, product(found.ggn()), rtol=0, atol=1e-10)
    many, few = (product(found.fisher(kind="mc", draws=draws)) for draws in (4000, 1))
    assert 1e-6 < np.linalg.norm(many - exact) < 0.1 * np.linalg.norm(exact) < np.linalg.norm(few - exact)


@each_framework
def test_classes_in_the_second_dimension(framework):
    module = models(framework)
    tokens, labels = INPUTS.reshape(4, 2, 3), LABELS.reshape(4, 2)
    batch = module.array(tokens, "float64"), module.array(labels, "float64")
    params = [module.array(V, "float64"), module.array(W, "float64")]

    def outputs(p, batch):
        return module.tanh(batch[0] @ p[1]) @ p[0]

    last, second = (
        specop.objective(function, criterion, batch, params=params, likelihood="categorical")
        for function, criterion in [
            (outputs, module.cross_entropy),
            (lambda p, x: module.swapped(outputs(p, x)), lambda z, y: module.cross_entropy(module.swapped(z), y)),
        ]
    )
    expected = product(last.ggn())
    for found in (last.fisher(), second.fisher()):
        np.testing.assert_allclose(product(found), expected, rtol=0, atol=1e-10)
    sampled = [product(found.fisher(kind="mc", draws=3)) for found in (last, second)]
    np.testing.assert_allclose(*sampled, rtol=0, atol=1e-10)


# --- Scales -----------------------------------------------------------------------------------------------------------

MANY, TERMS = 3000, 5


def drawn(framework, likelihood):
    """An objective whose labels are drawn from the model: of sequences of tokens, or of several outputs a sample."""
    module, rng = models(framework), np.random.default_rng(3)
    classes = {"tokens": 4, "classes": 5}.get(likelihood, TERMS)
    x, weight = rng.standard_normal((MANY, *[TERMS] * (likelihood == "tokens"), 3)), rng.standard_normal((3, classes))
    z = x @ weight
    if likelihood in ("tokens", "classes"):
        y = (np.exp(z) / np.exp(z).sum(-1, keepdims=True)).cumsum(-1)
        y = (y < rng.uniform(size=(*z.shape[:-1], 1))).sum(-1).clip(0, classes - 1).astype(np.int32)
    elif likelihood == "bernoulli":
        y = (rng.uniform(size=z.shape) < 1 / (1 + np.exp(-z))).astype(float)
    else:
        # The squared error's mean over outputs is that of a Gaussian of this variance.
        y = z + rng.standard_normal(z.shape) * (TERMS / 2) ** 0.5
    criteria = {"bernoulli": module.binary_cross_entropy, "gaussian": module.squared_error}
    batch = tuple(module.array(part, "float64") for part in (x, y))
    return specop.objective(
        lambda p, batch: batch[0] @ p if framework != "tensorflow" else module.tf.tensordot(batch[0], p, 1),
        criteria.get(likelihood, module.cross_entropy),
        batch,
        params=module.array(weight, "float64"),
        likelihood=likelihood if likelihood in criteria else "categorical",
    )


@pytest.mark.parametrize(
    ("likelihood", "terms"), [("classes", 1), ("tokens", TERMS), ("bernoulli", TERMS), ("gaussian", 1)]
)
@each_framework
def test_fisher_matrices_have_one_scale(framework, likelihood, terms):
    """With labels drawn from the model the traces are equal; that of samples is smaller by a mean's terms."""
    found = drawn(framework, likelihood)
    exact = specop.trace(found.fisher(), max_matvecs=found.n)
    empirical = specop.trace(found.fisher(kind="empirical"), max_matvecs=found.n)
    assert empirical.estimate == pytest.approx(exact.estimate, rel=0.06)
    of_samples = specop.trace(found.fisher(kind="empirical", of="samples"), max_matvecs=found.n)
    assert terms * of_samples.estimate == pytest.approx(exact.estimate, rel=0.12)
    assert (exact.notes, empirical.notes, of_samples.notes) == (
        "",
        "empirical fisher of terms",
        "empirical fisher of samples",
    )
    assert "empirical fisher of terms" in repr(found.fisher(kind="empirical")) and empirical.notes in str(empirical)


@each_framework
def test_what_the_empirical_matrix_is_of(framework):
    found = make(framework, likelihood=None)
    assert "of samples" in repr(found.fisher(kind="empirical"))
    for options, text in (
        ({"kind": "empirical", "of": "terms"}, "needs to know the likelihood"),
        ({"kind": "empirical", "of": "tokens"}, "of must be 'terms' or 'samples'.*'tokens'"),
        ({"kind": "exact", "of": "terms"}, "for kind='empirical'; got 'terms' for 'exact'"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            found.fisher(**options)
