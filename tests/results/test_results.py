"""Results: what they say, how they are kept, and the laws of a density."""

import json
import math
import stat
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st

from specop.errors import InvalidInputError
from specop.plotting.spectra import plot_density
from specop.results import EigenResult, Result, SpectralDensity, TraceResult
from specop.results.storage import load
from specop.statistics.estimate import estimate_from_samples

MADE = {
    "matvecs": 12,
    "seconds": 0.5,
    "samples": 100,
    "seed": 3,
    "converged": True,
    "message": "done",
    "versions": {"numpy": "1"},
}


def eigen(**changed) -> EigenResult:
    values = {
        "eigenvalues": np.array([1.0, 2.0]),
        "rows": torch.eye(5)[:2],
        "residuals": np.array([1e-3, 2e-3]),
        "bounds": np.array([1e-6, 2e-6]),
        "check_matvecs": 4,
        "which": "LA",
        "tol": 1e-3,
        "unflatten": lambda vector: {"weight": vector},
    }
    return EigenResult(**{**MADE, **values, **changed})


def estimated_trace(samples, method="hutchinson") -> TraceResult:
    value = estimate_from_samples(np.asarray(samples, dtype=float), 0.95)
    return TraceResult(
        **MADE,
        estimate=value.estimate,
        standard_error=value.standard_error,
        interval=value.interval,
        confidence=0.95,
        method=method,
        probes=np.asarray(samples, dtype=float),
    )


def density(rules, known=(), n=100) -> SpectralDensity:
    """Build a density from one (nodes, weights) rule per probe, each of mass 1, and known eigenvalues."""
    share = 1 - len(known) / n
    nodes = np.concatenate([np.asarray(known, dtype=float), *(np.asarray(rule[0], dtype=float) for rule in rules)])
    weights = np.concatenate([np.full(len(known), 1 / n), *(np.asarray(w) * share / len(rules) for _, w in rules)])
    probe = np.concatenate([np.full(len(known), -1), *(np.full(len(rule[0]), i) for i, rule in enumerate(rules))])
    gauss = np.concatenate([np.full(len(known), 1 / n), *(np.asarray(w, dtype=float) for _, w in rules)])
    order = np.argsort(nodes, kind="stable")
    return SpectralDensity(
        **MADE,
        nodes=nodes[order],
        weights=weights[order],
        probe=probe[order].astype(np.int64),
        gauss_weights=gauss[order],
        couplings=np.zeros(len(nodes)),
        rounding=1e-14,
        error=0.0,
        n=n,
        steps=max([len(rule[0]) for rule in rules], default=1),
        confidence=0.95,
    )


TWO_PROBES = density([([0.0, 1.0], [0.75, 0.25]), ([0.0, 2.0], [0.5, 0.5])], known=[10.0])
ONE_PROBE = density([([0.0, 1.0, 3.0], [0.5, 0.25, 0.25])])
ALL = [eigen(), estimated_trace([1.0, 2.0, 4.0]), TWO_PROBES]


@pytest.mark.parametrize("result", [*ALL, estimated_trace([5.0])], ids=lambda result: type(result).__name__)
def test_saved_results_come_back_the_same(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "result.npz")
    again = load(tmp_path / "result.npz")
    assert type(again) is type(result)
    np.testing.assert_equal(again.summary(), result.summary())
    assert [path.name for path in tmp_path.iterdir()] == ["result.npz"]
    with np.load(tmp_path / "result.npz", allow_pickle=False) as file:
        assert not any(file[name].dtype.hasobject for name in file.files)


def test_eigenvectors_come_back_as_numpy_without_their_structure(tmp_path: Path) -> None:
    eigen().save(tmp_path / "eigen.npz")
    again = load(tmp_path / "eigen.npz")
    assert isinstance(again.eigenvectors, np.ndarray)
    np.testing.assert_array_equal(again.eigenvectors, np.eye(5)[:, :2])
    assert eigen().eigenvector_tree(1)["weight"].tolist() == [0, 1, 0, 0, 0]
    with pytest.raises(InvalidInputError, match="loaded from a file"):
        again.eigenvector_tree(0)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "eigen.npz"
    eigen().save(path)

    def broken(file, array, **options):
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", broken)
    with pytest.raises(OSError, match="disk full"):
        eigen(eigenvalues=np.array([7.0, 8.0])).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert load(path).eigenvalues.tolist() == [1.0, 2.0]


def test_saved_files_have_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    eigen().save(tmp_path / "eigen.npz")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_only_npz_names_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Use eigen\.npz"):
        eigen().save(tmp_path / "eigen.pt")


def write_archive(path: Path) -> None:
    np.savez(path, a=np.zeros(3))


