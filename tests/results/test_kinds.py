"""Every kind of result, as the functions make it: text, tables, files, pickles and copies."""

import copy
import functools
import inspect
import json
import pickle

import numpy as np
import pytest
import torch

import specop
from specop import analysis, landscape, results, training
from specop.arrays.backend import backend_of
from specop.errors import InvalidInputError
from specop.results import Estimate, Result

pytestmark = pytest.mark.filterwarnings("ignore::specop.errors.QuadraticModelWarning")

A = np.diag(np.linspace(0.5, 3.0, 40))
b = np.ones(40)


@functools.cache
def objective():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    data = torch.randn(12, 3).double(), torch.randn(12, 1).double()
    return specop.objective(model, torch.nn.functional.mse_loss, data)


@functools.cache
def influences():
    return analysis.influence(objective(), objective(), damping=0.1, matrix="ggn")


@functools.cache
def minimum():
    start = torch.zeros(4, dtype=torch.float64)
    return specop.objective(lambda w, x: (w**2).sum() + 0.0 * x.sum(), params=start, data=torch.zeros(6, 1).double())


def history():
    monitor = training.Monitor(objective(), every=1)
    monitor.record(0)
    return monitor.history


KINDS = {
    "BlocksResult": lambda: landscape.blocks(objective()),
    "ComparisonResult": lambda: landscape.compare(made("FlatnessResult"), objective()),
    "CovarianceResult": lambda: landscape.covariance(minimum(), winners=20),
    "CriticalPointResult": lambda: landscape.critical_point(objective()),
    "DiagonalResult": lambda: specop.diagonal(A),
    "EigenResult": lambda: specop.eigsh(objective().ggn(), k=3),
    "FlatnessResult": lambda: landscape.flatness(objective(), draws=2),
    "FunctionResult": lambda: specop.apply_function(A, "sqrt", b),
    "HessianSpreadResult": lambda: landscape.hessian_spread(objective(), batches=3),
    "HistoryResult": history,
    "InertiaResult": lambda: specop.inertia(A - np.eye(40)),
    "InfluenceCheck": lambda: analysis.validate_influence(objective(), objective(), influences(), samples=2),
    "InfluenceResult": influences,
    "LearningBracket": lambda: landscape.learning_coefficient(minimum()),
    "LearningEstimate": lambda: landscape.learning_coefficient(minimum(), "sgld", steps=40),
    "LeaveOneOutResult": lambda: analysis.leave_one_out(objective(), [[1, 2], [3]], damping=0.1, matrix="ggn"),
    "LissaResult": lambda: specop.lissa(A, b, damping=1.0),
    "NoiseResult": lambda: landscape.noise(objective()),
    "NormResult": lambda: specop.frobenius_norm(A),
    "OutliersResult": lambda: landscape.outliers(objective(), np.arange(12) % 2),
    "PruneResult": lambda: analysis.prune(objective(), 0.5, steps=2, trust=None),
    "QuadratureResult": lambda: specop.logdet(A),
    "RankResult": lambda: specop.rank(A),
    "RetrainResult": lambda: analysis.retrain(objective(), without=[1], damping=0.1, steps=2),
    "SaliencyResult": lambda: analysis.saliency(objective()),
    "ShiftedResult": lambda: specop.solve_shifted(A, b, [0.1, 1.0]),
    "SlicesResult": lambda: landscape.slices(objective(), ["random", "gradient"], points=3),
    "SolveResult": lambda: objective().solve(objective().unflatten(objective().gradient()), matrix="ggn", damping=0.1),
    "SpectralDensity": lambda: specop.spectral_density(A, probes=2),
    "StabilityResult": lambda: landscape.stability(objective(), lr=0.1, k=2),
    "TraceResult": lambda: specop.trace(A),
}
made = functools.cache(lambda kind: KINDS[kind]())
each_kind = pytest.mark.parametrize("kind", KINDS)


def host(vector):
    return backend_of(vector).to_numpy(vector)


def test_there_is_one_of_each_kind():
    public = {name for name in results.__all__ if isinstance(getattr(results, name), type)}
    assert {name for name in public if issubclass(getattr(results, name), Result)} - {"Result", "NumberResult"} == (
        set(KINDS)
    )


