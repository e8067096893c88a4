"""outliers: spectra with known gaps, softmax regression in closed form, and overlaps by hand."""

import numpy as np
import pytest

import specop
from landscape_cases import each_framework, host, objective_of, quadratic
from specop.errors import InvalidInputError
from specop.landscape import outliers

BULK = np.linspace(1.0, 0.1, 28)


def diagonal(values, at=1.0):
    """Return (loss, params) of a quadratic with these eigenvalues."""
    values = np.asarray(values, dtype=float)

    def loss(xp, params, batch):
        return 0.5 * xp.sum(xp.array(values) * params["w"] * params["w"]) + 0.0 * xp.sum(batch[0])

    return loss, {"w": np.broadcast_to(at, values.shape).astype(float)}


def softmax(xp, params, batch):
    """The mean cross-entropy of a linear classifier; labels are one-hot."""
    logits = batch[0] @ params["w"]
    return xp.mean(xp.log(xp.sum(xp.exp(logits), -1)) - xp.sum(logits * batch[1], -1))


def clusters(classes, features, apart, samples, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, features))
    centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
    labels = np.arange(samples) % classes
    return centres[labels] + rng.normal(size=(samples, features)), labels


@each_framework
def test_outliers_of_a_quadratic(framework):
    values = np.r_[BULK, 40.0, 50.0]
    objective = objective_of(framework, *diagonal(values))
    found = outliers(objective, 3)
    assert (found.count, found.places.tolist(), found.classes) == (2, [2], 3)
    np.testing.assert_allclose(found.eigenvalues[:3], [50, 40, 1], rtol=1e-5)
    np.testing.assert_allclose(found.edge, 1.0, rtol=1e-5)
    np.testing.assert_allclose(found.ratios[:2], [1.25, 40.0], rtol=1e-5)
    # The gradient is the vector of the eigenvalues.
    np.testing.assert_allclose(found.gradient_shares[:2], np.array([50, 40]) ** 2 / (values**2).sum(), rtol=1e-4)
    np.testing.assert_allclose(found.gradient_overlap, (50**2 + 40**2) / (values**2).sum(), rtol=1e-4)
    low, high = found.trace.interval
    assert low <= values.sum() <= high and abs(found.share.estimate - 90 / values.sum()) < 0.02
    assert "2 eigenvalues, K - 1, of the hessian stand out above 1" in str(found)
    assert np.abs(host(found.eigenvector(0)))[-1] > 1 - 1e-5


@each_framework
def test_class_means_are_those_of_each_class(framework):
    rng = np.random.default_rng(0)
    values, labels = np.r_[BULK, 40.0, 50.0], rng.integers(0, 3, 30)
    targets = rng.normal(size=(30, 30))

    def loss(xp, params, batch):
        away = params["w"] - batch[0]
        return xp.mean(xp.sum(xp.array(0.5 * values) * away * away, -1))

    objective = objective_of(framework, loss, {"w": np.ones(30)}, [(targets[:10],), (targets[10:],)])
    names = np.array(["cat", "dog", "owl"])[labels]
    found = outliers(objective, names)
    assert found.labels == ("cat", "dog", "owl") and found.classes == 3
    for number, overlap in enumerate(found.class_overlaps):
        mean = values * (1.0 - targets[labels == number].mean(axis=0))
        np.testing.assert_allclose(overlap, (mean[-2:] ** 2).sum() / (mean**2).sum(), rtol=1e-4)
    mean = values * (1.0 - targets.mean(axis=0))
    np.testing.assert_allclose(found.gradient_overlap, (mean[-2:] ** 2).sum() / (mean**2).sum(), rtol=1e-4)