def write_array(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def write_other_fields(path: Path) -> None:
    np.savez(path, specop=np.array(json.dumps({"kind": "TraceResult", "colour": "red"})))


def write_other_header(path: Path) -> None:
    np.savez(path, specop=np.array("[1, 2]"))


def write_text(path: Path) -> None:
    path.write_text("not an archive")


def write_nothing(path: Path) -> None:
    path.touch()


def write_half(path: Path) -> None:
    eigen().save(path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "write",
    [write_archive, write_array, write_other_fields, write_other_header, write_text, write_nothing, write_half],
)
def test_foreign_files_are_refused(write, tmp_path: Path) -> None:
    path = tmp_path / "foreign.npz"
    write(path)
    with pytest.raises(InvalidInputError, match="holds no result"):
        load(path)


@pytest.mark.parametrize("result", ALL, ids=lambda result: type(result).__name__)
def test_summary_is_json_with_every_number_but_the_vectors(result: Result) -> None:
    summary = json.loads(json.dumps(result.summary()))
    assert set(summary) == set(vars(result)) - {"rows", "unflatten"}


def test_summary_leaves_numpy_vectors_out_too() -> None:
    assert "rows" not in eigen(rows=np.eye(5)[:2]).summary()


def test_text_states_errors_costs_and_failure() -> None:
    text = str(eigen())
    assert repr(eigen()) == text
    assert all(part in text for part in ("12 products", "100 samples", "LA", "2.0e-06", "2.0e-03"))
    assert "not converged" not in text
    assert "not converged: ran out" in str(eigen(converged=False, message="ran out"))
    low, high = estimated_trace([1.0, 2.0, 4.0]).interval
    assert f"{low:.6g} to {high:.6g}" in str(estimated_trace([1.0, 2.0, 4.0]))
    assert "mean" in str(TWO_PROBES) and "from 0 to 10" in str(TWO_PROBES)


def test_results_compare_by_identity() -> None:
    assert eigen() != eigen()
    assert len({*ALL}) == 3


@pytest.mark.parametrize("made", [ONE_PROBE, TWO_PROBES])
@pytest.mark.parametrize("sigma", [None, 0.05])
def test_pdf_has_mass_one(made: SpectralDensity, sigma: float | None) -> None:
    x = np.linspace(-60, 70, 200_001)
    assert scipy.integrate.trapezoid(made.pdf(x, sigma), x) == pytest.approx(1.0, abs=1e-9)


def test_cdf_jumps_at_nodes_by_their_weights() -> None:
    assert ONE_PROBE.cdf([-1.0, 0.0, 0.5, 1.0, 3.0]).tolist() == [0.0, 0.5, 0.5, 0.75, 1.0]


def test_integrals_of_a_constructed_density() -> None:
    # Probe means 0.25 and 1 on 99 of 100 eigenvalues, and one known 10.
    samples = 0.1 + 0.99 * np.array([0.25, 1.0])
    mean = TWO_PROBES.moment(1)
    assert mean.estimate == pytest.approx(samples.mean())
    assert mean.standard_error == pytest.approx(np.abs(np.diff(samples))[0] / 2)
    assert mean.interval[0] < mean.estimate < mean.interval[1]
    assert TWO_PROBES.moment(0).estimate == pytest.approx(1.0)
    known = TWO_PROBES.count(5, 20)
    assert (known.estimate, known.standard_error) == (pytest.approx(1.0), pytest.approx(0.0))


@given(st.floats(-1, 4), st.floats(-1, 4), st.floats(-1, 4))
def test_counts_add_up_and_agree_with_the_cdf(a: float, b: float, c: float) -> None:
    a, b, c = sorted((a, b, c))
    total = ONE_PROBE.count(a, c).estimate
    assert ONE_PROBE.count(a, b).estimate + ONE_PROBE.count(b, c).estimate == pytest.approx(total)
    assert total == pytest.approx(ONE_PROBE.n * (ONE_PROBE.cdf(c) - ONE_PROBE.cdf(a)))


def test_one_probe_knows_no_error() -> None:
    value = ONE_PROBE.moment(1)
    assert value.estimate == 1.0
    assert math.isnan(value.standard_error)
    assert value.interval == (-math.inf, math.inf)


def test_a_density_of_known_eigenvalues_only_is_exact() -> None:
    made = density([], known=[1.0, 2.0, 6.0], n=3)
    assert made.moment(1).interval == (pytest.approx(3.0), pytest.approx(3.0))
    assert "mean 3" in str(made)


@pytest.mark.parametrize(
    ("f", "text"),
    [(lambda x: 1.0, "one value a node"), (lambda x: x[1:], "one value a node"), (lambda x: x / 0, "not finite")],
)
def test_integrands_are_checked(f, text: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(InvalidInputError, match=text):
        ONE_PROBE.integrate(f)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(InvalidInputError, match="sigma must be positive"):
        ONE_PROBE.pdf(0.0, sigma)


PLOTTED = [
    *ALL,
    estimated_trace([1.0, 3.0], "xtrace"),
    eigen(eigenvalues=np.array([-1.0, 2.0])),
    ONE_PROBE,
    density([([3.0], [1.0])]),
    density([], [0.0], 1),
]


@pytest.mark.parametrize("result", PLOTTED)
def test_plots_return_axes_and_change_nothing(result) -> None:
    before = json.dumps(result.summary())
    ax = result.plot()
    ax.figure.canvas.draw()
    assert result.plot(ax) is ax
    assert json.dumps(result.summary()) == before
    plt.close(ax.figure)


def test_the_drawn_density_has_mass_one_and_shows_every_node() -> None:
    # Half at zero, a bulk at 1e-3 and an outlier: five decades that one Gaussian could not show.
    bulk = np.linspace(5e-4, 2e-3, 20)
    made = density([([0.0, *bulk, 50.0], [0.5, *np.full(20, 0.0245), 0.01])])
    ax = plot_density(made)
    (line,) = (line for line in ax.lines if line.get_label() == "density")
    x, y = line.get_data()
    assert scipy.integrate.trapezoid(y, x) == pytest.approx(1.0, abs=0.01)
    low, high = ax.get_xlim()
    assert low < made.nodes[0] and made.nodes[-1] < high
    assert (np.interp(made.nodes, x, y) > ax.get_ylim()[0]).all()
    plt.close(ax.figure)