@each_kind
def test_text_and_tables(kind):
    result = made(kind)
    assert type(result).__name__ == kind
    text, html = str(result), result._repr_html_()
    assert repr(result) == text and f"{result.matvecs} products" in text.splitlines()[0]
    assert max(map(len, text.splitlines())) < 200 and len(text.splitlines()) < 40
    assert html.startswith("<p>") and html.count("<tr>") in (0, *range(2, 40))
    summary = json.loads(json.dumps(result.summary()))
    assert summary["matvecs"] == result.matvecs and "structure" not in summary
    pytest.importorskip("pandas")
    frame = result.to_frame()
    assert len(frame) > 0 and (frame.attrs or len(frame) == 1)


@each_kind
def test_strict_json(kind, tmp_path):
    result = made(kind)
    found = result.to_dict()
    text = json.dumps(found, allow_nan=False)
    again = json.loads(text)
    assert again == json.loads(text, parse_constant=pytest.fail) and again["class"] == kind
    result.save(tmp_path / "kept.npz")
    assert specop.load(tmp_path / "kept.npz").to_dict() == found
    structure = getattr(result, "structure", None)
    assert again.get("parameters", {}) == {
        name: [*one] for name, one in (structure.shapes if structure else {}).items()
    }
    for name, value in result.summary().items():
        if isinstance(value, float):
            assert again[name] == value if np.isfinite(value) else again[name] is None
        if isinstance(getattr(result, name), Estimate):
            assert again[name].keys() == {"estimate", "standard_error", "interval", "confidence"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if hasattr(getattr(results, kind), "plot")])
def test_results_lie_over_each_other(kind):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = made(kind)
    parameters = inspect.signature(result.plot).parameters
    assert [*parameters][:3] == ["ax", "label", "color"] and parameters["label"].kind is inspect.Parameter.KEYWORD_ONLY
    ax = result.plot(label="first")
    assert ax.get_title() or kind in ("BlocksResult", "ComparisonResult", "SlicesResult")
    assert result.plot(ax, label="second", color="crimson") is ax
    result.plot(ax, label="third")
    ax.figure.canvas.draw()
    texts = [
        text.get_text() for other in ax.figure.axes if (legend := other.get_legend()) for text in legend.get_texts()
    ]
    assert texts[0] == "first" and "second" in texts and "third" in texts and len(set(texts)) == len(texts)
    handles, labels = ax.get_legend_handles_labels()
    colors = [color_of(handles[labels.index(name)]) for name in ("first", "second", "third")]
    assert colors[1] == matplotlib.colors.to_rgba("crimson") and len({*colors}) == 3
    assert ax.get_title() == ""
    # What the caller has written stays.
    ax.set_title("three runs")
    assert result.plot(ax, label="fourth").get_title() == "three runs"
    pyplot.close("all")
    with pytest.raises(InvalidInputError, match=r"ax must be one matplotlib Axes, got str\. A name .* label='name'"):
        result.plot("name")
    with pytest.raises(InvalidInputError, match="ax must be one matplotlib Axes, got ndarray"):
        result.plot(pyplot.subplots(2)[1])
    pyplot.close("all")


def color_of(handle):
    from matplotlib.colors import to_rgba

    line = handle[0] if isinstance(handle, tuple) else handle
    return to_rgba(line.get_color())


@each_kind
def test_xarray(kind):
    pytest.importorskip("xarray")
    result = made(kind)
    found = result.to_xarray()
    columns = result._columns()
    for name, value in vars(result).items():
        if isinstance(value, (np.ndarray, torch.Tensor)) and name not in columns:
            np.testing.assert_array_equal(found[name].values, host(value), err_msg=name)
    for column in columns:
        assert "item" in found[column].dims or found[column].ndim == 0
    assert found.attrs["class"] == kind and json.dumps(found.attrs, allow_nan=False)
    structure = getattr(result, "structure", None)
    if structure is not None and structure.shapes and "parameter" in found.dims:
        assert found.sizes["parameter"] == sum(int(np.prod(shape)) for shape in structure.shapes.values())
        name = list(structure.shapes)[-1]
        assert (found["parameter_name"] == name).sum() == np.prod(structure.shapes[name])