@each_framework
@pytest.mark.parametrize("classes", [4])
def test_softmax_regression_has_an_outlier_less_than_classes(framework, classes):
    # At zero the Hessian is (I / K - 1 1' / K^2) x E[x x']: each eigenvalue of E[x x'] over K, K - 1 times. The
    # features have a common mean, whose direction stands out.
    x, labels = clusters(classes, 12, 1.0, 90)
    x = x + 3.0
    one_hot = np.eye(classes)[labels]
    objective = objective_of(framework, softmax, {"w": np.zeros((12, classes))}, (x, one_hot))
    found = outliers(objective, labels)
    moments = np.linalg.eigvalsh(x.T @ x / len(x))[::-1] / classes
    assert found.count == classes - 1
    np.testing.assert_allclose(found.eigenvalues[: classes - 1], moments[0], rtol=1e-5)
    np.testing.assert_allclose(found.edge, moments[1], rtol=1e-4)
    assert "K - 1" in str(found).splitlines()[0]


def test_a_trained_classifier_of_separable_classes():
    pytest.importorskip("torch")
    x, labels = clusters(10, 50, 5.0, 500)
    one_hot, weight = np.eye(10)[labels], np.zeros((50, 10))
    for _ in range(200):
        scores = np.exp(x @ weight)
        weight -= 0.1 * x.T @ (scores / scores.sum(axis=1, keepdims=True) - one_hot) / len(x)
    assert ((x @ weight).argmax(axis=1) == labels).all()
    found = outliers(objective_of("torch", softmax, {"w": weight}, (x, one_hot)), labels)
    assert found.count == 9
    # That of any vector is 9 / 500.
    assert found.class_overlaps.min() > 0.5


@pytest.mark.parametrize(
    ("values", "count", "places"),
    [
        (np.r_[100.0, 90.0, np.linspace(12.0, 8.0, 7), np.linspace(1.0, 0.1, 60)], 9, [2, 9]),
        (np.linspace(3.0, 1.0, 60), 0, []),
        (100.0 / np.arange(1, 61), 0, []),
        (-np.linspace(1.0, 2.0, 60), 0, []),
        (np.r_[np.full(4, 2.0), np.zeros(60)], 4, [4]),
        (np.zeros(60), 0, []),
    ],
    ids=["with a mini-bulk", "flat", "power law", "negative", "low rank", "zero"],
)
def test_only_gaps_that_a_tail_does_not_show_count(values, count, places):
    pytest.importorskip("torch")
    found = outliers(objective_of("torch", *diagonal(values)), 3, k=19)
    assert (found.count, found.places.tolist()) == (count, places)
    assert str(found).startswith("none" if not count else f"{count} eigenvalues")


@each_framework
def test_what_are_no_classes_is_refused(framework):
    objective = objective_of(framework, *quadratic(np.diag(np.arange(1.0, 31.0)), at=np.ones(30)), (np.zeros((8, 1)),))
    for given, told in (
        ({"classes": 1}, "at least 2"),
        ({"classes": np.arange(7) % 2}, "8 samples.*shape .7,"),
        ({"classes": np.eye(8)}, "argmax"),
        ({"classes": np.ones(8)}, "one class only"),
        ({"classes": np.arange(8)}, "8 different labels"),
        ({"k": 31}, "k must be"),
        ({"matrix": "covariance"}, "matrix must be one of"),
        ({"confidence": 1.0}, "confidence"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            outliers(objective, **given)


def test_native_labels_pictures_and_files(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("matplotlib").use("Agg")
    objective = objective_of("torch", *diagonal(np.r_[BULK, 40.0, 50.0], at=0.0), (np.zeros((8, 1)),))
    found = outliers(objective, torch.arange(8) % 3)
    assert found.labels == ("0", "1", "2") and np.isnan(found.gradient_overlap)
    ax = found.plot()
    ax.figure.savefig(tmp_path / "outliers.png")
    assert ax.get_title().startswith("2 eigenvalues, K - 1")
    found.save(tmp_path / "outliers.npz")
    again = specop.load(tmp_path / "outliers.npz")
    assert str(again) == str(found)
    np.testing.assert_array_equal(again.eigenvector(1), host(found.eigenvector(1)))