@each_kind
def test_a_result_compared_with_its_own_file_does_not_differ(kind, tmp_path):
    result = made(kind)
    result.save(tmp_path / "kept.npz")
    found = results.compare(result, tmp_path / "kept.npz")
    assert not found.differ.any() and not found.others and found.names == ("a", "kept.npz")
    assert kind in str(found) and json.dumps(found.to_dict(), allow_nan=False)
    other = made("TraceResult" if kind != "TraceResult" else "EigenResult")
    with pytest.raises(
        InvalidInputError, match=f"a is a {kind} and b a {type(other).__name__}: only results of one kind"
    ):
        results.compare(result, other)


@each_kind
def test_files_pickles_and_copies(kind, tmp_path):
    result = made(kind)
    result.save(tmp_path / "kept.npz")
    again = [specop.load(tmp_path / "kept.npz"), pickle.loads(pickle.dumps(result)), copy.deepcopy(result)]
    for other in again:
        assert type(other) is type(result) and str(other) == str(result)
        np.testing.assert_equal(other.summary(), result.summary())
        for name, value in vars(result).items():
            if isinstance(value, (np.ndarray, torch.Tensor)):
                np.testing.assert_array_equal(host(getattr(other, name)), host(value), err_msg=name)
                assert type(getattr(other, name)) is type(value) or other is again[0]


@pytest.mark.filterwarnings("ignore::specop.errors.ConvergenceWarning")
def test_columns_that_did_not_converge_are_named():
    right = np.column_stack([b, np.eye(40)[0]])
    for result in (
        specop.solve(A, right, max_matvecs=8, method="cg"),
        specop.solve_shifted(A, b, [0.0, 50.0], max_matvecs=4),
    ):
        assert not result.converged and set(result.converged_columns) == {True, False}
        lines = str(result).splitlines()
        assert [line.split()[-1] for line in lines[-3:]] == ["converged", *map(str, result.converged_columns)]
        pytest.importorskip("pandas")
        assert result.to_frame()["converged"].tolist() == result.converged_columns.tolist()


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("EigenResult", lambda result: result.eigenvector_tree(2)),
        ("LeaveOneOutResult", lambda result: result.change_tree(1)),
        ("PruneResult", lambda result: result.parameters),
        ("PruneResult", lambda result: result.masks),
        ("RetrainResult", lambda result: result.parameters),
        ("SolveResult", lambda result: result.x),
    ],
)
def test_parameters_keep_their_names(kind, part, tmp_path):
    result = made(kind)
    result.save(tmp_path / "kept.npz")
    expected = part(result)
    for other in (specop.load(tmp_path / "kept.npz"), pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        found = part(other)
        assert list(found) == list(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(host(found[name]), host(value))


@pytest.mark.filterwarnings("ignore::specop.errors.ConvergenceWarning")
@pytest.mark.parametrize("find", [specop.eigsh, specop.power_iteration])
def test_pairs_that_did_not_converge_are_named(find):
    # Two apart, and a bulk that takes more products than there are.
    diagonal = np.diag(np.r_[np.linspace(0.5, 1.0, 198), 20.0, 40.0])
    result = find(diagonal, k=4, max_matvecs=18)
    assert not result.converged and set(result.converged_pairs) == {True, False}
    vectors = result.eigenvectors
    true = np.linalg.norm(diagonal @ vectors - vectors * result.eigenvalues, axis=0)
    # tol = 1e-3 relative.
    np.testing.assert_array_equal(result.converged_pairs, true <= 1e-3 * result.eigenvalues)
    lines = str(result).splitlines()
    assert [line.split()[-1] for line in lines[-len(true) - 1 :]] == [
        "converged",
        *map(str, result.converged_pairs),
    ]
    whole = find(diagonal, k=2)
    assert whole.converged and whole.converged_pairs.tolist() == [True, True] and "True" not in str(whole)
    pytest.importorskip("pandas")
    assert result.to_frame()["converged"].tolist() == result.converged_pairs.tolist()
